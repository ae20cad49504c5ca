//! Bad input at Supabase's doors: it is named, costs little, and harms nobody else.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use futures_util::SinkExt;
use serde_json::json;
use support::{
    Client, TestGateway,
    supabase::{ONE, TWO, config, ids, is_quiet, join, log, orders, reason, subscribed},
};
use tokio_tungstenite::tungstenite::{Error, Message};

async fn refused(gateway: &TestGateway, path: &str) -> (u16, String) {
    match Client::connect(gateway.address, path, &[]).await {
        Err(Error::Http(response)) => {
            let body = response.body().as_deref().unwrap_or_default();
            (response.status().as_u16(), String::from_utf8_lossy(body).into_owned())
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("{path} was let in"),
    }
}

#[tokio::test]
async fn a_version_that_nobody_speaks_is_refused_by_name() {
    let gateway = TestGateway::start(&[], "").await;
    for door in ["/realtime/v1/websocket", "/socket/websocket"] {
        let (status, body) = refused(&gateway, &format!("{door}?vsn=3.0.0&apikey=x")).await;
        assert!(
            status == 400 && body.contains("'3.0.0' is not a vsn that is spoken here; there are: 1.0.0, 2.0.0"),
            "{body}"
        );
        // Not a WebSocket at all.
        assert_eq!(gateway.get(door).await.0, 426);
    }
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn binary_rubbish_is_answered_and_the_socket_stays() {
    let gateway = TestGateway::start(&[], "").await;
    for (door, frame, named) in [
        (TWO, &b"\x00\xff\xfe"[..], "BadMessage: not a binary message"),
        (TWO, b"\x03\xff\xff\xff\xff\xff\x01", "BadMessage: not a binary message"),
        (TWO, b"\x09\x00\x00\x00\x00\x00\x01", "BadMessage: 9 is not a kind"),
        (ONE, b"\x03\x00\x00\x00\x00\x00\x01{}", "BadMessage: vsn 1.0.0 has no binary messages"),
    ] {
        let mut client = gateway.connect(door).await;
        client.stream.send(Message::binary(frame.to_vec())).await.unwrap();
        let reply = client.json().await;
        let of = if door == ONE { &reply["payload"] } else { &reply[4] };
        assert!(of["response"]["reason"].as_str().unwrap().starts_with(named), "{reply}");
    }
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_join_of_a_mebibyte_is_closed_and_a_large_one_below_the_limit_is_read() {
    let gateway = TestGateway::start(&[], "").await;
    let _feed = log(&gateway, &["public.orders"]).await;
    let mut client = gateway.connect(TWO).await;
    let mut payload = config(&[orders("*")]);
    payload["rubbish"] = json!("x".repeat(1 << 20));
    client.send(&json!(["1", "1", "realtime:floor", "phx_join", payload]).to_string()).await;
    assert_eq!(client.closed().await.0, 1009);
    let mut client = gateway.connect(TWO).await;
    let many = join(&mut client, "realtime:floor", &config(&vec![orders("*"); 101])).await;
    assert!(reason(&many).starts_with("BadMessage: 101 bindings on a channel"), "{many}");
    let bindings = vec![orders("*"); 100];
    let ids = ids(&join(&mut client, "realtime:floor", &config(&bindings)).await);
    let different: std::collections::HashSet<_> = ids.iter().collect();
    assert_eq!((ids.len(), different.len()), (100, 100), "equal bindings have ids of their own");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_storm_of_joins_is_slowed_down_and_then_closed_and_others_go_on() {
    let gateway = TestGateway::start(&["--max-messages-per-s", "20", "--shards", "1"], "").await;
    let mut feed = log(&gateway, &["public.orders"]).await;
    let mut other = gateway.connect(TWO).await;
    ids(&join(&mut other, "realtime:floor", &config(&[orders("*")])).await);
    subscribed(&mut other).await;
    let mut client = gateway.connect(TWO).await;
    let join =
        |n: usize| json!([n.to_string(), n.to_string(), format!("realtime:{n}"), "phx_join", config(&[orders("*")])]);
    for n in 0..30 {
        client.send(&join(n).to_string()).await;
    }
    let mut last = client.json().await;
    while last[1] != "29" {
        last = client.json().await;
    }
    assert!(reason(&last).starts_with("RateLimited: more than 20 messages a second"), "{last}");
    for n in 30..1000 {
        client.send(&join(n).to_string()).await;
    }
    assert_eq!(client.closed().await.0, 4429);
    feed.insert("public.orders", r#"{"id":1}"#).await;
    assert_eq!(other.json().await[4]["data"]["record"]["id"], 1);
    assert!(is_quiet(&mut other).await);
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_gateway_that_stops_sends_them_away_and_counts_them() {
    let gateway = TestGateway::start(&["--drain-ms", "0"], "").await;
    let mut client = gateway.connect(TWO).await;
    assert!(is_quiet(&mut client).await);
    assert_eq!(gateway.metric("rowcast_gateway_connections{door=\"realtime\"}").await, 1);
    gateway.shutdown.cancel();
    assert_eq!(client.closed().await.0, 1012);
    gateway.running.await.unwrap().unwrap();
}
