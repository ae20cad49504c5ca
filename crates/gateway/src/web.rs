//! The demo page and the JavaScript client, which every gateway carries in its binary.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::LazyLock,
};

use axum::{
    extract::{Path, rejection::PathRejection},
    http::{HeaderMap, StatusCode, header},
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

/// What the page of the inspector needs.
const INSPECTOR: &[(&str, &str, &[u8])] = &[
    ("inspect.css", "text/css; charset=utf-8", include_bytes!("inspect/page/inspect.css")),
    ("inspect.js", JAVASCRIPT, include_bytes!("inspect/page/inspect.js")),
    ("api.js", JAVASCRIPT, include_bytes!("inspect/page/api.js")),
    ("clients.js", JAVASCRIPT, include_bytes!("inspect/page/clients.js")),
    ("dom.js", JAVASCRIPT, include_bytes!("inspect/page/dom.js")),
    ("now.js", JAVASCRIPT, include_bytes!("inspect/page/now.js")),
    ("why.js", JAVASCRIPT, include_bytes!("inspect/page/why.js")),
];

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! modules {
    ($($name:literal),* $(,)?) => {
        const MODULES: &[&str] = &[$(include_str!(concat!("../../../clients/js/src/", $name))),*];
    };
}

// Each behind what it imports.
modules! {
    "error.js",
    "status.js",
    "close.js",
    "backoff.js",
    "token.js",
    "subscription.js",
    "connection.js",
    "changes.js",
    "live_table.js",
    "client.js",
    "index.js",
}

/// The client as one module, and its ETag: a page loads it with one request, and nobody has to build it.
static CLIENT: LazyLock<(String, String)> = LazyLock::new(|| {
    let lines = MODULES.iter().flat_map(|module| module.lines().filter(|line| is_served(line)));
    let text: String = lines.flat_map(|line| [line.trim_start(), "\n"]).collect();
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    (text, format!("\"{:x}\"", hasher.finish()))
});

/// In one module everything is there already, and exported where it is declared. Comments, which stand
/// on lines of their own, are for who reads the source: a third of the bytes.
fn is_served(line: &str) -> bool {
    let left_out = ["import ", "export {", "//", "/*", "*"];
    !line.is_empty() && !left_out.iter().any(|start| line.trim_start().starts_with(start))
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

/// `GET /inspect`
pub async fn inspector() -> Response {
    file("text/html; charset=utf-8", include_bytes!("inspect/page/index.html"))
}

/// `GET /inspect/assets/{name}`
pub async fn inspector_asset(name: Result<Path<String>, PathRejection>) -> Response {
    match INSPECTOR.iter().find(|(known, ..)| name.as_ref().is_ok_and(|Path(name)| known == name)) {
        Some((_, kind, bytes)) => file(kind, bytes),
        None => not_found().await,
    }
}

/// `GET /rowcast.js`. Pages of other hosts may import it: it is no secret, and the gateway asks who they are.
pub async fn client(headers: HeaderMap) -> Response {
    let (text, etag) = &*CLIENT;
    let caching = [
        (header::ETAG, etag.as_str()),
        (header::CACHE_CONTROL, "public, max-age=300"),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    if known.flat_map(|value| value.split(',')).any(|one| one.trim().trim_start_matches("W/") == etag) {
        return (StatusCode::NOT_MODIFIED, caching).into_response();
    }
    (caching, [(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], text.as_str()).into_response()
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
