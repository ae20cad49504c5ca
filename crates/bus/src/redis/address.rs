use std::time::Duration;

use fred::types::config::{Config, Server, ServerConfig, TlsConfig, TlsConnector};
use redis::{
    ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};

use crate::BusError;

/// A Redis URL, read once for both clients, so that they agree on what it means. It holds the
/// password: no `Debug`.
#[derive(Clone)]
pub(super) struct Address {
    pub(super) client: redis::Client,
    pub(super) fred: Config,
}

impl Address {
    pub(super) fn parse(url: &str) -> Result<Self, BusError> {
        // Not a word of the URL in the message: it may hold a password.
        let wrong = |why: &str| BusError::Refused(format!("the Redis URL is not usable: {why}"));
        let info = url.into_connection_info().map_err(|_| {
            wrong("it looks like redis://[[user]:password@]host[:port][/db], rediss://… or unix:///path")
        })?;
        let fred = fred_config(&info).map_err(|why| wrong(&why))?;
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(15))
            .with_interval(Duration::from_secs(5))
            .with_retries(3);
        let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
        let client = redis::Client::open(info.set_tcp_settings(tcp)).map_err(|e| wrong(e.category()))?;
        Ok(Self { client, fred })
    }
}

fn fred_config(info: &ConnectionInfo) -> Result<Config, String> {
    let mut config = Config { version: fred::types::RespVersion::RESP3, ..Config::default() };
    config.server = match info.addr() {
        ConnectionAddr::Tcp(host, port) => ServerConfig::Centralized { server: Server::new(host.as_str(), *port) },
        ConnectionAddr::TcpTls { insecure: true, .. } => return Err("#insecure is not supported".into()),
        ConnectionAddr::TcpTls { host, port, .. } => {
            config.tls = Some(tls()?);
            ServerConfig::Centralized { server: Server::new(host.as_str(), *port) }
        }
        ConnectionAddr::Unix(path) => ServerConfig::Unix { path: path.clone() },
        _ => return Err("this kind of address is not supported".into()),
    };
    let redis = info.redis_settings();
    config.username = redis.username().map(Into::into);
    config.password = redis.password().map(Into::into);
    config.database = Some(u8::try_from(redis.db()).map_err(|_| "databases are numbered 0 to 255")?);
    Ok(config)
}

/// Both clients trust what the system trusts (`SSL_CERT_FILE` names another file).
fn tls() -> Result<TlsConfig, String> {
    // An error says that a provider is installed already: fine, whichever it is.
    drop(rustls::crypto::ring::default_provider().install_default());
    TlsConnector::default_rustls().map(Into::into).map_err(|e| e.details().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_clients_read_the_same_from_a_url() {
        let address = Address::parse("redis://me:p%40ss@redis.example:6380/3").unwrap();
        let redis = address.client.get_connection_info().redis_settings();
        assert_eq!(address.client.get_connection_info().addr().to_string(), "redis.example:6380");
        assert_eq!((redis.username(), redis.password(), redis.db()), (Some("me"), Some("p@ss"), 3));
        assert_eq!(address.fred.server, ServerConfig::Centralized { server: Server::new("redis.example", 6380) });
        assert_eq!(address.fred.username.as_deref(), Some("me"));
        assert_eq!(address.fred.password.as_deref(), Some("p@ss"));
        assert_eq!(address.fred.database, Some(3));
        assert!(Address::parse("rediss://redis.example").unwrap().fred.tls.is_some());
        let unix = Address::parse("unix:///run/redis.sock?db=1").unwrap();
        assert_eq!(unix.fred.server, ServerConfig::Unix { path: "/run/redis.sock".into() });
    }

    #[test]
    fn a_wrong_url_is_refused_without_its_password() {
        for url in ["redis//:secret@host", "http://:secret@host", "redis://:secret@host/x", "redis://:secret@host/999"]
        {
            let error = Address::parse(url).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.contains("Redis URL"), "{url}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
