//! Crowds that resume at once, from the histories.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::time::Duration;

use bus::{Answer, MemoryBus, Retention, Term};
use protocol::{Batcher, Source};
use serde_json::json;
use support::{Client, TestFeed, TestGateway};

const READS: &str = "rowcast_gateway_history_reads_total";

async fn native(gateway: &TestGateway) -> Client {
    let mut client = gateway.connect("/rowcast").await;
    client.next("hello").await;
    client
}

/// A feed with this many changes, of which the gateway has the last few in memory.
async fn feed_of(gateway: &TestGateway, changes: u64) -> TestFeed {
    let mut feed = gateway.log(&["t", "other"]).await;
    for n in 1..=changes {
        feed.push("t", &n.to_string());
        if n % 10 == 0 {
            feed.publish().await;
        }
    }
    feed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_that_resumes_from_the_same_stretch_costs_few_reads() {
    const CROWD: u64 = 2_000;
    let gateway = TestGateway::start(&["--recent-bytes", "1000"], "").await;
    let feed = feed_of(&gateway, 3_000).await;
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        crowd.push(native(&gateway).await);
    }
    // All at once, each from a place of its own, in no order.
    let resuming = crowd.into_iter().zip(0..).map(|(mut client, n)| {
        let after = 2_700 + n * 7 % 200;
        let (since, cursors) = (feed.cursor(after), (after + 1..=3_000).map(|n| feed.cursor(n)).collect::<Vec<_>>());
        tokio::spawn(async move {
            let answer = client.subscribe(&format!(r#""topics":["t","other"],"since":"{since}""#)).await;
            assert_eq!((&answer["cursor"], &answer["resumed"]), (&json!(since), &json!(true)));
            for cursor in cursors {
                assert_eq!(client.next("change").await["cursor"], cursor);
            }
            client
        })
    });
    let mut resumed = Vec::new();
    for client in resuming.collect::<Vec<_>>() {
        resumed.push(client.await.unwrap());
    }
    let reads = gateway.metric(READS).await;
    assert!((1..=20).contains(&reads), "{reads} reads");
    assert!(gateway.metric("rowcast_gateway_resumed_changes_total{from=\"history\"}").await > CROWD * 50);
    gateway.shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_crowd_each_is_told_by_its_own_place_whether_something_is_lost() {
    const CROWD: u64 = 500;
    let bus = MemoryBus::new(Retention { bytes: 20_000, ms: 600_000 });
    let gateway = TestGateway::over(bus, &["--recent-bytes", "100"], "").await;
    let feed = feed_of(&gateway, 2_000).await;
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        crowd.push(native(&gateway).await);
    }
    let resuming = crowd.into_iter().zip(0..).map(|(mut client, n)| {
        let after = n * 4;
        let (since, next, last) = (feed.cursor(after), feed.cursor(after + 1), feed.cursor(2_000));
        tokio::spawn(async move {
            let resumed = client.subscribe(&format!(r#""topic":"t","since":"{since}""#)).await["resumed"] == true;
            if resumed {
                assert_eq!(client.next("change").await["cursor"], next);
            } else {
                let reset = client.next("reset").await;
                assert_eq!((&reset["reason"], &reset["cursor"]), (&json!("history_trimmed"), &json!(last)));
            }
            (after, resumed)
        })
    });
    let mut answers = Vec::new();
    for client in resuming.collect::<Vec<_>>() {
        answers.push(client.await.unwrap());
    }
    let kept = answers.iter().filter(|(_, resumed)| *resumed).count();
    assert!((50..450).contains(&kept), "{kept} of {CROWD} were resumed");
    assert!(answers.is_sorted_by_key(|(_, resumed)| *resumed), "what is kept is the end of it");
    let reads = gateway.metric(READS).await;
    assert!(reads <= 60, "{reads} reads");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_slow_reader_of_a_long_history_gets_all_of_it() {
    let gateway = TestGateway::start(&["--recent-bytes", "1000", "--queue-bytes", "50000"], "").await;
    let mut feed = gateway.log(&["t"]).await;
    let fill = "x".repeat(20_000);
    for n in 1..=500 {
        feed.insert("t", &format!("[{n},\"{fill}\"]")).await;
    }
    let mut client = native(&gateway).await;
    client.subscribe(&format!(r#""topic":"t","since":"{}""#, feed.cursor(0))).await;
    for n in 1..=500u64 {
        if n % 50 == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let change = client.next("change").await;
        assert_eq!((&change["cursor"], &change["data"][0]), (&json!(feed.cursor(n)), &json!(n)));
    }
    let reads = gateway.metric(READS).await;
    assert!(reads < 50, "{reads} reads of 10 MB");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn who_resumes_while_the_bus_is_refilled_waits_and_is_not_reset() {
    let gateway = TestGateway::start(&["--recent-bytes", "100"], "").await;
    let mut feed = feed_of(&gateway, 20).await;
    let mut live = native(&gateway).await;
    live.subscribe(r#""topic":"t""#).await;
    gateway.bus.clear();
    // One cursor that this gateway has seen, and one that only another gateway has.
    let (mut seen, mut ahead) = (native(&gateway).await, native(&gateway).await);
    for (client, after) in [(&mut seen, 5), (&mut ahead, 22)] {
        client.send(&format!(r#"{{"type":"subscribe","topic":"t","since":"{}"}}"#, feed.cursor(after))).await;
    }
    // Longer than a cursor of the channels may be ahead.
    tokio::time::sleep(Duration::from_secs(6)).await;
    for client in [&mut seen, &mut ahead, &mut live] {
        assert!(client.is_quiet().await, "it waits");
    }
    assert_eq!(gateway.get("/readyz").await.0, 200, "nobody is helped by another gateway");
    let term = Term { feed: feed.id.clone(), epoch: feed.epoch, after: 0, at: 3, catalogue: feed.catalogue.clone() };
    assert_eq!(gateway.bus.publisher(Source::Log).begin(&term).await.unwrap(), Answer::Applied);
    feed.batcher = Batcher::new(feed.id.clone(), feed.epoch, 0);
    for n in 1..=25 {
        feed.send("t", &n.to_string()).await;
    }
    for (client, after) in [(&mut seen, 5), (&mut ahead, 22), (&mut live, 20)] {
        if after != 20 {
            let answer = client.next("subscribed").await;
            assert_eq!((&answer["cursor"], &answer["resumed"]), (&json!(feed.cursor(after)), &json!(true)));
        }
        for n in after + 1..=25 {
            let mut message = client.json().await;
            // It may have caught up before the next one is published, and again.
            while message["type"] == "caught_up" {
                message = client.json().await;
            }
            assert_eq!((&message["type"], &message["cursor"]), (&json!("change"), &json!(feed.cursor(n))));
        }
    }
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_cursor_that_a_complete_log_does_not_reach_is_unknown() {
    let gateway = TestGateway::start(&[], "").await;
    let mut feed = gateway.log(&["t"]).await;
    let mut client = native(&gateway).await;
    client.send(&format!(r#"{{"type":"subscribe","topic":"t","since":"{}"}}"#, feed.cursor(1_000))).await;
    let started = std::time::Instant::now();
    let watermarks = async {
        loop {
            feed.publish().await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    tokio::select! {
        () = watermarks => {}
        answer = client.next("subscribed") => assert_eq!(answer["resumed"], false),
    }
    assert_eq!(client.next("reset").await["reason"], "unknown_cursor");
    assert!(started.elapsed() > Duration::from_secs(5));
    gateway.shutdown.cancel();
}
