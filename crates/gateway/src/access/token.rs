//! Where a request carries its token.

use std::fmt;

use axum::http::{HeaderMap, header};

use super::Denied;

/// Longest token in bytes: what fits a header everywhere, and bounds what a signature check reads.
pub(super) const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// A secret of the client: it is never shown, not even for debugging.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Token(String);

impl Token {
    pub(super) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(redacted)")
    }
}

/// The token of a request: from `Authorization: Bearer`, from the cookie, or from `?token=`. The
/// same one in several places is one; two different ones are refused, because whichever counted,
/// somebody would wonder why the other did not.
pub(super) fn find(headers: &HeaderMap, query: Option<&str>, cookie: Option<&str>) -> Result<Option<Token>, Denied> {
    let mut found: Option<(Token, &str)> = None;
    let places = bearer(headers)
        .map(|token| (token, "Authorization"))
        .chain(cookies(headers, cookie).map(|token| (token, "the cookie")))
        .chain(of_query(query).map(|token| (token, "?token=")));
    for (text, place) in places {
        match &found {
            Some((token, first)) if token.0 != text => {
                return Err(Denied::bad_token(format!(
                    "the request has two different tokens (in {first} and in {place}): send one"
                )));
            }
            Some(_) => {}
            None => found = Some((Token(text), place)),
        }
    }
    Ok(found.map(|(token, _)| token))
}

/// Another scheme, such as the Basic of a proxy in front, is not for us.
fn bearer(headers: &HeaderMap) -> impl Iterator<Item = String> {
    headers.get_all(header::AUTHORIZATION).iter().filter_map(|value| {
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
    })
}

/// An empty cookie is one that was cleared.
fn cookies(headers: &HeaderMap, name: Option<&str>) -> impl Iterator<Item = String> {
    let pairs = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs = pairs.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs
        .filter(move |(key, _)| Some(*key) == name)
        .map(|(_, value)| value.trim_matches('"').to_owned())
        .filter(|value| !value.is_empty())
}

fn of_query(query: Option<&str>) -> impl Iterator<Item = String> {
    let pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, value)| *key == "token" && !value.is_empty()).map(|(_, value)| percent_decode(value))
}

/// A `+` stays: no token has a blank.
fn percent_decode(text: &str) -> String {
    let mut rest = text.as_bytes();
    let mut decoded = Vec::with_capacity(rest.len());
    while let [first, tail @ ..] = rest {
        let hex = if *first == b'%' { tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok()) } else { None };
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                rest = &tail[2..];
            }
            None => {
                decoded.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderName, HeaderValue};

    fn token(fields: &[(&'static str, &'static str)], query: Option<&str>) -> Result<Option<String>, Denied> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        find(&headers, query, Some("session")).map(|token| token.map(|token| token.0))
    }

    #[test]
    fn a_token_is_found_in_each_of_its_three_places() {
        let is = |found: Result<Option<String>, Denied>, token: &str| assert_eq!(found, Ok(Some(token.to_owned())));
        is(token(&[("authorization", "Bearer a.b.c")], None), "a.b.c");
        is(token(&[("authorization", "bearer a.b.c")], None), "a.b.c");
        is(token(&[("cookie", "x=1; session=a.b.c; y=2")], None), "a.b.c");
        is(token(&[("cookie", "x=1"), ("cookie", "session=\"a.b.c\"")], None), "a.b.c");
        is(token(&[], Some("x=1&token=a.b%2Ec&y=%")), "a.b.c");
        is(token(&[("authorization", "Bearer a.b.c"), ("cookie", "session=a.b.c")], Some("token=a.b.c")), "a.b.c");
        is(token(&[], Some("token=%zz%")), "%zz%");
    }

    #[test]
    fn what_is_no_token_is_not_taken_for_one() {
        for (fields, query) in [
            (&[][..], None),
            (&[], Some("tokens=a&atoken=b&token")),
            (&[("cookie", "sessionx=a; xsession=b; session=")], Some("token=")),
            (&[("authorization", "Basic dXNlcjpwYXNz")], None),
            (&[("authorization", "Bearer")], None),
        ] {
            assert_eq!(token(fields, query), Ok(None), "{fields:?} {query:?}");
        }
    }

    #[test]
    fn two_different_tokens_are_refused_without_showing_either() {
        for (fields, query) in [
            (&[("authorization", "Bearer one1")][..], Some("token=two2")),
            (&[("cookie", "session=one1; session=two2")], None),
            (&[("authorization", "Bearer one1"), ("authorization", "Bearer two2")], None),
            (&[], Some("token=one1&token=two2")),
        ] {
            let denied = token(fields, query).unwrap_err();
            assert!(denied.message.contains("two different"), "{}", denied.message);
            assert!(!denied.message.contains("one1") && !denied.message.contains("two2"), "{}", denied.message);
        }
    }

    #[test]
    fn a_token_is_not_shown_for_debugging() {
        assert_eq!(format!("{:?}", Token("secret".into())), "Token(redacted)");
    }
}
