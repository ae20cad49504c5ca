//! Connections to PostgreSQL, for the listener and for a gateway's ingest.

mod connection_string;

use std::time::Duration;

use tokio_postgres::{
    Client, Config, Socket,
    config::{Host, SslMode},
    tls::MakeTlsConnect,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{SettingsError, tls};
use connection_string::ConnectionString;

/// How long a connect may take, all hosts and the login included (`connect_timeout` in the
/// connection string overrides it). tokio-postgres's own limit covers the TCP connect alone.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The half that does the I/O: drive it with `poll_message`, or spawn it where no notifications are
/// wanted (as a future it throws them away, silently). Dropping the [`Client`] ends it.
pub type Connection = tokio_postgres::Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

/// Where the database is, and how to connect. Made of a URL (`postgres://user:password@host/db`)
/// or of keywords (`host=… user=…`), as libpq reads them. Several hosts, comma-separated, are tried
/// in turn; with `target_session_attrs=read-write` that follows a failover.
///
/// `sslmode`, as in libpq:
///
/// | | encrypted | who is at the other end |
/// | --- | --- | --- |
/// | `disable` | no | not checked |
/// | `prefer` (default) | if the server can | not checked |
/// | `require` | yes | not checked; with `sslrootcert`, as `verify-ca` |
/// | `verify-ca` | yes | an authority in `sslrootcert` (else: one of the system's) signed its certificate |
/// | `verify-full` | yes | that, and the certificate is for this host |
///
/// Unix sockets never use TLS. A self-signed certificate that is marked as an authority (`CA:TRUE`)
/// cannot be a server's own: rustls refuses it.
#[derive(Clone)]
pub struct PostgresSettings {
    // One configuration a host, so that one that hangs leaves time for the next.
    hosts: Vec<Config>,
    timeout: Duration,
    tls: MakeRustlsConnect,
}

impl std::fmt::Debug for PostgresSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PostgresSettings").field(&self.to_string()).finish()
    }
}

/// Host, port and database; never the password.
impl std::fmt::Display for PostgresSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hosts: Vec<_> = self.hosts.iter().map(address).collect();
        let config = &self.hosts[0];
        write!(f, "{}", hosts.join(","))?;
        match config.get_dbname().or(config.get_user()) {
            Some(database) => write!(f, " database {database}"),
            None => Ok(()),
        }
    }
}

/// Why there is no connection. Never holds the password.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConnectError {
    /// It took too long.
    #[error("{address} did not answer within {ms} ms")]
    Timeout {
        /// Host and port.
        address: String,
        /// The limit.
        ms: u128,
    },
    /// It could not be reached, or refused.
    #[error("{address}: {reason}")]
    Failed {
        /// Host and port.
        address: String,
        /// What the system or the server said.
        reason: String,
        /// PostgreSQL's code, if it was the server that spoke: `28P01` is a wrong password.
        sqlstate: Option<String>,
    },
}

impl PostgresSettings {
    /// Reads a connection string. `setting` is the flag with its environment variable, for the
    /// error; `application_name` is what `pg_stat_activity` shows unless the string says otherwise.
    pub fn parse(setting: &str, text: &str, application_name: &str) -> Result<Self, SettingsError> {
        let wrong = |problem: String| SettingsError::Secret { setting: setting.into(), problem };
        let string = ConnectionString::parse(text).map_err(wrong)?;
        let (mode, verify) = string.tls().map_err(wrong)?;
        let tls = tls::connector(verify, string.sslrootcert.as_deref()).map_err(wrong)?;
        let config: Config = string.rest.parse().map_err(|e| wrong(describe(&e)))?;
        let hosts = one_per_host(&config, mode, application_name).map_err(wrong)?;
        let timeout = config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT);
        Ok(Self { hosts, timeout, tls })
    }

    /// Connects to the first host that answers and fits. The time is shared among the hosts.
    pub async fn connect(&self) -> Result<(Client, Connection), ConnectError> {
        let limit = self.timeout / u32::try_from(self.hosts.len()).unwrap_or(u32::MAX);
        let mut last = None;
        for config in &self.hosts {
            let address = address(config);
            match tokio::time::timeout(limit, Box::pin(config.connect(self.tls.clone()))).await {
                Ok(Ok(connected)) => return Ok(connected),
                Ok(Err(error)) => {
                    let sqlstate = error.code().map(|code| code.code().to_owned());
                    last = Some(ConnectError::Failed { address, reason: describe(&error), sqlstate });
                }
                Err(_) => last = Some(ConnectError::Timeout { address, ms: limit.as_millis() }),
            }
        }
        Err(last.unwrap_or(ConnectError::Failed {
            address: "no host".into(),
            reason: "nothing to connect to".into(),
            sqlstate: None,
        }))
    }
}

/// What an error says, with its causes, on one line: tokio-postgres's own text is "db error" for
/// all that the server says.
pub fn describe(error: &tokio_postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        let mut text = format!("{}: {} (SQLSTATE {})", db.severity(), db.message(), db.code().code());
        for (label, more) in [("detail", db.detail()), ("hint", db.hint())] {
            if let Some(more) = more {
                text.push_str(&format!("; {label}: {}", more.replace('\n', " ")));
            }
        }
        return text;
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text
}

fn one_per_host(all: &Config, mode: SslMode, application_name: &str) -> Result<Vec<Config>, String> {
    let (hosts, addresses, ports) = (all.get_hosts(), all.get_hostaddrs(), all.get_ports());
    // libpq's default on Debian and most others.
    let default = [Host::Unix("/var/run/postgresql".into())];
    let hosts = if hosts.is_empty() && addresses.is_empty() { &default } else { hosts };
    let count = hosts.len().max(addresses.len());
    if !hosts.is_empty() && !addresses.is_empty() && hosts.len() != addresses.len() {
        return Err(format!("it has {} hosts and {} hostaddrs", hosts.len(), addresses.len()));
    }
    if ports.len() > 1 && ports.len() != count {
        return Err(format!("it has {count} hosts and {} ports", ports.len()));
    }
    let one = |index: usize| {
        let mut config = Config::new();
        let mut unix = false;
        match hosts.get(index) {
            Some(Host::Tcp(host)) => drop(config.host(host)),
            Some(Host::Unix(path)) => {
                unix = true;
                config.host_path(path);
            }
            None => {}
        }
        if let Some(address) = addresses.get(index) {
            config.hostaddr(*address);
        }
        config.port(ports.get(index).or(ports.first()).copied().unwrap_or(5432));
        config.ssl_mode(if unix { SslMode::Disable } else { mode });
        copy_session(all, &mut config, application_name);
        config
    };
    Ok((0..count).map(one).collect())
}

fn copy_session(from: &Config, to: &mut Config, application_name: &str) {
    if let Some(user) = from.get_user() {
        to.user(user);
    }
    if let Some(password) = from.get_password() {
        to.password(password);
    }
    if let Some(dbname) = from.get_dbname() {
        to.dbname(dbname);
    }
    if let Some(options) = from.get_options() {
        to.options(options);
    }
    to.application_name(from.get_application_name().unwrap_or(application_name));
    to.ssl_negotiation(from.get_ssl_negotiation());
    to.channel_binding(from.get_channel_binding());
    to.target_session_attrs(from.get_target_session_attrs());
    to.keepalives(from.get_keepalives());
    // The system's default is two hours.
    to.keepalives_idle(Duration::from_secs(15));
    to.keepalives_interval(from.get_keepalives_interval().unwrap_or(Duration::from_secs(5)));
    to.keepalives_retries(from.get_keepalives_retries().unwrap_or(3));
    to.tcp_user_timeout(from.get_tcp_user_timeout().copied().unwrap_or(Duration::from_secs(10)));
}

fn address(config: &Config) -> String {
    let port = config.get_ports().first().copied().unwrap_or(5432);
    match (config.get_hosts().first(), config.get_hostaddrs().first()) {
        (Some(Host::Tcp(host)), _) if host.contains(':') => format!("[{host}]:{port}"),
        (Some(Host::Tcp(host)), _) => format!("{host}:{port}"),
        (Some(Host::Unix(path)), _) => format!("{}/.s.PGSQL.{port}", path.display()),
        (None, Some(address)) => format!("{address}:{port}"),
        (None, None) => format!("port {port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<PostgresSettings, String> {
        PostgresSettings::parse("--database-url (DATABASE_URL)", text, "rowcast-test").map_err(|e| e.to_string())
    }

    #[test]
    fn urls_and_keywords_are_read_as_libpq_does() {
        for (text, shown) in [
            ("postgres://u:secret@db.example.com/app", "db.example.com:5432 database app"),
            ("postgresql://u@a:1,b:2/app?sslmode=disable&target_session_attrs=read-write", "a:1,b:2 database app"),
            (
                "host=/run/pg port=5433 user=u password='sec ret' sslmode=verify-full",
                "/run/pg/.s.PGSQL.5433 database u",
            ),
            ("host = 'h' dbname=d sslmode = require", "h:5432 database d"),
            ("postgres:///d", "/var/run/postgresql/.s.PGSQL.5432 database d"),
            ("postgres://u@[::1]:5433/d?sslmode=disable", "[::1]:5433 database d"),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), shown, "{text}");
        }
    }

    #[test]
    fn a_unix_socket_uses_no_tls_and_a_host_as_asked() {
        let modes = |text: &str| parse(text).unwrap().hosts.iter().map(Config::get_ssl_mode).collect::<Vec<_>>();
        assert_eq!(modes("host=/run/pg,db sslmode=require"), [SslMode::Disable, SslMode::Require]);
        assert_eq!(modes("host=db"), [SslMode::Prefer]);
        assert_eq!(modes("postgres://db/?sslmode=disable"), [SslMode::Disable]);
    }

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        for (text, says) in [
            ("postgres://u:hunter2@h/d?sslmode=always", "sslmode 'always'"),
            ("postgres://u:hunter2@h/d?sslrootcert=/nowhere.pem&sslmode=verify-ca", "/nowhere.pem"),
            ("postgres://u:hunter2@h:port/d", "port"),
            ("postgres://u:hunter2@more@h/d", "%40"),
            ("postgres://u:hunter2@h/d?colour=red", "colour"),
            ("postgres://u:hunter2@h/d?sslmode", "sslmode"),
            ("host=h password='hunter2", "quote"),
            ("host=h password=hunter2 oops", "="),
            ("mysql://u:hunter2@h/d", "postgres://"),
            ("", "postgres://"),
            ("host=a,b port=1,2,3 password=hunter2", "3 ports"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(says) && !error.contains("hunter2"), "{text}: {error}");
            assert!(error.contains("--database-url (DATABASE_URL)"), "{error}");
        }
        assert!(!format!("{:?}", parse("postgres://u:hunter2@h/d").unwrap()).contains("hunter2"));
    }

    #[tokio::test]
    async fn a_server_that_never_answers_is_given_up() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = silent.local_addr().unwrap().port();
        let settings = parse(&format!("postgres://u:hunter2@127.0.0.1:{port}/d?connect_timeout=1")).unwrap();
        let error = settings.connect().await.map(drop).unwrap_err();
        assert!(matches!(error, ConnectError::Timeout { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_closed_port_is_named() {
        let error = parse("postgres://u:hunter2@127.0.0.1:1/d").unwrap().connect().await.map(drop).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("127.0.0.1:1") && text.contains("refused") && !text.contains("hunter2"), "{text}");
    }
}
