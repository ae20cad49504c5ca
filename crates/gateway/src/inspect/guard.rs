//! Who may look. The inspector shows rows, so it is as closed as can be: with a token, whoever has it, and
//! nobody without, on this machine either; without a token this machine alone, by the rule for anonymous
//! clients. No page of another site may ask, and none could read an answer: nothing here is shared by CORS.

use std::{fmt, net::IpAddr, path::Path};

use axum::http::{HeaderMap, HeaderName, header};
use service::SettingsError;
use subtle::ConstantTimeEq;

use crate::{
    access::{Denied, is_of_this_machine},
    settings::Settings,
};

const TOKEN: &str = "--inspect-token (ROWCAST_INSPECT_TOKEN)";
const TOKEN_FILE: &str = "--inspect-token-file (ROWCAST_INSPECT_TOKEN_FILE)";

/// Characters of a token: as many as nobody can try out.
const LEAST: usize = 16;

const REMEDY: &str = "without a token /inspect is for this machine only; give the gateway --inspect-token \
                      (ROWCAST_INSPECT_TOKEN)";

/// See the module.
#[derive(Debug, Clone)]
pub struct Guard(Option<Token>);

#[derive(Clone)]
struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(redacted)")
    }
}

impl Guard {
    /// As the settings say; `None` where there is no inspector. Where others than this machine come, one
    /// without a token is refused: a proxy on this machine that adds no header would make them look local.
    pub fn new(settings: &Settings, has_auth: bool) -> Result<Option<Self>, SettingsError> {
        let inspect = &settings.inspect;
        if !inspect.on {
            return Ok(None);
        }
        let token = match (&inspect.token, &inspect.token_file) {
            (Some(token), _) => Some(Token::check(TOKEN, token)?),
            (None, Some(file)) => Some(Token::of_file(file)?),
            (None, None) => None,
        };
        let reached = if !settings.bind.ip().is_loopback() {
            Some(format!("who reaches {}", settings.bind))
        } else if has_auth || !settings.access.trusted_proxies.is_empty() {
            Some("who reaches a proxy in front of it ([auth] or --trusted-proxies is set)".into())
        } else {
            None
        };
        if let (None, Some(who)) = (&token, reached) {
            return Err(SettingsError::Missing {
                setting: TOKEN.into(),
                right: format!(
                    "/inspect shows rows, and {who} could read them; give at least {LEAST} characters \
                     (openssl rand -hex 24 makes some), or leave --inspect (ROWCAST_INSPECT) out"
                ),
            });
        }
        Ok(Some(Self(token)))
    }

    /// Whether somebody may see something.
    pub fn let_look(&self, peer: IpAddr, headers: &HeaderMap) -> Result<(), Denied> {
        self.let_open(peer, headers)?;
        self.is_no_stranger(headers)?;
        let Some(token) = &self.0 else { return Ok(()) };
        let mut given = headers.get_all(header::AUTHORIZATION).iter();
        match (given.next(), given.next()) {
            (None, _) => Err(Denied::unauthorized(
                "/inspect wants its token, as 'Authorization: Bearer …'; it is that of ROWCAST_INSPECT_TOKEN",
            )),
            (Some(given), None) if token.is(given.as_bytes()) => Ok(()),
            _ => Err(Denied::bad_token("this is not the token of ROWCAST_INSPECT_TOKEN")),
        }
    }

    /// Whether somebody may have the page, which shows nothing before it has a token.
    pub fn let_open(&self, peer: IpAddr, headers: &HeaderMap) -> Result<(), Denied> {
        match self.0 {
            Some(_) => Ok(()),
            None => {
                is_of_this_machine(peer, headers).map_err(|problem| Denied::forbidden(format!("{problem}: {REMEDY}")))
            }
        }
    }

    /// A page of another site is refused, even one with the token.
    fn is_no_stranger(&self, headers: &HeaderMap) -> Result<(), Denied> {
        let forbidden = |what: &str| Err(Denied::forbidden(format!("/inspect answers its own page alone: {what}")));
        let sites = headers.get_all(HeaderName::from_static("sec-fetch-site")).iter();
        if sites.into_iter().any(|site| !matches!(site.as_bytes(), b"same-origin" | b"none")) {
            return forbidden("this request comes from a page of another site");
        }
        let host = headers.get(header::HOST).map_or(&b""[..], |host| host.as_bytes());
        let is_own = |origin: &[u8]| {
            let rest = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
            rest.is_some_and(|rest| !host.is_empty() && rest.eq_ignore_ascii_case(host))
        };
        if headers.get_all(header::ORIGIN).iter().any(|origin| !is_own(origin.as_bytes())) {
            return forbidden("this request comes from a page of another origin");
        }
        Ok(())
    }
}

impl Token {
    fn check(setting: &str, text: &str) -> Result<Self, SettingsError> {
        let wrong = |problem: String| SettingsError::Secret { setting: setting.into(), problem };
        if text.chars().count() < LEAST {
            let count = text.chars().count();
            return Err(wrong(format!(
                "it has {count} characters, and needs {LEAST} (openssl rand -hex 24 makes some)"
            )));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong("it must be of letters, digits and signs of ASCII, without blanks".into()));
        }
        Ok(Self(text.to_owned()))
    }

    fn of_file(path: &Path) -> Result<Self, SettingsError> {
        let text = std::fs::read_to_string(path).map_err(|problem| SettingsError::Wrong {
            setting: TOKEN_FILE.into(),
            value: path.display().to_string(),
            right: format!("a file with the token: {problem}"),
        })?;
        Self::check(TOKEN_FILE, text.trim_end_matches(['\r', '\n']))
    }

    /// Takes as long for a token that is nearly right as for any other of that length.
    fn is(&self, given: &[u8]) -> bool {
        let (scheme, token) = given.split_at(given.len().min("Bearer ".len()));
        scheme.eq_ignore_ascii_case(b"Bearer ") && token.ct_eq(self.0.as_bytes()).into()
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use clap::Parser;

    use super::*;

    const SECRET: &str = "0123456789abcdef";

    fn guard(flags: &[&str]) -> Result<Option<Guard>, String> {
        let settings = Settings::try_parse_from(["gateway"].iter().chain(flags)).unwrap();
        Guard::new(&settings, false).map_err(|error| error.to_string())
    }

    fn looks(guard: &Guard, peer: &str, fields: &[(&'static str, &'static str)]) -> Result<(), u16> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        guard.let_look(peer.parse().unwrap(), &headers).map_err(|denied| denied.status.as_u16())
    }

    #[test]
    fn it_is_off_unless_it_is_enabled_and_open_to_nobody_by_mistake() {
        assert!(guard(&[]).unwrap().is_none());
        assert!(guard(&["--inspect-token", SECRET]).unwrap().is_none());
        assert!(guard(&["--inspect"]).unwrap().is_some());
        let error = guard(&["--inspect", "--bind", "0.0.0.0:1"]).unwrap_err();
        assert!(error.contains("--inspect-token (ROWCAST_INSPECT_TOKEN) is missing"), "{error}");
        assert!(guard(&["--inspect", "--bind", "0.0.0.0:1", "--inspect-token", SECRET]).is_ok());
        let error = guard(&["--inspect", "--trusted-proxies", "127.0.0.1"]).unwrap_err();
        assert!(error.contains("is missing") && error.contains("a proxy in front of it"), "{error}");
        let behind_auth = |token: &[&str]| {
            let settings = Settings::try_parse_from(["gateway", "--inspect"].iter().chain(token)).unwrap();
            Guard::new(&settings, true)
        };
        assert!(behind_auth(&[]).is_err() && behind_auth(&["--inspect-token", SECRET]).is_ok());
        let error = guard(&["--inspect", "--inspect-token", "tooshort"]).unwrap_err();
        assert!(error.contains("8 characters") && !error.contains("tooshort"), "{error}");
        assert!(guard(&["--inspect", "--inspect-token", "with a blank in it"]).unwrap_err().contains("blanks"));
        let error = guard(&["--inspect", "--inspect-token-file", "/nowhere/token"]).unwrap_err();
        assert!(error.contains("'/nowhere/token'"), "{error}");
    }

    #[test]
    fn without_a_token_it_is_this_machine_that_looks() {
        let guard = guard(&["--inspect"]).unwrap().unwrap();
        let host = ("host", "localhost:8080");
        assert_eq!(looks(&guard, "127.0.0.1", &[host]), Ok(()));
        assert_eq!(looks(&guard, "::1", &[host, ("origin", "http://localhost:8080")]), Ok(()));
        assert_eq!(looks(&guard, "127.0.0.1", &[host, ("sec-fetch-site", "same-origin")]), Ok(()));
        for (peer, fields) in [
            ("192.0.2.1", &[host][..]),
            ("127.0.0.1", &[]),
            ("127.0.0.1", &[("host", "evil.example")]),
            ("127.0.0.1", &[host, ("x-forwarded-for", "192.0.2.1")]),
            ("127.0.0.1", &[host, ("origin", "https://evil.example")]),
            ("127.0.0.1", &[host, ("origin", "http://localhost:5173")]),
            ("127.0.0.1", &[host, ("sec-fetch-site", "cross-site")]),
            ("127.0.0.1", &[host, ("sec-fetch-site", "same-site")]),
        ] {
            assert_eq!(looks(&guard, peer, fields), Err(403), "{peer} {fields:?}");
        }
    }

    #[test]
    fn with_a_token_it_is_who_has_it() {
        let guard = guard(&["--inspect", "--inspect-token", SECRET]).unwrap().unwrap();
        let token = ("authorization", "Bearer 0123456789abcdef");
        let host = ("host", "rowcast.example.com");
        assert_eq!(looks(&guard, "192.0.2.1", &[host, token]), Ok(()));
        assert_eq!(looks(&guard, "192.0.2.1", &[host, token, ("x-forwarded-for", "192.0.2.7")]), Ok(()));
        assert_eq!(looks(&guard, "192.0.2.1", &[host, token, ("origin", "https://rowcast.example.com")]), Ok(()));
        assert_eq!(looks(&guard, "192.0.2.1", &[host, token, ("origin", "https://evil.example.com")]), Err(403));
        for wrong in [
            "Bearer 0123456789abcdeF",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdef0",
            "Bearer ",
            "Bearer",
            "",
            "Basic 0123456789abcdef",
            "0123456789abcdef",
        ] {
            assert_eq!(
                looks(&guard, "127.0.0.1", &[("host", "localhost"), ("authorization", wrong)]),
                Err(401),
                "{wrong}"
            );
        }
        assert_eq!(looks(&guard, "127.0.0.1", &[("host", "localhost")]), Err(401), "on this machine too");
        assert_eq!(looks(&guard, "127.0.0.1", &[("host", "localhost"), token, token]), Err(401), "two of them");
        assert_eq!(format!("{:?}", guard.0), "Some(Token(redacted))");
    }
}
