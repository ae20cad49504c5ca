//! What is wrong, who is there, and what has changed.

use std::time::Duration;

use bus::{MemoryBus, Retention};
use protocol::Op;
use serde_json::{Value, json};

use crate::{
    stage::{TOKEN, ask, look, native, newest, start, stuck, until, until_it_is_there},
    support::{Client, TestGateway, row},
};

fn texts(overview: &Value) -> String {
    let problems = overview["problems"].as_array().unwrap().iter();
    problems.map(|problem| format!("{}: {}\n", problem["level"], problem["text"])).collect()
}

#[tokio::test]
async fn what_is_wrong_comes_first() {
    let gateway = start(&[]).await;
    let overview = look(&gateway, "overview").await;
    assert_eq!(overview["ready"], true);
    assert!(texts(&overview).starts_with("\"error\": \"No listener has ever announced anything"), "{overview:#}");
    let mut feed = gateway.log(&["public.orders"]).await;
    feed.insert("public.orders", r#"{"id":1}"#).await;
    until_it_is_there(&gateway, &feed).await;
    let overview = look(&gateway, "overview").await;
    assert!(!texts(&overview).contains("No listener"), "{overview:#}");
    let log = &overview["feeds"].as_array().unwrap().iter().find(|feed| feed["source"] == "log").unwrap();
    assert_eq!((&log["state"], &log["offset"]), (&json!("live"), &json!(1)), "{log:#}");
    assert_eq!(log["shards"].as_array().unwrap().len(), 1);
    assert!(log["silent_ms"].as_u64().unwrap() < 5_000 && log["at"] == "1970-01-01T00:00:00.000002Z", "{log:#}");
    // Nobody goes on publishing.
    let silent = until(&gateway, "overview", |overview| texts(overview).contains("The log feed is silent")).await;
    assert!(silent["problems"][0]["hint"].as_str().unwrap().contains("listener"), "{silent:#}");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn topics_and_routes_have_their_matches_a_second() {
    let gateway = start(&[]).await;
    let mut feed = gateway.log(&["public.orders", "public.quiet"]).await;
    let (mut one, mut two) = (native(&gateway).await, native(&gateway).await);
    for client in [&mut one, &mut two] {
        client.subscribe(r#""topic":"public.orders""#).await;
    }
    let _plain = gateway.connect("/ws/public.orders/").await;
    let mut n = 0;
    let topics = until(&gateway, "topics", |topics| topics["topics"][0]["subscriptions"] == 3).await;
    assert_eq!(topics["topics"][1]["topic"], "public.quiet");
    assert_eq!(topics["topics"][1]["last_at"], Value::Null);
    let rate = |topics: &Value| topics["routes"][0]["matches_per_s"].as_f64().unwrap();
    loop {
        n += 1;
        feed.insert("public.orders", &format!(r#"{{"id":{n}}}"#)).await;
        let topics = look(&gateway, "topics").await;
        if rate(&topics) > 1.0 && topics["topics"][0]["changes_per_s"].as_f64() > Some(1.0) {
            let (native, plain) = (&topics["routes"][0], &topics["routes"][1]);
            assert_eq!((&native["form"], &native["subscriptions"]), (&json!("native"), &json!(2)), "{topics:#}");
            assert_eq!((&plain["form"], &plain["subscriptions"]), (&json!("plain"), &json!(1)), "{topics:#}");
            assert!(
                native["matches"].as_u64().unwrap() <= n && native["matches"].as_u64().unwrap() + 5 > n,
                "{topics:#}"
            );
            assert_eq!(topics["topics"][0]["last_at"], "1970-01-01T00:00:00.000002Z");
            break;
        }
        assert!(n < 5_000, "{topics:#}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn connections_are_found_by_what_is_known_of_them() {
    let config = "[[endpoint]]\npath = \"/ws/both/\"\ntopics = [\"a\", \"b\"]\n";
    let gateway = TestGateway::start(
        &["--inspect", "--inspect-token", TOKEN, "--anonymous", "--trusted-proxies", "127.0.0.1"],
        config,
    )
    .await;
    let feed = gateway.feed(&["a", "b"]).await;
    let mut native = native(&gateway).await;
    native.subscribe(&format!(r#""id":"mine","topic":"a","since":"{}""#, feed.cursor(0))).await;
    let _plain = gateway.connect("/ws/both/").await;
    let _forwarded = Client::connect(gateway.address, "/rowcast", &[("x-forwarded-for", "203.0.113.9")]).await.unwrap();
    let list = until(&gateway, "connections", |list| list["totals"]["connections"] == 3).await;
    assert_eq!(list["totals"]["doors"], json!({ "native": 2, "plain": 1 }));
    let find = async |search: &str| {
        let list = look(&gateway, &format!("connections?search={search}")).await;
        assert_eq!(list["matched"].as_u64().unwrap() as usize, list["connections"].as_array().unwrap().len());
        list["connections"].as_array().unwrap().clone()
    };
    let forwarded = find("203.0.113").await;
    assert_eq!(forwarded.len(), 1);
    assert_eq!(forwarded[0]["client"], "203.0.113.9");
    assert!(forwarded[0]["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{forwarded:?}");
    assert_eq!(forwarded[0]["subscription_count"], 0);
    assert_eq!(find("PLAIN").await.len(), 1);
    let both = &find("b").await[0];
    assert_eq!(both["subscriptions"][0]["topics"], json!(["a", "b"]));
    let id = native_id(&find("native").await);
    let found = find(&id).await;
    let sub = &found[0]["subscriptions"][0];
    assert_eq!((&sub["id"], &sub["state"], &sub["resumed"]), (&json!("mine"), &json!("live"), &json!(true)), "{sub:#}");
    assert_eq!((&sub["began"], &sub["cursors"]), (&json!([feed.cursor(0)]), &json!([feed.cursor(0)])), "{sub:#}");
    // A client acknowledges within 40 ms.
    let one = until(&gateway, &format!("connection?id={id}"), |one| one["kernel_bytes"] == 0).await;
    assert_eq!(one["state"], "up to date", "{one:#}");
    assert!(one["since"].as_str().unwrap().ends_with('Z') && one.get("left").is_none(), "{one:#}");
    drop(native);
    let left = until(&gateway, "left", |left| left["matched"] == 1).await;
    assert_eq!((&left["connections"][0]["id"], &left["connections"][0]["state"]), (&json!(id), &json!("left")));
    let one = look(&gateway, &format!("connection?id={id}")).await;
    assert!(one["left"].as_str().unwrap().ends_with('Z'), "{one:#}");
    gateway.shutdown.cancel();
}

fn native_id(found: &[Value]) -> String {
    let with = found.iter().find(|one| one["subscription_count"] == 1).unwrap();
    with["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_list_is_bounded_and_goes_on() {
    let gateway = TestGateway::start(&["--inspect", "--shards", "2"], "").await;
    let _feed = gateway.feed(&["a"]).await;
    let mut clients = Vec::new();
    for _ in 0..600 {
        clients.push(gateway.connect("/ws/a/").await);
    }
    until(&gateway, "connections", |list| list["totals"]["connections"] == 600).await;
    assert_eq!(look(&gateway, "connections").await["connections"].as_array().unwrap().len(), 50);
    let mut seen = std::collections::BTreeSet::new();
    for skip in (0..600).step_by(200) {
        let list = look(&gateway, &format!("connections?order=old&limit=200&skip={skip}")).await;
        let page = list["connections"].as_array().unwrap();
        assert_eq!((page.len(), &list["matched"]), (200, &json!(600)));
        let since: Vec<&str> = page.iter().map(|one| one["since"].as_str().unwrap()).collect();
        assert!(since.is_sorted());
        seen.extend(page.iter().map(|one| one["id"].as_str().unwrap().to_owned()));
    }
    assert_eq!(seen.len(), 600, "each once");
    assert!(look(&gateway, "connections?skip=600").await["connections"].as_array().unwrap().is_empty());
    // More than are remembered have left: the last of them are.
    drop(clients);
    let left = until(&gateway, "left?limit=200", |left| left["matched"] == 512).await;
    assert_eq!(left["connections"].as_array().unwrap().len(), 200);
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn who_reads_nothing_is_found_first() {
    let gateway = start(&[]).await;
    let mut feed = gateway.feed(&["a"]).await;
    let mut reads = native(&gateway).await;
    reads.subscribe(r#""topic":"a""#).await;
    let _stuck = stuck(&gateway, r#"{"type":"subscribe","topic":"a"}"#).await;
    let id = newest(&gateway).await;
    let _newer = gateway.connect("/rowcast").await;
    let payload = format!("\"{}\"", "x".repeat(20_000));
    for _ in 0..10 {
        feed.send("a", &payload).await;
        reads.next("change").await;
    }
    let list = until(&gateway, "connections", |list| list["connections"][0]["state"] == "stuck").await;
    let first = &list["connections"][0];
    assert_eq!(first["id"], id);
    assert!(first["waits_bytes"].as_u64().unwrap() > 100_000 && first["behind"].as_u64().unwrap() >= 5, "{first:#}");
    assert!(
        first["kernel_bytes"].as_u64().unwrap() > 1_000 && first["stuck_ms"].as_u64().unwrap() >= 1_000,
        "{first:#}"
    );
    assert_eq!((&list["totals"]["stuck"], &list["connections"][1]["behind"]), (&json!(1), &json!(0)));
    let overview = look(&gateway, "overview").await;
    assert!(texts(&overview).contains("1 connection takes nothing ("), "{overview:#}");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn the_last_changes_come_from_memory_and_from_the_history() {
    for recent_bytes in ["1000000", "300"] {
        let gateway = start(&["--recent-bytes", recent_bytes]).await;
        let mut feed = gateway.log(&["public.orders", "other"]).await;
        for n in 1..=400u64 {
            let (topic, data) =
                (if n % 4 == 0 { "public.orders" } else { "other" }, format!(r#"{{"id":{n}, "n":1.50}}"#));
            feed.push_row(topic, &row(Op::Insert, (n, n), &data, ""));
            if n % 9 == 0 {
                feed.publish().await;
            }
        }
        for n in 401..=420u64 {
            feed.push_row("other", &row(Op::Insert, (n, n), &format!(r#"{{"id":{n}}}"#), ""));
        }
        feed.publish().await;
        until_it_is_there(&gateway, &feed).await;
        let last = look(&gateway, "changes?topic=public.orders&limit=3").await;
        let cursors: Vec<&Value> = last["changes"].as_array().unwrap().iter().map(|change| &change["cursor"]).collect();
        assert_eq!(
            cursors,
            [&json!(feed.cursor(392)), &json!(feed.cursor(396)), &json!(feed.cursor(400))],
            "{recent_bytes}"
        );
        assert_eq!(last["from"], if recent_bytes == "300" { "history" } else { "memory" });
        let change = &last["changes"][2];
        assert_eq!(
            (&change["op"], &change["data"]["id"], &change["tx"]),
            (&json!("INSERT"), &json!(400), &json!("400"))
        );
        let row = look(&gateway, "changes?topic=public.orders&key=8").await;
        assert_eq!(row["changes"].as_array().unwrap().len(), 1);
        assert_eq!(row["changes"][0]["cursor"], feed.cursor(8));
        assert_eq!(look(&gateway, "changes?topic=public.orders&key=9").await["changes"], json!([]));
        gateway.shutdown.cancel();
    }
}

#[tokio::test]
async fn the_changes_of_a_row_are_found_within_large_batches() {
    let gateway = start(&[]).await;
    let mut feed = gateway.log(&["t"]).await;
    let fill = "x".repeat(1_000);
    // Two batches, each of which takes several pieces; the row is first, in the middle and last.
    for n in 1..=600u64 {
        let id = if matches!(n, 1 | 300 | 301 | 450 | 600) { 0 } else { n };
        feed.push_row("t", &row(Op::Insert, (n, n), &format!(r#"{{"id":{id},"fill":"{fill}"}}"#), ""));
        if n % 300 == 0 {
            feed.publish().await;
        }
    }
    until_it_is_there(&gateway, &feed).await;
    let found = look(&gateway, "changes?topic=t&key=0").await;
    let cursors: Vec<&Value> = found["changes"].as_array().unwrap().iter().map(|change| &change["cursor"]).collect();
    let expected = [1, 300, 301, 450, 600].map(|n| json!(feed.cursor(n)));
    assert_eq!(cursors, expected.iter().collect::<Vec<_>>());
    assert_eq!(found["from"], "memory");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn the_last_change_of_a_row_is_found_in_a_history_that_takes_several_reads() {
    let bus = MemoryBus::new(Retention { bytes: 50_000_000, ms: 600_000 });
    let gateway = TestGateway::over(bus, &["--inspect", "--shards", "1", "--recent-bytes", "500"], "").await;
    let mut feed = gateway.log(&["t"]).await;
    let fill = "x".repeat(100_000);
    for n in 1..=40u64 {
        let id = if matches!(n, 3 | 30) { 0 } else { n };
        feed.insert("t", &format!(r#"{{"id":{id},"fill":"{fill}"}}"#)).await;
    }
    until_it_is_there(&gateway, &feed).await;
    for (limit, expected) in [(1, &[30][..]), (2, &[3, 30])] {
        let found = look(&gateway, &format!("changes?topic=t&key=0&limit={limit}")).await;
        let cursors: Vec<&Value> = found["changes"].as_array().unwrap().iter().map(|it| &it["cursor"]).collect();
        let expected: Vec<Value> = expected.iter().map(|n| json!(feed.cursor(*n))).collect();
        assert_eq!((cursors, &found["from"]), (expected.iter().collect(), &json!("history")));
    }
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_history_that_begins_late_is_looked_through_from_where_it_begins() {
    let bus = MemoryBus::new(Retention { bytes: 500_000, ms: 600_000 });
    let gateway = TestGateway::over(bus, &["--inspect", "--shards", "1", "--recent-bytes", "500"], "").await;
    let mut feed = gateway.log(&["t"]).await;
    let fill = "x".repeat(1_000);
    for n in 1..=2_000u64 {
        feed.insert("t", &format!(r#"{{"id":{n},"fill":"{fill}"}}"#)).await;
    }
    until_it_is_there(&gateway, &feed).await;
    // More than a hundred changes back, and kept; and one that is not.
    for (n, count) in [(1_700, 1), (100, 0)] {
        let found = look(&gateway, &format!("changes?topic=t&key={n}")).await;
        assert_eq!(found["changes"].as_array().unwrap().len(), count, "{n}: {found}");
    }
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_large_change_is_told_of_and_not_shown() {
    let bus = MemoryBus::new(Retention { bytes: 50_000_000, ms: 600_000 });
    let gateway = TestGateway::over(bus, &["--inspect", "--shards", "1"], "").await;
    let mut feed = gateway.log(&["t"]).await;
    for n in 1..=40u64 {
        feed.insert("t", &format!(r#"{{"id":{n},"text":"{}"}}"#, "x".repeat(20_000))).await;
    }
    until_it_is_there(&gateway, &feed).await;
    let last = look(&gateway, "changes?topic=t&limit=200").await;
    let changes = last["changes"].as_array().unwrap();
    assert!(changes.len() < 20, "about as many bytes as may be: {}", changes.len());
    assert_eq!(changes.last().unwrap()["cursor"], feed.cursor(40));
    assert!(changes[0]["not_shown_bytes"].as_u64().unwrap() > 20_000 && changes[0].get("data").is_none());
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn every_mistake_is_named() {
    let gateway = start(&[]).await;
    let _feed = gateway.feed(&["a"]).await;
    for (what, status, code, named) in [
        ("overview?x=1", 400, "unknown_key", "'x' is not a parameter here"),
        ("connections?order=down", 400, "bad_message", "'order' is 'down'; it must be lag, new or old"),
        ("connections?limit=0", 400, "bad_message", "'limit' is '0'; it must be a whole number from 1 to 200"),
        ("connections?skip=1000000", 400, "bad_message", "from 0 to 10000"),
        ("connections?search=%ff&search=b", 400, "bad_message", "'search' comes more than once"),
        ("connection", 400, "bad_message", "'id' is missing"),
        ("connection?id=seven", 400, "bad_message", "'id' is 'seven'; it must be the id of a connection"),
        ("connection?id=9-9-9", 404, "unknown_connection", "'9-9-9' is no connection of this gateway"),
        ("connection?id=0-4000000000-1", 404, "unknown_connection", "no connection"),
        ("changes", 400, "bad_message", "'topic' is missing"),
        ("changes?topic=a&topic=b", 400, "bad_message", "'topic' comes more than once"),
        ("changes?topic=nothing", 404, "unknown_topic", "no listener carries the topic 'nothing'; there are: a"),
        ("changes?topic=a&key=1", 400, "no_key", "'a' is a NOTIFY channel"),
        ("why", 400, "bad_message", "'connection' is missing"),
        ("why?connection=0-0-1", 400, "bad_message", "'cursor' is missing"),
        ("why?connection=0-0-1&cursor=x", 400, "bad_cursor", "'cursor': 'x' is not a cursor"),
        ("why?connection=0-0-1&cursor=a.1&key=2", 400, "bad_message", "and not both"),
        ("why?connection=0-0-1&key=2", 400, "bad_message", "'topic' is missing"),
        ("why?connection=0-0-999&cursor=a.1", 404, "unknown_connection", "'0-0-999'"),
        ("why?connection=-1&cursor=a.1", 400, "bad_message", "'connection' is '-1'"),
    ] {
        let (answered, error) = ask(&gateway, what).await;
        assert_eq!((answered, error["error"].as_str()), (status, Some(code)), "{what}: {error}");
        assert!(error["message"].as_str().unwrap().contains(named), "{what}: {error}");
    }
    gateway.shutdown.cancel();
}
