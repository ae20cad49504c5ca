use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use bus::{Bus, RedisBus, RedisSettings, Retention};
use clap::Args;
use protocol::Topic;
use service::{SettingsError, config_file, logging::LogFormat, postgres::PostgresSettings};

use crate::{Config, LogRetention};

/// PostgreSQL cuts longer channel names, silently.
const MAX_CHANNEL_BYTES: usize = 63;
const DATABASE_URL: &str = "--database-url (DATABASE_URL)";
const REDIS_URL: &str = "--redis-url (REDIS_URL)";
const NAMESPACE: &str = "--namespace (ROWCAST_NAMESPACE)";
const BUFFER_BYTES: &str = "--buffer-bytes (ROWCAST_BUFFER_BYTES)";
pub(crate) const STATUS_BIND: &str = "--status-bind (ROWCAST_STATUS_BIND)";

/// The flags of the listener; `--help` is made of these comments.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The database: postgres://user:password@host:5432/database, or host=… user=… dbname=…
    ///
    /// The connection must be a direct one: PgBouncer in transaction mode loses LISTEN silently.
    /// Several hosts (host1,host2) with target_session_attrs=read-write follow a failover.
    /// sslmode: disable; prefer (default: TLS if the server can, unverified); require (TLS,
    /// unverified unless sslrootcert is given); verify-ca; verify-full (what to use across a
    /// network). sslrootcert=FILE names the authorities, else the system's are trusted.
    /// connect_timeout, in seconds, is 5 unless given.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL", help_heading = "Source")]
    pub database_url: Option<String>,

    /// NOTIFY channels to listen to, comma-separated, besides those in rowcast.toml
    ///
    /// Each is a topic of the same name. Names are exact: NOTIFY Orders, unquoted, is `orders`.
    #[arg(long, env = "ROWCAST_CHANNELS", value_delimiter = ',', value_name = "NAMES", help_heading = "Source")]
    pub channels: Vec<String>,

    /// The settings file [default: rowcast.toml in the working directory, if there is one]
    #[arg(long, env = "ROWCAST_CONFIG", value_name = "FILE", help_heading = "Source")]
    pub config: Option<PathBuf>,

    /// Redis: redis://[:password@]host:6379[/db], or rediss:// for TLS
    #[arg(
        long,
        env = "REDIS_URL",
        hide_env_values = true,
        default_value = "redis://127.0.0.1:6379",
        value_name = "URL",
        help_heading = "Bus"
    )]
    pub redis_url: String,

    /// Prefix of all keys in Redis, and name of the leader's lock in the database
    ///
    /// Of all listeners with one database and one namespace, one is active for NOTIFY and the others
    /// stand by. A database has one log, which one listener reads, whatever its namespace.
    /// Listeners of different databases that share a Redis need different namespaces.
    #[arg(long, env = "ROWCAST_NAMESPACE", default_value = "rowcast", value_name = "NAME", help_heading = "Bus")]
    pub namespace: String,

    /// Bytes of changes kept in Redis, per topic, for clients that come back
    #[arg(
        long,
        env = "ROWCAST_HISTORY_BYTES",
        default_value_t = 16 * 1024 * 1024,
        value_name = "BYTES",
        help_heading = "Bus"
    )]
    pub history_bytes: u64,

    /// Age of changes kept in Redis, in milliseconds, for clients that come back
    #[arg(long, env = "ROWCAST_HISTORY_MS", default_value_t = 600_000, value_name = "MS", help_heading = "Bus")]
    pub history_ms: u64,

    /// Bytes of notifications that wait while Redis is away
    ///
    /// Past it what waits is dropped, and once Redis is back a new feed begins: every client is told
    /// `reset`, none is left to believe that it missed nothing. While Redis works, a burst that is
    /// larger than this waits in PostgreSQL's own queue.
    #[arg(
        long,
        env = "ROWCAST_BUFFER_BYTES",
        default_value_t = 64 * 1024 * 1024,
        value_name = "BYTES",
        help_heading = "Bus"
    )]
    pub buffer_bytes: usize,

    /// Age of changes kept in the log (what rowcast.watch writes), in milliseconds
    ///
    /// What was published longer ago is thrown away, in quarters of the log. What was not published
    /// is kept, however old. Longer than --history-ms, so that a Redis that lost its data gets it back.
    #[arg(
        long,
        env = "ROWCAST_LOG_RETENTION_MS",
        default_value_t = 3_600_000,
        value_name = "MS",
        help_heading = "Log"
    )]
    pub log_retention_ms: u64,

    /// Bytes of the log on disk, about, from which what was published is thrown away earlier
    ///
    /// The log is looked after once a second: it may be larger by what is written in four.
    #[arg(
        long,
        env = "ROWCAST_LOG_RETENTION_BYTES",
        default_value_t = 4 * 1024 * 1024 * 1024,
        value_name = "BYTES",
        help_heading = "Log"
    )]
    pub log_retention_bytes: u64,

    /// Commits a second to watched tables above which the log is polled
    ///
    /// Below it writers ring (NOTIFY), which is quicker; above it each ring would cost the writers
    /// more than polling costs the listener.
    #[arg(long, env = "ROWCAST_LOG_POLL_ABOVE", default_value_t = 1000, value_name = "N", help_heading = "Log")]
    pub log_poll_above: u64,

    /// Where /healthz, /readyz and /metrics are served
    #[arg(
        long,
        env = "ROWCAST_STATUS_BIND",
        default_value = "127.0.0.1:9465",
        value_name = "ADDRESS",
        help_heading = "Operation"
    )]
    pub status_bind: String,

    /// How the log on standard error looks; RUST_LOG says what is in it [default: info]
    #[arg(
        long,
        env = "ROWCAST_LOG_FORMAT",
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        help_heading = "Operation"
    )]
    pub log_format: LogFormat,
}

impl Options {
    /// Reads the settings file and checks everything.
    pub fn config(&self) -> Result<Config, SettingsError> {
        Ok(Config {
            postgres: self.postgres()?,
            channels: self.all_channels(self.config.as_deref())?,
            namespace: checked_namespace(&self.namespace)?,
            status_bind: Some(self.status_address()?),
            buffer_bytes: self.checked_buffer()?,
            history: self.history(),
            log_retention: self.log_retention()?,
            log_poll_above: self.log_poll_above,
        })
    }

    /// The bus over Redis. Connects to nothing yet.
    pub fn bus(&self) -> Result<Bus, SettingsError> {
        let settings =
            RedisSettings { url: self.redis_url.clone(), namespace: self.namespace.clone(), retention: self.history() };
        let secret = |e: bus::BusError| SettingsError::Secret { setting: REDIS_URL.into(), problem: e.to_string() };
        RedisBus::new(settings).map(Bus::Redis).map_err(secret)
    }

    fn history(&self) -> Retention {
        Retention { bytes: self.history_bytes, ms: self.history_ms }
    }

    fn log_retention(&self) -> Result<LogRetention, SettingsError> {
        const LEAST_MS: u64 = 1000;
        const LEAST_BYTES: u64 = 1024 * 1024;
        for (setting, value, least) in [
            ("--log-retention-ms (ROWCAST_LOG_RETENTION_MS)", self.log_retention_ms, LEAST_MS),
            ("--log-retention-bytes (ROWCAST_LOG_RETENTION_BYTES)", self.log_retention_bytes, LEAST_BYTES),
        ] {
            if value < least {
                return Err(SettingsError::Wrong {
                    setting: setting.into(),
                    value: value.to_string(),
                    right: format!("at least {least}"),
                });
            }
        }
        Ok(LogRetention { ms: self.log_retention_ms, bytes: self.log_retention_bytes })
    }

    fn postgres(&self) -> Result<PostgresSettings, SettingsError> {
        let missing = || SettingsError::Missing {
            setting: DATABASE_URL.into(),
            right: "give the database, such as postgres://user:password@host:5432/database".into(),
        };
        let url = self.database_url.as_deref().filter(|url| !url.trim().is_empty()).ok_or_else(missing)?;
        PostgresSettings::parse(DATABASE_URL, url, "rowcast-listener")
    }

    fn all_channels(&self, file: Option<&Path>) -> Result<Vec<Topic>, SettingsError> {
        let (config, _) = config_file::load(file)?;
        let mut channels = config.listener.channels;
        for name in self.channels.iter().map(|name| name.trim()).filter(|name| !name.is_empty()) {
            let fits = Topic::new(name).ok().filter(|_| name.len() <= MAX_CHANNEL_BYTES);
            channels.push(fits.ok_or_else(|| SettingsError::Wrong {
                setting: "--channels (ROWCAST_CHANNELS)".into(),
                value: name.escape_debug().to_string(),
                right: format!("a channel name of at most {MAX_CHANNEL_BYTES} bytes, without control characters"),
            })?);
        }
        channels.sort();
        channels.dedup();
        Ok(channels)
    }

    fn status_address(&self) -> Result<SocketAddr, SettingsError> {
        self.status_bind.parse().map_err(|_| SettingsError::Wrong {
            setting: STATUS_BIND.into(),
            value: self.status_bind.clone(),
            right: "an IP address and a port, such as 127.0.0.1:9465 or [::]:9465".into(),
        })
    }

    fn checked_buffer(&self) -> Result<usize, SettingsError> {
        // Room for a batch, so that the limit says something about an outage and not about a burst.
        const LEAST: usize = protocol::batch::MAX_BATCH_BYTES;
        if self.buffer_bytes >= LEAST {
            return Ok(self.buffer_bytes);
        }
        Err(SettingsError::Wrong {
            setting: BUFFER_BYTES.into(),
            value: self.buffer_bytes.to_string(),
            right: format!("at least {LEAST}"),
        })
    }
}

fn checked_namespace(name: &str) -> Result<String, SettingsError> {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.:".contains(&b));
    if plain && (1..=64).contains(&name.len()) {
        return Ok(name.into());
    }
    Err(SettingsError::Wrong {
        setting: NAMESPACE.into(),
        value: name.escape_debug().to_string(),
        right: "1 to 64 letters, digits and _-.:".into(),
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        options: Options,
    }

    fn error(arguments: &[&str]) -> String {
        // The tests' own folder has no rowcast.toml.
        let command = ["listener", "--database-url", "postgres://u:hunter2@h/d", "--channels", "a"];
        Command::parse_from(command.iter().chain(arguments)).options.config().unwrap_err().to_string()
    }

    #[test]
    fn a_wrong_setting_is_named_with_flag_variable_value_and_what_is_right() {
        for (arguments, says) in [
            (["--status-bind", "9465"], ["--status-bind (ROWCAST_STATUS_BIND)", "'9465'", "127.0.0.1:9465"]),
            (["--buffer-bytes", "12"], ["--buffer-bytes (ROWCAST_BUFFER_BYTES)", "'12'", "1048576"]),
            (["--log-retention-ms", "5"], ["--log-retention-ms (ROWCAST_LOG_RETENTION_MS)", "'5'", "1000"]),
            (["--namespace", "a b"], ["--namespace (ROWCAST_NAMESPACE)", "'a b'", "letters"]),
            (["--database-url", "mysql://u:hunter2@h"], ["--database-url (DATABASE_URL)", "postgres://", "not shown"]),
            (["--config", "/nowhere.toml"], ["/nowhere.toml", "cannot be read", ""]),
        ] {
            // A later value of a flag would be an error of its own.
            let first =
                if arguments[0] == "--database-url" { vec![] } else { vec!["--database-url", "postgres://h/d"] };
            let command = ["listener", "--channels", "a"].into_iter().chain(first).chain(arguments);
            let error = Command::parse_from(command).options.config().unwrap_err().to_string();
            assert!(says.iter().all(|part| error.contains(part)) && !error.contains("hunter2"), "{error}");
        }
        let long = "x".repeat(64);
        assert!(error(&["--channels", &long]).contains("63 bytes"));
    }

    #[test]
    fn without_a_database_there_is_nothing_to_do_and_without_channels_there_is_the_log() {
        let run = |arguments: &[&str]| Command::parse_from(["listener"].iter().chain(arguments)).options.config();
        assert!(run(&["--channels", "a"]).unwrap_err().to_string().contains("DATABASE_URL"));
        assert!(run(&["--database-url", "postgres://h/d"]).unwrap().channels.is_empty());
    }

    #[test]
    fn channels_of_flags_are_trimmed_and_counted_once() {
        let command = ["listener", "--database-url", "postgres://h/d", "--channels", "b, a,,b"];
        let config = Command::parse_from(command).options.config().unwrap();
        assert_eq!(config.channels.iter().map(Topic::as_str).collect::<Vec<_>>(), ["a", "b"]);
    }
}
