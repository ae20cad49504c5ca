//! The inspector: a page for the person who is woken up at night, and the API that it reads.
//!
//! | path | |
//! | --- | --- |
//! | `/inspect` | the page |
//! | `/inspect/api/overview` | what is wrong, feeds, connections in numbers |
//! | `/inspect/api/topics` | topics, and routes with their matches a second |
//! | `/inspect/api/connections` | connections: `order` (`lag`, `new`, `old`), `search`, `limit`, `skip` |
//! | `/inspect/api/left` | connections that have left lately: `search`, `limit` |
//! | `/inspect/api/connection` | one of either: `id` |
//! | `/inspect/api/changes` | the last changes: `topic`, `key`, `limit` |
//! | `/inspect/api/why` | why a client did not get a change: `connection`, and `cursor` or `topic` and `key` |
//!
//! Off unless it is enabled; who may look is in [`guard`]. Each shard is asked by its own channel, in
//! pieces between which it does its work ([`shards`]); what is shown is bounded.

mod changes;
mod connections;
mod guard;
mod kernel;
mod overview;
mod shards;
mod topics;
mod why;
mod words;

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{Next, from_fn_with_state, map_response},
    response::{IntoResponse, Response},
    routing::{MethodFilter, MethodRouter, on},
};
use bus::Reader;
use protocol::Source;
use serde::Serialize;
use tokio::sync::Semaphore;

use crate::{
    front::{Front, problem, unavailable},
    historian::Historian,
    hub::Refusal,
    limits::Limits,
    metrics::Metrics,
    ready::Readiness,
    web,
};

pub use guard::Guard;
pub use shards::Shards;

/// Questions that are answered at a time.
const QUESTIONS: usize = 4;

/// What the inspector looks at. Cheap to clone.
#[derive(Clone)]
pub struct Inspector(Arc<Inner>);

struct Inner {
    name: Arc<str>,
    guard: Guard,
    shards: Shards,
    readiness: Readiness,
    limits: Limits,
    metrics: Metrics,
    historian: Historian,
    readers: Vec<(Source, Reader)>,
    questions: Semaphore,
}

/// What a question comes to.
type Answer = Result<Response, Refused>;

/// Why a question is not answered.
#[derive(Debug)]
enum Refused {
    /// It is wrong.
    Question(Refusal),
    /// There is no such thing here.
    Unknown(&'static str, String),
    /// Not at the moment.
    Busy(&'static str),
}

impl Inspector {
    /// One of the gateway whose front this is.
    pub fn new(
        front: &Front,
        guard: Guard,
        shards: Shards,
        historian: Historian,
        readers: Vec<(Source, Reader)>,
    ) -> Self {
        Self(Arc::new(Inner {
            name: Arc::clone(&front.name),
            guard,
            shards,
            readiness: front.readiness.clone(),
            limits: front.limits.clone(),
            metrics: front.metrics.clone(),
            historian,
            readers,
            questions: Semaphore::new(QUESTIONS),
        }))
    }

    fn reader(&self, source: Source) -> Option<&Reader> {
        self.0.readers.iter().find(|(of, _)| *of == source).map(|(_, reader)| reader)
    }
}

/// What it serves, and nothing else: only GET.
pub fn router(inspector: Inspector) -> Router {
    let metrics = inspector.0.metrics.clone();
    let api = Router::new()
        .route("/inspect/api/overview", get(overview::serve))
        .route("/inspect/api/topics", get(topics::serve))
        .route("/inspect/api/connections", get(connections::serve))
        .route("/inspect/api/left", get(connections::serve_left))
        .route("/inspect/api/connection", get(connections::serve_one))
        .route("/inspect/api/changes", get(changes::serve))
        .route("/inspect/api/why", get(why::serve))
        .layer(from_fn_with_state(inspector.clone(), let_look));
    let page = Router::new()
        .route("/inspect", on(MethodFilter::GET, web::inspector))
        .route("/inspect/assets/{name}", on(MethodFilter::GET, web::inspector_asset))
        .layer(from_fn_with_state(inspector.clone(), let_open));
    api.merge(page).with_state(inspector).layer(map_response(move |response: Response| {
        metrics.inspected(response.status().as_u16());
        std::future::ready(response)
    }))
}

/// A question, answered as JSON that nobody keeps.
fn get<F, R>(ask: F) -> MethodRouter<Inspector>
where
    F: Fn(Inspector, axum::http::Uri) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Answer> + Send,
{
    on(MethodFilter::GET, async move |State(inspector): State<Inspector>, uri: axum::http::Uri| {
        // Nobody closes it.
        let _turn = inspector.0.questions.acquire().await.ok();
        let mut response = match ask(inspector.clone(), uri).await {
            Ok(response) => response,
            Err(refused) => refused.into_response(),
        };
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    })
}

/// Whoever wants to see anything.
async fn let_look(State(inspector): State<Inspector>, request: Request, next: Next) -> Response {
    match inspector.0.guard.let_look(crate::front::peer(&request).ip(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(denied) => {
            inspector.0.metrics.denied(denied.code.as_str());
            denied.into_response()
        }
    }
}

/// Whoever wants the page, which shows nothing by itself.
async fn let_open(State(inspector): State<Inspector>, request: Request, next: Next) -> Response {
    match inspector.0.guard.let_open(crate::front::peer(&request).ip(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(denied) => {
            inspector.0.metrics.denied(denied.code.as_str());
            denied.into_response()
        }
    }
}

/// Answers with what is put together elsewhere: this is a shard's thread, and it takes longer than a piece of
/// a look.
async fn json<T: Serialize>(put_together: impl FnOnce() -> T + Send + 'static) -> Answer {
    let body = elsewhere(move || serde_json::to_vec(&put_together())).await?;
    let body = body.map_err(|_| Refused::Busy("this answer cannot be written as JSON"))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// Does something on another thread than a shard's.
async fn elsewhere<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> Result<T, Refused> {
    tokio::task::spawn_blocking(act).await.map_err(|_| Refused::Busy("this gateway is stopping"))
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::Question(refusal)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Self::Question(Refusal(code, message)) => problem(StatusCode::BAD_REQUEST, code.as_str(), &message),
            Self::Unknown(code, message) => problem(StatusCode::NOT_FOUND, code, &message),
            Self::Busy(message) => unavailable(message),
        }
    }
}
