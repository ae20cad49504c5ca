//! Conflation, over real sockets: who asks for it gets what a row's changes come to.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::{collections::BTreeMap, time::Duration};

use protocol::{Catalogue, Op, Source, Topic};
use serde_json::{Value, json};
use support::{Client, TestFeed, TestGateway, row};

const TABLE: &str = "public.orders";

async fn native(gateway: &TestGateway) -> Client {
    let mut client = gateway.connect("/rowcast").await;
    client.next("hello").await;
    client
}

/// A client whose changes are conflated.
async fn conflating(gateway: &TestGateway, every_ms: u64, rest: &str) -> (Client, Value) {
    let mut client = native(gateway).await;
    let subscribe = format!(r#""topic":"{TABLE}","conflate":{{"every_ms":{every_ms}}}{rest}"#);
    let answer = client.subscribe(&subscribe).await;
    assert_eq!(answer["type"], "subscribed", "{answer}");
    (client, answer)
}

fn order(id: u64, total: u64) -> String {
    format!(r#"{{"id":{id},"total":{total}}}"#)
}

impl TestFeed {
    fn push_change(&mut self, op: Op, data: &str, old: &str) {
        let last = self.batcher.last() + 1;
        self.push_row(TABLE, &row(op, (last, last), data, old));
    }

    async fn change(&mut self, op: Op, data: &str, old: &str) {
        self.push_change(op, data, old);
        self.publish().await;
    }

    async fn set(&mut self, id: u64, from: u64, to: u64) {
        self.change(Op::Update, &order(id, to), &order(id, from)).await;
    }
}

/// The next changes: cursor, op, data and old.
async fn gets(client: &mut Client, feed: &TestFeed, expected: &[(u64, Op, Value, Value)]) {
    for (offset, op, data, old) in expected {
        let change = client.next("change").await;
        let got = (&change["cursor"], &change["op"], &change["data"], &change["old"]);
        assert_eq!(got, (&json!(feed.cursor(*offset)), &json!(op.as_str()), data, old), "{change}");
        assert!(change.get("tx").is_none() && change.get("tx_end").is_none(), "it is no transaction: {change}");
    }
}

#[tokio::test]
async fn the_first_change_comes_at_once_and_what_follows_comes_together() {
    let gateway = TestGateway::start(&["--shards", "1"], "").await;
    let mut feed = gateway.log(&[TABLE]).await;
    let (mut client, _) = conflating(&gateway, 1_000, "").await;
    let (mut other, _) = conflating(&gateway, 1_000, "").await;
    let mut every = native(&gateway).await;
    every.subscribe(&format!(r#""topic":"{TABLE}""#)).await;
    feed.change(Op::Insert, &order(1, 0), "").await;
    gets(&mut client, &feed, &[(1, Op::Insert, json!({"id":1,"total":0}), Value::Null)]).await;
    feed.change(Op::Insert, &order(2, 0), "").await;
    for total in 1..=20 {
        feed.set(1, total - 1, total).await;
        feed.set(2, total - 1, total).await;
    }
    feed.change(Op::Delete, "", &order(2, 20)).await;
    let together = [
        // In the order in which the rows first changed. Only the last one has the cursor of all.
        (1, Op::Delete, Value::Null, json!({"id":2,"total":20})),
        (43, Op::Update, json!({"id":1,"total":20}), json!({"id":1,"total":0})),
    ];
    gets(&mut client, &feed, &together).await;
    gets(&mut other, &feed, &[(1, Op::Insert, json!({"id":1,"total":0}), Value::Null)]).await;
    gets(&mut other, &feed, &together).await;
    assert!(client.is_quiet().await && other.is_quiet().await);
    for offset in 1..=43 {
        assert_eq!(every.next("change").await["cursor"], feed.cursor(offset), "others get each change");
    }
    // Once for both: 20 of the one row, and of the other all that came before its end.
    assert_eq!(gateway.metric("rowcast_gateway_conflated_changes_total").await, 19 + 21);
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn what_cannot_be_joined_does_not_wait_and_comes_after_all_that_does() {
    let gateway = TestGateway::start(&[], "").await;
    let mut feed = gateway.log(&[TABLE]).await;
    let (mut client, _) = conflating(&gateway, 60_000, "").await;
    feed.change(Op::Insert, &order(1, 0), "").await;
    feed.set(1, 0, 1).await;
    feed.set(1, 1, 2).await;
    // One of them is in the middle of a batch.
    feed.push_change(Op::Update, r#"{"id":7}"#, &order(1, 2));
    feed.push_change(Op::Update, r#"{"id":7,"total":1}"#, r#"{"id":7}"#);
    feed.publish().await;
    feed.change(Op::Truncate, "", "").await;
    let expected = [
        (1, Op::Insert, json!({"id":1,"total":0}), Value::Null),
        (1, Op::Update, json!({"id":1,"total":2}), json!({"id":1,"total":0})),
        (4, Op::Update, json!({"id":7}), json!({"id":1,"total":2})),
        (4, Op::Update, json!({"id":7,"total":1}), json!({"id":7})),
        (6, Op::Truncate, Value::Null, Value::Null),
    ];
    gets(&mut client, &feed, &expected).await;
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn what_has_grown_too_large_does_not_wait() {
    let gateway = TestGateway::start(&["--queue-bytes", "65536"], "").await;
    let mut feed = gateway.log(&[TABLE]).await;
    let (mut client, _) = conflating(&gateway, 60_000, "").await;
    for id in 0..101 {
        feed.insert(TABLE, &format!(r#"{{"id":{id},"note":"{}"}}"#, "x".repeat(1_000))).await;
    }
    for id in 0..60 {
        assert_eq!(client.next("change").await["data"]["id"], id);
    }
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn without_a_key_it_is_refused() {
    let gateway = TestGateway::start(&[], "").await;
    gateway.feed(&["channel"]).await;
    let keyless = Catalogue::of_channels([Topic::new("public.keyless").unwrap()]);
    TestFeed::begin_with(&gateway.bus, Source::Log, keyless).await;
    gateway.until_it_carries("public.keyless").await;
    let mut client = native(&gateway).await;
    for (topic, why) in [("channel", "NOTIFY channel"), ("public.keyless", "no primary key")] {
        let refused = client.subscribe(&format!(r#""id":"x","topic":"{topic}","conflate":{{"every_ms":250}}"#)).await;
        assert_eq!((&refused["code"], &refused["id"]), (&json!("no_key"), &json!("x")), "{refused}");
        let message = refused["message"].as_str().unwrap();
        assert!(message.contains(topic) && message.contains(why), "{message}");
    }
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn who_resumes_gets_what_it_missed_conflated_from_memory_and_from_the_history() {
    for flags in [&[][..], &["--recent-bytes", "1000"]] {
        let gateway = TestGateway::start(&[&["--shards", "1"], flags].concat(), "").await;
        let mut feed = gateway.log(&[TABLE]).await;
        feed.change(Op::Insert, &order(1, 0), "").await;
        for total in 1..=500 {
            feed.set(1, total - 1, total).await;
        }
        gateway.until_it_has_all(&feed, TABLE).await;
        let since = feed.cursor(1);
        let (mut client, answer) = conflating(&gateway, 60_000, &format!(r#","id":"x","since":"{since}""#)).await;
        assert_eq!((&answer["cursor"], &answer["resumed"]), (&json!(since), &json!(true)));
        let change = client.next("change").await;
        assert_eq!((&change["id"], &change["cursor"]), (&json!("x"), &json!(feed.cursor(501))));
        assert_eq!((&change["data"]["total"], &change["old"]["total"]), (&json!(500), &json!(0)));
        if flags.is_empty() {
            // Who comes with the same cursor gets the same frames, and nothing is worked out again.
            let joined = gateway.metric("rowcast_gateway_conflated_changes_total").await;
            let (mut again, _) = conflating(&gateway, 60_000, &format!(r#","id":"x","since":"{since}""#)).await;
            assert_eq!(again.next("change").await, change);
            assert_eq!(gateway.metric("rowcast_gateway_conflated_changes_total").await, joined);
        }
        assert_eq!(client.next("caught_up").await["cursor"], feed.cursor(501));
        // Then it is live, and its route hands on at once after a pause.
        feed.set(1, 500, 501).await;
        let change = client.next("change").await;
        assert_eq!((&change["route"], &change["data"]["total"]), (&answer["route"], &json!(501)));
        gateway.shutdown.cancel();
    }
}

#[tokio::test]
async fn who_comes_or_resumes_while_something_waits_gets_all_of_it() {
    let gateway = TestGateway::start(&["--shards", "1"], "").await;
    let mut feed = gateway.log(&[TABLE]).await;
    let (mut first, _) = conflating(&gateway, 1_500, "").await;
    feed.change(Op::Insert, &order(1, 0), "").await;
    first.next("change").await;
    for total in 1..=3 {
        feed.set(1, total - 1, total).await;
    }
    feed.change(Op::Insert, &order(2, 0), "").await;
    gateway.until_it_has_all(&feed, TABLE).await;
    // It is subscribed from before what waits.
    let (mut second, answer) = conflating(&gateway, 1_500, "").await;
    assert_eq!(answer["cursor"], feed.cursor(1));
    // This one had all of it elsewhere: what waits is handed on, and not to it.
    let (mut third, _) = conflating(&gateway, 1_500, &format!(r#","since":"{}""#, feed.cursor(4))).await;
    let waited = [
        (1, Op::Update, json!({"id":1,"total":3}), json!({"id":1,"total":0})),
        (5, Op::Insert, json!({"id":2,"total":0}), Value::Null),
    ];
    gets(&mut first, &feed, &waited).await;
    gets(&mut second, &feed, &waited).await;
    gets(&mut third, &feed, &waited[1..]).await;
    // Who was cut off within it has the cursor from before, and gets all of it again.
    let (mut again, _) = conflating(&gateway, 1_500, &format!(r#","since":"{}""#, feed.cursor(1))).await;
    gets(&mut again, &feed, &waited).await;
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_watermark_follows_what_waited() {
    let gateway = TestGateway::start(&[], "").await;
    let mut feed = gateway.log(&[TABLE]).await;
    let (mut client, _) = conflating(&gateway, 400, r#","watermark":{"every_ms":5000}"#).await;
    feed.change(Op::Insert, &order(1, 0), "").await;
    let mut last = client.next("change").await["cursor"].clone();
    // Something waits nearly all the time.
    let mut total = 0;
    let watermark = loop {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(5)) => {
                feed.set(1, total, total + 1).await;
                total += 1;
                assert!(total < 4_000, "no watermark for 20 s");
            }
            message = client.json() => match message["type"].as_str() {
                Some("change") => last = message["cursor"].clone(),
                _ => break message,
            }
        }
    };
    assert_eq!((&watermark["type"], &watermark["cursor"]), (&json!("watermark"), &last), "right behind the change");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn what_waits_comes_before_a_reset() {
    let gateway = TestGateway::start(&[], "").await;
    let mut feed = gateway.log(&[TABLE]).await;
    let (mut client, _) = conflating(&gateway, 60_000, "").await;
    feed.change(Op::Insert, &order(1, 0), "").await;
    feed.set(1, 0, 1).await;
    let fresh = gateway.log(&[TABLE]).await;
    gets(&mut client, &feed, &[(1, Op::Insert, json!({"id":1,"total":0}), Value::Null)]).await;
    assert_eq!(client.next("change").await["data"]["total"], 1);
    let reset = client.next("reset").await;
    assert_eq!((&reset["reason"], &reset["cursor"]), (&json!("new_feed"), &json!(fresh.cursor(0))));
    gateway.shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_slowly_gets_the_rows_as_they_are_when_it_does() {
    let flags = ["--queue-bytes", "65536", "--recent-bytes", "1000000"];
    let bus = bus::MemoryBus::new(bus::Retention { bytes: 200_000_000, ms: 600_000 });
    let gateway = TestGateway::over(bus, &flags, "").await;
    let mut feed = gateway.log(&[TABLE]).await;
    let (mut slow, _) = conflating(&gateway, 20, "").await;
    let mut naive = native(&gateway).await;
    naive.subscribe(&format!(r#""topic":"{TABLE}""#)).await;
    // 60 MB of changes: more than kernels, ring and memory keep.
    let wide = |id: u64, total: u64| format!(r#"{{"id":{id},"total":{total},"note":"{}"}}"#, "x".repeat(2_000));
    for id in 0..5 {
        feed.push_change(Op::Insert, &wide(id, 0), "");
    }
    feed.publish().await;
    for total in 1..=3_000 {
        for id in 0..5 {
            feed.push_change(Op::Update, &wide(id, total), &wide(id, total - 1));
        }
        if total % 10 == 0 {
            feed.publish().await;
        }
    }
    let mut totals = BTreeMap::new();
    let mut frames = 0;
    while totals.len() < 5 || totals.values().any(|total| *total != 3_000) {
        let change = slow.json().await;
        if change["type"] == "caught_up" {
            continue;
        }
        let (id, total) = (change["data"]["id"].as_u64().unwrap(), change["data"]["total"].as_u64().unwrap());
        let before = totals.insert(id, total);
        assert_eq!(change["old"]["total"].as_u64(), before, "what it has had");
        frames += 1;
    }
    assert!(frames < 5_000, "conflated: {frames} frames for 15,005 changes");
    for offset in 1..=15_005 {
        let mut message = naive.json().await;
        while message["type"] == "caught_up" {
            message = naive.json().await;
        }
        assert_eq!((&message["type"], &message["cursor"]), (&json!("change"), &json!(feed.cursor(offset))));
    }
    gateway.shutdown.cancel();
}
