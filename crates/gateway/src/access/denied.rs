use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use protocol::ErrorCode;

/// How long a client should wait where the fault is not its own.
const RETRY_AFTER_S: &str = "2";

/// Why somebody is not let in, as the client hears it. Never holds a token, and of a request only
/// what its sender may see.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Denied {
    /// What a request is answered with.
    pub status: StatusCode,
    /// What a message on a socket is answered with.
    pub code: ErrorCode,
    /// What is wrong, and where it helps what to do.
    pub message: String,
}

impl Denied {
    /// A token is needed, and there is none.
    pub fn no_token() -> Self {
        Self {
            status: StatusCode::UNAUTHORIZED,
            code: ErrorCode::Unauthorized,
            message: "a token is needed: as 'Authorization: Bearer …', or as ?token=…".into(),
        }
    }

    pub(crate) fn unauthorized(message: impl Into<String>) -> Self {
        Self { status: StatusCode::UNAUTHORIZED, code: ErrorCode::Unauthorized, message: message.into() }
    }

    pub(crate) fn bad_token(message: impl Into<String>) -> Self {
        Self { status: StatusCode::UNAUTHORIZED, code: ErrorCode::BadToken, message: message.into() }
    }

    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self { status: StatusCode::FORBIDDEN, code: ErrorCode::Forbidden, message: message.into() }
    }

    pub(super) fn not_ready(message: impl Into<String>) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, code: ErrorCode::NotReady, message: message.into() }
    }

    pub(super) fn unsupported(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code: ErrorCode::Unsupported, message: message.into() }
    }
}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        let body = serde_json::json!({ "error": self.code.as_str(), "message": self.message });
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match (self.status, self.code) {
            (StatusCode::UNAUTHORIZED, ErrorCode::BadToken) => {
                let value = HeaderValue::from_static("Bearer error=\"invalid_token\"");
                headers.insert(header::WWW_AUTHENTICATE, value);
            }
            (StatusCode::UNAUTHORIZED, _) => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            (StatusCode::SERVICE_UNAVAILABLE, _) => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
            }
            _ => {}
        }
        response
    }
}
