//! The gateway's process.

use std::process::ExitCode;

use bus::{Bus, RedisBus, RedisSettings, Retention};
use clap::Parser;
use gateway::{Gateway, Settings};

#[tokio::main]
async fn main() -> ExitCode {
    let settings = Settings::parse();
    service::logging::start(settings.log_format);
    service::exit::code(run(settings).await)
}

async fn run(settings: Settings) -> anyhow::Result<()> {
    service::crypto::install();
    let (config, _) = service::config_file::load(settings.config.as_deref())?;
    let shutdown = service::shutdown::on_signals()?;
    let bus = RedisBus::new(RedisSettings {
        url: settings.redis_url.clone(),
        namespace: settings.namespace.clone(),
        // Only the listener trims.
        retention: Retention::default(),
    })
    .map_err(|e| service::SettingsError::Secret {
        setting: "--redis-url (REDIS_URL)".into(),
        problem: e.to_string(),
    })?;
    Gateway::bind(settings, config, Bus::Redis(bus)).await?.run(shutdown).await
}
