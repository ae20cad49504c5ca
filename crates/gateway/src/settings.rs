//! The gateway's flags. Each has an environment variable; what is structured is in `rowcast.toml`.

use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf};

use service::logging::LogFormat;

use crate::access::Network;

/// Serves row changes to WebSocket clients.
///
/// Run any number of gateways behind a load balancer: each subscribes to the bus and serves its
/// own clients. Endpoints, ingest paths and access rules are in rowcast.toml.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "gateway", version)]
pub struct Settings {
    /// Address and port to serve on. Other than loopback needs [auth] in rowcast.toml, or --anonymous.
    #[arg(long, env = "ROWCAST_BIND", default_value = "127.0.0.1:8080", value_name = "ADDRESS:PORT")]
    pub bind: SocketAddr,

    /// The bus: redis://[user:password@]host:port[/db], or rediss:// for TLS.
    #[arg(
        long,
        env = "REDIS_URL",
        default_value = "redis://127.0.0.1:6379",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub redis_url: String,

    /// The database that [[ingest]] writes to; not needed without it.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: Option<String>,

    /// The settings file [default: rowcast.toml, if there is one].
    #[arg(long, env = "ROWCAST_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Prefix of rowcast's keys in Redis; the listener's must be the same.
    #[arg(long, env = "ROWCAST_NAMESPACE", default_value = "rowcast", value_name = "NAME")]
    pub namespace: String,

    /// Which gateway this is, as clients and operators see it [default: the address it serves on].
    #[arg(long, env = "ROWCAST_NAME", value_name = "NAME")]
    pub name: Option<String>,

    /// Who is let in.
    #[command(flatten)]
    pub access: AccessFlags,

    /// The inspector.
    #[command(flatten)]
    pub inspect: InspectFlags,

    /// What a client may use.
    #[command(flatten)]
    pub limits: LimitFlags,

    /// How log lines look.
    #[arg(long, env = "ROWCAST_LOG_FORMAT", default_value = "text", value_name = "FORMAT")]
    pub log_format: LogFormat,
}

/// Who is let in.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Access")]
pub struct AccessFlags {
    /// Let everybody in who can reach the address. Without it, and without [auth], only clients on
    /// this machine are let in.
    #[arg(long, env = "ROWCAST_ANONYMOUS")]
    pub anonymous: bool,

    /// Proxies whose X-Forwarded-For is believed: addresses or networks, separated by commas.
    #[arg(long, env = "ROWCAST_TRUSTED_PROXIES", value_delimiter = ',', value_name = "ADDRESS[/BITS]")]
    pub trusted_proxies: Vec<Network>,
}

/// The inspector.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Inspector")]
pub struct InspectFlags {
    /// Serve /inspect: connections with their lag, routes, feeds, the last changes, and why a client did not
    /// get one. It shows rows. Without a token only this machine may look.
    #[arg(long = "inspect", env = "ROWCAST_INSPECT")]
    pub on: bool,

    /// The token that /inspect asks for, of at least 16 characters. Needed where others can reach it.
    #[arg(long = "inspect-token", env = "ROWCAST_INSPECT_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub token: Option<String>,

    /// A file with that token.
    #[arg(
        long = "inspect-token-file",
        env = "ROWCAST_INSPECT_TOKEN_FILE",
        conflicts_with = "token",
        value_name = "FILE"
    )]
    pub token_file: Option<PathBuf>,
}

/// What a client may use.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitFlags {
    /// Threads that serve connections [default: one a core].
    #[arg(long, env = "ROWCAST_SHARDS", value_name = "N")]
    pub shards: Option<usize>,

    /// Clients in all [default: what the limit on open files allows].
    #[arg(long, env = "ROWCAST_MAX_CONNECTIONS", value_name = "N")]
    pub max_connections: Option<usize>,

    /// Clients from one address (IPv6: from one /64) [default: as many as in all].
    #[arg(long, env = "ROWCAST_MAX_CONNECTIONS_PER_IP", value_name = "N")]
    pub max_connections_per_ip: Option<usize>,

    /// Bytes of one message of a client.
    #[arg(long, env = "ROWCAST_MAX_FRAME_BYTES", default_value_t = 65_536, value_name = "BYTES")]
    pub max_frame_bytes: u32,

    /// Subscriptions of one connection.
    #[arg(long, env = "ROWCAST_MAX_SUBSCRIPTIONS", default_value_t = 100, value_name = "N")]
    pub max_subscriptions: usize,

    /// Messages that a connection may send in a second.
    #[arg(long, env = "ROWCAST_MAX_MESSAGES_PER_S", default_value = "100", value_name = "N")]
    pub max_messages_per_s: NonZeroU32,

    /// Bytes of changes that wait in memory for slow sockets, once for all with the same
    /// subscriptions; who is further back falls behind. Also bytes of answers that wait for one.
    #[arg(long, env = "ROWCAST_QUEUE_BYTES", default_value_t = 524_288, value_name = "BYTES")]
    pub queue_bytes: usize,

    /// Bytes of recent changes that each shard keeps in memory, to resume from.
    #[arg(long, env = "ROWCAST_RECENT_BYTES", default_value_t = 16_777_216, value_name = "BYTES")]
    pub recent_bytes: usize,

    /// Milliseconds of silence after which a client is pinged; after twice as many it is cut off.
    #[arg(long, env = "ROWCAST_PING_MS", default_value_t = 25_000, value_name = "MS")]
    pub ping_ms: u64,

    /// Milliseconds for which a socket may take nothing of what waits for it.
    #[arg(long, env = "ROWCAST_STALL_MS", default_value_t = 30_000, value_name = "MS")]
    pub stall_ms: u64,

    /// Milliseconds over which clients are sent away when the gateway stops.
    #[arg(long, env = "ROWCAST_DRAIN_MS", default_value_t = 5_000, value_name = "MS")]
    pub drain_ms: u64,
}
