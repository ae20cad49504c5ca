//! Bad input: a clear answer each, and nothing stored.

use crate::app::{App, post_with, send};

#[tokio::test]
async fn what_is_not_a_json_object_is_refused() {
    let app = App::of_things().await;
    for body in ["", "{", "[]", "7", "null", "{\"count\":1}{}", "{'count':1}", "count=1", "{\"count\":1,\"count\":2}"] {
        app.post("/api/things/", body).await.is(400, "bad_json", "");
    }
    let invalid =
        post_with(app.address, "/api/things/", "content-type: application/json\r\n", b"{\"name\":\"\xff\"}").await;
    invalid.is(400, "bad_json", "UTF-8");
    assert_eq!(app.count("things").await, 0);
}

#[tokio::test]
async fn an_unknown_column_is_refused_with_those_that_there_are() {
    let app = App::of_things().await;
    let answer = app.post("/api/things/", r#"{"cuont": 1}"#).await;
    answer.is(422, "unknown_column", "/api/things/ takes no column 'cuont'; it takes: name, count,");
    // Columns of the table that the configuration does not name.
    for column in ["id", "secret", "ctid", "COUNT"] {
        app.post("/api/things/", &format!("{{\"{column}\": 1}}")).await.is(422, "unknown_column", column);
    }
    assert_eq!(app.count("things").await, 0);
}

#[tokio::test]
async fn a_value_that_the_table_does_not_take_is_refused_with_postgresqls_reason() {
    let app = App::of_things().await;
    for (body, word) in [
        (r#"{"count": "many"}"#, "\"many\""),
        (r#"{"count": 1.5}"#, "\"1.5\""),
        (r#"{"count": 3000000000}"#, "out of range"),
        (r#"{"count": {}}"#, "integer"),
        (r#"{"count": true}"#, "\"true\""),
        (r#"{"count": 13}"#, "things_count_check"),
        (r#"{"amount": 1e200000}"#, "numeric"),
        (r#"{"day": "2025-13-01"}"#, "2025-13-01"),
        (r#"{"day": "someday"}"#, "\"someday\""),
        (r#"{"at": "2025-02-30T00:00:00Z"}"#, "2025-02-30"),
        (r#"{"tags": "not a list"}"#, "not a list"),
        (r#"{"tags": {}}"#, "array"),
        (r#"{"name": "longer than ten"}"#, "too long"),
        (r#"{"name": null}"#, "'name'"),
        (r#"{"name": "a\u0000b"}"#, ""),
        (r#"{"name": "\ud800"}"#, ""),
        (r#"{"name": "frog"}"#, "no frogs, please"),
        (r#"{"name": "ghost"}"#, "did not keep"),
        (r#"{"name": "long"}"#, "payload string too long"),
    ] {
        let answer = app.post("/api/things/", body).await;
        answer.is(422, "bad_row", word);
        assert!(!answer.body.contains("keep this here") && !answer.body.contains("Failing row"), "{answer:?}");
    }
    let deep = format!("{{\"data\": {}{}}}", "[".repeat(400_000), "]".repeat(400_000));
    app.post("/api/things/", &deep).await.is(422, "bad_row", "");
    assert_eq!(app.count("things").await, 0);
}

#[tokio::test]
async fn a_row_that_contradicts_another_is_a_conflict() {
    let app = App::of_things().await;
    let first = app.post("/api/things/", r#"{"code": "a", "count": 2000}"#).await;
    assert_eq!(first.status, 201, "{first:?}");
    app.post("/api/things/", r#"{"code": "a"}"#).await.is(409, "conflict", "unique");
    app.post("/api/things/", r#"{"count": 2000}"#).await.is(409, "conflict", "exclusion");
    app.post("/api/things/", r#"{"parent": 999}"#).await.is(409, "conflict", "foreign key");
    assert_eq!(app.count("things").await, 1);
}

#[tokio::test]
async fn only_post_is_served() {
    let app = App::of_things().await;
    for method in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let request = format!("{method} /api/things/ HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let answer = send(app.address, request.as_bytes()).await;
        answer.is(405, "method_not_allowed", "POST");
        assert!(answer.head.contains("\r\nallow: post"), "{answer:?}");
        assert!(!answer.head.contains("access-control-allow"), "no page of another site may ask: {answer:?}");
    }
    let other = app.post("/api/nothing/", "{}").await.status;
    assert_eq!(other, 404);
}

#[tokio::test]
async fn what_is_not_json_by_its_content_type_is_refused() {
    let app = App::of_things().await;
    for content_type in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json; charset=latin1",
    ] {
        let headers = format!("content-type: {content_type}\r\n");
        let answer = post_with(app.address, "/api/things/", &headers, b"{\"name\":\"x\"}").await;
        answer.is(415, "unsupported_media_type", "application/json");
    }
    post_with(app.address, "/api/things/", "", b"{}").await.is(415, "unsupported_media_type", "");
    let compressed = "content-type: application/json\r\ncontent-encoding: gzip\r\n";
    post_with(app.address, "/api/things/", compressed, b"{}").await.is(415, "unsupported_media_type", "compressed");
    assert_eq!(app.count("things").await, 0);
}

#[tokio::test]
async fn an_oversized_body_is_refused_before_it_is_read() {
    let app = App::of_things().await;
    // Said in advance, and never sent.
    let head = "POST /api/things/ HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 10000000\r\n\r\n{";
    send(app.address, head.as_bytes()).await.is(413, "too_large", "1048576");
    // Found out on the way.
    let head = "POST /api/things/ HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunk = format!("100000\r\n{}\r\n", " ".repeat(0x10_0000));
    send(app.address, format!("{head}{chunk}{chunk}0\r\n\r\n").as_bytes()).await.is(413, "too_large", "1048576");
    // As long as it may be.
    let body = format!("{{\"data\": \"{}\"}}", "x".repeat(1024 * 1024 - 12));
    assert_eq!((body.len(), app.post("/api/things/", &body).await.status), (1024 * 1024, 201));
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let app = App::of_things().await;
    let head = "POST /api/things/ HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{";
    let start = std::time::Instant::now();
    send(app.address, head.as_bytes()).await.is(408, "too_slow", "10 s");
    assert!(start.elapsed().as_secs() < 15);
}
