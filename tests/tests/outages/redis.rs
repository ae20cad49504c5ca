use std::time::Duration;

use e2e::{
    clients::Client,
    eventually::eventually,
    proxy::Proxy,
    site::{SOON, Site},
    socket::{Refusal, Socket},
};
use tokio::time::sleep;

use crate::trial::Trial;

/// How long a silent proxy stays silent: longer than any part waits for an answer.
const STALL: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notices_that_redis_restarted_with_its_data() {
    let mut trial = Trial::on(Site::start().await.unwrap()).await;
    for _ in 0..2 {
        trial.site.redis.kill().unwrap();
        trial.rows_are_written(50).await;
        trial.site.redis.restart(true).await.unwrap();
        trial.flows_again().await;
    }
    trial.end().await.nobody_noticed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notices_that_redis_came_back_empty() {
    let mut trial = Trial::on(Site::start().await.unwrap()).await;
    for _ in 0..2 {
        trial.site.redis.kill().unwrap();
        trial.rows_are_written(50).await;
        trial.site.redis.restart(false).await.unwrap();
        trial.flows_again().await;
    }
    trial.end().await.nobody_noticed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notices_that_redis_came_back_with_older_data() {
    let mut trial = Trial::on(Site::start().await.unwrap()).await;
    for _ in 0..2 {
        // Nothing may be written while it is copied.
        trial.site.redis.pause().unwrap();
        let older = trial.site.redis.snapshot().unwrap();
        trial.site.redis.resume().unwrap();
        trial.rows_are_written(50).await;
        trial.site.redis.restore(&older).await.unwrap();
        trial.flows_again().await;
    }
    trial.end().await.nobody_noticed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notices_that_redis_was_gone_behind_a_silent_proxy_for_all_parts() {
    let trial = Trial::on(Site::with_links().await.unwrap()).await;
    trial.site.links.iter().for_each(Proxy::stall);
    sleep(STALL).await;
    trial.site.links.iter().for_each(Proxy::forward);
    trial.flows_again().await;
    trial.end().await.nobody_noticed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_alone_has_lost_redis_takes_no_newcomers_keeps_its_clients_and_catches_up() {
    let mut trial = Trial::on(Site::with_links().await.unwrap()).await;
    trial.site.links[1].stall();
    // Only its own clients have to wait.
    let gateway = &trial.site.gateways[0];
    eventually("it is not ready, and says why", SOON, async || match gateway.get("/readyz").await {
        Ok((503, body)) if body.contains("the bus cannot be reached") => Ok(()),
        other => Err(other),
    })
    .await;
    let before = trial.writer.written();
    trial.rows_are_written(20).await;
    let (behind, ahead): (Vec<_>, Vec<_>) =
        trial.natives.iter().chain(&trial.plains).map(Client::last).partition(|&last| last < before);
    assert!(!behind.is_empty() && behind.len() == ahead.len(), "{behind:?} {ahead:?}");

    // Whoever comes is sent to the other one.
    match Socket::open(gateway.address(), "/rowcast").await {
        Err(Refusal::Http(503, answer)) => {
            assert!(answer.to_ascii_lowercase().contains("\r\nretry-after: 1\r\n"), "{answer}");
            assert!(answer.contains(r#""error":"not_ready""#), "{answer}");
        }
        other => panic!("{other:?}"),
    }
    for _ in 0..4 {
        let newcomer = Client::native(trial.site.address()).await.unwrap();
        eventually("the newcomer gets what is written", SOON, async || match newcomer.last() {
            0 => Err(newcomer.seen()),
            _ => Ok(()),
        })
        .await;
    }
    sleep(STALL).await;

    trial.site.links[1].forward();
    trial.flows_again().await;
    trial.site.gateways[0].until_ready().await.unwrap();
    trial.end().await.nobody_noticed();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_notices_that_connections_to_redis_break_again_and_again() {
    let trial = Trial::on(Site::with_links().await.unwrap()).await;
    for round in 0..12 {
        trial.site.links[round % 3].cut();
        trial.rows_are_written(10).await;
    }
    trial.flows_again().await;
    trial.end().await.nobody_noticed();
}
