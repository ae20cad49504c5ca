//! What a gateway serves over HTTP: pages, health, metrics, and the doors that turn into
//! WebSockets.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::{ConnectInfo, Path, Request, State, rejection::PathRejection},
    http::{HeaderValue, StatusCode, header},
    middleware::map_response,
    response::{IntoResponse, Response},
    routing::{any, get},
};
use protocol::{
    ErrorCode, Topic,
    config::{Config, Wrap},
};
use serde_json::json;
use tokio::sync::mpsc;

use crate::{
    access::{Access, Admitted, Denied},
    limits::{LimitError, Limits},
    metrics::Metrics,
    ready::Readiness,
    session::{Door, Newcomer},
    web,
    ws::{Handshake, accept_key},
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
    /// Whether anybody is let in at the moment.
    pub readiness: Readiness,
    /// What is counted.
    pub metrics: Metrics,
    /// Where those who are let in go.
    pub newcomers: mpsc::UnboundedSender<Newcomer>,
}

/// Everything that a gateway serves. `ingest` are the routes that write.
pub fn router(front: Front, config: &Config, ingest: Router) -> Router {
    let mut router = Router::new()
        .route("/", get(web::page))
        .route("/assets/{name}", get(web::asset))
        .route("/healthz", get(health))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/rowcast", any(native))
        .route("/ws/{topic}", any(any_topic))
        .route("/ws/{topic}/", any(any_topic));
    for endpoint in &config.endpoints {
        let door = Door::Plain { topics: endpoint.topics.clone(), wrap: endpoint.wrap };
        let serve = move |State(front): State<Front>, request: Request| open(front, door.clone(), request);
        router = router.route(&endpoint.path, any(serve));
    }
    let metrics = front.metrics.clone();
    let ingest = ingest.layer(map_response(move |response: Response| {
        metrics.ingested(response.status().as_u16());
        std::future::ready(response)
    }));
    let name = HeaderValue::from_str(&front.name).unwrap_or_else(|_| HeaderValue::from_static("unnamed"));
    router
        .with_state(front)
        .merge(ingest)
        .fallback(not_found)
        .method_not_allowed_fallback(async || {
            problem(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this path is not served with this method")
        })
        .layer(map_response(move |mut response: Response| {
            response.headers_mut().insert("x-rowcast-gateway", name.clone());
            std::future::ready(response)
        }))
}

pub(crate) async fn not_found() -> Response {
    problem(StatusCode::NOT_FOUND, "not_found", "nothing is served at this path")
}

/// An answer that says what is wrong, as every error of a gateway looks.
pub fn problem(status: StatusCode, code: &str, message: &str) -> Response {
    (status, Json(json!({ "error": code, "message": message }))).into_response()
}

async fn health(State(front): State<Front>) -> Response {
    Json(json!({ "status": "ok", "gateway": &*front.name, "version": env!("CARGO_PKG_VERSION") })).into_response()
}

async fn ready(State(front): State<Front>) -> Response {
    let reasons = front.readiness.reasons();
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": reasons.is_empty(), "reasons": reasons }))).into_response()
}

async fn metrics(State(front): State<Front>) -> Response {
    // Sets the gauge.
    drop(front.readiness.reasons());
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], front.metrics.text()).into_response()
}

async fn native(State(front): State<Front>, request: Request) -> Response {
    open(front, Door::Native, request).await
}

/// `/ws/<topic>/`: a plain endpoint for every topic that is carried, with no configuration.
async fn any_topic(
    State(front): State<Front>,
    name: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let Ok(Path(name)) = name else {
        return problem(StatusCode::NOT_FOUND, ErrorCode::BadTopic.as_str(), "the topic in this path is not UTF-8");
    };
    let topic = match Topic::new(&name) {
        Ok(topic) => topic,
        Err(e) => return problem(StatusCode::NOT_FOUND, ErrorCode::BadTopic.as_str(), &e.to_string()),
    };
    match front.readiness.carries(&name) {
        Some(true) => open(front, Door::Plain { topics: vec![topic], wrap: Wrap::None }, request).await,
        Some(false) => {
            let mut message = format!("no listener carries the topic '{name}', and no [[endpoint]] has this path");
            // What there is, as far as this client may see it.
            let (peer, headers, query) = (peer(&request), request.headers(), request.uri().query());
            if let Ok(Admitted::Claims(claims)) = front.access.admit(peer.ip(), headers, query).await {
                let topics = front.readiness.topics(|topic| claims.may_subscribe(topic));
                message.push_str(&format!("; topics are: {topics}"));
            }
            problem(StatusCode::NOT_FOUND, ErrorCode::UnknownTopic.as_str(), &message)
        }
        None => unavailable("no listener has announced its topics yet"),
    }
}

/// Turns a request into a connection, or says why not.
async fn open(front: Front, door: Door, request: Request) -> Response {
    // What follows an upgrade is the WebSocket's, and not half of it a body's.
    if !axum::body::HttpBody::is_end_stream(request.body()) {
        return problem(StatusCode::BAD_REQUEST, "bad_handshake", "a WebSocket is opened without a body");
    }
    let mut request = request.map(drop);
    let key = match Handshake::of(request.method(), request.headers()) {
        Handshake::Valid(key) => key,
        Handshake::Invalid(status, message) => {
            let mut response = problem(status, "bad_handshake", message);
            if status == StatusCode::UPGRADE_REQUIRED {
                let headers = response.headers_mut();
                headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
                headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            }
            return response;
        }
    };
    if let Some(reason) = front.readiness.reasons().first() {
        front.metrics.denied(ErrorCode::NotReady.as_str());
        return unavailable(reason);
    }
    let claims = match admit(&front, &door, &request).await {
        Ok(claims) => claims,
        Err(denied) => {
            front.metrics.denied(denied.code.as_str());
            return denied.into_response();
        }
    };
    let ip = front.access.client_ip(peer(&request).ip(), request.headers());
    let permit = match front.limits.admit(ip) {
        Ok(permit) => permit,
        Err(error) => {
            front.metrics.denied("too_many_connections");
            let status = match error {
                LimitError::Full(_) => StatusCode::SERVICE_UNAVAILABLE,
                LimitError::PerIp(_) => StatusCode::TOO_MANY_REQUESTS,
            };
            return retry_later(problem(status, "too_many_connections", &error.to_string()));
        }
    };
    let upgrade = hyper::upgrade::on(&mut request);
    if front.newcomers.send(Newcomer { upgrade, door, claims, permit }).is_err() {
        return unavailable("this gateway is stopping");
    }
    let headers = [
        (header::CONNECTION, "Upgrade".to_owned()),
        (header::UPGRADE, "websocket".to_owned()),
        (header::SEC_WEBSOCKET_ACCEPT, accept_key(&key)),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

/// What the client may do; `None` if it has yet to show a token.
async fn admit(
    front: &Front,
    door: &Door,
    request: &axum::http::Request<()>,
) -> Result<Option<crate::access::Claims>, Denied> {
    let admitted = front.access.admit(peer(request).ip(), request.headers(), request.uri().query()).await?;
    match (admitted, door) {
        (Admitted::NeedsToken, Door::Native) => Ok(None),
        (Admitted::NeedsToken, Door::Plain { .. }) => Err(Denied::no_token()),
        (Admitted::Claims(claims), Door::Native) => Ok(Some(claims)),
        (Admitted::Claims(claims), Door::Plain { topics, .. }) => {
            match topics.iter().find(|topic| !claims.may_subscribe(topic.as_str())) {
                None => Ok(Some(claims)),
                Some(topic) => Err(Denied {
                    status: StatusCode::FORBIDDEN,
                    code: ErrorCode::Forbidden,
                    message: format!("the token's claim 'topics' does not cover '{topic}'"),
                }),
            }
        }
    }
}

/// The accept loop puts the address there; without one nobody is trusted.
fn peer<B>(request: &axum::http::Request<B>) -> SocketAddr {
    let info = request.extensions().get::<ConnectInfo<SocketAddr>>();
    info.map_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)), |info| info.0)
}

fn unavailable(message: &str) -> Response {
    retry_later(problem(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::NotReady.as_str(), message))
}

fn retry_later(mut response: Response) -> Response {
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}
