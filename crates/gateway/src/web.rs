//! The demo page, which every gateway carries in its binary.

use axum::{
    extract::{Path, rejection::PathRejection},
    http::header,
    response::{IntoResponse, Response},
};

use crate::http::not_found;

macro_rules! assets {
    ($($name:literal: $kind:literal),* $(,)?) => {
        const ASSETS: &[(&str, &str, &[u8])] = &[$(($name, $kind, include_bytes!(concat!("web/assets/", $name)))),*];
    };
}

assets! {
    "chart.js": "text/javascript; charset=utf-8",
    "connection.js": "text/javascript; charset=utf-8",
    "demo.css": "text/css; charset=utf-8",
    "demo.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "panel.js": "text/javascript; charset=utf-8",
    "ping.wav": "audio/wav",
    "sound.js": "text/javascript; charset=utf-8",
    "systems.js": "text/javascript; charset=utf-8",
}

/// The page talks to its own gateway and to nobody else.
const POLICY: &str = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// `GET /`
pub async fn page() -> Response {
    file("text/html; charset=utf-8", include_bytes!("web/index.html"))
}

/// `GET /assets/{name}`
pub async fn asset(name: Result<Path<String>, PathRejection>) -> Response {
    match ASSETS.iter().find(|(known, ..)| name.as_ref().is_ok_and(|Path(name)| known == name)) {
        Some((_, kind, bytes)) => file(kind, bytes),
        None => not_found().await,
    }
}

fn file(kind: &'static str, bytes: &'static [u8]) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, bytes).into_response()
}
