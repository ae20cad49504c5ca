//! The rule without `[auth]` and without `--anonymous`: this machine only.
//!
//! Three ways lead a stranger to a server that listens on loopback, and each has a row in the
//! table. Any web page can open a socket to localhost: Origin. A name that its owner points at
//! 127.0.0.1 makes his page same-origin with us (DNS rebinding): Host. A proxy on this machine makes
//! the whole network look local: forwarding headers.

use std::net::IpAddr;

use axum::http::{HeaderMap, header};

use super::{
    Denied,
    origin::{is_loopback_authority, is_loopback_origin, shown, single},
};

const REMEDY: &str = "anonymous clients are served on this machine only; give the gateway an [auth] section in \
                      rowcast.toml, or let everybody in with --anonymous (ROWCAST_ANONYMOUS=true)";

/// Headers that only a proxy adds, besides everything that starts with `x-forwarded-`.
const OF_PROXIES: [&str; 3] = ["forwarded", "via", "x-real-ip"];

pub(super) fn check(peer: IpAddr, headers: &HeaderMap) -> Result<(), Denied> {
    is_of_this_machine(peer, headers).map_err(refusal)
}

/// Whether the request is to this machine by name, and from a page of it if it is from one.
pub(super) fn check_names(headers: &HeaderMap) -> Result<(), Denied> {
    names_this_machine(headers).map_err(refusal)
}

/// Whether a request comes from this machine, and from a page of it if it is from one; else why not.
pub fn is_of_this_machine(peer: IpAddr, headers: &HeaderMap) -> Result<(), String> {
    if !peer.to_canonical().is_loopback() {
        return Err("the connection comes from another machine".into());
    }
    let of_proxy = |name: &str| name.starts_with("x-forwarded-") || OF_PROXIES.contains(&name);
    if let Some(name) = headers.keys().find(|name| of_proxy(name.as_str())) {
        return Err(format!("the header {name} says that a proxy stands between"));
    }
    names_this_machine(headers)
}

fn names_this_machine(headers: &HeaderMap) -> Result<(), String> {
    match single(headers, &header::HOST).map_err(|denied| denied.message)? {
        Some(host) if is_loopback_authority(host) => {}
        Some(host) => return Err(format!("the Host {} is not loopback", shown(host))),
        None => return Err("the request has no Host".into()),
    }
    match single(headers, &header::ORIGIN).map_err(|denied| denied.message)? {
        // The same host as Host's is loopback too.
        Some(origin) if !is_loopback_origin(origin) => {
            Err(format!("the page's Origin {} is not loopback", shown(origin)))
        }
        _ => Ok(()),
    }
}

fn refusal(problem: String) -> Denied {
    Denied::forbidden(format!("{problem}: {REMEDY}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderName, HeaderValue};

    /// Peer, headers, and a word of the refusal.
    type Row = (&'static str, &'static [(&'static str, &'static str)], Option<&'static str>);

    const TABLE: &[Row] = &[
        ("127.0.0.1", &[("host", "localhost:8080")], None),
        ("::1", &[("host", "[::1]:8080")], None),
        ("::ffff:127.0.0.1", &[("host", "127.0.0.1:8080")], None),
        ("127.0.0.1", &[("host", "app.localhost")], None),
        ("127.0.0.1", &[("host", "localhost:8080"), ("origin", "http://localhost:8080")], None),
        ("127.0.0.1", &[("host", "localhost:8080"), ("origin", "http://127.0.0.1:5173")], None),
        ("192.168.1.7", &[("host", "localhost:8080")], Some("another machine")),
        ("127.0.0.1", &[], Some("no Host")),
        ("127.0.0.1", &[("host", "rebound.evil.example")], Some("rebound.evil.example")),
        ("127.0.0.1", &[("host", "rebound.evil.example"), ("origin", "http://rebound.evil.example")], Some("Host")),
        ("127.0.0.1", &[("host", "localhost"), ("host", "evil.example")], Some("more than once")),
        ("127.0.0.1", &[("host", "0.0.0.0:8080")], Some("0.0.0.0")),
        ("127.0.0.1", &[("host", "localhost"), ("origin", "https://evil.example")], Some("https://evil.example")),
        ("127.0.0.1", &[("host", "localhost"), ("origin", "http://localhost.evil.example")], Some("Origin")),
        ("127.0.0.1", &[("host", "localhost"), ("origin", "null")], Some("null")),
        ("127.0.0.1", &[("host", "localhost"), ("origin", "")], Some("Origin")),
        (
            "127.0.0.1",
            &[("host", "localhost"), ("origin", "http://localhost"), ("origin", "https://evil.example")],
            Some("more than once"),
        ),
        ("127.0.0.1", &[("host", "localhost"), ("x-forwarded-for", "203.0.113.9")], Some("x-forwarded-for")),
        ("127.0.0.1", &[("host", "localhost"), ("x-forwarded-proto", "https")], Some("x-forwarded-proto")),
        ("127.0.0.1", &[("host", "localhost"), ("forwarded", "for=203.0.113.9")], Some("forwarded")),
        ("127.0.0.1", &[("host", "localhost"), ("x-real-ip", "203.0.113.9")], Some("x-real-ip")),
        ("127.0.0.1", &[("host", "localhost"), ("via", "1.1 proxy")], Some("via")),
    ];

    #[test]
    fn only_this_machine_its_names_and_its_pages_are_let_in() {
        for (peer, fields, refusal) in TABLE {
            let mut headers = HeaderMap::new();
            for (name, value) in *fields {
                headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            let answer = check(peer.parse().unwrap(), &headers);
            match (refusal, answer) {
                (None, answer) => assert_eq!(answer, Ok(()), "{peer} {fields:?}"),
                (Some(word), Ok(())) => panic!("let in: {peer} {fields:?} ({word})"),
                (Some(word), Err(denied)) => {
                    assert!(denied.message.contains(word), "{fields:?}: {}", denied.message);
                    assert_eq!(denied.status, 403);
                }
            }
        }
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let denied = check("192.168.1.7".parse().unwrap(), &HeaderMap::new()).unwrap_err();
        assert!(denied.message.contains("--anonymous") && denied.message.contains("[auth]"), "{}", denied.message);
    }
}
