use std::ops::RangeInclusive;

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use protocol::message::{CONFLATE_MS, MIN_WATERMARK_MS, Subscribe};

use super::stream::Follower;
use crate::{
    connection::HangUp,
    front::{Front, unavailable},
    hub::Refusal,
    query::{Query, cursor},
    shard::Arrival,
};

/// How often a client may ask for watermarks; less often than by default it does not get them.
const WATERMARK_MS: RangeInclusive<u64> = MIN_WATERMARK_MS..=60_000;

/// `GET /sse?topic=…`: changes as events, until either side leaves.
pub async fn serve(State(front): State<Front>, request: Request) -> Response {
    // Its body is nobody's concern, and not to be held.
    let request = request.map(drop);
    let response = match wanted(request.uri(), request.headers()) {
        Ok(wanted) => open(&front, &request, wanted).await,
        Err(refusal) => front.refused(refusal),
    };
    front.access.share(request.headers(), response)
}

/// An `EventSource` that connects again has its old URL, and says in a header where it is by then.
fn wanted(uri: &Uri, headers: &HeaderMap) -> Result<Subscribe, Refusal> {
    let query = Query::of(uri, &["topic", "since", "conflate_ms", "watermark_ms"])?;
    let last = headers.get("last-event-id").filter(|value| !value.is_empty());
    let since = match last {
        Some(last) => Some(cursor("Last-Event-ID", &String::from_utf8_lossy(last.as_bytes()))?),
        None => query.since()?,
    };
    let conflate_ms = query.number("conflate_ms", CONFLATE_MS)?;
    let watermark_ms = query.number("watermark_ms", WATERMARK_MS)?;
    Ok(Subscribe { id: None, topics: query.topics()?, since, watermark_ms, conflate_ms })
}

async fn open(front: &Front, request: &axum::http::Request<()>, wanted: Subscribe) -> Response {
    let (claims, permit) = match front.let_read(request, &wanted.topics).await {
        Ok(let_in) => let_in,
        Err(response) => return response,
    };
    let Some(file) = front.sockets.take() else {
        return front.too_many(StatusCode::SERVICE_UNAVAILABLE, "the gateway has as many sockets as it may open");
    };
    let hang_up = request.extensions().get::<HangUp>().cloned();
    let (follower, events, answered) =
        match Follower::new(wanted, claims, hang_up, (permit, file), front.caller(request)) {
            Ok(both) => both,
            Err(error) => {
                return front.too_many(StatusCode::SERVICE_UNAVAILABLE, &format!("no socket is left: {error}"));
            }
        };
    if front.arrivals.send(Arrival::Events(follower)).is_err() {
        return unavailable("this gateway is stopping");
    }
    match answered.await {
        Ok(Ok(())) => {}
        Ok(Err(refusal)) => return front.refused(refusal),
        Err(_) => return unavailable("this gateway is stopping"),
    }
    let mut response = Body::new(events).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // To an nginx that would collect the events first.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
