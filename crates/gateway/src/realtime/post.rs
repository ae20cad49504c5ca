//! Broadcasts of who has no socket: a server, or the client itself where it has none yet.
//!
//! ```text
//! POST /realtime/v1/api/broadcast                            {"messages":[{"topic":"floor","event":"e","payload":{…}}]}
//! POST /realtime/v1/api/broadcast/floor/events/e             the payload: JSON, or application/octet-stream
//! ```

use axum::{
    body::{Body, Bytes},
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use protocol::ErrorCode;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    broadcast::Broadcast,
    channel::is_channel,
    message::{Content, MAX_NAME_BYTES, check_json},
    name_of,
    talk::{NOT_KEPT, check_event, check_not_kept},
};
use crate::{
    access::Denied,
    body::{self, BodyError},
    front::{problem, unavailable},
    http::Front,
    hub::Refusal,
};

/// A request without its body.
type Head = axum::http::Request<()>;

/// Most broadcasts in one request.
const MOST: usize = 100;

#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(borrow)]
    messages: Vec<One<'a>>,
}

/// `private` is no difference here: the claims decide.
#[derive(Deserialize)]
struct One<'a> {
    topic: String,
    event: String,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
    #[serde(default)]
    persist: serde_json::Value,
}

/// Several, each with its channel.
pub async fn send(State(front): State<Front>, request: Request) -> Response {
    let several = |_: &Head, body: Bytes| {
        let Batch { messages } = serde_json::from_slice(&body).map_err(|error| {
            let text = format!(r#"not {{"messages":[{{"topic":…,"event":…,"payload":…}}]}}: {error}"#);
            Refusal(ErrorCode::BadMessage, text)
        })?;
        messages.into_iter().map(broadcast).collect()
    };
    answer(&front, request, several).await
}

/// One, whose channel and event are in the path.
pub async fn send_one(
    State(front): State<Front>,
    Path((topic, event)): Path<(String, String)>,
    request: Request,
) -> Response {
    answer(&front, request, |head, body| Ok(vec![one(head, &topic, event, body)?])).await
}

async fn answer(
    front: &Front,
    request: Request,
    those: impl FnOnce(&Head, Bytes) -> Result<Vec<Broadcast>, Refusal>,
) -> Response {
    let (head, mut body) = request.into_parts();
    let mut head = Head::from_parts(head, ());
    if bearer_is_apikey(head.headers()) {
        // Nobody is signed in. An application that is asked would take it for a token that is not good.
        head.headers_mut().remove(header::AUTHORIZATION);
    }
    let response = match accept(front, &head, &mut body, those).await {
        Ok(()) => StatusCode::ACCEPTED.into_response(),
        Err(response) => {
            body::discard(head.headers(), body).await;
            response
        }
    };
    front.access.share(head.headers(), response)
}

fn one(head: &Head, topic: &str, event: String, body: Bytes) -> Result<Broadcast, Refusal> {
    if head.uri().query().is_some_and(|query| query.contains("persist")) {
        return Err(Refusal(ErrorCode::Unsupported, NOT_KEPT.into()));
    }
    let kind = head.headers().get(header::CONTENT_TYPE);
    let content = match kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/octet-stream")) {
        true => Content::Binary(body),
        false => {
            check_json(&body).map_err(|e| Refusal(ErrorCode::BadJson, format!("the body is not JSON: {e}")))?;
            Content::Json(body)
        }
    };
    named(topic, event, content)
}

fn broadcast(One { topic, event, payload, persist }: One<'_>) -> Result<Broadcast, Refusal> {
    check_not_kept(&persist)?;
    let payload = payload.map_or("{}", RawValue::get);
    named(&topic, event, Content::Json(Bytes::copy_from_slice(payload.as_bytes())))
}

fn named(name: &str, event: String, content: Content) -> Result<Broadcast, Refusal> {
    let topic = format!("realtime:{}", name_of(name));
    if !is_channel(&topic) || topic.len() > MAX_NAME_BYTES {
        let text = format!("'topic' of a broadcast is the name of a channel, of at most {MAX_NAME_BYTES} bytes");
        return Err(Refusal(ErrorCode::BadTopic, text));
    }
    check_event(&event)?;
    Ok(Broadcast { except: None, topic: topic.into(), event: event.into(), content })
}

async fn accept(
    front: &Front,
    head: &Head,
    body: &mut Body,
    those: impl FnOnce(&Head, Bytes) -> Result<Vec<Broadcast>, Refusal>,
) -> Result<(), Response> {
    let apikey = apikey(head.headers()).and_then(|key| key.to_str().ok());
    // Who may do nothing is neither waited for, nor learns what was wrong besides.
    let claims = front.claims_of(head, apikey).await.map_err(IntoResponse::into_response)?;
    let claims = claims.ok_or_else(|| Denied::no_token().into_response())?;
    let body = body::read(body, front.max_body_bytes).await.map_err(|error| {
        let (status, code) = match error {
            BodyError::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "too_big"),
            BodyError::EndedEarly => (StatusCode::BAD_REQUEST, ErrorCode::BadMessage.as_str()),
            BodyError::TooSlow => (StatusCode::REQUEST_TIMEOUT, "too_slow"),
        };
        problem(status, code, &error.to_string())
    })?;
    let broadcasts = those(head, body).map_err(|refusal| front.refused(refusal))?;
    if broadcasts.len() > MOST {
        let text = format!("'messages' has {} broadcasts; there may be {MOST}", broadcasts.len());
        return Err(front.refused(Refusal(ErrorCode::BadMessage, text)));
    }
    if let Some(one) = broadcasts.iter().find(|one| !claims.may_broadcast(name_of(&one.topic))) {
        let text = format!("the token's claim 'broadcast' does not cover '{}'", name_of(&one.topic));
        return Err(Denied::forbidden(text).into_response());
    }
    match front.outbound.send_all(&broadcasts).await {
        true => Ok(()),
        false => {
            Err(unavailable("the bus is away, or has more to do than it can: the broadcasts may not have been sent"))
        }
    }
}

fn apikey(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get("apikey").or(headers.get("x-api-key"))
}

/// Whether the apikey stands in the place of a token, as this client sends it without one.
fn bearer_is_apikey(headers: &HeaderMap) -> bool {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    bearer.zip(apikey(headers)).is_some_and(|(bearer, apikey)| bearer == apikey.as_bytes())
}

/// What a browser asks before a page of another origin may send one.
pub async fn preflight(State(front): State<Front>, request: Request) -> Response {
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "POST"),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "authorization, apikey, content-type, x-client-info, traceparent, tracestate, baggage",
        ),
        (header::ACCESS_CONTROL_MAX_AGE, "600"),
    ];
    front.access.share(request.headers(), (StatusCode::NO_CONTENT, headers).into_response())
}
