use std::net::SocketAddr;

use bus::Retention;
use protocol::Topic;
use service::postgres::PostgresSettings;

use crate::LogRetention;

/// What a listener needs to know, checked. [`crate::Options::config`] makes it of flags and files.
#[derive(Debug, Clone)]
pub struct Config {
    /// The database.
    pub postgres: PostgresSettings,
    /// The NOTIFY channels; without one there is no `notify` source.
    pub channels: Vec<Topic>,
    /// Names the leader's lock: of all listeners on one database with one namespace, one is active.
    pub namespace: String,
    /// Where `/healthz`, `/readyz` and `/metrics` are served, if anywhere.
    pub status_bind: Option<SocketAddr>,
    /// How many bytes of notifications wait while the bus is away; see [`crate::Options`].
    pub buffer_bytes: usize,
    /// What the bus keeps of each topic: as much is refilled from the log.
    pub history: Retention,
    /// What the log keeps.
    pub log_retention: LogRetention,
    /// Commits a second above which the log is polled, and writers do not ring.
    pub log_poll_above: u64,
}

impl Config {
    /// A listener to these channels and to the log, with the limits that the flags have by default.
    pub fn new(postgres: PostgresSettings, channels: Vec<Topic>, namespace: &str) -> Self {
        Self {
            postgres,
            channels,
            namespace: namespace.into(),
            status_bind: None,
            buffer_bytes: 64 * 1024 * 1024,
            history: Retention::default(),
            log_retention: LogRetention::default(),
            log_poll_above: 1000,
        }
    }
}
