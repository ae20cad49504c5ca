//! A minute of `make torture`, the same each time.

use std::{sync::Arc, time::Duration};

use e2e::torture::{Options, run};

/// With it every part is struck within the minute, and transactions are prepared.
const SEED: u64 = 375;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minute_of_faults_of_all_parts_costs_no_client_a_change() {
    let mut options = Options::of(SEED, Duration::from_secs(60));
    options.clients = 150;
    options.say = Arc::new(|line| println!("{line}"));
    match run(options).await {
        Ok(report) => println!("{}", report.markdown()),
        Err(failure) => panic!("{failure}"),
    }
}
