//! The front of a shard: what its handlers share, and whom they let in.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::ConnectInfo,
    http::{HeaderValue, Request, StatusCode, header},
    response::{IntoResponse, Response},
};
use protocol::{ErrorCode, Topic};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    access::{Access, Admitted, Claims, Denied},
    hub::{Caller, Refusal},
    limits::{LimitError, Limits, Permit},
    metrics::Metrics,
    ready::Readiness,
    realtime::Outbound,
    shard::{Arrival, Sockets},
};

/// What the handlers of one shard need. Cheap to clone.
#[derive(Clone)]
pub struct Front {
    /// The name of this gateway.
    pub name: Arc<str>,
    /// Who is let in.
    pub access: Access,
    /// How many are let in.
    pub limits: Limits,
    /// How many sockets there may be.
    pub sockets: Sockets,
    /// Whether anybody is let in at the moment.
    pub readiness: Readiness,
    /// What is counted.
    pub metrics: Metrics,
    /// Ends when the gateway stops: who waits is answered within this time.
    pub stopping: CancellationToken,
    /// Over how long clients are sent away then.
    pub drain: Duration,
    /// Where messages between clients go.
    pub outbound: Outbound,
    /// Bytes of the body of a request that has one of them.
    pub max_body_bytes: usize,
    /// Where those who are let in go.
    pub arrivals: mpsc::UnboundedSender<Arrival>,
}

/// What a request is for.
#[derive(Debug, Clone, Copy)]
pub enum Purpose<'a> {
    /// A connection on which a token may still be shown, and topics be asked for.
    Talk,
    /// A connection of Supabase's client, with its apikey: who shows no token, or a bad one, hears that when it
    /// joins a channel, for a browser tells nobody why a WebSocket was refused.
    Join(Option<&'a str>),
    /// These topics.
    Read(&'a [Topic]),
}

impl Front {
    /// Lets a request in that wants changes: with what it may do (`None` if it has yet to show a
    /// token), and its place among those that are served.
    pub async fn let_in<B: Sync>(
        &self,
        request: &Request<B>,
        purpose: Purpose<'_>,
    ) -> Result<(Option<Claims>, Permit), Response> {
        if let Some(reason) = self.readiness.reasons().first() {
            self.metrics.denied(ErrorCode::NotReady.as_str());
            return Err(unavailable(reason));
        }
        let claims = self.admit(request, purpose).await.map_err(|denied| {
            self.metrics.denied(denied.code.as_str());
            denied.into_response()
        })?;
        let permit = self.limits.admit(self.caller(request).client).map_err(|error| {
            let status = match error {
                LimitError::Full(_) => StatusCode::SERVICE_UNAVAILABLE,
                LimitError::PerIp(_) => StatusCode::TOO_MANY_REQUESTS,
            };
            self.too_many(status, &error.to_string())
        })?;
        Ok((claims, permit))
    }

    /// Whose request it is.
    pub fn caller<B>(&self, request: &Request<B>) -> Caller {
        let peer = peer(request);
        Caller { peer, client: self.access.client_ip(peer.ip(), request.headers()) }
    }

    /// Lets a request in that wants changes of these topics, and can show no token later.
    pub async fn let_read<B: Sync>(
        &self,
        request: &Request<B>,
        topics: &[Topic],
    ) -> Result<(Claims, Permit), Response> {
        let (claims, permit) = self.let_in(request, Purpose::Read(topics)).await?;
        Ok((claims.ok_or_else(|| Denied::no_token().into_response())?, permit))
    }

    /// The answer where there is no room.
    pub fn too_many(&self, status: StatusCode, message: &str) -> Response {
        self.metrics.denied("too_many_connections");
        retry_later(problem(status, "too_many_connections", message))
    }

    /// What a request of Supabase's client may do.
    pub async fn claims_of<B: Sync>(
        &self,
        request: &Request<B>,
        apikey: Option<&str>,
    ) -> Result<Option<Claims>, Denied> {
        let claims = self.admit(request, Purpose::Join(apikey)).await;
        claims.inspect_err(|denied| self.metrics.denied(denied.code.as_str()))
    }

    async fn admit<B: Sync>(&self, request: &Request<B>, purpose: Purpose<'_>) -> Result<Option<Claims>, Denied> {
        let admitted = self.access.admit(peer(request).ip(), request.headers(), request.uri().query()).await;
        if let Purpose::Join(apikey) = purpose {
            return match (admitted, apikey) {
                (Ok(Admitted::Claims(claims)), _) => Ok(Some(claims)),
                (Err(denied), _) if denied.status != StatusCode::UNAUTHORIZED => Err(denied),
                (Ok(Admitted::NeedsToken) | Err(_), Some(apikey)) => Ok(self.access.claims_of_key(apikey).await),
                (Ok(Admitted::NeedsToken) | Err(_), None) => Ok(None),
            };
        }
        let admitted = admitted?;
        match (admitted, purpose) {
            (Admitted::NeedsToken, Purpose::Talk | Purpose::Join(_)) => Ok(None),
            (Admitted::NeedsToken, Purpose::Read(_)) => Err(Denied::no_token()),
            (Admitted::Claims(claims), Purpose::Talk | Purpose::Join(_)) => Ok(Some(claims)),
            (Admitted::Claims(claims), Purpose::Read(topics)) => {
                match topics.iter().find(|topic| !claims.may_subscribe(topic.as_str())) {
                    None => Ok(Some(claims)),
                    Some(topic) => {
                        Err(Denied::forbidden(format!("the token's claim 'topics' does not cover '{topic}'")))
                    }
                }
            }
        }
    }

    /// The answer to what the hub refuses.
    pub fn refused(&self, Refusal(code, message): Refusal) -> Response {
        self.metrics.error(code);
        match code {
            ErrorCode::NotReady => unavailable(&message),
            ErrorCode::UnknownTopic => problem(StatusCode::NOT_FOUND, code.as_str(), &message),
            _ => problem(StatusCode::BAD_REQUEST, code.as_str(), &message),
        }
    }
}

/// The accept loop puts the address there; without one nobody is trusted.
pub fn peer<B>(request: &Request<B>) -> SocketAddr {
    let info = request.extensions().get::<ConnectInfo<SocketAddr>>();
    info.map_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)), |info| info.0)
}

/// An answer that says what is wrong, as every error of a gateway looks.
pub fn problem(status: StatusCode, code: &str, message: &str) -> Response {
    (status, Json(json!({ "error": code, "message": message }))).into_response()
}

/// An answer of a gateway that cannot serve at the moment.
pub fn unavailable(message: &str) -> Response {
    retry_later(problem(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::NotReady.as_str(), message))
}

fn retry_later(mut response: Response) -> Response {
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}
