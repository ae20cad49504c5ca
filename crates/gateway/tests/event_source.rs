//! A browser's own `EventSource`, without a line of a library.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use e2e::browser::Browser;
use serde_json::json;
use support::{PATIENCE, TestGateway};

/// As the README has it. Once the browser has given up, which an answer other than 200 makes it do, a new
/// one goes on.
const FOLLOW: &str = "
    window.seen = [];
    let cursor;
    function open() {
        const source = new EventSource('/sse?topic=public.orders' + (cursor ? `&since=${cursor}` : ''));
        for (const kind of ['message', 'subscribed', 'reset', 'close'])
            source.addEventListener(kind, (e) => {
                cursor = e.lastEventId;
                seen.push([kind === 'message' ? JSON.parse(e.data).data.id : kind, e.lastEventId]);
            });
        source.onerror = () => {
            if (source.readyState === EventSource.CLOSED) setTimeout(open, 100);
        };
    }
    open()";

#[tokio::test(flavor = "multi_thread")]
async fn an_event_source_goes_on_by_itself_at_the_next_gateway_and_misses_nothing() {
    let first = TestGateway::start(&["--drain-ms", "100"], "").await;
    let mut feed = first.log(&["public.orders"]).await;
    let browser = Browser::start(&[]).await.unwrap();
    let page = browser.open(&format!("http://{}/", first.address)).await.unwrap();
    page.evaluate(FOLLOW).await.unwrap();
    page.until("seen.length == 1", PATIENCE).await.unwrap();
    feed.insert("public.orders", r#"{"id":1}"#).await;
    page.until("seen.length == 2", PATIENCE).await.unwrap();
    let (bus, address) = (first.bus.clone(), first.address.to_string());
    first.shutdown.cancel();
    first.running.await.unwrap().unwrap();
    feed.insert("public.orders", r#"{"id":2}"#).await;
    let second = TestGateway::over(bus, &["--bind", &address], "").await;
    page.until("seen.length == 5", PATIENCE).await.unwrap();
    feed.insert("public.orders", r#"{"id":3}"#).await;
    page.until("seen.length == 6", PATIENCE).await.unwrap();
    let [none, one, two, three] = [0, 1, 2, 3].map(|offset| feed.cursor(offset));
    assert_eq!(
        page.evaluate("seen").await.unwrap(),
        json!([["subscribed", none], [1, one], ["close", one], ["subscribed", one], [2, two], [3, three]])
    );
    // A new numbering: it is told, and keeps the cursor of that.
    let mut next = support::TestFeed::begin_on(&second.bus, protocol::Source::Log, &["public.orders"]).await;
    next.insert("public.orders", r#"{"id":4}"#).await;
    page.until("seen.length == 8", PATIENCE).await.unwrap();
    assert_eq!(page.evaluate("seen.slice(6)").await.unwrap(), json!([["reset", next.cursor(0)], [4, next.cursor(1)]]));
    second.shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_origin_is_served_where_that_may_connect() {
    let (own, other) = (TestGateway::start(&[], "").await, TestGateway::start(&[], "").await);
    let mut feed = own.log(&["t"]).await;
    let browser = Browser::start(&[]).await.unwrap();
    let page = browser.open(&format!("http://localhost:{}/healthz", other.address.port())).await.unwrap();
    let follow = format!(
        "window.seen = [];
        new EventSource('http://{}/sse?topic=t').onmessage = (e) => seen.push(JSON.parse(e.data).data);
        undefined",
        own.address
    );
    page.evaluate(&follow).await.unwrap();
    while own.metric("rowcast_gateway_connections{door=\"sse\"}").await == 0 {}
    feed.insert("t", "7").await;
    page.until("seen.length == 1", PATIENCE).await.unwrap();
    assert_eq!(page.evaluate("seen").await.unwrap(), json!([7]));
    own.shutdown.cancel();
    other.shutdown.cancel();
}
