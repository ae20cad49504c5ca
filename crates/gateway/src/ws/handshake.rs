use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use base64::{Engine, engine::general_purpose::STANDARD};
use sha1::{Digest, Sha1};

/// The opening handshake of RFC 6455, section 4.2: what a request must say to be upgraded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Handshake {
    /// It asks for version 13 and carries this key.
    Valid(HeaderValue),
    /// It does not ask for a WebSocket at all, or asks in a wrong way: answer with this.
    Invalid(StatusCode, &'static str),
}

impl Handshake {
    /// Looks at a request.
    pub fn of(method: &Method, headers: &HeaderMap) -> Self {
        let has_token = |name, token: &str| {
            headers.get_all(name).iter().any(|value| {
                value.to_str().is_ok_and(|v| v.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
            })
        };
        if method != Method::GET {
            return Self::Invalid(StatusCode::METHOD_NOT_ALLOWED, "a WebSocket is opened with GET");
        }
        if !has_token(header::CONNECTION, "upgrade") || !has_token(header::UPGRADE, "websocket") {
            let message = "this is a WebSocket: the request needs 'Connection: Upgrade' and 'Upgrade: websocket' \
                           (behind a proxy, it must pass them on)";
            return Self::Invalid(StatusCode::UPGRADE_REQUIRED, message);
        }
        if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|v| v != "13") {
            return Self::Invalid(StatusCode::UPGRADE_REQUIRED, "Sec-WebSocket-Version must be 13");
        }
        let key = headers.get(header::SEC_WEBSOCKET_KEY);
        match key.filter(|k| STANDARD.decode(k).is_ok_and(|bytes| bytes.len() == 16)) {
            Some(key) => Self::Valid(key.clone()),
            None => Self::Invalid(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key must be 16 bytes in base64"),
        }
    }
}

/// What `Sec-WebSocket-Accept` answers to a key.
pub fn accept_key(key: &HeaderValue) -> String {
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_key_is_that_of_the_standards_example() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accept_key(&key), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_request_that_is_no_handshake_is_told_what_is_missing() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("WebSocket"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        headers.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        assert!(matches!(Handshake::of(&Method::GET, &headers), Handshake::Valid(_)));
        assert!(matches!(
            Handshake::of(&Method::POST, &headers),
            Handshake::Invalid(StatusCode::METHOD_NOT_ALLOWED, _)
        ));
        for (name, status) in [
            (header::CONNECTION, StatusCode::UPGRADE_REQUIRED),
            (header::SEC_WEBSOCKET_VERSION, StatusCode::UPGRADE_REQUIRED),
            (header::SEC_WEBSOCKET_KEY, StatusCode::BAD_REQUEST),
        ] {
            let mut without = headers.clone();
            without.remove(name);
            assert!(matches!(Handshake::of(&Method::GET, &without), Handshake::Invalid(s, _) if s == status));
        }
    }
}
