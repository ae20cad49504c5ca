//! The ways in which Redis, its clients and the network lose messages without a word, each against
//! real servers: what was lost is told, and everything comes back by itself.

#![allow(clippy::unwrap_used, reason = "a test that panics says where")]

mod floods;
mod half_done;
mod lost_data;
mod outages;

#[path = "../contract/follower.rs"]
mod follower;
#[path = "../contract/words.rs"]
mod words;

use std::time::Duration;

use bus::{Answer, Bus, Publisher, RedisBus, RedisSettings, Retention};
use e2e::{eventually::eventually, redis::RedisServer};
use protocol::{Batch, Source};

const SOURCE: Source = Source::Notify;

/// So long may it take until changes flow again once a part is back.
const BACK_WITHIN: Duration = Duration::from_secs(3);

fn bus_at(port: u16) -> Bus {
    bus_with(port, Retention::default())
}

fn bus_with(port: u16, retention: Retention) -> Bus {
    let url = format!("redis://127.0.0.1:{port}");
    Bus::Redis(RedisBus::new(RedisSettings { url, namespace: "test".into(), retention }).unwrap())
}

/// Publishes as a listener does, again and again until it is there.
async fn deliver(publisher: &mut Publisher, batch: &Batch, within: Duration) {
    eventually("the batch is published", within, async || match publisher.publish(batch).await {
        Ok(Answer::Applied | Answer::Already) => Ok(()),
        other => Err(other),
    })
    .await;
}

/// How many connections of a type ("normal", "pubsub") a server has.
async fn connections(server: &RedisServer, kind: &str) -> usize {
    server.command::<String>(&["CLIENT", "LIST", "TYPE", kind]).await.unwrap().lines().count()
}
