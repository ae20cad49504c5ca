//! The promises of the bus, kept by the one over Redis.

#![allow(clippy::unwrap_used, reason = "a test that panics says where")]

use bus::{Bus, RedisBus, RedisSettings, Retention};
use e2e::redis::RedisServer;

#[path = "../contract/mod.rs"]
mod contract;
mod model;

struct Redis {
    server: RedisServer,
    bus: RedisBus,
}

impl contract::Harness for Redis {
    async fn start(retention: Retention) -> Self {
        let server = RedisServer::start().await.unwrap();
        let settings = RedisSettings { url: server.url(), namespace: "test".into(), retention };
        Self { bus: RedisBus::new(settings).unwrap(), server }
    }

    fn bus(&self) -> Bus {
        Bus::Redis(self.bus.clone())
    }

    async fn clear(&self) {
        self.server.command::<()>(&["FLUSHALL"]).await.unwrap();
    }
}

contract!(Redis);
