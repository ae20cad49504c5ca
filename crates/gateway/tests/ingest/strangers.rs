//! Who may not write.

use std::{
    io::Write,
    time::{SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;

use crate::app::{App, TABLES, THINGS, post_with};

const JSON: &str = "content-type: application/json\r\n";

#[tokio::test]
async fn a_page_of_another_site_cannot_write_to_an_open_gateway() {
    let app = App::of_things().await;
    for (headers, status) in [
        ("origin: https://evil.example\r\n", 403),
        ("origin: null\r\n", 403),
        ("host: evil.example\r\n", 403),
        ("x-forwarded-for: 203.0.113.9\r\n", 403),
        ("origin: http://localhost:3000\r\n", 201),
    ] {
        let answer = post_with(app.address, "/api/things/", &format!("{JSON}{headers}"), b"{}").await;
        assert_eq!(answer.status, status, "{headers}: {answer:?}");
    }
    // What a form can send without asking: this page is of this machine, and still it cannot.
    for content_type in ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x"] {
        let headers = format!("content-type: {content_type}\r\norigin: http://localhost:3000\r\n");
        let form = post_with(app.address, "/api/things/", &headers, b"{\"name\":\"x\"}").await;
        form.is(415, "unsupported_media_type", "application/json");
    }
    assert_eq!(app.count("things").await, 1);
}

#[tokio::test]
async fn with_auth_a_claim_of_its_own_is_needed_to_write() {
    let secret = "a secret of at least thirty-two bytes";
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(secret.as_bytes()).unwrap();
    let auth = format!(
        "[auth]\norigins = [\"https://dash.example.com\"]\n[auth.jwt]\nalgorithms = [\"HS256\"]\naudience = \"a\"\n\
         issuer = \"i\"\ncookie = \"session\"\nsecret_file = {:?}\n{THINGS}",
        file.path()
    );
    let app = App::start(TABLES, &auth).await;
    let exp = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 60;
    let token = |claims: serde_json::Value| {
        let mut all = json!({"aud":"a","iss":"i","exp":exp});
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        jsonwebtoken::encode(&Header::default(), &all, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
    };
    let writer = token(json!({"ingest":["/api/things/"]}));
    let reader = token(json!({"topics":["*"]}));
    let elsewhere = token(json!({"ingest":["/api/others/"]}));
    let expired = token(json!({"ingest":["*"],"exp":1}));
    for (headers, status, error) in [
        (String::new(), 401, "unauthorized"),
        ("authorization: Bearer nonsense\r\n".into(), 401, "bad_token"),
        (format!("authorization: Bearer {expired}\r\n"), 401, "bad_token"),
        (format!("authorization: Bearer {reader}\r\n"), 403, "forbidden"),
        (format!("authorization: Bearer {elsewhere}\r\n"), 403, "forbidden"),
        (format!("authorization: Bearer {writer}\r\norigin: https://evil.example\r\n"), 403, "forbidden"),
        (format!("cookie: session={writer}\r\norigin: https://evil.example\r\n"), 403, "forbidden"),
    ] {
        let answer = post_with(app.address, "/api/things/", &format!("{JSON}{headers}"), b"{}").await;
        answer.is(status, error, "");
        assert_eq!(answer.head.contains("www-authenticate: bearer"), status == 401, "{answer:?}");
        assert!(!answer.body.contains(&writer) && !answer.body.contains("nonsense"), "{answer:?}");
    }
    assert_eq!(app.count("things").await, 0);
    for headers in [
        format!("authorization: Bearer {writer}\r\n"),
        format!("cookie: session={writer}\r\norigin: https://dash.example.com\r\n"),
    ] {
        let answer = post_with(app.address, "/api/things/", &format!("{JSON}{headers}"), b"{}").await;
        assert_eq!(answer.status, 201, "{answer:?}");
    }
    let answer = post_with(app.address, &format!("/api/things/?token={writer}"), JSON, b"{}").await;
    assert_eq!(answer.status, 201, "{answer:?}");
}
