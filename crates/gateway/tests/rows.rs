//! Rows of watched tables, over real sockets: what each form of subscription gets, byte for byte.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::time::{Duration, Instant};

use protocol::Op;
use serde_json::{Value, json};
use support::{Client, TestFeed, TestGateway, row};

async fn native(gateway: &TestGateway) -> Client {
    let mut client = gateway.connect("/rowcast").await;
    client.next("hello").await;
    client
}

/// What a client gets, and nothing after it: each with its offset and the transaction.
async fn gets(client: &mut Client, feed: &TestFeed, expected: &[(u64, &str)]) {
    for (offset, what) in expected {
        let message = client.json().await;
        let end = if message["tx_end"] == true { " tx_end" } else { "" };
        let got = format!("{} of {}{end}", message["type"].as_str().unwrap(), message["tx"].as_str().unwrap_or("none"));
        assert_eq!((message["cursor"].as_str().unwrap(), &*got), (&*feed.cursor(*offset), *what), "{message}");
    }
    assert!(client.is_quiet().await);
}

#[tokio::test]
async fn a_row_arrives_in_every_form_byte_for_byte() {
    let config = "[[endpoint]]\npath = \"/ws/wrapped/\"\ntopics = [\"public.orders\"]\nwrap = \"data\"\n";
    let gateway = TestGateway::start(&[], config).await;
    let mut feed = gateway.log(&["public.orders"]).await;
    let mut live = native(&gateway).await;
    let route = live.subscribe(r#""topic":"public.orders""#).await["route"].clone();
    let mut plain = gateway.connect("/ws/public.orders/").await;
    let mut wrapped = gateway.connect("/ws/wrapped/").await;
    let data = r#"{"id":1, "price":10.50,"größe":"ä \" \\"}"#;
    feed.send_row("public.orders", &row(Op::Update, (7431, 1), data, r#"{"id":1}"#)).await;
    feed.send_row("public.orders", &row(Op::Truncate, (7432, 2), "", "")).await;
    let change = |to: &str| {
        format!(
            r#"{{"type":"change",{to},"cursor":"{}","topic":"public.orders","op":"UPDATE","key":["id"],"data":{data},"old":{{"id":1}},"at":"1970-01-01T00:00:00.000000Z","tx":"7431","tx_end":true}}"#,
            feed.cursor(1)
        )
    };
    assert_eq!(live.text().await, change(&format!(r#""route":{route}"#)));
    let truncate = live.json().await;
    assert_eq!((&truncate["op"], &truncate["data"], truncate.get("old")), (&json!("TRUNCATE"), &Value::Null, None));
    let body = format!(r#"{{"table":"public.orders","op":"UPDATE","data":{data},"old":{{"id":1}}}}"#);
    assert_eq!(plain.text().await, body);
    assert_eq!(plain.text().await, r#"{"table":"public.orders","op":"TRUNCATE","data":null}"#);
    assert_eq!(wrapped.text().await, format!(r#"{{"data":{body}}}"#));
    let mut late = native(&gateway).await;
    late.subscribe(&format!(r#""id":"x","topic":"public.orders","since":"{}""#, feed.cursor(0))).await;
    assert_eq!(late.text().await, change(r#""id":"x""#));
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_transaction_ends_for_each_subscription_with_its_own_last_change() {
    let gateway = TestGateway::start(&[], "").await;
    let mut feed = gateway.log(&["a", "b"]).await;
    let (mut only_a, mut only_b, mut both) = (native(&gateway).await, native(&gateway).await, native(&gateway).await);
    only_a.subscribe(r#""topic":"a""#).await;
    only_b.subscribe(r#""topic":"b""#).await;
    both.subscribe(r#""topics":["a","b"]"#).await;
    // Two transactions in one batch, the second ends on a topic of its own.
    for (topic, tx) in [("a", (5, 3)), ("b", (5, 3)), ("a", (5, 3)), ("a", (6, 6)), ("a", (6, 6)), ("b", (6, 6))] {
        feed.push_row(topic, &row(Op::Insert, tx, "{}", ""));
    }
    feed.publish().await;
    let of_a = [(1, "change of 5"), (3, "change of 5 tx_end"), (4, "change of 6"), (5, "change of 6 tx_end")];
    let of_b = [(2, "change of 5 tx_end"), (6, "change of 6 tx_end")];
    let of_both = [
        (1, "change of 5"),
        (2, "change of 5"),
        (3, "change of 5 tx_end"),
        (4, "change of 6"),
        (5, "change of 6"),
        (6, "change of 6 tx_end"),
    ];
    gets(&mut only_a, &feed, &of_a).await;
    gets(&mut only_b, &feed, &of_b).await;
    gets(&mut both, &feed, &of_both).await;
    // And so from memory.
    for (topics, expected) in [(r#"["a"]"#, &of_a[..]), (r#"["b"]"#, &of_b), (r#"["a","b"]"#, &of_both)] {
        let mut late = native(&gateway).await;
        late.subscribe(&format!(r#""topics":{topics},"since":"{}""#, feed.cursor(0))).await;
        gets(&mut late, &feed, &[expected, &[(6, "caught_up of none")]].concat()).await;
    }
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_transaction_larger_than_a_batch_ends_where_that_is_known() {
    for recent_bytes in ["1000000", "100"] {
        let gateway = TestGateway::start(&["--recent-bytes", recent_bytes], "").await;
        let mut feed = gateway.log(&["a", "b"]).await;
        let mut only_a = native(&gateway).await;
        only_a.subscribe(r#""topic":"a""#).await;
        let mut both = native(&gateway).await;
        both.subscribe(r#""topics":["a","b"]"#).await;
        // 5 ends in the third batch, in which only_a has nothing of it; 6 in the fourth, in which it
        // has something of the next one.
        let batches: [&[(&str, (u64, u64))]; 5] = [
            &[("a", (5, 4))],
            &[("a", (5, 4)), ("b", (5, 4))],
            &[("b", (5, 4)), ("a", (6, 6))],
            &[("b", (6, 6)), ("a", (7, 7))],
            &[("b", (8, 8))],
        ];
        for batch in batches {
            for (topic, tx) in batch {
                feed.push_row(topic, &row(Op::Insert, *tx, "{}", ""));
            }
            feed.publish().await;
        }
        let live = [
            (1, "change of 5"),
            (2, "change of 5"),
            (4, "tx_end of 5"),
            (5, "change of 6"),
            (6, "tx_end of 6"),
            (7, "change of 7 tx_end"),
        ];
        gets(&mut only_a, &feed, &live).await;
        let of_both = [
            (1, "change of 5"),
            (2, "change of 5"),
            (3, "change of 5"),
            (4, "change of 5 tx_end"),
            (5, "change of 6"),
            (6, "change of 6 tx_end"),
            (7, "change of 7 tx_end"),
            (8, "change of 8 tx_end"),
        ];
        gets(&mut both, &feed, &of_both).await;
        // Who comes later has the batches that are in memory as others had them. Of the history it has all
        // at once, and then knows where each ends.
        let at_once =
            [(1, "change of 5"), (2, "change of 5 tx_end"), (5, "change of 6 tx_end"), (7, "change of 7 tx_end")];
        let mut late = native(&gateway).await;
        late.subscribe(&format!(r#""topic":"a","since":"{}""#, feed.cursor(0))).await;
        let before = if recent_bytes == "100" { &at_once[..] } else { &live };
        gets(&mut late, &feed, &[before, &[(8, "caught_up of none")]].concat()).await;
        // One that catches up in the middle of a transaction, and gets its end live.
        feed.push_row("a", &row(Op::Insert, (9, 10), "{}", "")).publish().await;
        let mut middle = native(&gateway).await;
        middle.subscribe(&format!(r#""id":"m","topic":"a","since":"{}""#, feed.cursor(8))).await;
        gets(&mut middle, &feed, &[(9, "change of 9"), (9, "caught_up of none")]).await;
        feed.push_row("b", &row(Op::Insert, (9, 10), "{}", "")).publish().await;
        gets(&mut middle, &feed, &[(10, "tx_end of 9")]).await;
        gateway.shutdown.cancel();
    }
}

#[tokio::test]
async fn who_falls_behind_in_a_transaction_still_gets_its_end() {
    let gateway = TestGateway::start(&["--queue-bytes", "20000", "--recent-bytes", "100000000"], "").await;
    let mut feed = gateway.log(&["a", "b"]).await;
    let mut slow = native(&gateway).await;
    slow.subscribe(r#""topic":"a""#).await;
    // More than both ends' kernels take.
    let data = format!("\"{}\"", "x".repeat(20_000));
    // A transaction has a change of each topic, and the two lie in different batches: wherever it
    // falls behind, one is open, and the next batch ends it and has something of the next one.
    for n in 1..=1_000u64 {
        feed.push_row("a", &row(Op::Insert, (n, 2 * n), &data, "")).publish().await;
        feed.push_row("b", &row(Op::Insert, (n, 2 * n), "{}", ""));
    }
    feed.publish().await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while gateway.metric("rowcast_gateway_subscriptions_fell_behind_total").await == 0 {
        assert!(Instant::now() < deadline, "it falls behind");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (mut tx, mut changes, mut ended) = (0, 0, true);
    while tx < 1_000 || !ended {
        let message = slow.json().await;
        if message["type"] == "caught_up" {
            continue;
        }
        let of: u64 = message["tx"].as_str().unwrap().parse().unwrap();
        if of != tx {
            assert!(ended && changes == u64::from(tx > 0), "{tx} has {changes} changes, ended: {ended}");
            (tx, changes, ended) = (of, 0, false);
        }
        assert!(!ended, "nothing after the end: {message}");
        changes += u64::from(message["type"] == "change");
        ended = message["type"] == "tx_end" || message["tx_end"] == true;
    }
    gateway.shutdown.cancel();
}
