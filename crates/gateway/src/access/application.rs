//! `auth.url`: the application is asked who this is, so that its sessions go on working.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use protocol::config::Auth;
use reqwest::{Client, Url};
use service::SettingsError;
use tokio::sync::{Semaphore, TryAcquireError};

use super::{
    Claims, Denied,
    claims::RawClaims,
    fetch,
    seldom::Seldom,
    token::{MAX_TOKEN_BYTES, Token},
};

/// Questions that the application gets at once. All its clients come back together when a gateway
/// goes: more than this, and they would take it down.
const IN_FLIGHT: usize = 64;
/// Questions that wait for their turn; who comes after them is sent away for now.
const WAITING: usize = 4096;
/// Longest answer in bytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
const LOG_EVERY: Duration = Duration::from_secs(5);

/// What the gateway sets itself, or what belongs to the client's connection and not to this one.
const NOT_FORWARDED: [&str; 16] = [
    "accept",
    "connection",
    "content-length",
    "content-type",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
];

pub(super) struct Application {
    client: Client,
    url: Url,
    forward: Vec<HeaderName>,
    timeout: Duration,
    waiting: Semaphore,
    in_flight: Semaphore,
    log: Seldom,
}

impl Application {
    pub(super) fn new(url: &str, auth: &Auth) -> Result<Self, SettingsError> {
        let url = fetch::url("auth.url", url)?;
        let timeout = Duration::from_millis(auth.timeout_ms);
        if !(1..=60_000).contains(&auth.timeout_ms) {
            return Err(SettingsError::Wrong {
                setting: "auth.timeout_ms".into(),
                value: auth.timeout_ms.to_string(),
                right: "1 to 60000".into(),
            });
        }
        Ok(Self {
            client: fetch::client("auth.url", &url, timeout)?,
            forward: auth.forward.iter().map(|name| forwarded(name)).collect::<Result<_, _>>()?,
            url,
            timeout,
            waiting: Semaphore::new(WAITING),
            in_flight: Semaphore::new(IN_FLIGHT),
            log: Seldom::new(LOG_EVERY),
        })
    }

    /// Whose request this is. The path and the query of the request stay here.
    pub(super) async fn claims_of(
        &self,
        client_ip: IpAddr,
        proto: Option<&HeaderValue>,
        headers: &HeaderMap,
    ) -> Result<Claims, Denied> {
        let mut question = HeaderMap::new();
        for name in &self.forward {
            for value in headers.get_all(name) {
                question.append(name, sensitive(value.clone()));
            }
        }
        if let Ok(value) = HeaderValue::from_str(&client_ip.to_string()) {
            question.insert("x-forwarded-for", value);
        }
        if let Some(host) = headers.get(header::HOST) {
            question.insert("x-forwarded-host", host.clone());
        }
        if let Some(proto) = proto {
            question.insert("x-forwarded-proto", proto.clone());
        }
        self.ask(question).await
    }

    /// Whose token this is.
    pub(super) async fn claims_of_token(&self, token: &Token) -> Result<Claims, Denied> {
        let value = HeaderValue::from_str(&format!("Bearer {}", token.as_str()))
            .ok()
            .filter(|value| value.len() <= MAX_TOKEN_BYTES)
            .ok_or_else(|| Denied::bad_token("the token is too long, or holds characters that no token has"))?;
        self.ask(HeaderMap::from_iter([(header::AUTHORIZATION, sensitive(value))])).await
    }

    async fn ask(&self, headers: HeaderMap) -> Result<Claims, Denied> {
        let unavailable = || Denied::not_ready("the application cannot say now who may connect: try again");
        let _queued = match self.waiting.try_acquire() {
            Ok(permit) => permit,
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => {
                self.complain("has more questions waiting than it can answer");
                return Err(unavailable());
            }
        };
        let question = async {
            let _slot = self.in_flight.acquire().await.map_err(|e| e.to_string())?;
            let request = self.client.get(self.url.clone()).headers(headers);
            fetch::get(request.header(header::ACCEPT, "application/json"), MAX_ANSWER_BYTES).await
        };
        // Waiting for the turn counts too: the client has gone by then.
        let (status, body) = match tokio::time::timeout(self.timeout, Box::pin(question)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(problem)) => {
                self.complain(&format!("cannot be asked: {problem}"));
                return Err(unavailable());
            }
            Err(_) => {
                self.complain(&format!("did not answer within {} ms", self.timeout.as_millis()));
                return Err(unavailable());
            }
        };
        self.judge(status, &body).unwrap_or_else(|problem| {
            self.complain(&problem);
            Err(unavailable())
        })
    }

    /// The inner result is the application's word, the outer error its fault.
    fn judge(&self, status: StatusCode, body: &[u8]) -> Result<Result<Claims, Denied>, String> {
        match status {
            StatusCode::UNAUTHORIZED => {
                Ok(Err(Denied::unauthorized("the application does not know you: log in there")))
            }
            StatusCode::FORBIDDEN => Ok(Err(Denied::forbidden("the application does not let you in"))),
            status if status.is_success() => {
                // Not serde_json's own words: they can hold a piece of the answer.
                let claims: RawClaims = serde_json::from_slice(body).map_err(|e| {
                    format!(
                        "answered {status}, but not with claims such as {{\"topics\":[\"orders\"],\"ingest\":[]}} \
                         ({:?} error in line {} column {})",
                        e.classify(),
                        e.line(),
                        e.column()
                    )
                })?;
                let claims = claims.into_claims(Duration::ZERO);
                Ok(match claims.expires_at() {
                    Some(at) if at <= SystemTime::now() => Err(Denied::bad_token("the session has expired")),
                    _ => Ok(claims),
                })
            }
            status if status.is_redirection() => Err(format!(
                "answered {status}: redirects are not followed; it should answer 401 to who is not logged in"
            )),
            status => Err(format!("answered {status}: it should be 2xx with the claims, 401 or 403")),
        }
    }

    fn complain(&self, problem: &str) {
        if self.log.now() {
            tracing::warn!(url = fetch::shown(&self.url), "auth.url {problem}; nobody new is let in meanwhile");
        }
    }
}

fn forwarded(name: &str) -> Result<HeaderName, SettingsError> {
    let usable = |name: &HeaderName| {
        let name = name.as_str();
        !NOT_FORWARDED.contains(&name) && !name.starts_with("sec-websocket-") && !name.starts_with("proxy-")
    };
    HeaderName::try_from(name).ok().filter(usable).ok_or_else(|| SettingsError::Wrong {
        setting: "auth.forward".into(),
        value: name.into(),
        right: "a header that tells who the client is, such as cookie or authorization (its address goes as \
                X-Forwarded-For, its Host as X-Forwarded-Host)"
            .into(),
    })
}

/// hyper and reqwest leave it out of what they log.
fn sensitive(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}
