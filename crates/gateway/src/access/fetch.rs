//! GET, with a limit on everything: for the application's answer and for key sets.

use std::{error::Error, time::Duration};

use reqwest::{Client, RequestBuilder, StatusCode, Url, redirect};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use service::SettingsError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Reads a URL of the configuration. A password in it would be shown wherever the URL is.
pub(super) fn url(setting: &str, text: &str) -> Result<Url, SettingsError> {
    let wrong = |value: &str, right: &str| SettingsError::Wrong {
        setting: setting.into(),
        value: value.into(),
        right: right.into(),
    };
    let url = Url::parse(text).map_err(|e| wrong(text, &format!("a URL with http:// or https:// ({e})")))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("(not shown)", "a URL without user and password"));
    }
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(wrong(text, "a URL with http:// or https://"));
    }
    Ok(url)
}

/// The URL as it may be logged: its query may hold a secret.
pub(super) fn shown(url: &Url) -> String {
    format!("{}{}", url.origin().ascii_serialization(), url.path())
}

/// A client for one URL. It follows no redirect (the next host is not the one that was configured)
/// and uses no proxy of the environment (cookies pass through here).
pub(super) fn client(setting: &str, url: &Url, timeout: Duration) -> Result<Client, SettingsError> {
    let unusable = |problem: String| SettingsError::Wrong {
        setting: setting.into(),
        value: shown(url),
        right: format!("a URL that this machine can use: {problem}"),
    };
    Client::builder()
        .tls_backend_preconfigured(tls(url.scheme() == "https").map_err(unusable)?)
        .redirect(redirect::Policy::none())
        .no_proxy()
        .http1_only()
        .user_agent(concat!("rowcast/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT.min(timeout))
        .timeout(timeout)
        .build()
        .map_err(|e| unusable(describe(e)))
}

/// ring by name, not the process's default: nobody has to have installed one. And the system's
/// authorities, read here and not by reqwest: its client cannot be built where there are none, not
/// even for http://.
fn tls(needed: bool) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    if needed {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err("it has no certificate authorities installed (package ca-certificates)".into());
        }
    }
    let builder = ClientConfig::builder_with_provider(ring::default_provider().into());
    let builder = builder.with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Sends the request and reads at most `limit` bytes of the answer. The error says what went wrong
/// without the URL.
pub(super) async fn get(request: RequestBuilder, limit: usize) -> Result<(StatusCode, Vec<u8>), String> {
    let mut response = request.send().await.map_err(describe)?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(describe)? {
        if body.len() + chunk.len() > limit {
            return Err(format!("the answer has more than {limit} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok((response.status(), body))
}

fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_with_a_password_is_refused_without_showing_it() {
        let error = url("auth.url", "https://app:hunter2@app.example/auth").unwrap_err().to_string();
        assert!(error.contains("auth.url") && !error.contains("hunter2"), "{error}");
        assert!(url("auth.url", "https://").is_err() && url("auth.url", "ftp://app/").is_err());
    }

    #[test]
    fn a_url_is_shown_without_its_query() {
        let url = url("auth.url", "http://app.example:8000/auth?key=hunter2").unwrap();
        assert_eq!(shown(&url), "http://app.example:8000/auth");
    }
}
