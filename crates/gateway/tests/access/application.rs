//! `auth.url`: an application that is asked who it is.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode},
    response::{IntoResponse, Response},
};
use gateway::access::{Access, Admitted, Claims, Denied};
use protocol::ErrorCode;
use serde_json::json;
use tokio::net::TcpListener;

use crate::{
    issuer::{now, of_config},
    logged::Logged,
};

const ORIGIN: (&str, &str) = ("origin", "https://app.example.com");

/// Remembers what it was asked, and answers as it was told.
#[derive(Clone)]
struct Application(Arc<ApplicationState>);

struct ApplicationState {
    url: String,
    answer: Mutex<(StatusCode, String)>,
    delay: Mutex<Duration>,
    asked: Mutex<Vec<(Method, String, HeaderMap)>>,
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Application {
    async fn start(status: StatusCode, body: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let this = Self(Arc::new(ApplicationState {
            url: format!("http://{}/whoami?key=hunter2", listener.local_addr().unwrap()),
            answer: Mutex::new((status, body.into())),
            delay: Mutex::default(),
            asked: Mutex::default(),
            now: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        }));
        let router = Router::new().fallback(answer).with_state(this.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        this
    }

    async fn access(&self, lines: &str) -> Access {
        let text = format!("[auth]\nurl = {:?}\norigins = [\"{}\"]\n{lines}\n", self.0.url, ORIGIN.1);
        of_config(&text).await.unwrap()
    }

    fn asked(&self) -> Vec<(Method, String, HeaderMap)> {
        self.0.asked.lock().unwrap().clone()
    }
}

async fn answer(State(Application(state)): State<Application>, request: Request) -> Response {
    let asked = (request.method().clone(), request.uri().to_string(), request.headers().clone());
    state.asked.lock().unwrap().push(asked);
    let now = state.now.fetch_add(1, Ordering::SeqCst) + 1;
    state.most.fetch_max(now, Ordering::SeqCst);
    let delay = *state.delay.lock().unwrap();
    tokio::time::sleep(delay).await;
    state.now.fetch_sub(1, Ordering::SeqCst);
    let (status, body) = state.answer.lock().unwrap().clone();
    // Where a redirect would lead, if it were followed.
    let status = if request.uri().path() == "/login/" { StatusCode::OK } else { status };
    (status, [("location", "/login/")], body).into_response()
}

async fn admit(access: &Access, fields: &[(&'static str, &str)]) -> Result<Claims, Denied> {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    }
    let peer: IpAddr = "127.0.0.2".parse().unwrap();
    match access.admit(peer, &headers, Some("token=not-for-the-application")).await? {
        Admitted::Claims(claims) => Ok(claims),
        Admitted::NeedsToken => panic!("the application was not asked"),
    }
}

#[tokio::test]
async fn a_session_of_the_application_is_a_session_here() {
    let exp = now() + 60;
    let body = json!({"topics":["orders"],"ingest":["/api/orders/"],"exp":exp,"sub":"ada"}).to_string();
    let application = Application::start(StatusCode::OK, &body).await;
    let access = application.access("").await;
    let claims = admit(
        &access,
        &[
            ORIGIN,
            ("cookie", "sessionid=s1"),
            ("cookie", "csrftoken=c1"),
            ("host", "dash.example.com"),
            ("x-forwarded-for", "203.0.113.9"),
            ("x-forwarded-proto", "https"),
            ("x-secret", "stays here"),
            ("connection", "upgrade"),
            ("sec-websocket-key", "x"),
        ],
    )
    .await
    .unwrap();
    assert!(claims.may_subscribe("orders") && !claims.may_subscribe("others"));
    assert!(claims.may_ingest("/api/orders/") && !claims.may_ingest("/api/others/"));
    assert_eq!(claims.subject(), Some("ada"));
    assert_eq!(claims.expires_at(), Some(std::time::UNIX_EPOCH + Duration::from_secs(exp)));

    let asked = application.asked();
    let [(method, uri, headers)] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!((method, uri.as_str()), (&Method::GET, "/whoami?key=hunter2"));
    let values = |name: &str| headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(values("cookie").join("; "), "sessionid=s1; csrftoken=c1");
    assert_eq!(values("x-forwarded-for"), ["203.0.113.9"], "through the trusted proxy");
    assert_eq!(values("x-forwarded-host"), ["dash.example.com"]);
    assert_eq!(values("x-forwarded-proto"), ["https"]);
    assert_eq!(values("host").len(), 1);
    for name in ["x-secret", "connection", "sec-websocket-key", "upgrade", "origin", "authorization"] {
        assert!(values(name).is_empty(), "{name}");
    }
}

#[tokio::test]
async fn the_application_says_who_may_not_come_in() {
    let application = Application::start(StatusCode::UNAUTHORIZED, "who?").await;
    let access = application.access("").await;
    let denied = admit(&access, &[ORIGIN]).await.unwrap_err();
    assert_eq!((denied.status, denied.code), (StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized));
    *application.0.answer.lock().unwrap() = (StatusCode::FORBIDDEN, "you!".into());
    let denied = admit(&access, &[ORIGIN]).await.unwrap_err();
    assert_eq!((denied.status, denied.code), (StatusCode::FORBIDDEN, ErrorCode::Forbidden));
    let past = json!({"topics":["*"],"exp":now() - 1}).to_string();
    *application.0.answer.lock().unwrap() = (StatusCode::OK, past);
    assert_eq!(admit(&access, &[ORIGIN]).await.unwrap_err().code, ErrorCode::BadToken);
}

#[tokio::test]
async fn what_is_no_answer_lets_nobody_in_and_tells_no_secrets() {
    let application = Application::start(StatusCode::OK, "").await;
    let access = application.access("").await;
    let large = json!({"topics":["*"],"x":"x".repeat(70_000)}).to_string();
    for (status, body) in [
        (StatusCode::FOUND, "{\"topics\":[\"*\"]}"),
        (StatusCode::MOVED_PERMANENTLY, "{\"topics\":[\"*\"]}"),
        (StatusCode::NOT_FOUND, "{\"topics\":[\"*\"]}"),
        (StatusCode::INTERNAL_SERVER_ERROR, "{\"topics\":[\"*\"]}"),
        (StatusCode::OK, "<html>s3cret</html>"),
        (StatusCode::OK, "[]"),
        (StatusCode::OK, "{\"topics\":\"s3cret\"}"),
        (StatusCode::NO_CONTENT, ""),
        (StatusCode::OK, &large),
    ] {
        let logged = Logged::start();
        // An access of its own, for one log line each.
        let access = application.access("").await;
        *application.0.answer.lock().unwrap() = (status, body.to_owned());
        let denied = admit(&access, &[ORIGIN, ("cookie", "sessionid=hunter3")]).await.unwrap_err();
        assert_eq!((denied.status, denied.code), (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::NotReady), "{status}");
        let log = logged.text();
        assert!(log.contains("auth.url") && log.contains("/whoami"), "{status}: {log}");
        for secret in ["hunter", "s3cret", "not-for-the-application"] {
            assert!(!log.contains(secret) && !denied.message.contains(secret), "{secret}: {log} {denied}");
        }
    }
    *application.0.answer.lock().unwrap() = (StatusCode::OK, "{\"topics\":[\"*\"]}".into());
    assert!(admit(&access, &[ORIGIN]).await.unwrap().may_subscribe("x"));
}

#[tokio::test]
async fn a_slow_application_is_given_up() {
    let application = Application::start(StatusCode::OK, "{}").await;
    *application.0.delay.lock().unwrap() = Duration::from_secs(30);
    let access = application.access("timeout_ms = 300").await;
    let start = Instant::now();
    let denied = admit(&access, &[ORIGIN]).await.unwrap_err();
    assert_eq!(denied.code, ErrorCode::NotReady);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[tokio::test]
async fn an_application_that_is_away_is_asked_again_with_the_next_client() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/whoami", listener.local_addr().unwrap());
    drop(listener);
    let access = of_config(&format!("[auth]\nurl = {url:?}\norigins = [\"{}\"]\n", ORIGIN.1)).await.unwrap();
    assert_eq!(admit(&access, &[ORIGIN]).await.unwrap_err().code, ErrorCode::NotReady);
}

#[tokio::test]
async fn a_herd_does_not_take_the_application_down() {
    let application = Application::start(StatusCode::OK, "{\"topics\":[\"*\"]}").await;
    *application.0.delay.lock().unwrap() = Duration::from_millis(20);
    let access = application.access("").await;
    let mut herd = tokio::task::JoinSet::new();
    for _ in 0..500 {
        let access = access.clone();
        herd.spawn(async move { admit(&access, &[ORIGIN]).await.map(drop) });
    }
    while let Some(admitted) = herd.join_next().await {
        assert_eq!(admitted.unwrap(), Ok(()));
    }
    let most = application.0.most.load(Ordering::SeqCst);
    assert!((2..=64).contains(&most), "{most} at once");
}

#[tokio::test]
async fn the_token_of_a_message_is_shown_to_the_application() {
    let application = Application::start(StatusCode::OK, "{\"topics\":[\"orders\"]}").await;
    let access = application.access("").await;
    assert!(access.verify("t0ken").await.unwrap().may_subscribe("orders"));
    assert_eq!(application.asked()[0].2["authorization"], "Bearer t0ken");
    for odd in ["a\r\nx-evil: 1", "a\0b", &"x".repeat(10_000)] {
        assert_eq!(access.verify(odd).await.unwrap_err().code, ErrorCode::BadToken);
    }
    assert_eq!(application.asked().len(), 1, "the odd ones stayed here");
}

#[tokio::test]
async fn a_foreign_page_does_not_reach_the_application() {
    let application = Application::start(StatusCode::OK, "{\"topics\":[\"*\"]}").await;
    let access = application.access("").await;
    let denied = admit(&access, &[("origin", "https://evil.example"), ("cookie", "sessionid=s1")]).await.unwrap_err();
    assert_eq!(denied.status, StatusCode::FORBIDDEN);
    assert!(application.asked().is_empty());
    assert!(admit(&access, &[("cookie", "sessionid=s1")]).await.is_ok(), "who is no page sends no Origin");
}
