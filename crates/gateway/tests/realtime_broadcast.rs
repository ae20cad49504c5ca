//! Messages between clients of Supabase.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use support::{
    Client, PATIENCE, TestGateway,
    supabase::{
        ONE, TWO, config, ids, is_quiet, join, log, orders, reason, subscribed, token, with_token, with_tokens,
    },
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

fn broadcasting(own: bool, ack: bool) -> Value {
    json!({"config": {"broadcast": {"self": own, "ack": ack}}})
}

async fn joined(gateway: &TestGateway, topic: &str, payload: &Value) -> Client {
    let mut client = gateway.connect(TWO).await;
    let reply = join(&mut client, topic, payload).await;
    assert_eq!(reply[4], json!({"status": "ok", "response": {}}), "{reply}");
    client
}

/// A binary push of the second version.
fn push(topic: &str, event: &str, json: bool, payload: &[u8]) -> Message {
    push_with("", topic, event, json, payload)
}

fn push_with(meta: &str, topic: &str, event: &str, json: bool, payload: &[u8]) -> Message {
    let names = ["1", "9", topic, event, meta];
    let mut out = vec![3];
    out.extend(names.map(|name| u8::try_from(name.len()).unwrap()));
    out.push(u8::from(json));
    names.iter().for_each(|name| out.extend_from_slice(name.as_bytes()));
    out.extend_from_slice(payload);
    Message::binary(out)
}

/// The next binary frame: topic, event, whether it is JSON, payload.
async fn heard(client: &mut Client) -> (String, String, bool, Vec<u8>) {
    let message = tokio::time::timeout(PATIENCE, client.stream.next()).await.unwrap().unwrap().unwrap();
    let Message::Binary(bytes) = message else { panic!("not binary: {message:?}") };
    let [4, topic, event, 0, encoding] = bytes[..5] else { panic!("{bytes:?}") };
    let (topic, rest) = bytes[5..].split_at(topic.into());
    let (event, payload) = rest.split_at(event.into());
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(topic), text(event), encoding == 1, payload.to_vec())
}

fn expected(topic: &str, event: &str, json: bool, payload: &[u8]) -> (String, String, bool, Vec<u8>) {
    (topic.into(), event.into(), json, payload.to_vec())
}

async fn post(gateway: &TestGateway, path: &str, headers: &str, body: &str) -> (u16, String) {
    let (address, length) = (gateway.address, body.len());
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
    );
    gateway.request(&format!("{head}{body}")).await
}

#[tokio::test]
async fn a_broadcast_reaches_who_has_joined_the_channel_at_any_gateway() {
    let gateway = TestGateway::start(&[], "").await;
    let other = TestGateway::over(gateway.bus.clone(), &[], "").await;
    let mut sender = joined(&gateway, "realtime:room", &broadcasting(false, true)).await;
    let mut same = joined(&gateway, "realtime:room", &broadcasting(false, false)).await;
    let mut own = joined(&other, "realtime:room", &broadcasting(true, false)).await;
    let mut stranger = joined(&gateway, "realtime:room2", &broadcasting(true, false)).await;
    let mut first = gateway.connect(ONE).await;
    let joins =
        json!({"topic": "realtime:room", "event": "phx_join", "payload": broadcasting(false, false), "ref": "1"});
    first.send(&joins.to_string()).await;
    assert_eq!(first.json().await["payload"]["status"], "ok");

    // JSON, and bytes, which the first version cannot tell.
    for (json, payload) in [(true, &br#"{"x": 1.0}"#[..]), (false, b"\x00\xff")] {
        sender.stream.send(push("realtime:room", "cursor", json, payload)).await.unwrap();
        assert_eq!(
            sender.json().await,
            json!(["1", "9", "realtime:room", "phx_reply", {"status": "ok", "response": {}}])
        );
        for client in [&mut same, &mut own] {
            assert_eq!(heard(client).await, expected("realtime:room", "cursor", json, payload));
        }
    }
    // As 2.84 frames it.
    let old = b"\x03\x01\x01\x0d\x06\x0119realtime:roomcursor{\"x\":2}".to_vec();
    sender.stream.send(Message::binary(old)).await.unwrap();
    assert_eq!(sender.json().await, json!(["1", "9", "realtime:room", "phx_reply", {"status": "ok", "response": {}}]));
    for client in [&mut same, &mut own] {
        assert_eq!(heard(client).await, expected("realtime:room", "cursor", true, br#"{"x":2}"#));
    }
    let text = r#"["1","3","realtime:room","broadcast",{"type":"broadcast","event":"hi","payload":{"a":"ä"}}]"#;
    own.send(text).await;
    for client in [&mut sender, &mut same, &mut own] {
        assert_eq!(heard(client).await, expected("realtime:room", "hi", true, r#"{"a":"ä"}"#.as_bytes()));
    }
    let broadcast = |event: &str, payload: Value| {
        let payload = json!({"type": "broadcast", "event": event, "payload": payload});
        json!({"topic": "realtime:room", "event": "broadcast", "ref": null, "payload": payload})
    };
    assert_eq!(first.json().await, broadcast("cursor", json!({"x": 1.0})));
    assert_eq!(first.json().await, broadcast("cursor", json!({"x": 2})));
    assert_eq!(first.json().await, broadcast("hi", json!({"a": "ä"})));

    let body = r#"{"messages":[{"topic":"room","event":"a","payload":{"n":1},"private":false},{"topic":"room2","event":"b"}]}"#;
    assert_eq!(post(&other, "/realtime/v1/api/broadcast", "", body).await.0, 202);
    let path = "/socket/api/broadcast/room/events/with%20space?private=true";
    assert_eq!(post(&gateway, path, "Content-Type: application/json\r\n", "[1]").await.0, 202);
    for client in [&mut sender, &mut same, &mut own] {
        assert_eq!(heard(client).await, expected("realtime:room", "a", true, br#"{"n":1}"#));
        assert_eq!(heard(client).await, expected("realtime:room", "with space", true, b"[1]"));
    }
    assert_eq!(heard(&mut stranger).await, expected("realtime:room2", "b", true, b"{}"));
    // Who has left gets nothing more.
    same.send(r#"["1","5","realtime:room","phx_leave",{}]"#).await;
    assert_eq!((same.json().await[3].clone(), same.json().await[3].clone()), (json!("phx_reply"), json!("phx_close")));
    assert_eq!(post(&gateway, path, "", "[2]").await.0, 202);
    assert_eq!(heard(&mut sender).await.3, b"[2]");
    for client in [&mut same, &mut stranger] {
        assert!(is_quiet(client).await);
    }
    assert_eq!(
        gateway.metric("rowcast_gateway_broadcasts_dropped_total").await,
        1,
        "what the first version cannot tell"
    );
    gateway.shutdown.cancel();
    other.shutdown.cancel();
}

#[tokio::test]
async fn a_token_needs_the_claim_to_send_and_to_get() {
    let (gateway, _secret) = with_tokens(&[]).await;
    let mut feed = log(&gateway, &["public.orders"]).await;
    let (rows, room) =
        (token(&json!({"topics": ["public.*"]})), token(&json!({"broadcast": ["room"], "topics": ["public.*"]})));

    let mut reader = gateway.connect(TWO).await;
    let nothing = join(&mut reader, "realtime:room", &with_token(broadcasting(true, true), &rows)).await;
    assert!(
        reason(&nothing).starts_with("Unauthorized: the token's claim 'broadcast' does not cover 'room'"),
        "{nothing}"
    );
    ids(&join(&mut reader, "realtime:room", &with_token(config(&[orders("*")]), &rows)).await);
    subscribed(&mut reader).await;
    reader.stream.send(push("realtime:room", "e", true, b"{}")).await.unwrap();
    let refused = reader.json().await;
    assert!(reason(&refused).starts_with("Unauthorized: the token's claim 'broadcast'"), "{refused}");
    let mut member = joined(&gateway, "realtime:room", &with_token(broadcasting(true, false), &room)).await;
    member.stream.send(push("realtime:room", "e", true, b"1")).await.unwrap();
    assert_eq!(heard(&mut member).await.3, b"1");
    // It may not have them, and so gets none, but its rows.
    feed.insert("public.orders", r#"{"id":1}"#).await;
    assert_eq!(reader.json().await[4]["data"]["record"]["id"], 1);

    // A fresh token gives what it covers, and takes what it does not.
    let renewed =
        |token: &str| json!(["1", null, "realtime:room", "access_token", {"access_token": token}]).to_string();
    reader.send(&renewed(&room)).await;
    assert!(is_quiet(&mut reader).await);
    member.stream.send(push("realtime:room", "e", true, b"2")).await.unwrap();
    assert_eq!(heard(&mut reader).await.3, b"2");
    assert_eq!(heard(&mut member).await.3, b"2");
    member.send(&renewed(&rows)).await;
    let system = member.json().await;
    let message = "Unauthorized: the token's claim 'broadcast' does not cover 'room'";
    assert_eq!(
        (&system[3], &system[4]["status"], &system[4]["message"]),
        (&json!("system"), &json!("error"), &json!(message))
    );
    assert_eq!(member.json().await, json!(["1", "1", "realtime:room", "phx_close", {}]));
    reader.send(&renewed("rubbish")).await;
    assert!(reader.json().await[4]["message"].as_str().unwrap().starts_with("Unauthorized: the token is not"));
    assert_eq!(reader.json().await[3], "phx_close");

    // What the request came with counts where a join brings no token: a header, the apikey if it is a token. One that
    // is the same as the apikey is none, for many clients send that in its place.
    let bearer = format!("Bearer {room}");
    for (query, headers, token, is_let_in) in [
        ("", &[("authorization", &*bearer)][..], None, true),
        (&*format!("&apikey={room}"), &[], None, true),
        ("", &[("x-api-key", &room)], Some("sb_publishable_x"), true),
        ("&apikey=any-key", &[("authorization", &bearer)], Some("any-key"), true),
        ("&apikey=any-key", &[("authorization", &bearer)], Some("another-key"), false),
        ("&apikey=any-key", &[], Some("any-key"), false),
        ("", &[("authorization", "Bearer rubbish")], None, false),
        ("", &[("authorization", "Bearer rubbish")], Some(&*room), true),
    ] {
        let path = format!("/realtime/v1/websocket?vsn=2.0.0{query}");
        let mut client = Client::connect(gateway.address, &path, headers).await.unwrap();
        let mut payload = config(&[orders("*")]);
        payload["access_token"] = json!(token);
        let reply = join(&mut client, "realtime:room", &payload).await;
        assert_eq!(reply[4]["status"] == "ok", is_let_in, "{query} {headers:?} {token:?}: {reply}");
        assert!(is_let_in || reason(&reply).starts_with("Unauthorized: "), "{reply}");
    }

    let path = "/realtime/v1/api/broadcast/room/events/e";
    assert_eq!(post(&gateway, path, "", "1").await.0, 401);
    assert_eq!(post(&gateway, path, &format!("Authorization: Bearer {rows}\r\n"), "1").await.0, 403);
    assert_eq!(post(&gateway, path, &format!("Authorization: Bearer {room}\r\n"), "1").await.0, 202);
    assert_eq!(post(&gateway, path, &format!("apikey: {room}\r\n"), "1").await.0, 202, "a token as apikey");
    // Who may do nothing is not waited for: this body never comes.
    let endless =
        format!("POST {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: 9\r\n\r\n", gateway.address);
    assert_eq!(gateway.request(&endless).await.0, 401);
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_body_that_does_not_come_is_given_up() {
    let gateway = TestGateway::start(&[], "").await;
    let mut socket = tokio::net::TcpStream::connect(gateway.address).await.unwrap();
    let head = format!(
        "POST /socket/api/broadcast/a/events/b HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: 9\r\n\r\n[1",
        gateway.address
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(3 * PATIENCE, socket.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("the body did not come within 10 s"), "{answer}");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn bad_broadcasts_are_refused_by_name() {
    let gateway = TestGateway::start(&[], "").await;
    let mut client = joined(&gateway, "realtime:room", &broadcasting(true, true)).await;
    let long = "x".repeat(256);
    for (text, named) in [
        (
            r#"{"type":"broadcast","event":"e","payload":{},"persist":{"ttl":5}}"#,
            "Unsupported: a broadcast is sent and not kept",
        ),
        (r#"{"type":"broadcast","payload":{}}"#, "BadMessage: 'event' of a broadcast has 0 bytes"),
        (&format!(r#"{{"type":"broadcast","event":"{long}"}}"#), "BadMessage: 'event' of a broadcast has 256 bytes"),
    ] {
        client.send(&format!(r#"["1","2","realtime:room","broadcast",{text}]"#)).await;
        let reply = client.json().await;
        assert!(reason(&reply).starts_with(named), "{reply}");
    }
    for (meta, named) in [
        (r#"{"persist":true}"#, "Unsupported: a broadcast is sent and not kept"),
        (r#"{"persist":{"ttl":5}}"#, "Unsupported: a broadcast is sent and not kept"),
        ("7", "BadMessage: 'meta' of a broadcast is '7'; it must be an object"),
    ] {
        client.stream.send(push_with(meta, "realtime:room", "e", true, b"{}")).await.unwrap();
        let reply = client.json().await;
        assert!(reason(&reply).starts_with(named), "{reply}");
    }
    client.stream.send(push_with(r#"{"persist":false}"#, "realtime:room", "e", true, b"{}")).await.unwrap();
    assert_eq!(client.json().await[4]["status"], "ok");
    for (path, headers, body, status, named) in [
        ("/realtime/v1/api/broadcast", "", "{}", 400, "not {\\\"messages\\\""),
        ("/realtime/v1/api/broadcast", "", r#"{"messages":[{"topic":"","event":"e"}]}"#, 400, "'topic' of a broadcast"),
        ("/realtime/v1/api/broadcast", "", r#"{"messages":[{"topic":"a","event":""}]}"#, 400, "'event' of a broadcast"),
        (
            "/realtime/v1/api/broadcast",
            "",
            r#"{"messages":[{"topic":"a","event":"e","persist":true}]}"#,
            400,
            "sent and not kept",
        ),
        ("/socket/api/broadcast/a/events/b", "", "{", 400, "the body is not JSON"),
        ("/socket/api/broadcast/a/events/b?persist=true", "", "{}", 400, "'persist'"),
        ("/socket/api/broadcast/a/events/b", "", &"x".repeat(70_000), 413, "65536 bytes"),
        ("/socket/api/broadcast/a/events/b", "Origin: https://evil.example\r\n", "{}", 403, "Origin"),
        ("/socket/api/broadcast/a", "", "{}", 404, "nothing is served"),
    ] {
        let (got, answer) = post(&gateway, path, headers, body).await;
        assert!(got == status && answer.contains(named), "{path} {body:.20}: {answer}");
    }
    assert_eq!(gateway.get("/realtime/v1/api/broadcast").await.0, 405);
    assert!(is_quiet(&mut client).await);
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_flood_that_nobody_reads_is_dropped_and_no_change_is() {
    let gateway = TestGateway::start(&["--max-messages-per-s", "100000", "--shards", "1"], "").await;
    let mut feed = log(&gateway, &["public.orders"]).await;
    let mut slow = gateway.connect(TWO).await;
    ids(&join(&mut slow, "realtime:room", &config(&[orders("*")])).await);
    subscribed(&mut slow).await;
    let mut sender = joined(&gateway, "realtime:room", &broadcasting(false, false)).await;
    let payload = format!("\"{}\"", "x".repeat(30_000));
    for id in 1..=300 {
        for _ in 0..10 {
            sender.stream.send(push("realtime:room", "e", true, payload.as_bytes())).await.unwrap();
        }
        feed.insert("public.orders", &format!(r#"{{"id":{id}}}"#)).await;
    }
    assert!(is_quiet(&mut sender).await);
    let mut broadcasts = 0;
    for id in 1..=300 {
        loop {
            let message = tokio::time::timeout(PATIENCE, slow.stream.next()).await.unwrap().unwrap().unwrap();
            match message {
                Message::Binary(_) => broadcasts += 1,
                Message::Text(text) => {
                    let change: Value = serde_json::from_str(&text).unwrap();
                    assert_eq!(change[4]["data"]["record"]["id"], id, "no change is lost, and none comes twice");
                    break;
                }
                _ => {}
            }
        }
    }
    assert!(broadcasts < 3000, "all of them came");
    assert!(gateway.metric("rowcast_gateway_broadcasts_dropped_total").await > 0);
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn who_is_behind_with_changes_gets_no_broadcast() {
    let gateway = TestGateway::start(&["--queue-bytes", "100000000", "--shards", "1"], "").await;
    let mut feed = log(&gateway, &["public.orders"]).await;
    let mut slow = gateway.connect(TWO).await;
    ids(&join(&mut slow, "realtime:room", &config(&[orders("*")])).await);
    subscribed(&mut slow).await;
    let mut sender = joined(&gateway, "realtime:room", &broadcasting(false, true)).await;
    // More than both ends' kernels take. It waits in the ring, so it costs this client nothing.
    let row = format!(r#"{{"id":1,"fill":"{}"}}"#, "x".repeat(20_000));
    for _ in 0..1_000 {
        feed.insert("public.orders", &row).await;
    }
    let dropped = async || gateway.metric("rowcast_gateway_broadcasts_dropped_total").await;
    for _ in 0..100 {
        sender.stream.send(push("realtime:room", "e", true, b"1")).await.unwrap();
        sender.json().await;
        if dropped().await > 0 {
            return gateway.shutdown.cancel();
        }
    }
    panic!("a hundred broadcasts of a byte were queued");
}
