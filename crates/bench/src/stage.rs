use e2e::{
    postgres::{Durability, PostgresServer},
    redis::RedisServer,
};

use crate::{gateways::Gateways, origin::Origin, pin::Cores, process::Process, usage, writer::Writer};

/// The recipe's table and trigger, as users have them.
const RECIPE: &str = include_str!("../../../sql/examples/sensors.sql");
const CHANNEL: &str = "sensor_updates";
/// The same table, watched.
const WATCHED: &str = "create table logged_readings (like sensor_readings including all); \
    select rowcast.watch('public.logged_readings')";

/// PostgreSQL, Redis and a listener, for all runs; gateways are new for each.
pub struct Stage {
    pub cores: Cores,
    postgres: PostgresServer,
    database: String,
    redis: RedisServer,
    listener: Process,
}

impl Stage {
    pub async fn set(cores: Cores) -> anyhow::Result<Self> {
        cores.as_servers()?;
        // As in production: a commit is on disk when the writer hears of it.
        let postgres = PostgresServer::start_with(Durability::Full, &[]).await?;
        let database = postgres.create_database().await?;
        postgres.execute(&database, RECIPE).await?;
        Process::run("rowcast", &["install", "--database-url", &postgres.url(&database)])?;
        postgres.execute(&database, WATCHED).await?;
        let redis = RedisServer::start().await?;
        let arguments = ["--database-url", &postgres.url(&database), "--redis-url", &redis.url()];
        let more = ["--channels", CHANNEL, "--status-bind", "{bind}"];
        let arguments: Vec<String> = arguments.iter().chain(&more).map(|&text| text.into()).collect();
        let listener = Process::start("listener", &arguments)?.ready().await?;
        cores.release()?;
        Ok(Self { cores, postgres, database, redis, listener })
    }

    pub async fn gateways(&self, count: u32) -> anyhow::Result<Gateways> {
        self.cores.as_servers()?;
        let gateways = Gateways::start(&self.redis.url(), count).await?;
        self.cores.release()?;
        Ok(gateways)
    }

    pub async fn writer(&self, origin: Origin) -> anyhow::Result<Writer> {
        Writer::new(self.postgres.connect(&self.database).await?, origin).await
    }

    /// All processes between the writer and the gateways.
    pub fn upstream(&self) -> Vec<u32> {
        let postgres = self.postgres.pid().map(usage::family).unwrap_or_default();
        postgres.into_iter().chain(self.redis.pid()).chain([self.listener.pid()]).collect()
    }
}
