//! Tokens, over a whole gateway and real sockets: who is let in, to what, and for how long.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::time::{Duration, Instant, SystemTime};

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};
use support::{Client, TestGateway};
use tokio_tungstenite::tungstenite::Error;

const SECRET: &str = "a secret of more than thirty-two bytes, for tests";

/// A gateway that wants tokens, and the file with its secret.
async fn gateway() -> (TestGateway, tempfile::NamedTempFile) {
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), SECRET).unwrap();
    let config = format!(
        "[[endpoint]]\npath = \"/ws/only-a/\"\ntopics = [\"a\"]\n\
         [auth.jwt]\nalgorithms = [\"HS256\"]\naudience = \"rowcast\"\nissuer = \"tests\"\nleeway_s = 0\nsecret_file = \"{}\"\n",
        secret.path().display()
    );
    (TestGateway::start(&[], &config).await, secret)
}

fn token_with(secret: &str, topics: &Value, lives_s: i64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs().cast_signed();
    let claims = json!({ "aud": "rowcast", "iss": "tests", "exp": now + lives_s, "topics": topics });
    encode(&Header::default(), &claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
}

fn token(topics: &Value) -> String {
    token_with(SECRET, topics, 60)
}

async fn status(gateway: &TestGateway, path: &str, token: Option<&str>) -> u16 {
    let bearer = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<_> = bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
    match Client::connect(gateway.address, path, &headers).await {
        Ok(_) => 101,
        Err(Error::Http(response)) => response.status().as_u16(),
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_plain_endpoint_needs_a_token_that_covers_its_topics() {
    let (gateway, _secret) = gateway().await;
    let _feed = gateway.feed(&["a", "b"]).await;
    let good = token(&json!(["a"]));
    assert_eq!(status(&gateway, "/ws/only-a/", None).await, 401);
    assert_eq!(status(&gateway, "/ws/only-a/", Some(&good)).await, 101);
    assert_eq!(status(&gateway, &format!("/ws/only-a/?token={good}"), None).await, 101);
    assert_eq!(status(&gateway, "/ws/b/", Some(&good)).await, 403);
    for none in [Value::Null, json!([])] {
        assert_eq!(status(&gateway, "/ws/only-a/", Some(&token(&none))).await, 403, "absent or empty means none");
    }
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_forged_or_expired_token_and_one_without_a_signature_are_refused_everywhere() {
    let (gateway, _secret) = gateway().await;
    let _feed = gateway.feed(&["a"]).await;
    let topics = json!(["*"]);
    let forged = token_with("another secret of more than thirty-two bytes", &topics, 60);
    let expired = token_with(SECRET, &topics, -60);
    let good = token(&topics);
    let payload = good.split('.').nth(1).unwrap();
    // {"alg":"none","typ":"JWT"}
    let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{payload}.");
    let (head, signature) = (good.split('.').next().unwrap(), good.split('.').nth(2).unwrap());
    let changed = format!("{head}.{}.{signature}", payload.replacen('e', "f", 1));
    for bad in [&forged, &expired, &unsigned, &changed, "nonsense"] {
        for path in ["/rowcast", "/ws/only-a/"] {
            assert_eq!(status(&gateway, path, Some(bad)).await, 401, "{path} {bad}");
        }
        let mut client = gateway.connect("/rowcast").await;
        client.next("hello").await;
        client.send(&json!({ "type": "auth", "token": bad }).to_string()).await;
        let error = client.next("error").await;
        assert_eq!(error["code"], "bad_token", "{error}");
        assert!(!error["message"].as_str().unwrap().contains(bad), "a token is not sent back");
    }
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_native_client_may_show_its_token_in_a_message_and_gets_what_it_covers() {
    let (gateway, _secret) = gateway().await;
    let mut feed = gateway.feed(&["a", "b"]).await;
    let mut client = gateway.connect("/rowcast").await;
    client.next("hello").await;
    assert_eq!(client.subscribe(r#""topic":"a""#).await["code"], "unauthorized");
    client.send(&json!({ "type": "auth", "token": token(&json!(["a"])) }).to_string()).await;
    client.next("authenticated").await;
    assert_eq!(client.subscribe(r#""topic":"a""#).await["type"], "subscribed");
    assert_eq!(client.subscribe(r#""id":"x","topics":["a","b"]"#).await["code"], "forbidden");
    feed.push("b", "0").push("a", "1");
    feed.publish().await;
    assert_eq!(client.next("change").await["data"], 1);
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_fresh_token_that_covers_less_ends_what_it_does_not_cover() {
    let (gateway, _secret) = gateway().await;
    let mut feed = gateway.feed(&["a", "b"]).await;
    let path = format!("/rowcast?token={}", token(&json!(["*"])));
    let mut client = gateway.connect(&path).await;
    client.next("hello").await;
    client.subscribe(r#""id":"of-a","topic":"a""#).await;
    client.subscribe(r#""id":"of-b","topic":"b""#).await;
    client.send(&json!({ "type": "auth", "token": token(&json!(["a"])) }).to_string()).await;
    let ended = client.next("error").await;
    assert_eq!((&ended["id"], &ended["code"]), (&json!("of-b"), &json!("forbidden")));
    client.next("authenticated").await;
    feed.push("b", "0").push("a", "1");
    feed.publish().await;
    assert_eq!(client.next("change").await["data"], 1, "nothing of b");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_token_is_enforced_until_it_expires_and_a_fresh_one_renews_it() {
    let (gateway, _secret) = gateway().await;
    let _feed = gateway.feed(&["a"]).await;
    let short = token_with(SECRET, &json!(["a"]), 3);
    let mut native = gateway.connect(&format!("/rowcast?token={short}")).await;
    let mut renewed = gateway.connect(&format!("/rowcast?token={short}")).await;
    let mut plain = gateway.connect(&format!("/ws/only-a/?token={short}")).await;
    renewed.next("hello").await;
    renewed.send(&json!({ "type": "auth", "token": token(&json!(["a"])) }).to_string()).await;
    renewed.next("authenticated").await;
    let started = Instant::now();
    for client in [&mut native, &mut plain] {
        let (code, reason) = client.closed().await;
        assert_eq!(code, 4401);
        assert!(reason.contains("expired"), "{reason}");
    }
    assert!(started.elapsed() < Duration::from_secs(6));
    assert!(renewed.is_quiet().await, "it goes on");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_refusal_names_only_topics_that_the_token_covers() {
    let (gateway, _secret) = gateway().await;
    let _feed = gateway.feed(&["mine-1", "mine-2", "secret"]).await;
    let mut client = gateway.connect(&format!("/rowcast?token={}", token(&json!(["mine-*"])))).await;
    client.next("hello").await;
    let refused = client.subscribe(r#""topic":"mine-3""#).await;
    assert_eq!(refused["code"], "unknown_topic");
    let message = refused["message"].as_str().unwrap();
    assert!(message.ends_with("there are: mine-1, mine-2"), "{message}");
    let page = format!("/ws/mine-3/?token={}", token(&json!(["mine-*"])));
    let (status, answer) = gateway.get(&page).await;
    assert_eq!(status, 404);
    assert!(answer.ends_with("topics are: mine-1, mine-2\"}"), "{answer}");
    let (_, answer) = gateway.get("/ws/mine-3/").await;
    assert!(!answer.contains("topics are"), "who shows no token sees nothing: {answer}");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn events_and_changes_need_a_token_that_covers_their_topics() {
    let (gateway, _secret) = gateway().await;
    let _feed = gateway.feed(&["a", "b"]).await;
    let good = token(&json!(["a"]));
    for path in ["/sse", "/changes"] {
        let asked = async |query: &str, headers: &str| {
            let raw = format!("GET {path}?{query} HTTP/1.1\r\nHost: {}\r\n{headers}\r\n", gateway.address);
            let mut socket = tokio::net::TcpStream::connect(gateway.address).await.unwrap();
            tokio::io::AsyncWriteExt::write_all(&mut socket, raw.as_bytes()).await.unwrap();
            let mut start = [0; 12];
            tokio::io::AsyncReadExt::read_exact(&mut socket, &mut start).await.unwrap();
            String::from_utf8(start.to_vec()).unwrap()
        };
        let bearer = format!("Authorization: Bearer {good}\r\n");
        assert_eq!(asked("topic=a", "").await, "HTTP/1.1 401", "{path}");
        assert_eq!(asked("topic=a&token=nonsense", "").await, "HTTP/1.1 401", "{path}");
        assert_eq!(asked("topic=a&topic=b", &bearer).await, "HTTP/1.1 403", "{path}");
        assert_eq!(asked("topic=a", &bearer).await, "HTTP/1.1 200", "{path}");
        assert_eq!(asked(&format!("topic=a&token={good}"), "").await, "HTTP/1.1 200", "{path}");
    }
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_stream_of_events_ends_with_its_token() {
    use support::events::EventStream;
    let (gateway, _secret) = gateway().await;
    let _feed = gateway.feed(&["a"]).await;
    let path = format!("/sse?topic=a&token={}", token_with(SECRET, &json!(["a"]), 2));
    let mut stream = EventStream::open(&gateway, &path).await;
    stream.named("subscribed").await;
    let close = stream.named("close").await.json();
    assert_eq!(close["code"], "unauthorized");
    assert!(close["reason"].as_str().unwrap().contains("expired"), "{close}");
    assert!(stream.next().await.is_none());
    // So a browser that comes back by itself is told so, from the next second on.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(gateway.get(&path).await.0, 401);
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn who_waits_for_changes_gets_none_that_come_when_its_token_has_expired() {
    let (gateway, _secret) = gateway().await;
    let mut feed = gateway.feed(&["a"]).await;
    let token = token_with(SECRET, &json!(["a"]), 2);
    let path = format!("/changes?topic=a&wait=60&since={}&token={token}", feed.cursor(0));
    let late = async {
        // Well behind its end, and before that of the wait.
        tokio::time::sleep(Duration::from_secs(4)).await;
        feed.send("a", "1").await;
    };
    let ((status, answer), ()) = tokio::join!(gateway.get(&path), late);
    assert_eq!(status, 200, "{answer}");
    assert!(answer.contains(r#"{"changes":[],"#), "{answer}");
    assert_eq!(gateway.get(&path).await.0, 401);
    gateway.shutdown.cancel();
}
