use e2e::redis::RedisServer;

use crate::{bus_writer::BusWriter, gateways::Gateways, pin::Cores};

/// Redis alone, and who publishes to it: no PostgreSQL in the way. Gateways are new for each run.
pub struct BusStage {
    pub cores: Cores,
    redis: RedisServer,
}

impl BusStage {
    pub async fn set(cores: Cores) -> anyhow::Result<Self> {
        cores.as_bus()?;
        let redis = RedisServer::start().await?;
        cores.release()?;
        Ok(Self { cores, redis })
    }

    pub fn redis(&self) -> &RedisServer {
        &self.redis
    }

    /// One gateway, with a core to itself.
    pub async fn gateway(&self) -> anyhow::Result<Gateways> {
        self.gateway_with(&[]).await
    }

    /// The same, with these flags.
    pub async fn gateway_with(&self, flags: &[&str]) -> anyhow::Result<Gateways> {
        self.cores.as_single()?;
        let gateway = Gateways::start_with(&self.redis.url(), 1, flags).await?;
        self.cores.release()?;
        Ok(gateway)
    }

    /// Many, on all cores but the load client's.
    pub async fn gateways(&self, count: u32) -> anyhow::Result<Gateways> {
        self.cores.as_servers()?;
        let gateways = Gateways::start(&self.redis.url(), count).await?;
        self.cores.release()?;
        Ok(gateways)
    }

    /// Begins a feed of so many topics. Gateways that are started then know them.
    pub async fn writer(&self, topics: u32) -> anyhow::Result<BusWriter> {
        BusWriter::start(&self.redis.url(), topics, &self.cores).await
    }

    /// Who works on the load client's core: this process, and Redis if it is there too.
    pub fn beside_load(&self) -> Vec<u32> {
        let redis = self.redis.pid().filter(|_| self.cores.bus_shares_with_load());
        std::iter::once(std::process::id()).chain(redis).collect()
    }
}
