//! The native protocol, over real sockets.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use bus::{Answer, MemoryBus, Retention, Term};
use protocol::Source;
use serde_json::json;
use support::{Client, TestFeed, TestGateway};

async fn native(gateway: &TestGateway) -> Client {
    let mut client = gateway.connect("/rowcast").await;
    client.next("hello").await;
    client
}

#[tokio::test]
async fn a_change_reaches_everybody_who_subscribed_and_nobody_else() {
    let gateway = TestGateway::start(&[], "").await;
    let mut feed = gateway.feed(&["a", "b"]).await;
    let mut clients = Vec::new();
    for topics in [r#""topic":"a""#, r#""topics":["a"]"#, r#""topics":["b","a"]"#, r#""topic":"b""#] {
        let mut client = native(&gateway).await;
        let answer = client.subscribe(topics).await;
        assert_eq!((&answer["type"], &answer["resumed"]), (&json!("subscribed"), &json!(false)), "{answer}");
        assert_eq!(answer["cursor"], feed.cursor(0));
        clients.push((client, answer["route"].clone()));
    }
    feed.send("a", r#"{"n": 1}"#).await;
    for (client, route) in &mut clients[..3] {
        let change = client.next("change").await;
        assert_eq!((&change["route"], &change["data"], &change["topic"]), (&*route, &json!({"n": 1}), &json!("a")));
        assert_eq!(change["cursor"], feed.cursor(1));
    }
    assert!(clients[3].0.is_quiet().await);
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn several_subscriptions_on_one_connection_keep_the_order_of_the_feed() {
    let gateway = TestGateway::start(&[], "").await;
    let mut feed = gateway.feed(&["a", "b", "c"]).await;
    let mut client = native(&gateway).await;
    for topic in ["c", "a", "b"] {
        client.subscribe(&format!(r#""topic":"{topic}""#)).await;
    }
    let order = ["a", "b", "c", "b", "a", "c", "c", "a"];
    for topic in order {
        feed.push(topic, "1");
    }
    feed.publish().await;
    for (n, topic) in order.iter().enumerate() {
        let change = client.next("change").await;
        assert_eq!((&change["topic"], &change["cursor"]), (&json!(topic), &json!(feed.cursor(n as u64 + 1))));
    }
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_client_that_was_away_resumes_from_memory_without_a_loss_or_a_repeat() {
    let gateway = TestGateway::start(&[], "").await;
    let mut feed = gateway.feed(&["a", "b"]).await;
    for n in 1..=10 {
        feed.send(if n % 2 == 0 { "a" } else { "b" }, &n.to_string()).await;
    }
    let mut client = native(&gateway).await;
    let since = feed.cursor(3);
    let answer = client.subscribe(&format!(r#""id":"x","topic":"a","since":"{since}""#)).await;
    assert_eq!(
        (&answer["type"], &answer["resumed"], &answer["cursor"]),
        (&json!("subscribed"), &json!(true), &json!(since))
    );
    for n in [4, 6, 8, 10] {
        let change = client.next("change").await;
        assert_eq!((&change["id"], &change["data"]), (&json!("x"), &json!(n)), "a catch-up carries the id");
    }
    let caught_up = client.next("caught_up").await;
    assert_eq!((&caught_up["id"], &caught_up["cursor"]), (&json!("x"), &json!(feed.cursor(10))), "of its feed");
    feed.send("a", "12").await;
    assert_eq!(client.next("change").await["route"], answer["route"], "and then the route");
    assert_eq!(gateway.metric("rowcast_gateway_resumed_changes_total{from=\"memory\"}").await, 4);
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn what_memory_no_longer_holds_comes_from_the_history() {
    let gateway = TestGateway::start(&["--recent-bytes", "1000"], "").await;
    let mut feed = gateway.feed(&["a"]).await;
    let payload = format!("\"{}\"", "x".repeat(300));
    for _ in 0..50 {
        feed.send("a", &payload).await;
    }
    let mut client = native(&gateway).await;
    let answer = client.subscribe(&format!(r#""topic":"a","since":"{}""#, feed.cursor(1))).await;
    assert_eq!(answer["resumed"], true);
    for n in 2..=50 {
        assert_eq!(client.next("change").await["cursor"], feed.cursor(n));
    }
    assert_eq!(client.next("caught_up").await["cursor"], feed.cursor(50));
    feed.send("a", "1").await;
    assert_eq!(client.next("change").await["cursor"], feed.cursor(51));
    assert!(gateway.metric("rowcast_gateway_resumed_changes_total{from=\"history\"}").await > 0);
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_cursor_that_cannot_be_continued_is_reset_with_the_reason() {
    let bus = MemoryBus::new(Retention { bytes: 600, ms: 600_000 });
    let gateway = TestGateway::over(bus, &["--recent-bytes", "600"], "").await;
    let mut feed = gateway.feed(&["a"]).await;
    for _ in 0..20 {
        feed.send("a", &format!("\"{}\"", "x".repeat(100))).await;
    }
    for (since, reason) in [("zzzz.3".to_owned(), "new_feed"), (feed.cursor(1), "history_trimmed")] {
        let mut client = native(&gateway).await;
        let answer = client.subscribe(&format!(r#""id":"x","topic":"a","since":"{since}""#)).await;
        assert_eq!((&answer["type"], &answer["resumed"]), (&json!("subscribed"), &json!(false)));
        let reset = client.next("reset").await;
        assert_eq!(
            (&reset["id"], &reset["reason"], &reset["cursor"]),
            (&json!("x"), &json!(reason), &json!(feed.cursor(20)))
        );
        feed.batcher = protocol::Batcher::new(feed.id.clone(), feed.epoch, feed.batcher.last());
        assert!(client.is_quiet().await);
    }
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_cursor_ahead_of_everything_is_reset_after_a_while() {
    let gateway = TestGateway::start(&[], "").await;
    let feed = gateway.feed(&["a"]).await;
    let mut client = native(&gateway).await;
    let answer = client.subscribe(&format!(r#""topic":"a","since":"{}""#, feed.cursor(1000))).await;
    assert_eq!(answer["resumed"], false);
    assert_eq!(client.next("reset").await["reason"], "unknown_cursor");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_new_feed_resets_who_is_connected_and_goes_on() {
    let gateway = TestGateway::start(&[], "").await;
    let mut feed = gateway.feed(&["a"]).await;
    let mut client = native(&gateway).await;
    client.subscribe(r#""id":"x","topic":"a""#).await;
    feed.send("a", "1").await;
    client.next("change").await;
    let mut next = TestFeed::begin(&gateway.bus, &["a"]).await;
    let reset = client.next("reset").await;
    assert_eq!((&reset["reason"], &reset["cursor"]), (&json!("new_feed"), &json!(next.cursor(0))));
    next.send("a", "2").await;
    assert_eq!(client.next("change").await["cursor"], next.cursor(1));
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_bus_that_was_emptied_and_refilled_resets_nobody() {
    let gateway = TestGateway::start(&[], "").await;
    let mut feed = gateway.feed(&["a"]).await;
    let mut client = native(&gateway).await;
    client.subscribe(r#""topic":"a""#).await;
    feed.send("a", "1").await;
    client.next("change").await;
    gateway.bus.clear();
    let term = Term { feed: feed.id.clone(), epoch: feed.epoch, after: 1, at: 3, catalogue: feed.catalogue.clone() };
    assert_eq!(gateway.bus.publisher(Source::Notify).begin(&term).await.unwrap(), Answer::Applied);
    feed.send("a", "2").await;
    assert_eq!(client.next("change").await["cursor"], feed.cursor(2), "no reset in between");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_gateway_that_lags_behind_the_bus_repairs_the_gap_from_the_histories() {
    let gateway = TestGateway::start(&["--recent-bytes", "10000000"], "").await;
    let mut feed = gateway.feed(&["a", "b"]).await;
    let mut client = native(&gateway).await;
    client.subscribe(r#""topics":["a","b"]"#).await;
    // Faster than the feed can take it in: the memory bus drops what is 4,096 batches behind.
    for n in 1..=30_000u64 {
        feed.send(if n % 3 == 0 { "a" } else { "b" }, &n.to_string()).await;
    }
    for n in 1..=30_000u64 {
        let change = client.next("change").await;
        assert_eq!((&change["data"], &change["cursor"]), (&json!(n), &json!(feed.cursor(n))));
    }
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_client_that_reads_slowly_falls_behind_and_loses_nothing() {
    let gateway = TestGateway::start(&["--queue-bytes", "20000", "--recent-bytes", "200000"], "").await;
    let mut feed = gateway.feed(&["a"]).await;
    let mut slow = native(&gateway).await;
    slow.subscribe(r#""topic":"a""#).await;
    let mut quick = native(&gateway).await;
    quick.subscribe(r#""topic":"a""#).await;
    let payload = format!("\"{}\"", "x".repeat(5_000));
    for n in 1..=2_000u64 {
        feed.send("a", &payload).await;
        assert_eq!(quick.next("change").await["cursor"], feed.cursor(n), "nobody else notices");
    }
    for n in 1..=2_000u64 {
        assert_eq!(slow.next("change").await["cursor"], feed.cursor(n));
    }
    assert!(gateway.metric("rowcast_gateway_subscriptions_fell_behind_total").await > 0, "it did fall behind");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_client_that_never_reads_is_cut_off() {
    let gateway = TestGateway::start(&["--queue-bytes", "20000", "--stall-ms", "500"], "").await;
    let mut feed = gateway.feed(&["a"]).await;
    let mut stuck = native(&gateway).await;
    stuck.subscribe(r#""topic":"a""#).await;
    let payload = format!("\"{}\"", "x".repeat(50_000));
    tokio::time::timeout(support::PATIENCE, async {
        while gateway.metric("rowcast_gateway_closes_total{code=\"try_again_later\"}").await == 0 {
            feed.send("a", &payload).await;
        }
    })
    .await
    .expect("it is cut off");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_watermark_says_how_far_a_quiet_client_is() {
    let gateway = TestGateway::start(&[], "").await;
    let mut feed = gateway.feed(&["a", "b"]).await;
    let mut client = native(&gateway).await;
    client.subscribe(r#""topic":"a","watermark":{"every_ms":5000}"#).await;
    feed.send("b", "1").await;
    let watermark = client.next("watermark").await;
    assert_eq!(
        (&watermark["cursor"], &watermark["at"]),
        (&json!(feed.cursor(1)), &json!("1970-01-01T00:00:00.000002Z"))
    );
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn what_is_unsubscribed_comes_no_more() {
    let gateway = TestGateway::start(&[], "").await;
    let mut feed = gateway.feed(&["a"]).await;
    let mut client = native(&gateway).await;
    client.subscribe(r#""id":"x","topic":"a""#).await;
    client.send(r#"{"type":"unsubscribe","id":"x"}"#).await;
    assert_eq!(client.next("unsubscribed").await["id"], "x");
    feed.send("a", "1").await;
    assert!(client.is_quiet().await);
    client.send(r#"{"type":"unsubscribe","id":"x"}"#).await;
    assert_eq!(client.next("error").await["code"], "unknown_id");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_refused_message_has_a_code_and_a_reason_and_the_connection_goes_on() {
    let gateway = TestGateway::start(&["--max-subscriptions", "2"], "").await;
    let mut client = native(&gateway).await;
    assert_eq!(client.subscribe(r#""topic":"a""#).await["code"], "not_ready");
    let mut feed = gateway.feed(&["a"]).await;
    let mut unknown = client.subscribe(r#""id":"q","topic":"nobody""#).await;
    // A shard may hear of a feed a moment after the others.
    while unknown["code"] == "not_ready" {
        unknown = client.subscribe(r#""id":"q","topic":"nobody""#).await;
    }
    assert_eq!((&unknown["code"], &unknown["id"]), (&json!("unknown_topic"), &json!("q")));
    assert!(unknown["message"].as_str().unwrap().contains("there are: a"), "{unknown}");
    assert_eq!(client.subscribe(r#""topic":"a","where":"x=eq.1""#).await["code"], "unsupported");
    assert_eq!(client.subscribe(r#""id":"x","topic":"a""#).await["type"], "subscribed");
    assert_eq!(client.subscribe(r#""id":"x","topic":"a""#).await["code"], "duplicate_id");
    assert_eq!(client.subscribe(r#""id":"y","topic":"a""#).await["type"], "subscribed");
    assert_eq!(client.subscribe(r#""id":"z","topic":"a""#).await["code"], "too_many_subscriptions");
    client.send("nonsense").await;
    assert_eq!(client.next("error").await["code"], "bad_json");
    client.send(r#"{"type":"auth","token":"x"}"#).await;
    assert_eq!(client.next("error").await["code"], "unsupported");
    feed.send("a", "\"still here\"").await;
    assert_eq!(client.next("change").await["data"], "still here");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_thousand_subscriptions_at_once_each_get_an_answer() {
    let gateway = TestGateway::start(&[], "").await;
    let mut feed = gateway.feed(&["a"]).await;
    let mut other = native(&gateway).await;
    other.subscribe(r#""topic":"a""#).await;
    let mut client = native(&gateway).await;
    for n in 0..1000 {
        client.send(&format!(r#"{{"type":"subscribe","id":"{n}","topic":"a"}}"#)).await;
    }
    let (mut subscribed, mut refused) = (0, 0);
    for n in 0..1000 {
        let answer = client.json().await;
        assert_eq!(answer["id"], n.to_string());
        match answer["code"].as_str() {
            None => subscribed += 1,
            Some("rate_limited" | "too_many_subscriptions") => refused += 1,
            Some(other) => panic!("{other}"),
        }
    }
    assert_eq!((subscribed, refused), (100, 900));
    feed.send("a", "1").await;
    assert_eq!(other.next("change").await["data"], 1, "nobody else notices");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_payload_that_is_not_json_arrives_as_a_string() {
    let gateway = TestGateway::start(&[], "").await;
    let mut feed = gateway.feed(&["a"]).await;
    let mut client = native(&gateway).await;
    client.subscribe(r#""topic":"a""#).await;
    feed.send("a", "say \"hi\"\n").await;
    assert_eq!(client.next("change").await["data"], "say \"hi\"\n");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_topic_that_no_listener_carries_any_more_ends_its_subscriptions_and_says_so() {
    let gateway = TestGateway::start(&[], "").await;
    let _feed = gateway.feed(&["a", "b"]).await;
    let mut client = native(&gateway).await;
    client.subscribe(r#""id":"of-a","topic":"a""#).await;
    client.subscribe(r#""id":"of-b","topic":"b""#).await;
    let mut next = TestFeed::begin(&gateway.bus, &["b"]).await;
    let (mut resets, mut ended) = (Vec::new(), None);
    while ended.is_none() {
        let message = client.json().await;
        match message["type"].as_str() {
            Some("reset") => resets.push(message["id"].clone()),
            _ => ended = Some(message),
        }
    }
    let ended = ended.unwrap();
    assert_eq!((&ended["id"], &ended["code"]), (&json!("of-a"), &json!("unknown_topic")), "{ended}");
    assert!(resets.contains(&json!("of-b")));
    next.send("b", "1").await;
    assert_eq!(client.next("change").await["data"], 1, "the other goes on");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_client_gets_the_watermarks_of_its_own_feed_alone() {
    let gateway = TestGateway::start(&[], "").await;
    let feed = gateway.feed(&["a"]).await;
    let topic = protocol::Topic::new("l").unwrap();
    let catalogue = protocol::Catalogue::of_channels([topic]);
    let term = Term { feed: protocol::FeedId::random(), epoch: 1, after: 0, at: 1, catalogue };
    assert_eq!(gateway.bus.publisher(Source::Log).begin(&term).await.unwrap(), Answer::Applied);
    while gateway.get("/ws/l/").await.0 != 426 {}
    let mut client = native(&gateway).await;
    client.subscribe(r#""topic":"a","watermark":{"every_ms":5000}"#).await;
    assert_eq!(client.next("watermark").await["cursor"], feed.cursor(0));
    assert!(client.is_quiet().await, "another feed's would be taken for a cursor of its own");
    gateway.shutdown.cancel();
}
