//! `/healthz`, `/readyz` and `/metrics`.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use serde_json::json;
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    time::{sleep, timeout},
};

use crate::{condition::Conditions, metrics::Metrics};

/// Connections at once; more wait. A few scrapers and an orchestrator need no more.
const CONNECTIONS: usize = 32;
/// A connection that has lasted this long is closed, so that idle ones do not use those up.
const LONGEST: Duration = Duration::from_secs(60);

#[derive(Clone)]
struct Served {
    conditions: Conditions,
    metrics: Metrics,
}

/// Serves until it is dropped. Not `axum::serve`, which waits for a request's head for ever.
pub(crate) async fn serve(listener: TcpListener, conditions: Conditions, metrics: Metrics) {
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(all_metrics))
        .fallback(not_found)
        .with_state(Served { conditions, metrics });
    let service = TowerToHyperService::new(router);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    // The semaphore is never closed.
    while let Ok(place) = places.clone().acquire_owned().await {
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::warn!(%error, "the status server cannot accept");
                sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(5));
        let connection = http.serve_connection(TokioIo::new(socket), service.clone());
        tokio::spawn(async move {
            // How a scraper's connection ends is nobody's concern.
            drop(timeout(LONGEST, connection).await);
            drop(place);
        });
    }
}

/// 200 while the process lives.
async fn healthz() -> Response {
    Json(json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")})).into_response()
}

/// 200 if this listener does its part, active or standing by; else 503, with the reasons.
async fn readyz(State(served): State<Served>) -> Response {
    let reasons = served.conditions.reasons();
    let code = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let condition = served.conditions.line();
    (code, Json(json!({"ready": reasons.is_empty(), "reasons": reasons, "condition": condition}))).into_response()
}

async fn all_metrics(State(served): State<Served>) -> Response {
    served.conditions.measure(&served.metrics);
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], served.metrics.text()).into_response()
}

async fn not_found() -> Response {
    let message = "there are: /healthz, /readyz, /metrics";
    (StatusCode::NOT_FOUND, Json(json!({"error": "not_found", "message": message}))).into_response()
}
