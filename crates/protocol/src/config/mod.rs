//! `rowcast.toml`: what is structured in the settings, read by every process. Scalars are flags.
//!
//! Every key has a default, and a file that does not exist is not needed. A wrong one stops the
//! process at start with the key, the value and what would be right.

mod auth;
mod endpoint;
mod ingest;

use std::collections::HashSet;

use serde::Deserialize;

use crate::Topic;

pub use auth::{Algorithm, Auth, Jwt};
pub use endpoint::{Endpoint, Wrap};
pub use ingest::Ingest;

/// The whole file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `[listener]`
    #[serde(default)]
    pub listener: Listener,
    /// `[[endpoint]]`
    #[serde(default, rename = "endpoint")]
    pub endpoints: Vec<Endpoint>,
    /// `[[ingest]]`
    #[serde(default, rename = "ingest")]
    pub ingests: Vec<Ingest>,
    /// `[auth]`
    pub auth: Option<Auth>,
}

/// `[listener]`: what to listen to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// The NOTIFY channels, each a topic of the same name.
    #[serde(default)]
    pub channels: Vec<Topic>,
}

impl Config {
    /// Reads and checks the text of a file.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|e| ConfigError::Toml(e.to_string()))?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        for channel in &self.listener.channels {
            // PostgreSQL cuts longer names, silently.
            if channel.as_str().len() > 63 {
                return Err(wrong("listener.channels", channel.as_str(), "a channel name of at most 63 bytes"));
            }
        }
        let mut paths = HashSet::new();
        let of_endpoints = self.endpoints.iter().map(|e| ("endpoint.path", &e.path));
        let of_ingests = self.ingests.iter().map(|i| ("ingest.path", &i.path));
        for (key, path) in of_endpoints.chain(of_ingests) {
            check_path(key, path)?;
            if !paths.insert(path) {
                return Err(wrong(key, path, "a path that no other endpoint or ingest has"));
            }
        }
        self.endpoints.iter().try_for_each(Endpoint::check)?;
        self.ingests.iter().try_for_each(Ingest::check)?;
        self.auth.iter().try_for_each(Auth::check)
    }
}

/// Paths that every gateway serves itself.
pub const OWN_PATHS: [&str; 8] = ["/", "/rowcast", "/sse", "/changes", "/healthz", "/readyz", "/metrics", "/assets/"];

fn check_path(key: &'static str, path: &str) -> Result<(), ConfigError> {
    let plain = path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-_.~".contains(&b));
    if !path.starts_with('/') || !plain || path.contains("//") {
        return Err(wrong(key, path, "a path of letters, digits and -_.~ that starts with /, such as /ws/orders/"));
    }
    if OWN_PATHS.contains(&path) || path.starts_with("/assets/") {
        return Err(wrong(key, path, "a path that the gateway does not serve itself"));
    }
    Ok(())
}

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The text is not TOML, or a key is unknown or of the wrong type; the message has the line.
    #[error("{0}")]
    Toml(String),
    /// A key has a value that it may not have.
    #[error("{key} = '{value}' cannot be used: it must be {right}")]
    Wrong {
        /// The key, with its table.
        key: &'static str,
        /// The value.
        value: String,
        /// What would be right.
        right: String,
    },
}

fn wrong(key: &'static str, value: impl Into<String>, right: impl Into<String>) -> ConfigError {
    ConfigError::Wrong { key, value: value.into(), right: right.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Config::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn an_empty_file_is_a_working_default() {
        assert_eq!(Config::parse(""), Ok(Config::default()));
    }

    #[test]
    fn the_file_of_the_design_is_read() {
        let config = Config::parse(
            r#"
            [listener]
            channels = ["db_changes", "sensor_updates"]
            [[endpoint]]
            path = "/ws/sensors/"
            topics = ["sensor_updates"]
            wrap = "data"
            [[ingest]]
            path = "/api/sensors/"
            table = "sensor_readings"
            columns = ["sensor_id", "value", "metadata"]
            message = "Sensor reading created successfully"
            "#,
        )
        .unwrap();
        assert_eq!(config.endpoints[0].wrap, Wrap::Data);
        assert_eq!(config.ingests[0].columns.len(), 3);
        assert_eq!(config.listener.channels[1].as_str(), "sensor_updates");
    }

    #[test]
    fn a_wrong_setting_is_named_with_its_value_and_what_would_be_right() {
        let unknown = error("[listener]\nchanels = []\n");
        assert!(unknown.contains("chanels") && unknown.contains("channels") && unknown.contains("line 2"), "{unknown}");
        let path = error("[[endpoint]]\npath = \"ws\"\ntopics = [\"a\"]\n");
        assert!(path.contains("endpoint.path = 'ws'") && path.contains("starts with /"), "{path}");
        let own = error("[[endpoint]]\npath = \"/healthz\"\ntopics = [\"a\"]\n");
        assert!(own.contains("/healthz"), "{own}");
        let twice =
            error("[[endpoint]]\npath = \"/a\"\ntopics = [\"a\"]\n[[endpoint]]\npath = \"/a\"\ntopics = [\"b\"]\n");
        assert!(twice.contains("no other endpoint"), "{twice}");
        let none = error("[[endpoint]]\npath = \"/a\"\ntopics = []\n");
        assert!(none.contains("endpoint.topics"), "{none}");
        let wrap = error("[[endpoint]]\npath = \"/a\"\ntopics = [\"a\"]\nwrap = \"dta\"\n");
        assert!(wrap.contains("dta") && wrap.contains("data"), "{wrap}");
        let channel = error(&format!("[listener]\nchannels = [\"{}\"]\n", "x".repeat(64)));
        assert!(channel.contains("63 bytes"), "{channel}");
    }

    #[test]
    fn auth_needs_exactly_one_way_and_origins_where_cookies_count() {
        assert!(error("[auth]\n").contains("auth.url"));
        let both = "[auth]\nurl = \"http://app/auth\"\n[auth.jwt]\nalgorithms = [\"HS256\"]\nsecret_env = \"S\"\naudience = \"a\"\nissuer = \"i\"\n";
        assert!(error(both).contains("auth.url"));
        assert!(error("[auth]\nurl = \"http://app/auth\"\n").contains("auth.origins"));
        assert!(Config::parse("[auth]\nurl = \"http://app/auth\"\norigins = [\"https://app.example.com\"]\n").is_ok());
        let jwt =
            "[auth.jwt]\nalgorithms = [\"RS256\"]\njwks_url = \"https://id/jwks\"\naudience = \"a\"\nissuer = \"i\"\n";
        assert!(Config::parse(jwt).is_ok());
        assert!(error(&jwt.replace("RS256", "none")).contains("none"));
        assert!(error(&jwt.replace("RS256", "HS256")).contains("secret"));
        assert!(error(&format!("{jwt}cookie = \"c\"\n")).contains("auth.origins"));
        assert!(error(&jwt.replace("jwks_url", "jwks_uri")).contains("jwks_uri"));
    }
}
