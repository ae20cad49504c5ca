//! What is easily said wrongly: of a connection that is being closed, of a page that lives through a new feed,
//! of a connection with several users, and of topics that nobody carries.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    stage::{look, native, newest, start, stuck, until, until_it_is_there, why},
    support::TestGateway,
    why::{cursor_of, is, token, with_tokens},
};

#[tokio::test]
async fn what_was_sent_before_the_goodbye_was_sent() {
    let gateway = start(&[]).await;
    let mut feed = gateway.feed(&["a"]).await;
    let mut socket = stuck(&gateway, r#"{"type":"subscribe","topic":"a"}"#).await;
    let id = newest(&gateway).await;
    feed.send("a", "1").await;
    let first = cursor_of(&feed.cursor(1));
    until(&gateway, &format!("why?connection={id}&{first}"), |answer| answer["state"] == "sent").await;
    // No frame of a client is like that. It is told goodbye, and does not answer.
    socket.write_all(&[0xff; 2]).await.unwrap();
    until(&gateway, &format!("connection?id={id}"), |one| one["state"] == "closing").await;
    is(&why(&gateway, &id, &first).await, "sent", "written to the client's socket; this ended");
    feed.send("a", "2").await;
    until_it_is_there(&gateway, &feed).await;
    is(&why(&gateway, &id, &cursor_of(&feed.cursor(2))).await, "ended", "after this subscription had ended");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn what_waits_in_front_of_a_goodbye_may_still_be_sent() {
    let gateway = start(&[]).await;
    let mut feed = gateway.feed(&["a"]).await;
    let mut reads = native(&gateway).await;
    reads.subscribe(r#""topic":"a""#).await;
    let mut socket = stuck(&gateway, r#"{"type":"subscribe","topic":"a"}"#).await;
    let id = newest(&gateway).await;
    let payload = format!("\"{}\"", "x".repeat(20_000));
    for _ in 0..10 {
        feed.send("a", &payload).await;
        reads.next("change").await;
    }
    socket.write_all(&[0xff; 2]).await.unwrap();
    until(&gateway, &format!("connection?id={id}"), |one| one["state"] == "closing").await;
    let last = cursor_of(&feed.cursor(10));
    is(&why(&gateway, &id, &last).await, "not_sent_yet", "Perhaps not sent yet");
    // It reads after all.
    let mut rest = Vec::new();
    socket.read_to_end(&mut rest).await.unwrap();
    assert!(rest.len() > 10 * 20_000);
    until(&gateway, &format!("why?connection={id}&{last}"), |answer| answer["state"] == "sent").await;
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_page_on_a_plain_endpoint_is_not_told_of_a_new_feed() {
    let gateway = start(&[]).await;
    let mut feed = gateway.feed(&["a"]).await;
    let mut plain = gateway.connect("/ws/a/").await;
    let id = newest(&gateway).await;
    feed.send("a", "1").await;
    assert_eq!(plain.text().await, "1");
    let mut next = gateway.feed(&["a"]).await;
    until_it_is_there(&gateway, &next).await;
    next.send("a", "2").await;
    assert_eq!(plain.text().await, "2");
    is(&why(&gateway, &id, &cursor_of(&feed.cursor(1))).await, "other_feed", "but for plain endpoints");
    is(&why(&gateway, &id, &cursor_of(&next.cursor(1))).await, "sent", "Sent");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn each_channel_has_its_own_user() {
    let (gateway, _secret) = with_tokens().await;
    let mut feed = gateway.log(&["public.orders", "public.rooms", "public.others"]).await;
    let mut client = gateway.connect("/realtime/v1/websocket?vsn=1.0.0").await;
    let users = [("orders", "ada", "1"), ("rooms", "eve", "2")];
    for (table, user, number) in users {
        let binding = json!({ "event": "*", "schema": "public", "table": table });
        let of_it = token(user, &[&format!("public.{table}")]);
        let payload = json!({ "config": { "postgres_changes": [binding] }, "access_token": of_it });
        let topic = format!("realtime:{table}");
        let join =
            json!({ "topic": topic, "event": "phx_join", "payload": payload, "ref": number, "join_ref": number });
        client.send(&join.to_string()).await;
    }
    let list = until(&gateway, "connections", |list| list["connections"][0]["subscription_count"] == 2).await;
    let shown = |one: &Value| {
        let subs = one["subscriptions"].as_array().unwrap().iter();
        let of_each: Vec<Value> = subs.map(|sub| json!([sub["id"], sub["subject"]])).collect();
        json!([one["subjects"], one["may_subscribe"], of_each])
    };
    let expected = json!([
        ["ada", "eve"],
        ["public.orders", "public.rooms"],
        [["realtime:orders", "ada"], ["realtime:rooms", "eve"]]
    ]);
    assert_eq!(shown(&list["connections"][0]), expected);
    for search in ["ada", "eve"] {
        assert_eq!(look(&gateway, &format!("connections?search={search}")).await["matched"], 1, "{search}");
    }
    let id = newest(&gateway).await;
    feed.insert("public.others", r#"{"id":1}"#).await;
    until_it_is_there(&gateway, &feed).await;
    let asked = cursor_of(&feed.cursor(1));
    is(&why(&gateway, &id, &asked).await, "denied", "none of its tokens covers public.others");
    // One of them is another's now, and what it has left is remembered as it was.
    let payload = json!({ "access_token": token("ida", &["public.*"]) });
    let renew =
        json!({ "topic": "realtime:rooms", "event": "access_token", "payload": payload, "ref": "3", "join_ref": "2" });
    client.send(&renew.to_string()).await;
    let renewed =
        until(&gateway, "connections", |list| list["connections"][0]["subjects"] == json!(["ada", "ida"])).await;
    assert_eq!(renewed["connections"][0]["subscriptions"][1]["subject"], "ida");
    is(&why(&gateway, &id, &asked).await, "not_subscribed", "but not to public.others");
    drop(client);
    let left = until(&gateway, "left?search=ida", |left| left["matched"] == 1).await;
    assert_eq!(left["connections"][0]["subjects"], json!(["ada", "ida"]));
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_topic_that_clients_wait_for_and_nobody_carries_is_shown() {
    let config = "[[endpoint]]\npath = \"/ws/both/\"\ntopics = [\"a\", \"mistyped\"]\n";
    let gateway = TestGateway::start(&["--inspect", "--shards", "1"], config).await;
    let _feed = gateway.feed(&["a"]).await;
    let _plain = gateway.connect("/ws/both/").await;
    let topics = until(&gateway, "topics", |topics| topics["topics"][1]["subscriptions"] == 1).await;
    let of_none = topics["topics"].as_array().unwrap().iter().find(|it| it["source"].is_null()).unwrap();
    assert_eq!(
        json!([of_none["topic"], of_none["carried"], of_none["subscriptions"], of_none["last_at"]]),
        json!(["mistyped", false, 1, null]),
        "{topics:#}"
    );
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn keys_are_told_apart_by_every_digit() {
    let gateway = start(&[]).await;
    let mut feed = gateway.log(&["t"]).await;
    let keys = ["18446744073709551617", "18446744073709551616", "0.10000000000000000001"];
    for key in keys {
        feed.insert("t", &format!(r#"{{"id":{key}}}"#)).await;
    }
    until_it_is_there(&gateway, &feed).await;
    for (offset, key) in (1..).zip(keys) {
        let found = look(&gateway, &format!("changes?topic=t&key={key}")).await;
        let cursors: Vec<&Value> = found["changes"].as_array().unwrap().iter().map(|it| &it["cursor"]).collect();
        assert_eq!(cursors, [&json!(feed.cursor(offset))], "{key}");
    }
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_list_has_the_first_subscriptions_and_a_connection_alone_all() {
    let gateway = TestGateway::start(&["--inspect", "--shards", "1"], "").await;
    let _feed = gateway.feed(&["a"]).await;
    let mut client = native(&gateway).await;
    for n in 0..30 {
        client.subscribe(&format!(r#""id":"{n}","topic":"a""#)).await;
    }
    let one = &look(&gateway, "connections").await["connections"][0];
    let shown = |one: &Value| one["subscriptions"].as_array().unwrap().len();
    assert_eq!((&one["subscription_count"], shown(one)), (&json!(30), 10), "{one:#}");
    let id = newest(&gateway).await;
    assert_eq!(shown(&look(&gateway, &format!("connection?id={id}")).await), 30);
    gateway.shutdown.cancel();
}
