use std::time::Duration;

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use protocol::{Cursor, ResetReason};
use serde_json::json;
use tokio::sync::oneshot;

use super::poll::{Answer, Poll, Wanted};
use crate::{
    front::{Front, unavailable},
    hub::Refusal,
    query::Query,
    shard::Arrival,
};

/// Changes in an answer if nothing is said, and at most.
const LIMIT: (u64, u64) = (100, 1000);

/// Seconds that may be waited: less than what proxies wait for.
const MOST_WAIT_S: u64 = 60;

/// `GET /changes?topic=…&since=…&limit=…&wait=…`.
pub async fn serve(State(front): State<Front>, request: Request) -> Response {
    let request = request.map(drop);
    let mut response = match wanted(&request) {
        Ok(wanted) => answer(&front, &request, wanted).await,
        Err(refusal) => front.refused(refusal),
    };
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    front.access.share(request.headers(), response)
}

fn wanted(request: &axum::http::Request<()>) -> Result<Wanted, Refusal> {
    let query = Query::of(request.uri(), &["topic", "since", "limit", "wait"])?;
    let (usual, most) = LIMIT;
    Ok(Wanted {
        limit: query.number("limit", 1..=most)?.unwrap_or(usual) as usize,
        wait: Duration::from_secs(query.number("wait", 0..=MOST_WAIT_S)?.unwrap_or(0)),
        since: query.since()?,
        topics: query.topics()?,
    })
}

async fn answer(front: &Front, request: &axum::http::Request<()>, wanted: Wanted) -> Response {
    // The permit counts until the answer is there.
    let (claims, _permit) = match front.let_read(request, &wanted.topics).await {
        Ok(let_in) => let_in,
        Err(response) => return response,
    };
    let (answer, answered) = oneshot::channel();
    let (stopping, drain) = (front.stopping.clone(), front.drain);
    if front.arrivals.send(Arrival::Poll(Poll { wanted, claims, stopping, drain, answer })).is_err() {
        return unavailable("this gateway is stopping");
    }
    match answered.await {
        Ok(Ok(Answer::Page(json))) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Ok(Ok(Answer::Reset(reason, cursor))) => reset(reason, &cursor),
        Ok(Err(refusal)) => front.refused(refusal),
        Err(_) => unavailable("this gateway is stopping"),
    }
}

fn reset(reason: ResetReason, cursor: &Cursor) -> Response {
    let why = match reason {
        ResetReason::NewFeed => "'since' is of another feed than there is now",
        ResetReason::UnknownCursor => "'since' is ahead of everything that there is",
        ResetReason::HistoryTrimmed | ResetReason::TooSlow => "what came after 'since' is no longer kept",
    };
    let message = format!("{why}: load everything anew, then go on from 'cursor'");
    let body = json!({ "error": "reset", "reason": reason.as_str(), "cursor": cursor.to_string(), "message": message });
    (StatusCode::GONE, Json(body)).into_response()
}
