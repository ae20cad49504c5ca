//! The body of a request: read whole, within bounds of size and time.

use std::time::Duration;

use axum::{
    body::{Body, Bytes, HttpBody},
    http::{HeaderMap, header},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};

/// How long a body may take. The server's own limit of time is for the header alone.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// What a refused request still sends is read, up to this much and this long: to hang up on it resets
/// the connection, and the client would not get to see why.
const MAX_DISCARDED_BYTES: usize = 16 * 1024 * 1024;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);

/// Why there is no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It is longer than it may be.
    #[error("the body has more than {0} bytes")]
    TooLarge(usize),
    /// The client left, or what it sent is no HTTP.
    #[error("the body ended too early")]
    EndedEarly,
    /// It took too long.
    #[error("the body did not come within {} s", BODY_TIMEOUT.as_secs())]
    TooSlow,
}

/// The whole body, which may have so many bytes.
pub async fn read(body: &mut Body, most: usize) -> Result<Bytes, BodyError> {
    // Said by Content-Length: refused before a byte of it is read.
    if body.size_hint().lower() > most as u64 {
        return Err(BodyError::TooLarge(most));
    }
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, most).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(BodyError::TooLarge(most)),
        Ok(Err(_)) => Err(BodyError::EndedEarly),
        Err(_) => Err(BodyError::TooSlow),
    }
}

/// Reads on what is not wanted, before the refusal is sent.
pub async fn discard(headers: &HeaderMap, body: Body) {
    // Who expects a 100 has not sent it yet, and will not.
    if !headers.contains_key(header::EXPECT) {
        drop(tokio::time::timeout(DISCARD_TIMEOUT, read_on(body)).await);
    }
}

async fn read_on(mut body: Body) {
    let mut bytes = 0;
    while bytes < MAX_DISCARDED_BYTES
        && let Some(Ok(frame)) = body.frame().await
    {
        bytes += frame.data_ref().map_or(0, Bytes::len);
    }
}
