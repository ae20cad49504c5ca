//! "Why did I not get it?": each answer.

use jsonwebtoken::{EncodingKey, Header, encode};
use protocol::Op;
use serde_json::{Value, json};

use crate::{
    stage::{TOKEN, native, newest, start, stuck, until, until_it_is_there, why},
    support::{Client, TestGateway, events::EventStream, row},
};

#[track_caller]
pub fn is(answer: &Value, state: &str, words: &str) {
    assert_eq!(answer["state"], state, "{answer:#}");
    assert!(answer["text"].as_str().unwrap().contains(words), "{answer:#}");
}

/// The answer once the client's machine has acknowledged everything, which takes up to 40 ms.
async fn acknowledged(gateway: &TestGateway, connection: &str, what: &str) -> Value {
    let asked = format!("why?connection={connection}&{what}");
    until(gateway, &asked, |answer| answer["client"]["kernel_bytes"] == 0).await
}

#[tokio::test]
async fn what_was_sent_and_what_came_before_or_goes_elsewhere() {
    let gateway = start(&[]).await;
    let mut feed = gateway.log(&["public.orders", "other"]).await;
    feed.insert("public.orders", r#"{"id":1}"#).await;
    until_it_is_there(&gateway, &feed).await;
    let mut client = native(&gateway).await;
    let id = newest(&gateway).await;
    let cursor = |offset| format!("cursor={}", feed.cursor(offset));
    let (first, second, third, fourth) = (cursor(1), cursor(2), cursor(3), cursor(4));
    is(&why(&gateway, &id, &first).await, "not_subscribed", "It has no subscription");
    assert_eq!(client.subscribe(r#""id":"mine","topic":"public.orders""#).await["type"], "subscribed");
    is(&why(&gateway, &id, &first).await, "before_it_began", "It came before this subscription");
    is(&why(&gateway, &id, &second).await, "not_here_yet", "has not got it yet");
    feed.send_row("public.orders", &row(Op::Update, (2, 2), r#"{"id":1,"n":2}"#, r#"{"id":1}"#)).await;
    client.next("change").await;
    let sent = acknowledged(&gateway, &id, &second).await;
    is(
        &sent,
        "sent",
        "Sent: it matched, and is written to the client's socket, and the client's machine has acknowledged",
    );
    assert_eq!((&sent["change"]["topic"], &sent["change"]["data"]["n"]), (&json!("public.orders"), &json!(2)));
    assert_eq!((&sent["subscriptions"][0]["id"], &sent["client"]["state"]), (&json!("mine"), &json!("up to date")));
    is(&why(&gateway, &id, "topic=public.orders&key=1").await, "sent", "Sent");
    is(
        &why(&gateway, &id, "topic=public.orders&key=7").await,
        "unknown",
        "No change of this row of public.orders was found",
    );
    feed.insert("other", r#"{"id":1}"#).await;
    until_it_is_there(&gateway, &feed).await;
    is(&why(&gateway, &id, &third).await, "not_subscribed", "subscribed, but not to other");
    // A second subscription, which says that it has it.
    client.subscribe(&format!(r#""id":"more","topic":"other","since":"{}""#, feed.cursor(3))).await;
    is(&why(&gateway, &id, &third).await, "before_it_began", "The client said that it has it: it resumed");
    client.next("caught_up").await;
    client.send(r#"{"type":"unsubscribe","id":"more"}"#).await;
    client.next("unsubscribed").await;
    feed.insert("other", r#"{"id":2}"#).await;
    until_it_is_there(&gateway, &feed).await;
    is(&why(&gateway, &id, &fourth).await, "ended", "after this subscription had ended");
    let all = why(&gateway, &id, &fourth).await;
    assert_eq!(all["subscriptions"][0]["state"], "other_topic", "{all:#}");

    let other_feed = "cursor=zzzz.1";
    is(&why(&gateway, &id, other_feed).await, "other_feed", "does not have now");
    is(&why(&gateway, &id, &cursor_of(&feed.cursor(0))).await, "unknown", "the cursor of no change");
    drop(client);
    until(&gateway, "left", |left| left["matched"] == 1).await;
    is(&why(&gateway, &id, &second).await, "sent", "written to the client's socket; this ended");
    is(&why(&gateway, &id, &first).await, "before_it_began", "before this subscription");
    feed.insert("public.orders", r#"{"id":5}"#).await;
    until_it_is_there(&gateway, &feed).await;
    let after = why(&gateway, &id, &cursor_of(&feed.cursor(5))).await;
    is(&after, "ended", "after this subscription had ended");
    assert!(after["client"]["left"].is_string());
    gateway.shutdown.cancel();
}

pub fn cursor_of(cursor: &str) -> String {
    format!("cursor={cursor}")
}

#[tokio::test]
async fn what_waits_for_a_socket_that_is_full() {
    let gateway = start(&["--queue-bytes", "400000"]).await;
    let mut feed = gateway.feed(&["a"]).await;
    let mut reads = native(&gateway).await;
    reads.subscribe(r#""topic":"a""#).await;
    let socket = stuck(&gateway, r#"{"type":"subscribe","topic":"a"}"#).await;
    let id = newest(&gateway).await;
    let payload = format!("\"{}\"", "x".repeat(20_000));
    for _ in 0..10 {
        feed.send("a", &payload).await;
        reads.next("change").await;
    }
    let asked = cursor_of(&feed.cursor(10));
    let answer = why(&gateway, &id, &asked).await;
    is(&answer, "not_sent_yet", "waits for the client's socket to take it, behind");
    // Further back than the ring keeps: it is to catch up, as soon as its socket takes something.
    for _ in 0..40 {
        feed.send("a", &payload).await;
        reads.next("change").await;
    }
    until(&gateway, &format!("connection?id={id}"), |one| one["subscriptions"][0]["state"] == "catching up").await;
    is(&why(&gateway, &id, &cursor_of(&feed.cursor(50))).await, "not_sent_yet", "catches up, and has come to offset");
    drop(socket);
    until(&gateway, "left", |left| left["matched"] == 1).await;
    let left = why(&gateway, &id, &cursor_of(&feed.cursor(50))).await;
    is(&left, "not_sent", "it was behind, at offset");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn what_had_not_been_sent_when_it_left() {
    let gateway = start(&[]).await;
    let mut feed = gateway.feed(&["a"]).await;
    let mut reads = native(&gateway).await;
    reads.subscribe(r#""topic":"a""#).await;
    let socket = stuck(&gateway, r#"{"type":"subscribe","topic":"a"}"#).await;
    let id = newest(&gateway).await;
    let payload = format!("\"{}\"", "x".repeat(20_000));
    for _ in 0..10 {
        feed.send("a", &payload).await;
        reads.next("change").await;
    }
    drop(socket);
    until(&gateway, "left", |left| left["matched"] == 1).await;
    is(&why(&gateway, &id, &cursor_of(&feed.cursor(10))).await, "not_sent", "Probably not sent");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn what_is_conflated_is_held_back_and_then_coalesced() {
    let gateway = start(&[]).await;
    let mut feed = gateway.log(&["public.orders"]).await;
    let mut client = native(&gateway).await;
    let subscribe = r#""topic":"public.orders","conflate":{"every_ms":60000}"#;
    assert_eq!(client.subscribe(subscribe).await["type"], "subscribed");
    let id = newest(&gateway).await;
    feed.insert("public.orders", r#"{"id":1}"#).await;
    // At once after a pause.
    client.next("change").await;
    let first = cursor_of(&feed.cursor(1));
    is(&why(&gateway, &id, &first).await, "coalesced", "at most one frame a row in 1 min");
    feed.insert("public.orders", r#"{"id":2}"#).await;
    until_it_is_there(&gateway, &feed).await;
    is(&why(&gateway, &id, &cursor_of(&feed.cursor(2))).await, "not_sent_yet", "held back to be joined");
    is(&why(&gateway, &id, &first).await, "coalesced", "handed on conflated");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn what_a_reset_passed_over_and_what_is_no_longer_kept() {
    let bus = bus::MemoryBus::new(bus::Retention { bytes: 5_000, ms: 600_000 });
    let gateway = TestGateway::over(bus, &["--inspect", "--shards", "1", "--recent-bytes", "2000"], "").await;
    let mut feed = gateway.log(&["public.orders"]).await;
    for n in 1..=300u64 {
        feed.insert("public.orders", &format!(r#"{{"id":{n}}}"#)).await;
    }
    until_it_is_there(&gateway, &feed).await;
    let mut client = native(&gateway).await;
    let id = newest(&gateway).await;
    client.subscribe(&format!(r#""topic":"public.orders","since":"{}""#, feed.cursor(3))).await;
    let reset = client.next("reset").await;
    assert_eq!(reset["reason"], "history_trimmed");
    let answer = why(&gateway, &id, &cursor_of(&feed.cursor(299))).await;
    is(&answer, "reset", "told reset (history_trimmed), because what it had missed was no longer kept");
    // Whether it had it once cannot be said any more.
    is(&why(&gateway, &id, &cursor_of(&feed.cursor(2))).await, "trimmed", "no longer kept");
    feed.insert("public.orders", r#"{"id":301}"#).await;
    client.next("change").await;
    is(&why(&gateway, &id, &cursor_of(&feed.cursor(301))).await, "sent", "Sent");
    // A new feed takes its place.
    let mut next = gateway.log(&["public.orders"]).await;
    assert_eq!(client.next("reset").await["reason"], "new_feed");
    is(&why(&gateway, &id, &cursor_of(&feed.cursor(301))).await, "other_feed", "a new one has taken its place");
    next.insert("public.orders", r#"{"id":1}"#).await;
    client.next("change").await;
    is(&why(&gateway, &id, &cursor_of(&next.cursor(1))).await, "sent", "Sent");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn what_is_found_in_the_history() {
    let gateway = start(&["--recent-bytes", "500"]).await;
    let mut feed = gateway.log(&["public.orders", "other"]).await;
    let mut client = native(&gateway).await;
    client.subscribe(r#""topic":"public.orders""#).await;
    let id = newest(&gateway).await;
    for n in 1..=100u64 {
        feed.insert(if n % 2 == 0 { "other" } else { "public.orders" }, &format!(r#"{{"id":{n}}}"#)).await;
    }
    for _ in 0..50 {
        client.next("change").await;
    }
    until_it_is_there(&gateway, &feed).await;
    is(&why(&gateway, &id, &cursor_of(&feed.cursor(5))).await, "sent", "Sent");
    is(&why(&gateway, &id, "topic=public.orders&key=5").await, "sent", "Sent");
    is(&why(&gateway, &id, &cursor_of(&feed.cursor(6))).await, "not_subscribed", "of a topic that no subscription");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn what_one_topic_has_kept_and_another_has_not() {
    let bus = bus::MemoryBus::new(bus::Retention { bytes: 5_000, ms: 600_000 });
    let gateway = TestGateway::over(bus, &["--inspect", "--shards", "1", "--recent-bytes", "500"], "").await;
    let mut feed = gateway.log(&["busy", "quiet"]).await;
    let mut client = native(&gateway).await;
    client.subscribe(r#""topics":["busy","quiet"]"#).await;
    let id = newest(&gateway).await;
    for n in 1..=300u64 {
        feed.insert(if n % 100 == 2 { "quiet" } else { "busy" }, &format!(r#"{{"id":{n}}}"#)).await;
        client.next("change").await;
    }
    until_it_is_there(&gateway, &feed).await;
    is(&why(&gateway, &id, &cursor_of(&feed.cursor(2))).await, "sent", "Sent");
    is(&why(&gateway, &id, &cursor_of(&feed.cursor(3))).await, "trimmed", "no longer kept");
    gateway.shutdown.cancel();
}

const SECRET: &str = "a secret of more than thirty-two bytes, for tests";

/// A gateway that wants tokens, and the file of its secret.
pub async fn with_tokens() -> (TestGateway, tempfile::NamedTempFile) {
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), SECRET).unwrap();
    let config = format!(
        "[auth.jwt]\nalgorithms = [\"HS256\"]\naudience = \"rowcast\"\nissuer = \"tests\"\nsecret_file = \"{}\"\n",
        secret.path().display()
    );
    let gateway = TestGateway::start(&["--inspect", "--inspect-token", TOKEN, "--shards", "1"], &config).await;
    (gateway, secret)
}

pub fn token(subject: &str, topics: &[&str]) -> String {
    let claims =
        json!({ "aud": "rowcast", "iss": "tests", "exp": 4_000_000_000_u64, "sub": subject, "topics": topics });
    encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
}

#[tokio::test]
async fn what_a_token_does_not_cover() {
    let (gateway, _secret) = with_tokens().await;
    let mut feed = gateway.feed(&["a", "b"]).await;
    feed.send("b", "1").await;
    until_it_is_there(&gateway, &feed).await;
    let cursor = cursor_of(&feed.cursor(1));
    let mut client = native(&gateway).await;
    let id = newest(&gateway).await;
    is(&why(&gateway, &id, &cursor).await, "denied", "has shown no token yet");
    let token = token("ada", &["a"]);
    client.send(&format!(r#"{{"type":"auth","token":"{token}"}}"#)).await;
    client.next("authenticated").await;
    client.subscribe(r#""topic":"a""#).await;
    is(&why(&gateway, &id, &cursor).await, "denied", "the token's claim 'topics' does not cover b");
    let found = crate::stage::look(&gateway, "connections?search=ada").await;
    let one = &found["connections"][0];
    assert_eq!((&one["subjects"], &one["may_subscribe"]), (&json!(["ada"]), &json!(["a"])), "{one:#}");
    assert!(!found.to_string().contains(&token[..20]), "the token is nobody's");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn plain_endpoints_and_streams_of_events_are_answered_too() {
    let gateway = start(&[]).await;
    let mut feed = gateway.feed(&["a"]).await;
    let mut plain = gateway.connect("/ws/a/").await;
    let plain_id = newest(&gateway).await;
    let mut events = EventStream::open(&gateway, "/sse?topic=a").await;
    let list = until(&gateway, "connections?search=sse", |list| list["matched"] == 1).await;
    let sse = &list["connections"][0];
    assert_eq!(sse["kernel_bytes"], Value::Null, "what HTTP holds is not known");
    let sse_id = sse["id"].as_str().unwrap().to_owned();
    feed.send("a", "1").await;
    assert_eq!(plain.text().await, "1");
    events.named("subscribed").await;
    events.change().await;
    let cursor = cursor_of(&feed.cursor(1));
    is(&acknowledged(&gateway, &plain_id, &cursor).await, "sent", "has acknowledged everything");
    is(&why(&gateway, &sse_id, &cursor).await, "sent", "whether it arrived is not known here");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn what_a_channel_did_not_ask_for() {
    let gateway = start(&[]).await;
    let mut feed = gateway.log(&["public.orders"]).await;
    let mut client = gateway.connect("/realtime/v1/websocket?vsn=1.0.0").await;
    let binding = json!({ "event": "DELETE", "schema": "public", "table": "orders" });
    let payload = json!({ "config": { "postgres_changes": [binding] } });
    let join = json!({ "topic": "realtime:x", "event": "phx_join", "payload": payload, "ref": "1", "join_ref": "1" });
    client.send(&join.to_string()).await;
    until(&gateway, "connections", |list| list["connections"][0]["subscription_count"] == 1).await;
    let id = newest(&gateway).await;
    feed.insert("public.orders", r#"{"id":1}"#).await;
    feed.send_row("public.orders", &row(Op::Delete, (2, 2), "", r#"{"id":1}"#)).await;
    until_it_is_there(&gateway, &feed).await;
    is(&why(&gateway, &id, &cursor_of(&feed.cursor(1))).await, "filtered", "did not ask for this kind of change");
    is(&why(&gateway, &id, &cursor_of(&feed.cursor(2))).await, "sent", "Sent");
    drop(client);
    until(&gateway, "left", |left| left["matched"] == 1).await;
    is(&why(&gateway, &id, &cursor_of(&feed.cursor(1))).await, "filtered", "did not ask for this kind of change");
    is(&why(&gateway, &id, &cursor_of(&feed.cursor(2))).await, "sent", "written to the client's socket; this ended");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn what_a_proxy_has_acknowledged() {
    let gateway = TestGateway::start(
        &["--inspect", "--inspect-token", TOKEN, "--shards", "1", "--anonymous", "--trusted-proxies", "127.0.0.1"],
        "",
    )
    .await;
    let mut feed = gateway.feed(&["a"]).await;
    let forwarded = [("x-forwarded-for", "203.0.113.9")];
    let mut client = Client::connect(gateway.address, "/rowcast", &forwarded).await.unwrap();
    client.next("hello").await;
    client.subscribe(r#""topic":"a""#).await;
    let id = newest(&gateway).await;
    feed.send("a", "1").await;
    client.next("change").await;
    let answer = acknowledged(&gateway, &id, &cursor_of(&feed.cursor(1))).await;
    let proxy = format!("the proxy at {} has acknowledged it", answer["client"]["peer"].as_str().unwrap());
    is(&answer, "sent", &proxy);
    assert!(!answer["text"].as_str().unwrap().contains("client's machine"), "{answer:#}");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn what_the_token_of_a_channel_does_not_cover() {
    let (gateway, _secret) = with_tokens().await;
    let mut feed = gateway.log(&["public.orders", "public.others"]).await;
    let mut client = gateway.connect("/realtime/v1/websocket?vsn=1.0.0").await;
    let binding = json!({ "event": "*", "schema": "public", "table": "orders" });
    let payload =
        json!({ "config": { "postgres_changes": [binding] }, "access_token": token("ada", &["public.orders"]) });
    let join = json!({ "topic": "realtime:x", "event": "phx_join", "payload": payload, "ref": "1", "join_ref": "1" });
    client.send(&join.to_string()).await;
    let list = until(&gateway, "connections", |list| list["connections"][0]["subscription_count"] == 1).await;
    assert_eq!(list["connections"][0]["subjects"], json!(["ada"]), "{list:#}");
    let id = newest(&gateway).await;
    feed.insert("public.others", r#"{"id":1}"#).await;
    until_it_is_there(&gateway, &feed).await;
    let asked = cursor_of(&feed.cursor(1));
    is(&why(&gateway, &id, &asked).await, "denied", "the token's claim 'topics' does not cover public.others");
    // A fresh one covers it.
    let renewed = json!({ "access_token": token("eve", &["public.*"]) });
    let renew =
        json!({ "topic": "realtime:x", "event": "access_token", "payload": renewed, "ref": "2", "join_ref": "1" });
    client.send(&renew.to_string()).await;
    until(&gateway, "connections", |list| list["connections"][0]["subjects"] == json!(["eve"])).await;
    is(&why(&gateway, &id, &asked).await, "not_subscribed", "but not to public.others");
    gateway.shutdown.cancel();
}
