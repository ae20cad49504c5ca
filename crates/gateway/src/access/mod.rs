//! Who is let in.
//!
//! | settings | who | file |
//! | --- | --- | --- |
//! | none | this machine, and pages loaded from it | `anonymous.rs` |
//! | `--anonymous` | everybody, from any page | |
//! | `[auth] url` | whom the application knows | `application.rs` |
//! | `[auth.jwt]` | who has a token of the issuer | `jwt.rs` |
//!
//! With `[auth]` the list of origins comes first: it costs nothing, and a page that is not on it
//! learns nothing, not even whether its cookie is good. With `--anonymous` no Origin is looked at:
//! whoever can reach the gateway may read it, so a page could tell its owner nothing that he cannot
//! fetch himself, unless a firewall keeps him out; who needs that distinction needs `[auth]`.

mod anonymous;
mod application;
mod claims;
mod denied;
mod fetch;
mod jwt;
mod key_set;
mod key_source;
mod origin;
mod proxies;
mod seldom;
mod token;

use std::{net::IpAddr, sync::Arc};

use axum::{
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use protocol::config::Auth;

use application::Application;
use jwt::Jwt;
use origin::Origins;
use token::Token;

pub use anonymous::is_of_this_machine;
pub use claims::Claims;
pub use denied::Denied;
pub use proxies::{Network, NetworkError};
/// A key or a secret that cannot be used. Names the key, its value, and what would be right.
pub use service::SettingsError as AccessError;

/// Judges requests and tokens. Cheap to clone.
#[derive(Clone)]
pub struct Access(Arc<Inner>);

struct Inner {
    way: Way,
    origins: Origins,
    trusted_proxies: Vec<Network>,
}

enum Way {
    /// Anonymous clients of this machine.
    Loopback,
    /// Anonymous clients of anywhere.
    Everybody,
    Application(Application),
    Jwt(Jwt),
}

/// What [`Access::new`] needs to know.
#[derive(Debug, Clone, Default)]
pub struct AccessSettings {
    /// `[auth]`
    pub auth: Option<Auth>,
    /// `--anonymous`
    pub anonymous: bool,
    /// `--trusted-proxies`: whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Network>,
}

/// A request that is let in.
#[derive(Debug, Clone)]
pub enum Admitted {
    /// It may do what these say.
    Claims(Claims),
    /// Tokens are wanted and it carries none. The native protocol may go on and wait for an `auth`
    /// message; everything else answers with [`Denied::no_token`].
    NeedsToken,
}

/// What a key or a token is known by where it need not be kept.
pub fn key_print(key: &str) -> u64 {
    let mut hash = std::hash::DefaultHasher::new();
    std::hash::Hash::hash(key, &mut hash);
    std::hash::Hasher::finish(&hash)
}

impl Access {
    /// Reads keys and secrets. A key set behind a URL is fetched in the background, again and again
    /// until it is there. Needs a tokio runtime.
    pub async fn new(settings: AccessSettings) -> Result<Self, AccessError> {
        let AccessSettings { auth, anonymous, trusted_proxies } = settings;
        let origins = Origins::new(auth.as_ref().map(|auth| auth.origins.as_slice()).unwrap_or_default());
        let way = match &auth {
            Some(_) if anonymous => {
                return Err(AccessError::Wrong {
                    setting: "--anonymous (ROWCAST_ANONYMOUS)".into(),
                    value: "true".into(),
                    right: "left out where rowcast.toml has an [auth] section".into(),
                });
            }
            Some(auth @ Auth { url: Some(url), .. }) => Way::Application(Application::new(url, auth)?),
            Some(Auth { jwt: Some(jwt), .. }) => Way::Jwt(Jwt::new(jwt).await?),
            Some(_) => {
                return Err(AccessError::Missing {
                    setting: "auth.url".into(),
                    right: "a URL of the application, or [auth.jwt]".into(),
                });
            }
            None if anonymous => Way::Everybody,
            None => Way::Loopback,
        };
        Ok(Self(Arc::new(Inner { way, origins, trusted_proxies })))
    }

    /// The address that limits count for: the peer's, or the right-most of `X-Forwarded-For` that is
    /// no trusted proxy, if the peer is one.
    pub fn client_ip(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        proxies::client_ip(&self.0.trusted_proxies, peer, headers)
    }

    /// Judges a request before anything is done for it: an upgrade, or a POST. `query` is the raw
    /// query string.
    pub async fn admit(&self, peer: IpAddr, headers: &HeaderMap, query: Option<&str>) -> Result<Admitted, Denied> {
        match &self.0.way {
            Way::Everybody => Ok(Admitted::Claims(Claims::anonymous())),
            Way::Loopback => anonymous::check(peer, headers).map(|()| Admitted::Claims(Claims::anonymous())),
            Way::Application(application) => {
                self.0.origins.check(headers)?;
                let ip = self.client_ip(peer, headers);
                application.claims_of(ip, self.proto(peer, headers), headers).await.map(Admitted::Claims)
            }
            Way::Jwt(jwt) => {
                self.0.origins.check(headers)?;
                match token::find(headers, query, jwt.cookie())? {
                    Some(token) => jwt.verify(&token).await.map(Admitted::Claims),
                    None => Ok(Admitted::NeedsToken),
                }
            }
        }
    }

    /// Judges the token of an `auth` message.
    pub async fn verify(&self, token: &str) -> Result<Claims, Denied> {
        let token = Token::new(token);
        match &self.0.way {
            Way::Everybody | Way::Loopback => {
                Err(Denied::unsupported("this gateway has no [auth]: it takes no tokens"))
            }
            Way::Application(application) => application.claims_of_token(&token).await,
            Way::Jwt(jwt) => jwt.verify(&token).await,
        }
    }

    /// Whether tokens count at all. Without `[auth]` everybody who is let in may do everything.
    pub fn takes_tokens(&self) -> bool {
        matches!(self.0.way, Way::Application(_) | Way::Jwt(_))
    }

    /// What a client of Supabase may whose apikey is a token of the issuer. Most are none, and that is no fault.
    pub async fn claims_of_key(&self, key: &str) -> Option<Claims> {
        match &self.0.way {
            Way::Jwt(jwt) => jwt.verify(&Token::new(key)).await.ok(),
            Way::Everybody | Way::Loopback | Way::Application(_) => None,
        }
    }

    /// Lets the page that a request comes from read the answer, if it may connect: a browser keeps what
    /// is not of the page's own origin from it, unlike WebSockets.
    pub fn share(&self, headers: &HeaderMap, mut response: Response) -> Response {
        let vary = HeaderValue::from_static("origin");
        response.headers_mut().append(header::VARY, vary);
        let Some(origin) = headers.get(header::ORIGIN).filter(|_| self.may_connect(headers)) else { return response };
        response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if self.0.origins.is_a_list() {
            let yes = HeaderValue::from_static("true");
            response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
        }
        response
    }

    /// Whether the page of a request is one that may connect.
    fn may_connect(&self, headers: &HeaderMap) -> bool {
        match &self.0.way {
            Way::Everybody => true,
            Way::Loopback => anonymous::check_names(headers).is_ok(),
            Way::Application(_) | Way::Jwt(_) => self.0.origins.check(headers).is_ok(),
        }
    }

    /// How the client came to a trusted proxy. Without one nobody knows.
    fn proto<'a>(&self, peer: IpAddr, headers: &'a HeaderMap) -> Option<&'a HeaderValue> {
        let trusted = self.0.trusted_proxies.iter().any(|network| network.contains(peer));
        headers.get("x-forwarded-proto").filter(|_| trusted)
    }
}
