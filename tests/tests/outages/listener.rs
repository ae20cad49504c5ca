use std::time::Duration;

use e2e::{
    eventually::eventually,
    site::{SOON, Site},
};
use tokio::time::sleep;

use crate::trial::Trial;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_connected_when_the_listener_died_is_told_and_goes_on() {
    let mut trial = Trial::on(Site::start().await.unwrap()).await;
    trial.site.listeners[0].kill9().unwrap();
    trial.rows_are_written(50).await;
    trial.site.listeners[0].restart().unwrap();
    trial.flows_again().await;
    let outcome = trial.end().await;
    outcome.everybody_was_told_of_new_feeds(1);
    // There was something to be told of.
    assert!(outcome.natives.iter().all(|ledger| ledger.missed >= 49), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_takes_over_when_the_listener_dies_and_the_dead_one_may_come_back() {
    let mut trial = Trial::on(Site::start().await.unwrap()).await;
    trial.site.add_standby().await.unwrap();
    trial.site.listeners[0].kill9().unwrap();
    trial.flows_again().await;

    // That it stands by concerns nobody.
    trial.site.listeners[0].restart().unwrap();
    trial.site.listeners[0].until_ready().await.unwrap();
    trial.rows_are_written(50).await;
    trial.end().await.everybody_was_told_of_new_feeds(1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_hangs_gives_the_lead_to_the_standby_and_does_no_harm_when_it_wakes_up() {
    let mut trial = Trial::on(Site::start().await.unwrap()).await;
    trial.site.add_standby().await.unwrap();
    trial.site.listeners[0].pause().unwrap();
    // The server gives up on it after 3 s.
    eventually("the standby leads", SOON, async || {
        let log = trial.site.listeners[1].log();
        if log.contains("active feed=") { Ok(()) } else { Err(log) }
    })
    .await;
    trial.flows_again().await;
    trial.site.listeners[0].resume().unwrap();
    // It takes a while until it has noticed everything.
    sleep(Duration::from_secs(2)).await;
    trial.end().await.everybody_was_told_of_new_feeds(1);
}
