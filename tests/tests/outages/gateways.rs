use e2e::site::Site;

use crate::trial::{Outcome, Trial};

/// Clients came back, at least as often as this in all, and each went on where it was. (Between the
/// deaths of two gateways a client may come back to the second one.)
fn everybody_resumed(outcome: &Outcome, times: u32) {
    outcome.nothing_is_wrong();
    for ledger in &outcome.natives {
        assert!(ledger.resets.is_empty(), "{ledger:?}");
        assert_eq!((ledger.changes, ledger.missed), (outcome.last, 0), "{ledger:?}");
    }
    let back: u32 = outcome.natives.iter().map(|ledger| ledger.resumed).sum();
    assert!(back >= times, "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_gateway_that_dies_resume_at_the_other_one() {
    let mut trial = Trial::of_natives(Site::start().await.unwrap()).await;
    let half = trial.natives.len() as u32 / 2;
    trial.site.gateways[0].kill9().unwrap();
    trial.flows_again().await;

    // One that comes back knows nothing: what its new clients missed is in Redis.
    trial.site.gateways[0].restart().unwrap();
    trial.site.gateways[0].until_ready().await.unwrap();
    trial.rows_are_written(20).await;
    trial.site.gateways[1].kill9().unwrap();
    trial.flows_again().await;
    everybody_resumed(&trial.end().await, half + 2 * half);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_wait_until_there_is_a_gateway_again_and_resume_from_the_history() {
    let mut trial = Trial::of_natives(Site::start().await.unwrap()).await;
    let all = trial.natives.len() as u32;
    trial.site.gateways.iter_mut().for_each(|gateway| gateway.kill9().unwrap());
    trial.rows_are_written(100).await;
    trial.site.gateways[1].restart().unwrap();
    trial.flows_again().await;
    everybody_resumed(&trial.end().await, all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_of_all_gateways_loses_nothing() {
    let mut trial = Trial::of_natives(Site::start().await.unwrap()).await;
    let half = trial.natives.len() as u32 / 2;
    for gateway in 0..2 {
        assert_eq!(trial.site.gateways[gateway].term().await.unwrap(), Some(0));
        trial.flows_again().await;
        trial.site.gateways[gateway].restart().unwrap();
        trial.site.gateways[gateway].until_ready().await.unwrap();
    }
    everybody_resumed(&trial.end().await, half + 2 * half);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_resume_at_a_gateway_that_knows_nothing_though_redis_has_just_lost_everything() {
    let mut trial = Trial::of_natives(Site::start().await.unwrap()).await;
    let all = trial.natives.len() as u32;
    trial.site.redis.restart(false).await.unwrap();
    trial.flows_again().await;
    trial.site.gateways.iter_mut().for_each(|gateway| gateway.kill9().unwrap());
    trial.rows_are_written(20).await;
    trial.site.gateways[0].restart().unwrap();
    trial.flows_again().await;
    everybody_resumed(&trial.end().await, all);
}
