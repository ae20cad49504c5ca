use std::{net::SocketAddr, time::Duration};

use anyhow::Context;
use tokio_postgres::Client;

use crate::{
    eventually::eventually, files, nginx::Nginx, postgres::PostgresServer, process::Process, proxy::Proxy,
    redis::RedisServer,
};

/// Long enough for anything that is to happen at once, on a busy machine.
pub const SOON: Duration = Duration::from_secs(10);
/// Everything is to flow again within this time of the broken part being back.
pub const BACK: Duration = Duration::from_secs(3);
/// The settings file that `make demo` uses.
pub const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../rowcast.toml");
/// Where the recipes' tables and triggers are.
const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../sql/examples");
/// What `rowcast install` runs.
const SCHEMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../sql/rowcast");
/// Its database.
pub const DATABASE: &str = "rowcast";

/// The whole product as `make demo` starts it: PostgreSQL with the recipes' tables and triggers,
/// Redis, a listener, two gateways, and nginx in front of them. All of it is this test's own, to be
/// broken.
#[derive(Debug)]
pub struct Site {
    /// In front of the gateways.
    pub nginx: Nginx,
    /// Two.
    pub gateways: Vec<Process>,
    /// The first is the active one.
    pub listeners: Vec<Process>,
    /// What stands between Redis and the listener, and each gateway; empty if nothing does.
    pub links: Vec<Proxy>,
    /// The bus.
    pub redis: RedisServer,
    /// The database.
    pub postgres: PostgresServer,
}

impl Site {
    /// Starts everything, and waits until it is ready.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(false).await
    }

    /// The same, with a proxy before Redis for the listener (the first of [`Site::links`]) and for
    /// each gateway.
    pub async fn with_links() -> anyhow::Result<Self> {
        Self::start_with(true).await
    }

    /// The same as [`Site::start`], with the log: the recipes' tables are watched too.
    pub async fn with_log() -> anyhow::Result<Self> {
        Self::on(with_log().await?, false).await
    }

    async fn start_with(linked: bool) -> anyhow::Result<Self> {
        Self::on(postgres_with_examples().await?, linked).await
    }

    async fn on(postgres: PostgresServer, linked: bool) -> anyhow::Result<Self> {
        files::raise_limit()?;
        let redis = RedisServer::start().await?;
        let mut links = Vec::new();
        for _ in 0..if linked { 3 } else { 0 } {
            links.push(Proxy::to(redis.port()).await?);
        }
        let redis_url = |part: usize| {
            let port = links.get(part).map_or(redis.port(), Proxy::port);
            format!("redis://127.0.0.1:{port}")
        };
        let url = postgres.url(DATABASE);
        let listener = Process::listener(&url, &redis_url(0), &["--config", CONFIG])?;
        let gateways = [1, 2]
            .map(|part| Process::gateway(&url, &redis_url(part), &["--config", CONFIG, "--drain-ms", "500"]))
            .into_iter()
            .collect::<Result<Vec<_>, _>>()?;
        let addresses: Vec<SocketAddr> = gateways.iter().map(Process::address).collect();
        let nginx = Nginx::start(&addresses).await?;
        let mut site = Self { nginx, gateways, listeners: vec![listener], links, redis, postgres };
        site.listeners[0].until_ready().await?;
        for gateway in &mut site.gateways {
            gateway.until_ready().await?;
        }
        site.until_carried().await?;
        Ok(site)
    }

    /// The database's URL.
    pub fn database_url(&self) -> String {
        self.postgres.url(DATABASE)
    }

    /// A connection to the database.
    pub async fn sql(&self) -> anyhow::Result<Client> {
        self.postgres.connect(DATABASE).await
    }

    /// Runs statements.
    pub async fn execute(&self, sql: &str) -> anyhow::Result<()> {
        self.postgres.execute(DATABASE, sql).await
    }

    /// Starts another listener, which stands by.
    pub async fn add_standby(&mut self) -> anyhow::Result<()> {
        let standby = Process::listener(&self.database_url(), &self.redis.url(), &["--config", CONFIG])?;
        self.listeners.push(standby.ready().await?);
        Ok(())
    }

    /// Where clients go.
    pub fn address(&self) -> SocketAddr {
        self.nginx.address()
    }

    /// Waits until the gateways have heard what the listener carries.
    async fn until_carried(&self) -> anyhow::Result<()> {
        for gateway in &self.gateways {
            eventually("the gateway knows the topics", SOON, async || {
                match gateway.get("/ws/sensor_updates/").await {
                    // It is there, and wants a WebSocket.
                    Ok((426, _)) => Ok(()),
                    other => Err(other),
                }
            })
            .await;
        }
        Ok(())
    }
}

/// A server whose database [`DATABASE`] has the recipes' tables and triggers.
pub async fn postgres_with_examples() -> anyhow::Result<PostgresServer> {
    let server = PostgresServer::start().await?;
    server.copy_database("template1", DATABASE).await?;
    run_files(&server, EXAMPLES).await?;
    Ok(server)
}

/// The same, with the schema `rowcast`, so that the examples' tables are watched.
async fn with_log() -> anyhow::Result<PostgresServer> {
    let server = PostgresServer::start().await?;
    server.copy_database("template1", DATABASE).await?;
    run_files(&server, SCHEMA).await?;
    run_files(&server, EXAMPLES).await?;
    Ok(server)
}

/// In the order of their names.
async fn run_files(server: &PostgresServer, folder: &str) -> anyhow::Result<()> {
    let files = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<Vec<_>>>()?;
    let mut files: Vec<_> =
        files.into_iter().filter(|path| path.extension().is_some_and(|kind| kind == "sql")).collect();
    files.sort();
    let sql = files.iter().map(std::fs::read_to_string).collect::<Result<String, _>>()?;
    server.execute(DATABASE, &sql).await.with_context(|| folder.to_owned())
}
