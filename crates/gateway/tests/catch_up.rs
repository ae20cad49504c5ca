//! What a subscription is told while it catches up, or when it cannot.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::time::Duration;

use bus::{Answer, MemoryBus, Retention, Term};
use futures_util::StreamExt;
use protocol::{Batcher, Catalogue, FeedId, Kind, Source, Topic};
use serde_json::json;
use support::{Client, TestGateway};
use tokio::net::TcpSocket;
use tokio_tungstenite::{MaybeTlsStream, tungstenite::Message};

async fn native(gateway: &TestGateway) -> Client {
    let mut client = gateway.connect("/rowcast").await;
    client.next("hello").await;
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_takes_the_place_of_one_that_catches_up_gets_only_its_own_changes() {
    let gateway = TestGateway::start(&["--recent-bytes", "1000"], "").await;
    let mut feed = gateway.feed(&["a", "b"]).await;
    // Two histories that take a while to read, the second a little longer than the first.
    let payload = format!("\"{}\"", "x".repeat(50));
    for _ in 0..300 {
        for _ in 0..500 {
            feed.push("a", &payload);
        }
        for _ in 0..600 {
            feed.push("b", &payload);
        }
        feed.publish().await;
    }
    for wait_us in [100, 300, 1_000, 3_000, 10_000] {
        let mut client = native(&gateway).await;
        let since = feed.cursor(0);
        client.send(&format!(r#"{{"type":"subscribe","id":"x","topic":"a","since":"{since}"}}"#)).await;
        tokio::time::sleep(Duration::from_micros(wait_us)).await;
        client.send(r#"{"type":"unsubscribe","id":"x"}"#).await;
        client.send(&format!(r#"{{"type":"subscribe","id":"x","topic":"b","since":"{since}"}}"#)).await;
        while client.json().await["type"] != "unsubscribed" {}
        client.next("subscribed").await;
        for n in 0..1_000 {
            let change = client.next("change").await;
            let expected = feed.cursor(n / 600 * 1_100 + 500 + n % 600 + 1);
            assert_eq!((&change["topic"], &change["cursor"]), (&json!("b"), &json!(expected)));
        }
    }
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn who_lost_changes_is_told_before_it_gets_a_later_one() {
    let bus = MemoryBus::new(Retention { bytes: 5_000, ms: 600_000 });
    let config = "[[endpoint]]\npath = \"/ws/both/\"\ntopics = [\"a\", \"b\"]\n";
    let gateway = TestGateway::over(bus, &[], config).await;
    let mut feed = gateway.feed(&["a", "b"]).await;
    let (mut both, mut only_b) = (native(&gateway).await, native(&gateway).await);
    both.subscribe(r#""id":"x","topics":["a","b"]"#).await;
    only_b.subscribe(r#""topic":"b""#).await;
    let mut plain = gateway.connect("/ws/both/").await;
    // The feed shares this thread, so all this is behind it: too much for the channel, and for a's
    // history, but not for b's.
    for n in 1..=5_000u64 {
        feed.send(if n % 50 == 0 { "b" } else { "a" }, &n.to_string()).await;
    }
    let reset = both.next("reset").await;
    assert_eq!((&reset["id"], &reset["reason"]), (&json!("x"), &json!("history_trimmed")));
    assert_eq!(reset["cursor"], feed.cursor(5_000));
    feed.send("a", "5001").await;
    assert_eq!(both.next("change").await["cursor"], feed.cursor(5_001));
    for n in (50..=5_000).step_by(50) {
        assert_eq!(only_b.next("change").await["data"], n, "it has lost nothing");
        assert_eq!(plain.text().await, n.to_string(), "nobody can tell it, so it gets what there is");
    }
    // A cursor from between is told too, although later batches are in memory.
    let mut late = native(&gateway).await;
    let answer = late.subscribe(&format!(r#""topics":["a","b"],"since":"{}""#, feed.cursor(100))).await;
    assert_eq!(answer["resumed"], false);
    gateway.shutdown.cancel();
}

/// A client that reads only when it is asked to, and whose kernel takes little before.
async fn reluctant(gateway: &TestGateway, path: &str) -> Client {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let socket = MaybeTlsStream::Plain(socket.connect(gateway.address).await.unwrap());
    let url = format!("ws://{}{path}", gateway.address);
    Client { stream: tokio_tungstenite::client_async(url, socket).await.unwrap().0 }
}

#[tokio::test]
async fn who_falls_behind_before_it_is_told_of_a_loss_is_told_when_it_has_caught_up() {
    let bus = MemoryBus::new(Retention { bytes: 2_000_000, ms: 600_000 });
    let gateway = TestGateway::over(bus, &["--shards", "1"], "").await;
    let mut feed = gateway.feed(&["kept", "lost"]).await;
    let mut slow = reluctant(&gateway, "/rowcast").await;
    slow.next("hello").await;
    slow.subscribe(r#""id":"k","topic":"kept""#).await;
    slow.subscribe(r#""id":"l","topic":"lost""#).await;
    let fill = "x".repeat(1_000);
    // It does not read, and still has its place in the ring.
    for n in 0..300 {
        feed.send("kept", &format!("{n} {fill}")).await;
    }
    gateway.until_it_has_all(&feed, "kept").await;
    assert_eq!(gateway.metric("rowcast_gateway_subscriptions_fell_behind_total").await, 0);
    // The feed shares this thread, so all this is behind it: too much for the channel, and for one of
    // the histories.
    for _ in 0..4_500 {
        feed.send("lost", &fill).await;
    }
    for n in 300..1_300 {
        feed.send("kept", &format!("{n} {fill}")).await;
    }
    gateway.until_it_has_all(&feed, "kept").await;
    assert!(gateway.metric("rowcast_gateway_subscriptions_fell_behind_total").await > 0);
    feed.send("lost", "the first after the loss").await;
    gateway.until_it_has_all(&feed, "lost").await;
    let (mut kept, mut is_told) = (0, false);
    while kept < 1_300 || !is_told {
        let next = slow.json().await;
        match next["type"].as_str() {
            Some("reset") => {
                assert_eq!((&next["id"], &next["cursor"]), (&json!("l"), &json!(feed.cursor(feed.batcher.last()))));
                is_told = true;
            }
            Some("change") => {
                assert_eq!(next["topic"], "kept", "what was lost came before this, and nobody has told");
                assert!(next["data"].as_str().unwrap().starts_with(&format!("{kept} ")), "after {kept}");
                kept += 1;
            }
            _ => {}
        }
    }
    feed.send("lost", "after the reset").await;
    while slow.json().await["data"] != "after the reset" {}
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn what_is_unsubscribed_while_it_waits_for_the_history_is_not_read() {
    const TOPICS: u64 = 60;
    let gateway =
        TestGateway::start(&["--shards", "1", "--recent-bytes", "1000", "--max-messages-per-s", "1000"], "").await;
    let topics: Vec<String> = (0..TOPICS).map(|n| format!("t{n}")).collect();
    let mut feed = gateway.feed(&topics.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for topic in &topics {
        for _ in 0..3_000 {
            feed.push(topic, "1");
        }
        feed.publish().await;
    }
    gateway.until_it_has_all(&feed, &topics[59]).await;
    let before = gateway.metric("rowcast_gateway_history_reads_total").await;
    let mut client = native(&gateway).await;
    let since = feed.cursor(0);
    for topic in &topics {
        client.send(&format!(r#"{{"type":"subscribe","id":"{topic}","topic":"{topic}","since":"{since}"}}"#)).await;
    }
    // One of them is read at a time.
    while client.json().await["type"] != "subscribed" {}
    for topic in &topics {
        client.send(&format!(r#"{{"type":"unsubscribe","id":"{topic}"}}"#)).await;
    }
    let mut ended = 0;
    while ended < TOPICS {
        ended += u64::from(client.json().await["type"] == "unsubscribed");
    }
    // Who asks now has its turn behind them.
    client.send(&format!(r#"{{"type":"subscribe","id":"x","topic":"t0","since":"{since}"}}"#)).await;
    while client.json().await["type"] != "caught_up" {}
    let reads = gateway.metric("rowcast_gateway_history_reads_total").await - before;
    assert!(reads < TOPICS * 3 / 4, "{reads} histories were read");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn what_comes_at_once_however_much_makes_nobody_fall_behind_who_reads() {
    let config = "[[endpoint]]\npath = \"/ws/both/\"\ntopics = [\"a\", \"l\"]\n";
    let gateway = TestGateway::start(&["--queue-bytes", "20000"], config).await;
    let mut feed = gateway.feed(&["a"]).await;
    let log = gateway.log(&["l"]).await;
    let mut both = gateway.connect("/ws/both/").await;
    let mut client = native(&gateway).await;
    client.subscribe(r#""topic":"a""#).await;
    let fill = "x".repeat(1_000);
    for n in 0..900 {
        feed.push("a", &format!("{n} {fill}"));
    }
    feed.publish().await;
    for n in 0..900 {
        let of_it = format!("{n} ");
        assert!(both.text().await.starts_with(&of_it), "{n}");
        assert!(client.next("change").await["data"].as_str().unwrap().starts_with(&of_it), "{n}");
    }
    assert_eq!(gateway.metric("rowcast_gateway_subscriptions_fell_behind_total").await, 0);
    drop(log);
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_cursor_that_cannot_be_continued_stays_until_the_reset() {
    let gateway = TestGateway::start(&[], "").await;
    let feed = gateway.feed(&["a"]).await;
    let mut client = native(&gateway).await;
    let answer = client.subscribe(r#""topic":"a","since":"zzzz.3""#).await;
    assert_eq!((&answer["cursor"], &answer["resumed"]), (&json!("zzzz.3"), &json!(false)), "safe to keep");
    assert_eq!(client.next("reset").await["cursor"], feed.cursor(0));
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_frame_of_a_route_counts_for_one_subscription_of_a_connection() {
    let gateway = TestGateway::start(&[], "").await;
    let mut feed = gateway.feed(&["a"]).await;
    let mut client = native(&gateway).await;
    // The second of two equal ones may have to catch up while the first is live.
    let first = client.subscribe(r#""id":"x","topic":"a""#).await;
    let second = client.subscribe(r#""id":"y","topic":"a""#).await;
    assert_ne!(first["route"], second["route"]);
    feed.send("a", "1").await;
    for _ in 0..2 {
        assert_eq!(client.next("change").await["cursor"], feed.cursor(1));
    }
    client.send(r#"{"type":"unsubscribe","id":"x"}"#).await;
    client.next("unsubscribed").await;
    let again = client.subscribe(r#""id":"x","topic":"a""#).await;
    assert_ne!(again["route"], second["route"]);
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn who_waits_for_the_first_feed_gets_its_first_change() {
    let config = "[[endpoint]]\npath = \"/ws/mine/\"\ntopics = [\"a\"]\n";
    let gateway = TestGateway::start(&[], config).await;
    let mut client = gateway.connect("/ws/mine/").await;
    // Published before the gateway has had the time to look.
    let mut feed = support::TestFeed::begin(&gateway.bus, &["a"]).await;
    for n in 1..=3 {
        feed.send("a", &n.to_string()).await;
    }
    for n in 1..=3 {
        assert_eq!(client.text().await, n.to_string());
    }
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_plain_endpoint_over_two_feeds_loses_nothing_unnoticed_when_it_falls_behind() {
    let config = "[[endpoint]]\npath = \"/ws/both/\"\ntopics = [\"a\", \"l\"]\n";
    let gateway = TestGateway::start(&["--queue-bytes", "20000"], config).await;
    let mut feed = gateway.feed(&["a"]).await;
    let topic = Topic::new("l").unwrap();
    let catalogue = Catalogue::of_channels([topic.clone()]);
    let term = Term { feed: FeedId::random(), epoch: 1, after: 0, at: 1, catalogue };
    let mut log = gateway.bus.publisher(Source::Log);
    assert_eq!(log.begin(&term).await.unwrap(), Answer::Applied);
    let mut of_log = Batcher::new(term.feed.clone(), 1, 0);
    while gateway.get("/ws/l/").await.0 != 426 {}
    let mut client = gateway.connect("/ws/both/").await;
    let fill = "x".repeat(5_000);
    for n in 1..=2_000 {
        feed.send("a", &format!("a{n} {fill}")).await;
        of_log.push(&topic, 0, Kind::Text, format!("l{n} {fill}").as_bytes());
        assert_eq!(log.publish(&of_log.take(1)).await.unwrap(), Answer::Applied);
        tokio::task::yield_now().await;
    }
    let mut next = (1, 1);
    while next != (2_001, 2_001) {
        match tokio::time::timeout(support::PATIENCE, client.stream.next()).await.expect("all of it, or a close") {
            Some(Ok(Message::Text(text))) => {
                let of = if text.starts_with('a') { &mut next.0 } else { &mut next.1 };
                assert!(text[1..].starts_with(&format!("{of} ")), "after {of}: {}", &text[..10]);
                *of += 1;
            }
            Some(Ok(Message::Close(Some(close)))) => {
                assert_eq!(u16::from(close.code), 1013);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    gateway.shutdown.cancel();
}
