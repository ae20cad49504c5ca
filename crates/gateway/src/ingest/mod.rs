//! `[[ingest]]`: a POST stores one row.
//!
//! The path of a request, each step with its own refusal: who is it (`access`), is it JSON by its
//! Content-Type (a form of another site cannot say so), the body, the columns (`row`), the database
//! (`database`), what PostgreSQL thinks of the values (`sqlstate`), the answer (`answer`).

mod answer;
mod database;
mod refusal;
mod row;
mod sqlstate;
mod statement;
mod tables;

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header, request},
    response::{IntoResponse, Response},
    routing,
};
use protocol::config::Ingest;
use tokio::sync::Semaphore;

use crate::{
    access::{Access, Admitted, Denied},
    body::{self, BodyError},
};
use refusal::{Kind, Refusal};
use row::Row;
use statement::Target;

pub use database::Database;
pub use tables::warn_of_unusable_tables;

/// Longest body of a POST.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;
/// Requests in hand, which with [`MAX_BODY_BYTES`] is the most memory that they take.
const MAX_IN_HAND: usize = 256;

/// The routes of all ingests. The address of the peer must be in the request as
/// `ConnectInfo<SocketAddr>`. Without a database every POST is answered 503.
pub fn router(ingests: &[Ingest], database: Option<Database>, access: Access) -> Router {
    let shared = Arc::new(Shared { database, access, in_hand: Semaphore::new(MAX_IN_HAND) });
    ingests.iter().fold(Router::new(), |router, ingest| {
        let route = Route { shared: shared.clone(), target: Target::new(ingest), message: ingest.message.clone() };
        // axum names POST in Allow.
        let methods = routing::post(post)
            .fallback(async || Refusal::new(Kind::MethodNotAllowed, "only POST is served here").into_response());
        router.route(&ingest.path, methods.with_state(Arc::new(route)))
    })
}

struct Shared {
    database: Option<Database>,
    access: Access,
    in_hand: Semaphore,
}

/// One path.
struct Route {
    shared: Arc<Shared>,
    target: Target,
    message: Option<String>,
}

async fn post(State(route): State<Arc<Route>>, request: Request) -> Response {
    let (head, mut body) = request.into_parts();
    match Box::pin(route.store(&head, &mut body)).await {
        Ok(answer) => answer,
        Err(refusal) => {
            body::discard(&head.headers, body).await;
            refusal.into_response()
        }
    }
}

impl Route {
    async fn store(&self, head: &request::Parts, body: &mut Body) -> Result<Response, Refusal> {
        let Shared { database, access, in_hand } = &*self.shared;
        self.authorise(access, head).await?;
        check_content_type(&head.headers)?;
        let database = database.as_ref().ok_or_else(|| {
            Refusal::new(Kind::NotReady, "this gateway has no database: it needs --database-url (DATABASE_URL)")
        })?;
        let _in_hand = in_hand
            .try_acquire()
            .map_err(|_| Refusal::new(Kind::NotReady, format!("{MAX_IN_HAND} requests are in hand: try again")))?;
        let row = Row::parse(read(body).await?.into(), &self.target)?;
        let stored = database.store(&self.target, &row).await?;
        let body = answer::body(stored, self.message.as_deref());
        let mut response = (StatusCode::CREATED, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    }

    async fn authorise(&self, access: &Access, head: &request::Parts) -> Result<(), Refusal> {
        let Some(ConnectInfo(peer)) = head.extensions.get::<ConnectInfo<SocketAddr>>() else {
            return Err(Refusal::new(Kind::Internal, "the server does not know where the request comes from"));
        };
        match access.admit(peer.ip(), &head.headers, head.uri.query()).await? {
            Admitted::Claims(claims) if claims.may_ingest(&self.target.path) => Ok(()),
            Admitted::Claims(_) => {
                Err(Denied::forbidden(format!("the claim 'ingest' does not cover {}", self.target.path)).into())
            }
            Admitted::NeedsToken => Err(Denied::no_token().into()),
        }
    }
}

/// Only `application/json` in UTF-8: browsers send it to another site's server only if that allows
/// it (CORS), and the gateway never does. What a form or `fetch` can send unasked is refused here.
fn check_content_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut values = headers.get_all(header::CONTENT_TYPE).iter();
    let is_json = match (values.next().map(HeaderValue::to_str), values.next()) {
        (Some(Ok(value)), None) => {
            let mut parts = value.split(';').map(str::trim);
            let essence = parts.next().unwrap_or_default();
            essence.eq_ignore_ascii_case("application/json")
                && parts.all(|parameter| {
                    ["charset=utf-8", "charset=\"utf-8\""].iter().any(|utf8| parameter.eq_ignore_ascii_case(utf8))
                })
        }
        _ => false,
    };
    if !is_json {
        return Err(Refusal::new(Kind::UnsupportedMediaType, "the Content-Type must be application/json"));
    }
    let plain = headers.get_all(header::CONTENT_ENCODING).iter().all(|value| value == "identity");
    if !plain {
        return Err(Refusal::new(Kind::UnsupportedMediaType, "the body must not be compressed (Content-Encoding)"));
    }
    Ok(())
}

async fn read(body: &mut Body) -> Result<axum::body::Bytes, Refusal> {
    body::read(body, MAX_BODY_BYTES).await.map_err(|error| {
        let kind = match error {
            BodyError::TooLarge(_) => Kind::TooLarge,
            BodyError::EndedEarly => Kind::BadJson,
            BodyError::TooSlow => Kind::TooSlow,
        };
        Refusal::new(kind, error.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_json_is_taken_so_that_no_form_can_write() {
        let check = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::CONTENT_TYPE, HeaderValue::from_static(value));
            }
            check_content_type(&headers).is_ok()
        };
        for yes in [
            "application/json",
            "Application/JSON",
            "application/json; charset=utf-8",
            "application/json;charset=\"UTF-8\"",
        ] {
            assert!(check(&[yes]), "{yes}");
        }
        for no in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "text/plain; application/json",
            "application/json, text/plain",
            "application/jsonp",
            "application/json; charset=utf-16",
            "application/json; x=y",
            "",
        ] {
            assert!(!check(&[no]), "{no}");
        }
        assert!(!check(&[]) && !check(&["application/json", "text/plain"]));
    }

    #[test]
    fn a_compressed_body_is_refused() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        assert!(check_content_type(&headers).is_err());
    }
}
