//! `/changes`: what there is after a cursor, over real sockets.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::time::{Duration, Instant};

use bus::{MemoryBus, Retention};
use protocol::Op;
use serde_json::{Value, json};
use support::{PATIENCE, TestFeed, TestGateway, row};

async fn ask(gateway: &TestGateway, query: &str) -> (u16, Value) {
    let (status, answer) = gateway.get(&format!("/changes?{query}")).await;
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    (status, serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {answer}")))
}

/// The answer with 200; a shard may hear of what was sent a moment later than another.
async fn page(gateway: &TestGateway, query: &str) -> Value {
    let asked = Instant::now();
    loop {
        match ask(gateway, query).await {
            (200, page) => return page,
            (503, _) if asked.elapsed() < PATIENCE => {}
            other => panic!("{other:?}"),
        }
    }
}

/// One shard, so that what was published is there for whoever asks next, and all of it is.
async fn start(flags: &[&str]) -> TestGateway {
    TestGateway::start(&[&["--shards", "1"], flags].concat(), "").await
}

async fn until_it_is_there(gateway: &TestGateway, feed: &TestFeed) {
    while gateway.metric("rowcast_gateway_feed_offset").await < feed.batcher.last() {}
}

#[tokio::test]
async fn without_a_cursor_it_says_where_to_begin_and_from_there_nothing_is_missed() {
    let gateway = start(&[]).await;
    let mut feed = gateway.log(&["public.orders", "other"]).await;
    feed.insert("public.orders", "0").await;
    until_it_is_there(&gateway, &feed).await;
    let first = page(&gateway, "topic=public.orders").await;
    assert_eq!(first, json!({ "changes": [], "cursor": feed.cursor(1), "complete": true }));
    feed.send_row("public.orders", &row(Op::Update, (8, 2), r#"{"id":1, "n":1.50}"#, r#"{"id":1}"#)).await;
    feed.insert("other", "3").await;
    until_it_is_there(&gateway, &feed).await;
    let (_, answer) = gateway.get(&format!("/changes?topic=public.orders&since={}", feed.cursor(1))).await;
    let head = answer.to_ascii_lowercase();
    assert!(head.contains("content-type: application/json") && head.contains("cache-control: no-store"), "{answer}");
    // The same members as in the native protocol, and the row as the database wrote it.
    let expected = format!(
        r#"{{"changes":[{{"type":"change","cursor":"{}","topic":"public.orders","op":"UPDATE","key":["id"],"data":{{"id":1, "n":1.50}},"old":{{"id":1}},"at":"1970-01-01T00:00:00.000000Z","tx":"8","tx_end":true}}],"cursor":"{}","complete":true}}"#,
        feed.cursor(2),
        feed.cursor(3)
    );
    assert_eq!(answer.split_once("\r\n\r\n").unwrap().1.trim_end(), expected);
    let next = page(&gateway, &format!("topic=public.orders&since={}", feed.cursor(3))).await;
    assert_eq!(next, json!({ "changes": [], "cursor": feed.cursor(3), "complete": true }));
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn page_by_page_it_is_all_there_is_once_and_in_order_from_memory_and_from_the_history() {
    for recent_bytes in ["1000000", "500"] {
        let gateway = start(&["--recent-bytes", recent_bytes]).await;
        let mut feed = gateway.log(&["a", "b", "c"]).await;
        for n in 1..=250u64 {
            let topic = ["a", "b", "c"][n as usize % 3];
            feed.push_row(topic, &row(Op::Insert, (n, n), &n.to_string(), ""));
            if n % 7 == 0 {
                feed.publish().await;
            }
        }
        feed.publish().await;
        until_it_is_there(&gateway, &feed).await;
        for limit in [1, 10, 1000] {
            let (mut cursor, mut got) = (feed.cursor(0), Vec::new());
            loop {
                let page = page(&gateway, &format!("topic=b&topic=a&since={cursor}&limit={limit}")).await;
                let changes = page["changes"].as_array().unwrap();
                assert!(changes.len() <= limit);
                got.extend(changes.iter().map(|change| change["data"].as_u64().unwrap()));
                cursor = page["cursor"].as_str().unwrap().to_owned();
                if page["complete"] == true {
                    break;
                }
                assert!(!changes.is_empty(), "{page}");
            }
            assert_eq!(got, (1..=250).filter(|n| n % 3 != 2).collect::<Vec<u64>>());
            assert_eq!(cursor, feed.cursor(250));
        }
        let usual = page(&gateway, &format!("topic=a&topic=b&topic=c&since={}", feed.cursor(0))).await;
        assert_eq!((usual["changes"].as_array().unwrap().len(), &usual["complete"]), (100, &json!(false)));
        gateway.shutdown.cancel();
    }
}

#[tokio::test]
async fn a_change_among_many_others_is_found_at_once() {
    let gateway = start(&[]).await;
    let mut feed = gateway.log(&["quiet", "busy"]).await;
    for n in 1..=2_000 {
        feed.insert(if n == 1_500 { "quiet" } else { "busy" }, &n.to_string()).await;
        tokio::task::yield_now().await;
    }
    until_it_is_there(&gateway, &feed).await;
    let found = page(&gateway, &format!("topic=quiet&since={}", feed.cursor(0))).await;
    assert_eq!(found["changes"][0]["cursor"], feed.cursor(1_500), "{found}");
    let rest = page(&gateway, &format!("topic=quiet&since={}", feed.cursor(1_500))).await;
    assert_eq!(rest, json!({ "changes": [], "cursor": feed.cursor(2_000), "complete": true }));
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn an_answer_has_a_bound_and_a_change_that_is_larger_comes_alone() {
    let gateway = start(&[]).await;
    let mut feed = gateway.log(&["a"]).await;
    for _ in 0..6 {
        feed.insert("a", &format!("\"{}\"", "x".repeat(100_000))).await;
    }
    feed.insert("a", &format!("\"{}\"", "x".repeat(700_000))).await;
    until_it_is_there(&gateway, &feed).await;
    let (mut cursor, mut counts) = (feed.cursor(0), Vec::new());
    while cursor != feed.cursor(7) {
        let page = page(&gateway, &format!("topic=a&since={cursor}")).await;
        counts.push(page["changes"].as_array().unwrap().len());
        cursor = page["cursor"].as_str().unwrap().to_owned();
    }
    assert_eq!(counts, [2, 2, 2, 1]);
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn who_waits_is_answered_as_soon_as_there_is_something() {
    let gateway = start(&[]).await;
    let mut feed = gateway.feed(&["a", "b"]).await;
    let query = format!("topic=a&since={}&wait=30", feed.cursor(0));
    let started = Instant::now();
    let sending = async {
        for n in 0..20 {
            feed.send("b", &n.to_string()).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        feed.send("a", "1").await;
    };
    let (page, ()) = tokio::join!(page(&gateway, &query), sending);
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!((&page["changes"][0]["data"], &page["cursor"]), (&json!(1), &json!(feed.cursor(21))));
    // And if nothing comes, with where it is by then.
    feed.send("b", "0").await;
    let query = format!("topic=a&since={}&wait=1", feed.cursor(21));
    let started = Instant::now();
    let page = self::page(&gateway, &query).await;
    assert!((1..3).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    assert_eq!(page, json!({ "changes": [], "cursor": feed.cursor(22), "complete": true }));
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn who_waits_is_answered_in_time_while_others_are_busy() {
    let gateway = start(&[]).await;
    let mut feed = gateway.feed(&["a", "b"]).await;
    let query = format!("topic=a&since={}&wait=1", feed.cursor(0));
    let busy = async {
        loop {
            feed.send("b", "1").await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let started = Instant::now();
    tokio::select! {
        page = page(&gateway, &query) => assert_eq!(page["changes"], json!([])),
        () = busy => {}
    }
    assert!((1..3).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn what_cannot_be_complete_is_gone_with_the_reason_and_a_new_beginning() {
    let bus = MemoryBus::new(Retention { bytes: 600, ms: 600_000 });
    let gateway = TestGateway::over(bus, &["--shards", "1", "--recent-bytes", "600"], "").await;
    let mut feed = gateway.feed(&["a"]).await;
    for _ in 0..20 {
        feed.send("a", &format!("\"{}\"", "x".repeat(100))).await;
    }
    until_it_is_there(&gateway, &feed).await;
    for (since, reason) in
        [("zzzz.3".into(), "new_feed"), (feed.cursor(1), "history_trimmed"), (feed.cursor(1000), "unknown_cursor")]
    {
        let (status, gone) = ask(&gateway, &format!("topic=a&since={since}")).await;
        assert_eq!(status, 410, "{gone}");
        assert_eq!(
            (&gone["error"], &gone["reason"], &gone["cursor"]),
            (&json!("reset"), &json!(reason), &json!(feed.cursor(20)))
        );
        assert!(gone["message"].as_str().unwrap().contains("'since'"), "{gone}");
    }
    // And who waits when a feed ends.
    let query = format!("topic=a&since={}&wait=30", feed.cursor(20));
    let beginning = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        TestFeed::begin(&gateway.bus, &["a"]).await
    };
    let ((status, gone), next) = tokio::join!(ask(&gateway, &query), beginning);
    assert_eq!((status, &gone["reason"], &gone["cursor"]), (410, &json!("new_feed"), &json!(next.cursor(0))));
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn of_a_cursor_that_another_gateway_may_have_had_nothing_is_claimed() {
    let gateway = start(&[]).await;
    let mut feed = gateway.log(&["t"]).await;
    let query = format!("topic=t&since={}", feed.cursor(2));
    let (status, answer) = ask(&gateway, &query).await;
    assert_eq!((status, &answer["error"]), (503, &json!("not_ready")), "{answer}");
    let (answer, ()) = tokio::join!(page(&gateway, &query), async {
        for n in 1..=3 {
            feed.insert("t", &n.to_string()).await;
        }
    });
    assert_eq!((&answer["changes"][0]["data"], &answer["cursor"]), (&json!(3), &json!(feed.cursor(3))));
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn what_is_asked_for_wrongly_is_named_with_what_would_be_right() {
    let gateway = start(&[]).await;
    let _feed = gateway.feed(&["a"]).await;
    for (query, status, code, named) in [
        ("", 400, "bad_message", "'topic' is missing"),
        ("topic=nobody", 404, "unknown_topic", "there are: a"),
        ("topic=a&limit=0", 400, "bad_message", "'limit' is '0'; it must be a whole number from 1 to 1000"),
        ("topic=a&limit=1001", 400, "bad_message", "'limit' is '1001'"),
        ("topic=a&wait=61", 400, "bad_message", "'wait' is '61'; it must be a whole number from 0 to 60"),
        ("topic=a&wait=-1", 400, "bad_message", "'wait' is '-1'"),
        ("topic=a&since=x", 400, "bad_cursor", "'since': 'x'"),
        ("topic=a&conflate_ms=100", 400, "unknown_key", "there are: topic, since, limit, wait"),
    ] {
        let (of, json) = ask(&gateway, query).await;
        let message = json["message"].as_str().unwrap();
        assert!((of, &json["error"]) == (status, &json!(code)) && message.contains(named), "{query}: {of} {json}");
    }
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn who_waits_when_the_gateway_stops_is_answered() {
    let gateway = start(&["--drain-ms", "500"]).await;
    let feed = gateway.feed(&["a"]).await;
    let query = format!("topic=a&since={}&wait=60", feed.cursor(0));
    let stopping = async {
        while gateway.metric("rowcast_gateway_connections{door=\"changes\"}").await == 0 {}
        gateway.shutdown.cancel();
    };
    let started = Instant::now();
    let (page, ()) = tokio::join!(page(&gateway, &query), stopping);
    assert_eq!((&page["changes"], &page["cursor"]), (&json!([]), &json!(feed.cursor(0))));
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    tokio::time::timeout(PATIENCE, gateway.running).await.expect("it ends").unwrap().unwrap();
}

#[tokio::test]
async fn who_leaves_while_it_waits_is_forgotten() {
    let gateway = start(&[]).await;
    let feed = gateway.feed(&["a"]).await;
    let path = format!("/changes?topic=a&since={}&wait=60", feed.cursor(0));
    let waiting = gateway.get(&path);
    assert!(tokio::time::timeout(Duration::from_millis(200), waiting).await.is_err());
    let started = Instant::now();
    while gateway.metric("rowcast_gateway_connections{door=\"changes\"}").await > 0 {
        assert!(started.elapsed() < PATIENCE, "it is still served");
    }
    gateway.shutdown.cancel();
}
