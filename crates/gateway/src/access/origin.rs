//! Which page a request comes from, and which host it was meant for.

use std::net::{IpAddr, Ipv6Addr};

use axum::http::{HeaderMap, HeaderName, header};

use super::Denied;

/// The host of `host[:port]`, without the brackets of an IPv6 address. `None`: not of that form.
fn host_of(authority: &str) -> Option<&str> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            host.parse::<Ipv6Addr>().ok()?;
            (host, if after.is_empty() { None } else { Some(after.strip_prefix(':')?) })
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok() && port.bytes().all(|b| b.is_ascii_digit());
    (!host.is_empty() && port.is_none_or(is_port)).then_some(host)
}

/// Whether `host[:port]` can only be this machine: `localhost`, `*.localhost`, 127.0.0.0/8, `[::1]`.
pub(super) fn is_loopback_authority(authority: &str) -> bool {
    let Some(host) = host_of(authority) else { return false };
    if let Ok(ip) = host.parse::<IpAddr>() {
        return ip.to_canonical().is_loopback();
    }
    let host = host.to_ascii_lowercase();
    let Some(labels) = host.strip_suffix("localhost") else { return false };
    labels.is_empty()
        || labels.ends_with('.')
            && labels[..labels.len() - 1].split('.').all(|label| {
                !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
            })
}

/// Whether a page of this origin was loaded from this machine. `null` (a sandboxed frame, a file, a
/// redirect) is not: any page can make itself one.
pub(super) fn is_loopback_origin(origin: &str) -> bool {
    let rest = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    rest.is_some_and(is_loopback_authority)
}

/// The one value of a header that may come once at most. Two of them mean that somebody between the
/// client and here reads another one than we do.
pub(super) fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Denied> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(Denied::forbidden(format!("the header {name} comes more than once")));
    }
    match first.map(|value| value.to_str()) {
        Some(Err(_)) => Err(Denied::forbidden(format!("the header {name} is not plain text"))),
        Some(Ok(value)) => Ok(Some(value)),
        None => Ok(None),
    }
}

/// `auth.origins`: the pages that may connect.
pub(super) struct Origins(Vec<String>);

impl Origins {
    pub(super) fn new(origins: &[String]) -> Self {
        Self(origins.iter().map(|origin| normal(origin)).collect())
    }

    /// Whether pages are named: only then may a cookie count.
    pub(super) fn is_a_list(&self) -> bool {
        !self.0.is_empty()
    }

    /// A request without an Origin comes from no page: browsers send one with every WebSocket and
    /// every POST. An empty list lets every page in; the configuration allows that only where no
    /// cookie counts, so that a page must bring a token of its own.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), Denied> {
        if self.0.is_empty() {
            return Ok(());
        }
        match single(headers, &header::ORIGIN)? {
            Some(origin) if !self.0.contains(&normal(origin)) => Err(Denied::forbidden(format!(
                "pages of {} may not connect: auth.origins does not have it",
                shown(origin)
            ))),
            _ => Ok(()),
        }
    }
}

/// Scheme and host have no case, and browsers leave out the port that the scheme implies.
fn normal(origin: &str) -> String {
    let origin = origin.to_ascii_lowercase();
    let port = if origin.starts_with("https://") { ":443" } else { ":80" };
    origin.strip_suffix(port).map(str::to_owned).unwrap_or(origin)
}

/// A header's value for a message: short, and on one line.
pub(super) fn shown(value: &str) -> String {
    format!("'{}'", value.chars().take(100).collect::<String>().escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn loopback_is_what_cannot_be_another_machine() {
        for yes in [
            "localhost",
            "LOCALHOST:8080",
            "app.localhost",
            "a.b-c.localhost:1",
            "127.0.0.1",
            "127.8.9.10:65535",
            "[::1]",
            "[::1]:8080",
            "[::ffff:127.0.0.1]:80",
            "[0:0:0:0:0:0:0:1]",
        ] {
            assert!(is_loopback_authority(yes), "{yes}");
        }
        for no in [
            "",
            "evil.example",
            "localhost.evil.example",
            "evillocalhost",
            ".localhost",
            "a..localhost",
            "0.0.0.0",
            "127.0.0.1.evil.example",
            "127.1",
            "2130706433",
            "[::]",
            "::1",
            "[localhost]",
            "[127.0.0.1]",
            "localhost:",
            "localhost:80@evil.example",
            "localhost:+80",
            "localhost:99999",
            "user@localhost",
            "[::1]evil",
            "localhost.",
            "a/b.localhost",
            "192.168.0.1",
            "[fe80::1]",
            "localhost evil",
        ] {
            assert!(!is_loopback_authority(no), "{no}");
        }
    }

    #[test]
    fn a_loopback_origin_is_a_page_of_this_machine() {
        for yes in ["http://localhost:5173", "https://localhost", "http://127.0.0.1:8000", "http://[::1]:3000"] {
            assert!(is_loopback_origin(yes), "{yes}");
        }
        for no in [
            "null",
            "",
            "localhost",
            "file://",
            "https://evil.example",
            "http://localhost.evil.example",
            "chrome-extension://localhost",
            "http://localhost/evil",
            "http://",
        ] {
            assert!(!is_loopback_origin(no), "{no}");
        }
    }

    #[test]
    fn the_allow_list_lets_its_pages_in_and_who_is_no_page() {
        let origins = Origins::new(&["https://dash.example.com".into(), "http://Intranet:8080".into()]);
        let check = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::ORIGIN, HeaderValue::from_str(value).unwrap());
            }
            origins.check(&headers).is_ok()
        };
        assert!(check(&[]));
        assert!(check(&["https://dash.example.com"]) && check(&["https://DASH.example.com:443"]));
        assert!(check(&["http://intranet:8080"]));
        for no in [
            "http://dash.example.com",
            "https://dash.example.com:444",
            "https://dash.example.com.evil.example",
            "https://evil.example",
            "null",
            "",
        ] {
            assert!(!check(&[no]), "{no}");
        }
        assert!(!check(&["https://dash.example.com", "https://evil.example"]), "two of them");
        assert!(Origins::new(&[]).check(&HeaderMap::new()).is_ok());
    }
}
