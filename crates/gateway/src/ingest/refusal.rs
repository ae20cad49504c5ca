use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use protocol::ErrorCode;

use crate::access::Denied;

/// Why nothing was stored (with [`Kind::Unsure`]: why nobody knows).
#[derive(Debug)]
pub(super) enum Refusal {
    Denied(Denied),
    Because { kind: Kind, message: String },
}

/// The kinds of refusal: one table of status and code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The body is not JSON, or not an object.
    BadJson,
    /// Not a POST.
    MethodNotAllowed,
    /// The body did not come in time.
    TooSlow,
    /// The row contradicts another one.
    Conflict,
    /// The body is too long.
    TooLarge,
    /// Not JSON by its Content-Type.
    UnsupportedMediaType,
    /// A key that is no column here.
    UnknownColumn,
    /// A value that the table does not take, or one that is missing.
    BadRow,
    /// A fault of ours.
    Internal,
    /// Not now: the database is away, busy, or not set up for this. Nothing was stored.
    NotReady,
    /// The database went away after it was asked: the row may be stored or not.
    Unsure,
}

impl Kind {
    fn row(self) -> (StatusCode, &'static str) {
        match self {
            Self::BadJson => (StatusCode::BAD_REQUEST, ErrorCode::BadJson.as_str()),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::TooSlow => (StatusCode::REQUEST_TIMEOUT, "too_slow"),
            Self::Conflict => (StatusCode::CONFLICT, "conflict"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            Self::UnsupportedMediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type"),
            Self::UnknownColumn => (StatusCode::UNPROCESSABLE_ENTITY, "unknown_column"),
            Self::BadRow => (StatusCode::UNPROCESSABLE_ENTITY, "bad_row"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
            Self::NotReady => (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::NotReady.as_str()),
            Self::Unsure => (StatusCode::SERVICE_UNAVAILABLE, "unsure"),
        }
    }
}

impl Refusal {
    pub(super) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self::Because { kind, message: message.into() }
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (kind, message) = match self {
            Self::Denied(denied) => return denied.into_response(),
            Self::Because { kind, message } => (kind, message),
        };
        let (status, code) = kind.row();
        let mut response = (status, Json(serde_json::json!({ "error": code, "message": message }))).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if kind == Kind::NotReady {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        }
        response
    }
}
