use serde::Deserialize;

use super::{ConfigError, wrong};

/// `[auth]`: who is let in. Without it only anonymous clients on loopback are.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// A URL of the application. At connect the gateway sends it a GET with the client's headers
    /// named in `forward`; a 2xx answer with a JSON object is the claims, 401 and 403 are passed on.
    pub url: Option<String>,
    /// Headers of the client that are forwarded to `url`.
    #[serde(default = "default_forward")]
    pub forward: Vec<String>,
    /// How long `url` may take.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
    /// JSON Web Tokens, checked by the gateway itself.
    pub jwt: Option<Jwt>,
    /// The pages that may connect, as `https://dash.example.com` (no path, no trailing slash).
    /// Required where a cookie counts. Clients that send no Origin, which browsers always do, are
    /// not held to it.
    #[serde(default)]
    pub origins: Vec<String>,
}

/// `[auth.jwt]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jwt {
    /// The algorithms that a token may use.
    pub algorithms: Vec<Algorithm>,
    /// What `aud` must hold.
    pub audience: String,
    /// What `iss` must be.
    pub issuer: String,
    /// The environment variable that holds the secret of HS256.
    pub secret_env: Option<String>,
    /// A file that holds the secret of HS256.
    pub secret_file: Option<String>,
    /// A file with the public keys, as a JSON Web Key Set.
    pub jwks_file: Option<String>,
    /// A URL with the public keys, as a JSON Web Key Set.
    pub jwks_url: Option<String>,
    /// A cookie in which the token may come.
    pub cookie: Option<String>,
    /// How far clocks may differ.
    #[serde(default = "default_leeway_s")]
    pub leeway_s: u64,
}

/// A signature algorithm. What is not here is refused, `none` first of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[allow(missing_docs)]
pub enum Algorithm {
    HS256,
    RS256,
    ES256,
    EdDSA,
}

fn default_forward() -> Vec<String> {
    ["cookie", "authorization"].map(String::from).to_vec()
}

fn default_timeout_ms() -> u64 {
    5_000
}

fn default_leeway_s() -> u64 {
    10
}

impl Auth {
    /// Whether a cookie can let somebody in, so that a foreign page could use it.
    pub fn cookies_count(&self) -> bool {
        let forwarded = self.url.is_some() && self.forward.iter().any(|h| h.eq_ignore_ascii_case("cookie"));
        forwarded || self.jwt.as_ref().is_some_and(|jwt| jwt.cookie.is_some())
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        match (&self.url, &self.jwt) {
            (Some(url), None) => check_url("auth.url", url)?,
            (None, Some(jwt)) => jwt.check()?,
            (Some(url), Some(_)) => return Err(wrong("auth.url", url, "left out where [auth.jwt] is given")),
            (None, None) => return Err(wrong("auth.url", "", "a URL of the application, or [auth.jwt] must be given")),
        }
        for origin in &self.origins {
            let rest = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
            if !rest.is_some_and(|host| !host.is_empty() && !host.contains('/')) {
                return Err(wrong("auth.origins", origin, "scheme and host, such as https://dash.example.com"));
            }
        }
        if self.cookies_count() && self.origins.is_empty() {
            return Err(wrong("auth.origins", "[]", "the list of pages that may connect, because a cookie counts"));
        }
        Ok(())
    }
}

impl Jwt {
    fn check(&self) -> Result<(), ConfigError> {
        if self.algorithms.is_empty() {
            return Err(wrong("auth.jwt.algorithms", "[]", "a list of HS256, RS256, ES256, EdDSA"));
        }
        for (key, value) in [("auth.jwt.audience", &self.audience), ("auth.jwt.issuer", &self.issuer)] {
            if value.is_empty() {
                return Err(wrong(key, "", "what every token must say"));
            }
        }
        let secrets = self.secret_env.iter().chain(&self.secret_file).count();
        let key_sets = self.jwks_file.iter().chain(&self.jwks_url).count();
        let symmetric = self.algorithms.contains(&Algorithm::HS256);
        let asymmetric = self.algorithms.iter().any(|a| *a != Algorithm::HS256);
        if secrets != usize::from(symmetric) {
            return Err(wrong(
                "auth.jwt.secret_env",
                format!("{secrets} given"),
                "given once (or secret_file) if and only if HS256 is allowed",
            ));
        }
        if key_sets != usize::from(asymmetric) {
            return Err(wrong(
                "auth.jwt.jwks_url",
                format!("{key_sets} given"),
                "given once (or jwks_file) if and only if RS256, ES256 or EdDSA is allowed",
            ));
        }
        self.jwks_url.iter().try_for_each(|url| check_url("auth.jwt.jwks_url", url))
    }
}

fn check_url(key: &'static str, url: &str) -> Result<(), ConfigError> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    match rest {
        Some(rest) if !rest.is_empty() => Ok(()),
        _ => Err(wrong(key, url, "a URL that starts with http:// or https://")),
    }
}
