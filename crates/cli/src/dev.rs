//! `rowcast dev`: everything in one process, over the memory bus. No Redis needed.

use std::{
    io::{ErrorKind, Write},
    net::SocketAddr,
    path::PathBuf,
};

use bus::{Bus, MemoryBus, Retention};
use clap::Parser;
use gateway::Gateway;
use protocol::{Topic, config::Config};
use service::{SettingsError, config_file, postgres::PostgresSettings};
use tokio_util::sync::CancellationToken;

use crate::{database::PrivatePostgres, examples, schema};

/// Run everything in one process: a listener, a gateway, and a private PostgreSQL.
///
/// With no rowcast.toml, no --channels and no --database-url it shows the example systems. Data are
/// kept under .rowcast/ in the working directory (for root, whose files PostgreSQL may not enter,
/// under /var/lib). Ctrl-C stops what it started.
#[derive(Parser)]
pub struct Dev {
    /// Where to serve [default: port 8000 of 127.0.0.1, or the next free one].
    #[arg(long, env = "ROWCAST_BIND", value_name = "ADDRESS:PORT")]
    bind: Option<SocketAddr>,

    /// A database of yours, instead of a private one.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Option<String>,

    /// NOTIFY channels to listen to, comma-separated, besides those in the settings file.
    #[arg(long, env = "ROWCAST_CHANNELS", value_delimiter = ',', value_name = "NAMES")]
    channels: Vec<Topic>,

    /// The settings file [default: rowcast.toml, if there is one].
    #[arg(long, env = "ROWCAST_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    /// Load the example systems (tables and triggers) into the private database.
    #[arg(long, conflicts_with = "database_url")]
    examples: bool,
}

const DATABASE_URL: &str = "--database-url (DATABASE_URL)";

impl Dev {
    /// Runs until the shutdown.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let (mut config, file) = config_file::load(self.config.as_deref())?;
        config.listener.channels.extend(self.channels.iter().cloned());
        let bare = file.is_none() && config.listener.channels.is_empty() && self.database_url.is_none();
        if bare {
            config = Config::parse(examples::CONFIG)?;
        }
        let private = match &self.database_url {
            Some(_) => None,
            None => Some(PrivatePostgres::start(&std::env::current_dir()?.join(".rowcast/dev")).await?),
        };
        let served = self.serve(config, private.as_ref(), bare || self.examples, shutdown).await;
        if let Some(private) = private {
            private.stop().await?;
        }
        served
    }

    async fn serve(
        &self,
        config: Config,
        private: Option<&PrivatePostgres>,
        examples: bool,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        if let Some(private) = private {
            schema::install(&mut private.client().await?, None).await?;
            for sql in examples::SQL.iter().filter(|_| examples) {
                private.execute(sql).await?;
            }
        }
        let url = match (&self.database_url, private) {
            (Some(url), _) => url.clone(),
            (None, private) => private.map(PrivatePostgres::connection).unwrap_or_default(),
        };
        let postgres = PostgresSettings::parse(DATABASE_URL, &url, "rowcast-dev")?;
        let listener = listener::Config::new(postgres, config.listener.channels.clone(), "rowcast-dev");
        let bus = Bus::Memory(MemoryBus::new(Retention::default()));
        let gateway = self.gateway(&url, config, &bus).await?;
        self.welcome(&gateway, private, examples)?;

        let stop = shutdown.child_token();
        let guard = stop.clone().drop_guard();
        let (gateway, with_it) = (gateway.run(stop.clone()), stop.clone().drop_guard());
        let gateway = tokio::spawn(async move {
            let ended = gateway.await;
            // A listener without a gateway would only look alive.
            drop(with_it);
            ended
        });
        listener::run(listener, &bus, stop).await.map_err(|listener::Error::Settings(error)| error)?;
        drop(guard);
        gateway.await?
    }

    async fn gateway(&self, url: &str, config: Config, bus: &Bus) -> anyhow::Result<Gateway> {
        let first = self.bind.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8000)));
        for port in first.port()..=first.port().saturating_add(99) {
            let bind = SocketAddr::new(first.ip(), port).to_string();
            let flags = ["gateway", "--bind", &bind, "--database-url", url, "--drain-ms", "200"];
            // Only this machine may look; with [auth] others may come too.
            let inspect = (first.ip().is_loopback() && config.auth.is_none()).then_some("--inspect");
            let settings = gateway::Settings::try_parse_from(flags.into_iter().chain(inspect))?;
            match Gateway::bind(settings, config.clone(), bus.clone()).await {
                Err(error) if self.bind.is_none() && is_taken(&error) => {}
                other => return other,
            }
        }
        anyhow::bail!("the ports {} to {} are all taken; choose one with --bind", first.port(), first.port() + 99)
    }

    fn welcome(&self, gateway: &Gateway, private: Option<&PrivatePostgres>, examples: bool) -> anyhow::Result<()> {
        let address = gateway.address();
        let mut out = std::io::stdout().lock();
        // Under this name a browser treats it as a place of its own, whatever the address family.
        let host =
            if address.ip().is_loopback() { format!("localhost:{}", address.port()) } else { address.to_string() };
        writeln!(out, "\n  rowcast dev is at   http://{host}/\n")?;
        if gateway.has_inspector() {
            writeln!(out, "  look into it        http://{host}/inspect")?;
        }
        if let Some(private) = private {
            writeln!(out, "  its database        {}", private.psql())?;
        }
        if examples {
            writeln!(
                out,
                "  try in it           insert into sensor_readings(sensor_id, value) values ('sensor1', 25.5);"
            )?;
            writeln!(
                out,
                "  or post             curl -X POST http://{host}/api/sensors/ -H 'Content-Type: application/json' \
                 -d '{{\"sensor_id\": \"sensor1\", \"value\": 25.5}}'"
            )?;
            writeln!(out, "  watch it here       rowcast tail sensor_updates --url ws://{host}")?;
            writeln!(
                out,
                "  a watched table     insert into watched_orders(customer, total) values ('ada', 12.50);\n\
                 {:22}rowcast tail public.watched_orders --url ws://{host}",
                ""
            )?;
        }
        writeln!(out, "\n  Ctrl-C stops it.\n")?;
        out.flush()?;
        Ok(())
    }
}

fn is_taken(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(SettingsError::Bind { problem, .. }) if problem.kind() == ErrorKind::AddrInUse)
}
