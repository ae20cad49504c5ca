use std::net::SocketAddr;

use protocol::Topic;
use service::postgres::PostgresSettings;

/// What a listener needs to know, checked. [`crate::Options::config`] makes it of flags and files.
#[derive(Debug, Clone)]
pub struct Config {
    /// The database.
    pub postgres: PostgresSettings,
    /// The NOTIFY channels, at least one.
    pub channels: Vec<Topic>,
    /// Names the leader's lock: of all listeners on one database with one namespace, one is active.
    pub namespace: String,
    /// Where `/healthz`, `/readyz` and `/metrics` are served, if anywhere.
    pub status_bind: Option<SocketAddr>,
    /// How many bytes of notifications wait while the bus is away; see [`crate::Options`].
    pub buffer_bytes: usize,
}
