//! What a gateway serves over HTTP: pages, health, metrics, events, and the doors that turn into
//! WebSockets.

use axum::{
    Json, Router,
    extract::{Path, Request, State, rejection::PathRejection},
    http::{HeaderValue, StatusCode, header},
    middleware::map_response,
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use protocol::{
    ErrorCode, Topic,
    config::{Config, Wrap},
};
use serde_json::json;

use crate::{
    access::Admitted,
    changes,
    door::Door,
    front::{peer, unavailable},
    realtime,
    session::Newcomer,
    shard::Arrival,
    sse, web,
    ws::{Handshake, accept_key},
};

pub use crate::front::{Front, Purpose, problem};

/// Everything that a gateway serves. `ingest` are the routes that write, `inspector` those that look into it.
pub fn router(front: Front, config: &Config, ingest: Router, inspector: Router) -> Router {
    let mut router = Router::new()
        .route("/", get(web::page))
        .route("/assets/{name}", get(web::asset))
        .route("/rowcast.js", get(web::client))
        .route("/healthz", get(health))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/rowcast", any(native))
        .route("/realtime/v1/websocket", any(realtime::serve))
        .route("/socket/websocket", any(realtime::serve))
        .route("/realtime/v1/api/broadcast", post(realtime::send).options(realtime::preflight))
        .route("/socket/api/broadcast", post(realtime::send).options(realtime::preflight))
        .route(
            "/realtime/v1/api/broadcast/{topic}/events/{event}",
            post(realtime::send_one).options(realtime::preflight),
        )
        .route("/socket/api/broadcast/{topic}/events/{event}", post(realtime::send_one).options(realtime::preflight))
        .route("/sse", get(sse::serve).options(preflight))
        .route("/changes", get(changes::serve).options(preflight))
        .route("/ws/{topic}", any(any_topic))
        .route("/ws/{topic}/", any(any_topic));
    for endpoint in &config.endpoints {
        let door = Door::Plain { topics: endpoint.topics.clone(), wrap: endpoint.wrap };
        let serve = move |State(front): State<Front>, request: Request| open(front, door.clone(), None, request);
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
        .merge(inspector)
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
    open(front, Door::Native, None, request).await
}

/// What a browser asks before a page of another origin may send a token in a header.
async fn preflight(State(front): State<Front>, request: Request) -> Response {
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "authorization, last-event-id"),
        (header::ACCESS_CONTROL_MAX_AGE, "600"),
    ];
    front.access.share(request.headers(), (StatusCode::NO_CONTENT, headers).into_response())
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
        Some(true) => open(front, Door::Plain { topics: vec![topic], wrap: Wrap::None }, None, request).await,
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

/// Turns a request into a connection, or says why not. `apikey` is that of a client of Supabase.
pub(crate) async fn open(front: Front, door: Door, apikey: Option<&str>, request: Request) -> Response {
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
    let purpose = match &door {
        Door::Native => Purpose::Talk,
        Door::Realtime { .. } => Purpose::Join(apikey),
        Door::Plain { topics, .. } => Purpose::Read(topics),
    };
    let (claims, permit) = match front.let_in(&request, purpose).await {
        Ok(let_in) => let_in,
        Err(response) => return response,
    };
    let caller = front.caller(&request);
    let upgrade = hyper::upgrade::on(&mut request);
    if front.arrivals.send(Arrival::Socket(Newcomer { upgrade, door, claims, permit, caller })).is_err() {
        return unavailable("this gateway is stopping");
    }
    let headers = [
        (header::CONNECTION, "Upgrade".to_owned()),
        (header::UPGRADE, "websocket".to_owned()),
        (header::SEC_WEBSOCKET_ACCEPT, accept_key(&key)),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}
