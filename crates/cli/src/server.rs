//! The database that a command is about.

use std::time::Duration;

use clap::Args;
use service::{
    SettingsError,
    postgres::{PostgresSettings, describe},
};
use tokio_postgres::Client;

const DATABASE_URL: &str = "--database-url (DATABASE_URL)";

/// Where it is.
#[derive(Args)]
pub struct Server {
    /// The database.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Option<String>,

    /// How long to wait for transactions that use a table; writers that come after wait behind us.
    #[arg(long, env = "ROWCAST_LOCK_TIMEOUT_MS", default_value_t = 10_000, value_name = "MS",
          value_parser = clap::value_parser!(u32).range(1..=2_147_483_647))]
    lock_timeout_ms: u32,
}

impl Server {
    /// Connects to it.
    pub async fn connect(&self) -> anyhow::Result<Client> {
        let url = self.database_url.as_deref().ok_or_else(|| SettingsError::Missing {
            setting: DATABASE_URL.into(),
            right: "name the database, such as postgres://user@host/database".into(),
        })?;
        let (client, connection) = PostgresSettings::parse(DATABASE_URL, url, "rowcast-tool")?.connect().await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = describe(&error), "the connection to the database ended");
            }
        });
        let wait = Duration::from_millis(self.lock_timeout_ms.into()).as_millis();
        client.batch_execute(&format!("set lock_timeout = {wait}")).await?;
        Ok(client)
    }
}
