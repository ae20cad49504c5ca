use std::{borrow::Borrow, sync::Arc, time::Duration};

use bus::{RedisBus, RedisSettings, Retention};
use e2e::{follower::Follower, postgres::PostgresServer, process::Process, redis::RedisServer};
use protocol::Source;
use tokio_postgres::Client;

/// Long enough for anything that is to happen at once, on a busy machine.
pub const SOON: Duration = Duration::from_secs(10);
/// Everything is to flow again within this time of the broken part being back.
pub const BACK: Duration = Duration::from_secs(3);

/// A database and a Redis. The database's server is shared, unless a test wants one to break.
pub struct Stage<P = Arc<PostgresServer>> {
    pub postgres: P,
    pub database: String,
    pub redis: RedisServer,
}

impl Stage {
    pub async fn new() -> Self {
        Self::on(PostgresServer::shared().await.unwrap()).await
    }
}

impl Stage<PostgresServer> {
    pub async fn breakable() -> Self {
        Self::on(PostgresServer::start().await.unwrap()).await
    }
}

impl<P: Borrow<PostgresServer>> Stage<P> {
    async fn on(postgres: P) -> Self {
        let database = postgres.borrow().create_database().await.unwrap();
        Self { postgres, database, redis: RedisServer::start().await.unwrap() }
    }

    /// A listener to the channels `a` and `b`, which is ready.
    pub async fn listener(&self) -> Process {
        self.listener_with(&[]).ready().await.unwrap()
    }

    pub fn listener_with(&self, arguments: &[&str]) -> Process {
        let all = [&["--channels", "a,b"], arguments].concat();
        Process::listener(&self.url(), &self.redis.url(), &all).unwrap()
    }

    pub fn url(&self) -> String {
        self.postgres.borrow().url(&self.database)
    }

    pub async fn connect(&self) -> Client {
        self.postgres.borrow().connect(&self.database).await.unwrap()
    }

    pub async fn sql(&self, sql: &str) {
        self.postgres.borrow().execute(&self.database, sql).await.unwrap();
    }

    /// Notifies channel `a`, in a transaction each.
    pub async fn notify(&self, payloads: &[&str]) {
        let client = self.connect().await;
        for payload in payloads {
            client.execute("select pg_notify('a', $1)", &[payload]).await.unwrap();
        }
    }

    pub fn bus(&self) -> RedisBus {
        let url = self.redis.url();
        RedisBus::new(RedisSettings { url, namespace: "rowcast".into(), retention: Retention::default() }).unwrap()
    }

    pub fn follower(&self) -> Follower {
        Follower::of(&self.bus(), Source::Notify)
    }
}
