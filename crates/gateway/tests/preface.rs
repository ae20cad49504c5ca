//! The beginning of a request, alone in its process: what it costs is measured.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]
#![cfg(target_os = "linux")]

mod support;

use std::time::Duration;

use support::TestGateway;
use tokio::{io::AsyncWriteExt, net::TcpStream};

/// What this process has taken of the processors, in hundredths of a second.
fn ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

#[tokio::test]
async fn who_sends_the_beginning_of_a_request_and_nothing_more_costs_next_to_nothing() {
    let gateway = TestGateway::start(&[], "").await;
    let mut clients = Vec::new();
    for _ in 0..400 {
        let mut client = TcpStream::connect(gateway.address).await.unwrap();
        // It may yet become HTTP/2.
        client.write_all(b"PRI").await.unwrap();
        clients.push(client);
    }
    // Until all are in hand, and have been for a while.
    gateway.get("/healthz").await;
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    let before = ticks();
    tokio::time::sleep(Duration::from_millis(2_000)).await;
    let taken = ticks() - before;
    assert!(taken < 15, "{} ms of 2000", taken * 10);
    gateway.shutdown.cancel();
}
