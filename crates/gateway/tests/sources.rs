//! Two sources at one gateway, some of whose topics have the same name.

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
async fn a_channel_named_like_a_watched_table_does_not_mix_with_it() {
    let gateway = TestGateway::start(&[], "").await;
    let mut channel = gateway.feed(&["t", "only_channel"]).await;
    let mut table = gateway.log(&["only_table", "t"]).await;
    let (mut client, mut plain) = (native(&gateway).await, gateway.connect("/ws/t/").await);
    assert_eq!(client.subscribe(r#""topic":"t""#).await["cursor"], table.cursor(0), "the log comes first");
    for n in 1..=3u64 {
        channel.send("t", "\"from the channel\"").await;
        channel.send("only_channel", "1").await;
        table.insert("t", &format!("{{\"n\":{n}}}")).await;
        assert_eq!(client.next("change").await["cursor"], table.cursor(n));
        assert_eq!(plain.text().await, format!("{{\"table\":\"t\",\"op\":\"INSERT\",\"data\":{{\"n\":{n}}}}}"));
    }
    // What one feed is told is not for who is on the other.
    let mut channel = gateway.feed(&["t", "only_channel"]).await;
    channel.send("t", "2").await;
    assert!(client.is_quiet().await);
    let mixed = client.subscribe(r#""topics":["only_channel","only_table","t"]"#).await;
    assert_eq!(mixed["code"], "mixed_feeds");
    let names = mixed["message"].as_str().unwrap();
    assert!(names.contains("only_table, t and only_channel"), "{names}");
    // Together with a topic that only the channels have, it is the channel.
    assert_eq!(client.subscribe(r#""topics":["only_channel","t"]"#).await["cursor"], channel.cursor(1));
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn who_resumes_goes_on_with_the_feed_of_its_cursor() {
    let gateway = TestGateway::start(&[], "").await;
    let mut channel = gateway.feed(&["t"]).await;
    channel.send("t", "1").await;
    let mut table = gateway.log(&["t"]).await;
    table.insert("t", "{}").await;
    for feed in [&channel, &table] {
        let mut client = native(&gateway).await;
        let answer = client.subscribe(&format!(r#""id":"x","topic":"t","since":"{}""#, feed.cursor(0))).await;
        assert_eq!(answer["resumed"], true, "{answer}");
        assert_eq!(client.next("change").await["cursor"], feed.cursor(1));
        assert_eq!(client.next("caught_up").await["cursor"], feed.cursor(1));
        assert!(client.is_quiet().await);
    }
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn losses_of_one_source_are_not_told_to_who_is_on_the_other() {
    let bus = MemoryBus::new(Retention { bytes: 5_000, ms: 600_000 });
    let gateway = TestGateway::over(bus, &[], "").await;
    let mut channel = gateway.feed(&["t"]).await;
    let mut on_channel = native(&gateway).await;
    on_channel.subscribe(r#""id":"x","topic":"t""#).await;
    let mut table = gateway.log(&["t"]).await;
    let mut on_table = native(&gateway).await;
    on_table.subscribe(r#""topic":"t""#).await;
    // The feed shares this thread, so all this is behind it: too much for the bus' channel and for
    // its history.
    for n in 1..=5_000u64 {
        channel.send("t", &n.to_string()).await;
    }
    assert_eq!(on_channel.next("reset").await["reason"], "history_trimmed");
    table.insert("t", "{}").await;
    assert_eq!(on_table.next("change").await["cursor"], table.cursor(1), "nothing else before it");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_table_that_is_no_longer_watched_ends_its_subscriptions_and_gives_way_to_the_channel() {
    let gateway = TestGateway::start(&[], "").await;
    let mut channel = gateway.feed(&["t"]).await;
    let mut table = gateway.log(&["t", "other"]).await;
    let (mut client, mut plain) = (native(&gateway).await, gateway.connect("/ws/t/").await);
    client.subscribe(r#""id":"of-t","topic":"t""#).await;
    client.subscribe(r#""id":"of-other","topic":"other""#).await;
    let catalogue = protocol::Catalogue::of_channels([protocol::Topic::new("other").unwrap()]);
    let term = Term { feed: table.id.clone(), epoch: table.epoch + 1_000_000, after: 0, at: 2, catalogue };
    assert_eq!(gateway.bus.publisher(Source::Log).begin(&term).await.unwrap(), Answer::Applied);
    let ended = client.next("error").await;
    assert_eq!((&ended["id"], &ended["code"]), (&json!("of-t"), &json!("unknown_topic")), "{ended}");
    assert!(ended["message"].as_str().unwrap().contains("now of the notify source"), "{ended}");
    channel.send("t", "1").await;
    assert_eq!(plain.text().await, "1");
    table.batcher = protocol::Batcher::new(table.id.clone(), term.epoch, 0);
    table.insert("other", "{}").await;
    assert_eq!(client.next("change").await["topic"], "other", "the other goes on");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_plain_endpoint_takes_what_is_watched_later() {
    let config = "[[endpoint]]\npath = \"/ws/mine/\"\ntopics = [\"t\", \"u\"]\n";
    let gateway = TestGateway::start(&[], config).await;
    let mut plain = gateway.connect("/ws/mine/").await;
    let mut channel = gateway.feed(&["t"]).await;
    let mut table = gateway.log(&["u"]).await;
    channel.send("t", "1").await;
    assert_eq!(plain.text().await, "1");
    table.insert("u", "{}").await;
    assert_eq!(plain.text().await, "{\"table\":\"u\",\"op\":\"INSERT\",\"data\":{}}");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn who_asks_for_what_is_not_there_is_told_what_is() {
    let gateway = TestGateway::start(&[], "").await;
    let _channel = TestFeed::begin(&gateway.bus, &["channel", "public.b"]).await;
    let _table = gateway.log(&["public.b", "public.a"]).await;
    gateway.until_it_carries("channel").await;
    let mut client = native(&gateway).await;
    let refused = client.subscribe(r#""topic":"orders""#).await;
    let text = "no listener carries 'orders'; there are: channel, public.a, public.b";
    assert_eq!((&refused["code"], &refused["message"]), (&json!("unknown_topic"), &json!(text)));
    let (status, answer) = gateway.get("/ws/orders/").await;
    assert_eq!(status, 404);
    assert!(answer.contains("topics are: channel, public.a, public.b\""), "{answer}");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_gateway_that_has_just_started_does_not_deny_a_table_before_the_log_has_told() {
    let gateway = TestGateway::start(&[], "").await;
    let _channel = gateway.feed(&["channel"]).await;
    let mut client = native(&gateway).await;
    assert_eq!(client.subscribe(r#""topic":"public.orders""#).await["code"], "not_ready");
    assert_eq!(gateway.get("/ws/public.orders/").await.0, 503);
    assert_eq!(client.subscribe(r#""topic":"orders""#).await["code"], "unknown_topic", "no table is called so");
    let denied = async {
        while client.subscribe(r#""topic":"public.orders""#).await["code"] != "unknown_topic" {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(support::PATIENCE, denied).await.expect("it has waited long enough");
    assert_eq!(gateway.get("/ws/public.orders/").await.0, 404);
    gateway.shutdown.cancel();
}
