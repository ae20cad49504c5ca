//! Server-Sent Events, over real sockets.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::time::{Duration, Instant};

use bus::{MemoryBus, Retention};
use protocol::Op;
use serde_json::{Value, json};
use support::{
    PATIENCE, TestFeed, TestGateway,
    events::{Event, EventStream},
    row,
};

async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what}"));
}

const OPEN: &str = "rowcast_gateway_connections{door=\"sse\"}";

#[tokio::test]
async fn a_stream_begins_with_where_it_is_and_each_change_has_its_cursor_as_id() {
    let gateway = TestGateway::start(&[], "").await;
    let mut feed = gateway.log(&["public.orders", "other"]).await;
    let mut stream = EventStream::open(&gateway, "/sse?topic=public.orders").await;
    let head = stream.head.to_ascii_lowercase();
    for line in ["content-type: text/event-stream", "cache-control: no-store", "x-accel-buffering: no"] {
        assert!(head.contains(line), "{head}");
    }
    let retry = stream.any().await.unwrap().retry.unwrap();
    assert!((500..=2000).contains(&retry), "{retry}");
    let subscribed = stream.named("subscribed").await;
    assert_eq!(subscribed.id, Some(feed.cursor(0)));
    assert_eq!(subscribed.json(), json!({ "type": "subscribed", "cursor": feed.cursor(0), "resumed": false }));
    feed.send_row("other", &row(Op::Insert, (7, 1), "{}", "")).await;
    let data = "{\"id\":1,\r\n \"price\":10.50}";
    feed.send_row("public.orders", &row(Op::Update, (8, 2), data, r#"{"id":1}"#)).await;
    let event = stream.change().await;
    assert_eq!(event.id, Some(feed.cursor(2)));
    // A line end that is but white space is one line end.
    let shown = "{\"id\":1,\n\n \"price\":10.50}";
    assert_eq!(
        event.data,
        format!(
            r#"{{"type":"change","cursor":"{}","topic":"public.orders","op":"UPDATE","key":["id"],"data":{shown},"old":{{"id":1}},"at":"1970-01-01T00:00:00.000000Z","tx":"8","tx_end":true}}"#,
            feed.cursor(2)
        )
    );
    assert_eq!(gateway.metric(OPEN).await, 1);
    drop(stream);
    eventually("who leaves is forgotten", async || gateway.metric(OPEN).await == 0).await;
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn who_comes_back_says_where_it_was_and_gets_what_it_missed_once() {
    for recent_bytes in ["1000000", "100"] {
        let gateway = TestGateway::start(&["--recent-bytes", recent_bytes], "").await;
        let mut feed = gateway.log(&["a", "b"]).await;
        let mut stream = EventStream::open(&gateway, "/sse?topic=a&topic=b").await;
        stream.named("subscribed").await;
        let mut n = 0;
        let mut send = async |feed: &mut TestFeed, count| {
            for _ in 0..count {
                n += 1;
                feed.insert(if n % 2 == 0 { "a" } else { "b" }, &n.to_string()).await;
            }
        };
        send(&mut feed, 10).await;
        let mut last = None;
        for n in 1..=5 {
            let event = stream.change().await;
            assert_eq!(event.json()["data"], n);
            last = event.id;
        }
        drop(stream);
        send(&mut feed, 10).await;
        // Its URL is that of the beginning: the header wins.
        let path = format!("/sse?topic=a&topic=b&since={}", feed.cursor(1));
        let mut again = EventStream::resume(&gateway, &path, &last.unwrap()).await;
        assert_eq!(again.named("subscribed").await.json()["resumed"], true);
        for n in 6..=20 {
            assert_eq!(again.change().await.json()["data"], n);
        }
        assert_eq!(again.named("caught_up").await.id, Some(feed.cursor(20)));
        send(&mut feed, 1).await;
        assert_eq!(again.change().await.json()["data"], 21);
        let mut by_query = EventStream::open(&gateway, &path).await;
        assert_eq!(by_query.named("subscribed").await.id, Some(feed.cursor(1)));
        for n in 2..=21 {
            assert_eq!(by_query.change().await.json()["data"], n);
        }
        gateway.shutdown.cancel();
    }
}

#[tokio::test]
async fn a_cursor_that_cannot_be_continued_is_reset_with_the_reason_and_the_stream_goes_on() {
    let bus = MemoryBus::new(Retention { bytes: 600, ms: 600_000 });
    let gateway = TestGateway::over(bus, &["--recent-bytes", "600"], "").await;
    let mut feed = gateway.feed(&["a"]).await;
    for _ in 0..20 {
        feed.send("a", &format!("\"{}\"", "x".repeat(100))).await;
    }
    for (last, reason) in [("zzzz.3".to_owned(), "new_feed"), (feed.cursor(1), "history_trimmed")] {
        let mut stream = EventStream::resume(&gateway, "/sse?topic=a", &last).await;
        let subscribed = stream.named("subscribed").await;
        assert_eq!((subscribed.id.clone(), &subscribed.data.contains("\"resumed\":false")), (Some(last), &true));
        let reset = stream.named("reset").await;
        let here = feed.cursor(feed.batcher.last());
        assert_eq!(reset.json(), json!({ "type": "reset", "reason": reason, "cursor": here }));
        assert_eq!(reset.id, Some(here));
        feed.send("a", "1").await;
        assert_eq!(stream.change().await.json()["data"], 1);
    }
    // And so one that is connected when a feed begins.
    let mut stream = EventStream::open(&gateway, "/sse?topic=a").await;
    stream.named("subscribed").await;
    let next = TestFeed::begin(&gateway.bus, &["a"]).await;
    let reset = stream.named("reset").await;
    assert_eq!((reset.id.clone(), &reset.json()["reason"]), (Some(next.cursor(0)), &json!("new_feed")));
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn what_is_asked_for_wrongly_is_named_with_what_would_be_right() {
    let gateway = TestGateway::start(&[], "").await;
    assert_eq!(refused(&gateway, "/sse?topic=a", "").await, (503, "not_ready".into(), "".into()));
    let _feed = gateway.feed(&["a"]).await;
    let _log = gateway.log(&["public.orders"]).await;
    let many = format!("/sse?{}", vec!["topic=a"; 101].join("&"));
    for (path, headers, status, code, named) in [
        ("/sse", "", 400, "bad_message", "'topic' is missing"),
        (&many, "", 400, "bad_message", "101 times"),
        ("/sse?topic=nobody", "", 404, "unknown_topic", "no listener carries 'nobody'; there are: a, public.orders"),
        ("/sse?topic=a&topics=b", "", 400, "unknown_key", "'topics'"),
        ("/sse?topic=a&where=x", "", 400, "unsupported", "'where'"),
        ("/sse?topic=a&since=x", "", 400, "bad_cursor", "'since': 'x' is not a cursor"),
        ("/sse?topic=a", "Last-Event-ID: 17\r\n", 400, "bad_cursor", "'Last-Event-ID': '17'"),
        ("/sse?topic=a&conflate_ms=5", "", 400, "bad_message", "'conflate_ms' is '5'"),
        ("/sse?topic=a&conflate_ms=100", "", 400, "no_key", "'a' is a NOTIFY channel"),
        ("/sse?topic=a&topic=public.orders", "", 400, "mixed_feeds", "two feeds"),
        ("/sse?topic=a", "Origin: https://evil.example\r\n", 403, "forbidden", "evil.example"),
        ("/sse?topic=a", "X-Forwarded-For: 192.0.2.1\r\n", 403, "forbidden", "x-forwarded-for"),
    ] {
        // A shard may hear of a feed a moment after the others.
        let mut answer = refused(&gateway, path, headers).await;
        while answer.0 == 503 {
            answer = refused(&gateway, path, headers).await;
        }
        let (of, with, message) = answer;
        assert!((of, &*with) == (status, code) && message.contains(named), "{path} {headers}: {of} {with} {message}");
    }
    let host = "GET /sse?topic=a HTTP/1.1\r\nHost: rebound.evil.example\r\nConnection: close\r\n\r\n";
    assert_eq!(gateway.request(host).await.0, 403);
    let post = "POST /sse?topic=a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert_eq!(gateway.request(post).await.0, 405);
    assert_eq!(gateway.metric(OPEN).await, 0);
    gateway.shutdown.cancel();
}

/// The status, the code and the message of a refusal; the latter only where it does not change.
async fn refused(gateway: &TestGateway, path: &str, headers: &str) -> (u16, String, String) {
    let headers = format!("{headers}Connection: close\r\n");
    let Err((status, answer)) = EventStream::try_open(gateway.address, path, &headers).await else {
        panic!("{path} is served");
    };
    let json: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let message = if status == 503 { "" } else { json["message"].as_str().unwrap() };
    (status, json["error"].as_str().unwrap().into(), message.into())
}

#[tokio::test]
async fn a_page_of_another_port_of_this_machine_may_read_what_it_is_sent() {
    let gateway = TestGateway::start(&[], "").await;
    let _feed = gateway.feed(&["a"]).await;
    let origin = "Origin: http://localhost:5173\r\n";
    let stream = EventStream::try_open(gateway.address, "/sse?topic=a", origin).await.unwrap();
    let head = stream.head.to_ascii_lowercase();
    assert!(head.contains("access-control-allow-origin: http://localhost:5173\r\n"), "{head}");
    assert!(head.contains("vary: origin"), "{head}");
    let Err((_, answer)) =
        EventStream::try_open(gateway.address, "/sse?topic=a", "Origin: https://evil.example\r\n").await
    else {
        panic!("let in")
    };
    assert!(!answer.to_ascii_lowercase().contains("allow-origin"), "{answer}");
    // A page that sends a token in a header asks first.
    for (origin, may) in [("http://localhost:5173", true), ("https://evil.example", false)] {
        let ask = format!(
            "OPTIONS /changes?topic=a HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\nConnection: close\r\n\
             Access-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: authorization\r\n\r\n"
        );
        let (status, answer) = gateway.request(&ask).await;
        let answer = answer.to_ascii_lowercase();
        assert!(status == 204 && answer.contains("access-control-allow-headers: authorization"), "{answer}");
        assert_eq!(answer.contains(&format!("access-control-allow-origin: {origin}")), may, "{answer}");
    }
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn who_hears_nothing_else_hears_a_heartbeat_and_is_not_taken_for_gone() {
    let gateway = TestGateway::start(&["--ping-ms", "100"], "").await;
    let _feed = gateway.feed(&["a"]).await;
    let mut stream = EventStream::open(&gateway, "/sse?topic=a").await;
    stream.any().await;
    stream.named("subscribed").await;
    for _ in 0..3 {
        assert_eq!(stream.any().await, Some(Event { comment: true, ..Event::default() }));
    }
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_watermark_moves_a_quiet_client_on() {
    let gateway = TestGateway::start(&[], "").await;
    let mut feed = gateway.feed(&["a", "b"]).await;
    let mut stream = EventStream::open(&gateway, "/sse?topic=a&watermark_ms=5000").await;
    stream.named("subscribed").await;
    feed.send("b", "1").await;
    let watermark = stream.named("watermark").await;
    assert_eq!(watermark.id, Some(feed.cursor(1)));
    let expected = json!({ "type": "watermark", "cursor": feed.cursor(1), "at": "1970-01-01T00:00:00.000002Z" });
    assert_eq!(watermark.json(), expected);
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn the_end_of_a_transaction_that_shows_later_is_told() {
    let gateway = TestGateway::start(&[], "").await;
    let mut feed = gateway.log(&["a", "b"]).await;
    let mut live = EventStream::open(&gateway, "/sse?topic=a").await;
    live.named("subscribed").await;
    // The rest of it is of another topic, and in another batch.
    feed.send_row("a", &row(Op::Insert, (5, 2), "{}", "")).await;
    feed.send_row("b", &row(Op::Insert, (5, 2), "{}", "")).await;
    let mut late = EventStream::open(&gateway, &format!("/sse?topic=a&since={}", feed.cursor(0))).await;
    late.named("subscribed").await;
    for mut stream in [live, late] {
        assert!(stream.change().await.json().get("tx_end").is_none());
        let end = stream.named("tx_end").await;
        assert_eq!(end.id, Some(feed.cursor(2)));
        assert_eq!(end.json(), json!({ "type": "tx_end", "cursor": feed.cursor(2), "tx": "5" }));
    }
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn changes_are_conflated_as_for_others() {
    let gateway = TestGateway::start(&[], "").await;
    let mut feed = gateway.log(&["t"]).await;
    let mut stream = EventStream::open(&gateway, "/sse?topic=t&conflate_ms=200").await;
    stream.named("subscribed").await;
    for n in 0..=10 {
        let op = if n == 0 { Op::Insert } else { Op::Update };
        feed.send_row("t", &row(op, (n + 1, n + 1), &format!(r#"{{"id":1,"n":{n}}}"#), "")).await;
    }
    assert_eq!(stream.change().await.json()["data"]["n"], 0);
    let last = stream.change().await;
    assert_eq!((last.id.clone(), &last.json()["data"]["n"]), (Some(feed.cursor(11)), &json!(10)));
    gateway.shutdown.cancel();
}

/// The next change, of one that may fall behind again and again: on a busy machine the quick one does too.
async fn next_change(stream: &mut EventStream) -> Event {
    loop {
        let event = stream.next().await.expect("the response goes on");
        if event.name.as_deref() != Some("caught_up") {
            assert_eq!(event.name, None, "{event:?}");
            return event;
        }
    }
}

#[tokio::test]
async fn a_slow_reader_falls_behind_catches_up_and_nobody_else_notices() {
    let gateway = TestGateway::start(&["--queue-bytes", "50000", "--recent-bytes", "200000"], "").await;
    let mut feed = gateway.log(&["t"]).await;
    let mut slow = EventStream::open(&gateway, "/sse?topic=t").await;
    let mut quick = EventStream::open(&gateway, "/sse?topic=t").await;
    slow.named("subscribed").await;
    quick.named("subscribed").await;
    let fill = "x".repeat(20_000);
    for n in 1..=800 {
        feed.insert("t", &format!("[{n},\"{fill}\"]")).await;
        assert_eq!(next_change(&mut quick).await.json()["data"][0], n);
    }
    assert!(gateway.metric("rowcast_gateway_subscriptions_fell_behind_total").await > 0, "it did fall behind");
    for n in 1..=800 {
        let event = next_change(&mut slow).await;
        assert_eq!((event.id.clone(), &event.json()["data"][0]), (Some(feed.cursor(n)), &json!(n)));
    }
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn who_takes_nothing_is_cut_off_after_a_while() {
    let gateway = TestGateway::start(&["--stall-ms", "500", "--queue-bytes", "50000"], "").await;
    let mut feed = gateway.log(&["t"]).await;
    let mut stuck = EventStream::open(&gateway, "/sse?topic=t").await;
    stuck.named("subscribed").await;
    let fill = format!("\"{}\"", "x".repeat(100_000));
    let started = Instant::now();
    while gateway.metric(OPEN).await > 0 {
        feed.insert("t", &fill).await;
        assert!(started.elapsed() < PATIENCE * 3, "it is still served");
    }
    // Its connection too, however full that is.
    let mut rest = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(stuck.socket(), &mut rest);
    drop(tokio::time::timeout(PATIENCE, read).await.expect("it is hung up on"));
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_drain_ends_the_streams_one_by_one_and_tells_when_to_come_back() {
    let gateway = TestGateway::start(&["--drain-ms", "1000"], "").await;
    let mut feed = gateway.feed(&["a"]).await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        let mut stream = EventStream::open(&gateway, "/sse?topic=a").await;
        stream.named("subscribed").await;
        streams.push(stream);
    }
    feed.send("a", "1").await;
    for stream in &mut streams {
        assert_eq!(stream.change().await.json()["data"], 1);
    }
    let started = Instant::now();
    gateway.shutdown.cancel();
    let mut times = Vec::new();
    for stream in &mut streams {
        let retry = stream.any().await.unwrap().retry.unwrap();
        assert!((50..=500).contains(&retry), "{retry}");
        let close = stream.named("close").await;
        assert_eq!((close.id.clone(), &close.json()["code"]), (None, &json!("restart")));
        assert!(stream.next().await.is_none(), "the response has an end");
        times.push(started.elapsed());
    }
    let slow = times.iter().max().copied().unwrap_or_default();
    assert!(slow >= Duration::from_millis(700), "the last ended after {slow:?}");
    tokio::time::timeout(PATIENCE, gateway.running).await.expect("it ends").unwrap().unwrap();
}

#[tokio::test]
async fn streams_count_among_the_connections() {
    let gateway = TestGateway::start(&["--max-connections-per-ip", "2"], "").await;
    let _feed = gateway.feed(&["a"]).await;
    let _socket = gateway.connect("/rowcast").await;
    let one = EventStream::open(&gateway, "/sse?topic=a").await;
    assert_eq!(refused(&gateway, "/sse?topic=a", "").await.0, 429);
    assert_eq!(gateway.get("/changes?topic=a").await.0, 429);
    drop(one);
    eventually("who leaves makes room", async || gateway.get("/changes?topic=a").await.0 == 200).await;
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_topic_that_no_listener_carries_any_more_ends_the_stream_and_says_so() {
    let gateway = TestGateway::start(&[], "").await;
    let _feed = gateway.feed(&["a", "b"]).await;
    let mut stream = EventStream::open(&gateway, "/sse?topic=a").await;
    stream.named("subscribed").await;
    let _next = TestFeed::begin(&gateway.bus, &["b"]).await;
    let mut events = Vec::new();
    while let Some(event) = stream.next().await {
        events.push(event);
    }
    let names: Vec<&str> = events.iter().filter_map(|event| event.name.as_deref()).collect();
    assert_eq!(names, ["reset", "refused", "close"]);
    assert_eq!(events[1].json()["code"], "unknown_topic");
    assert!(events[1].json().get("id").is_none());
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn who_only_asks_for_the_head_is_not_served_events() {
    let gateway = TestGateway::start(&[], "").await;
    let _feed = gateway.feed(&["a"]).await;
    let head = "HEAD /sse?topic=a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let (status, answer) = gateway.request(head).await;
    assert!(status == 200 && answer.ends_with("\r\n\r\n"), "{answer}");
    eventually("it has left", async || gateway.metric(OPEN).await == 0).await;
    gateway.shutdown.cancel();
}
