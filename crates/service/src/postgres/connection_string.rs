use std::path::PathBuf;

use tokio_postgres::config::SslMode;

use crate::tls::Verify;

/// What tokio-postgres reads; its errors for others would not say what there is.
const KNOWN: [&str; 18] = [
    "user",
    "password",
    "dbname",
    "options",
    "application_name",
    "sslnegotiation",
    "host",
    "hostaddr",
    "port",
    "connect_timeout",
    "tcp_user_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "target_session_attrs",
    "channel_binding",
    "load_balance_hosts",
];

/// A connection string, split into what tokio-postgres reads and what it refuses: `sslmode` with
/// `verify-ca` and `verify-full`, and `sslrootcert`. No error shows a value but of these.
#[derive(Default)]
pub(super) struct ConnectionString {
    pub(super) rest: String,
    pub(super) sslmode: Option<String>,
    pub(super) sslrootcert: Option<PathBuf>,
}

impl ConnectionString {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            Self::of_url(text)
        } else if text.is_empty() || text.contains("://") || !text.contains('=') {
            Err("it must be a URL such as postgres://user:password@host:5432/database, or host=… user=… dbname=…"
                .into())
        } else {
            Self::of_keywords(text)
        }
    }

    fn of_url(text: &str) -> Result<Self, String> {
        // The user's part ends at the first @, and may hold any other character.
        let start = text.find('@').map_or(0, |at| at + 1);
        if text[start..].contains('@') {
            return Err("an @ in user, password or a parameter must be written as %40".into());
        }
        let Some(query) = text[start..].find('?').map(|q| start + q) else {
            return Ok(Self { rest: text.into(), ..Self::default() });
        };
        let mut this = Self { rest: text[..query].into(), ..Self::default() };
        let mut separator = '?';
        for parameter in text[query + 1..].split('&').filter(|p| !p.is_empty()) {
            let Some((key, value)) = parameter.split_once('=') else {
                return Err(format!("the parameter '{parameter}' has no value"));
            };
            if !this.take(key, || percent_decode(value))? {
                this.rest.push(separator);
                this.rest.push_str(parameter);
                separator = '&';
            }
        }
        Ok(this)
    }

    fn of_keywords(text: &str) -> Result<Self, String> {
        let mut this = Self::default();
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            let end = rest.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(rest.len());
            let (key, after) = rest.split_at(end);
            // What has no = may be the rest of a password with a blank in it: not shown.
            let Some(after) = after.trim_start().strip_prefix('=') else {
                return Err("a keyword without = (a value with blanks needs 'quotes')".into());
            };
            let (value, after) = keyword_value(after.trim_start())?;
            rest = after.trim_start();
            if !this.take(key, || value.clone())? {
                let quoted = value.replace('\\', "\\\\").replace('\'', "\\'");
                this.rest.push_str(&format!("{key}='{quoted}' "));
            }
        }
        Ok(this)
    }

    fn take(&mut self, key: &str, value: impl FnOnce() -> String) -> Result<bool, String> {
        match key {
            "sslmode" => self.sslmode = Some(value()),
            "sslrootcert" => {
                let value = value();
                self.sslrootcert = (value != "system").then(|| value.into());
            }
            known if KNOWN.contains(&known) => return Ok(false),
            unknown => {
                return Err(format!(
                    "the parameter '{unknown}' is not known; there are: {}, sslmode, sslrootcert",
                    KNOWN.join(", ")
                ));
            }
        }
        Ok(true)
    }

    /// What `sslmode` and `sslrootcert` come to.
    pub(super) fn tls(&self) -> Result<(SslMode, Verify), String> {
        Ok(match self.sslmode.as_deref() {
            Some("disable") => (SslMode::Disable, Verify::Nothing),
            None | Some("prefer") => (SslMode::Prefer, Verify::Nothing),
            Some("require") if self.sslrootcert.is_some() => (SslMode::Require, Verify::Authority),
            Some("require") => (SslMode::Require, Verify::Nothing),
            Some("verify-ca") => (SslMode::Require, Verify::Authority),
            Some("verify-full") => (SslMode::Require, Verify::AuthorityAndHost),
            Some(other) => {
                return Err(format!(
                    "sslmode '{other}' is none of disable, prefer, require, verify-ca and verify-full"
                ));
            }
        })
    }
}

/// A value as libpq quotes it, and what follows.
fn keyword_value(text: &str) -> Result<(String, &str), String> {
    let (quoted, body) = match text.strip_prefix('\'') {
        Some(body) => (true, body),
        None => (false, text),
    };
    let mut value = String::new();
    let mut chars = body.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Ok((value, &body[at + 1..])),
            c if !quoted && c.is_whitespace() => return Ok((value, &body[at..])),
            c => value.push(c),
        }
    }
    if quoted { Err("a quote ' is not closed".into()) } else { Ok((value, "")) }
}

fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}
