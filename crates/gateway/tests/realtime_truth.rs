//! What a client of Supabase is told when something may have been missed, and what it gets when it resumes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use protocol::Op;
use serde_json::{Value, json};
use support::{
    Client, TestFeed, TestGateway, row,
    supabase::{TWO, config, ids, is_quiet, join, log, orders, reason, rewatch, subscribed},
};

/// Joins with `resume`, and gives what tells that it is subscribed.
async fn resume(client: &mut Client, bindings: &[Value], cursor: &str) -> Value {
    let mut payload = config(bindings);
    payload["resume"] = json!(cursor);
    ids(&join(client, "realtime:floor", &payload).await);
    client.json().await
}

/// The rows that come up to one, each with the cursor behind it, and how often it was told that it is subscribed.
async fn rows(client: &mut Client, last: i64) -> (Vec<(i64, String)>, usize) {
    let (mut rows, mut told) = (Vec::new(), 0);
    while rows.last().is_none_or(|(id, _)| *id != last) {
        let message = client.json().await;
        if message[3] == "system" {
            assert_eq!(message[4]["message"], "Subscribed to PostgreSQL", "{message}");
            told += 1;
            continue;
        }
        let cursor = client.json().await;
        assert_eq!((&cursor[3], &cursor[4]["message"]), (&json!("system"), &json!("Cursor")), "{cursor}");
        let id = &message[4]["data"]["record"]["id"];
        rows.push((id.as_i64().unwrap(), cursor[4]["cursor"].as_str().unwrap().to_owned()));
    }
    (rows, told)
}

async fn write(feed: &mut TestFeed, op: Op, id: u64) {
    let last = feed.batcher.last() + 1;
    let one = format!(r#"{{"id":{id}}}"#);
    let (data, old) = if op == Op::Delete { ("", &*one) } else { (&*one, "") };
    feed.send_row("public.orders", &row(op, (last, last), data, old)).await;
}

#[tokio::test]
async fn a_new_feed_fails_a_channel_that_does_not_resume_so_that_it_loads_anew() {
    let gateway = TestGateway::start(&["--shards", "1"], "").await;
    let _feed = log(&gateway, &["public.orders"]).await;
    let mut client = gateway.connect(TWO).await;
    ids(&join(&mut client, "realtime:floor", &config(&[orders("*")])).await);
    subscribed(&mut client).await;
    let mut next = log(&gateway, &["public.orders"]).await;
    let message = "Reset: changes may have been missed (new_feed)";
    assert_eq!(client.json().await, json!(["1", "1", "realtime:floor", "phx_error", {"reason": message}]));
    // It is as if it had never joined, until it does so again.
    write(&mut next, Op::Insert, 1).await;
    gateway.until_it_has_all(&next, "public.orders").await;
    assert!(is_quiet(&mut client).await);
    ids(&join(&mut client, "realtime:floor", &config(&[orders("*")])).await);
    subscribed(&mut client).await;
    write(&mut next, Op::Insert, 2).await;
    assert_eq!(client.json().await[4]["data"]["record"]["id"], 2);
    assert_eq!(gateway.metric("rowcast_gateway_resets_total{reason=\"new_feed\"}").await, 1);
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_new_feed_is_told_to_a_channel_that_resumes_and_it_goes_on() {
    let gateway = TestGateway::start(&[], "").await;
    let feed = log(&gateway, &["public.orders"]).await;
    let mut client = gateway.connect(TWO).await;
    let system = resume(&mut client, &[orders("*")], "").await;
    assert_eq!(
        (&system[4]["message"], &system[4]["cursor"]),
        (&json!("Subscribed to PostgreSQL"), &json!(feed.cursor(0)))
    );
    let mut next = log(&gateway, &["public.orders"]).await;
    let reset = client.json().await;
    let expected = json!({"extension": "postgres_changes", "status": "error", "channel": "floor", "reset": "new_feed",
        "message": "Reset: changes may have been missed (new_feed)", "cursor": next.cursor(0)});
    assert_eq!(reset, json!(["1", null, "realtime:floor", "system", expected]));
    write(&mut next, Op::Insert, 1).await;
    assert_eq!(client.json().await[4]["data"]["record"]["id"], 1);
    assert_eq!(client.json().await[4]["cursor"], next.cursor(1));
    // A cursor of the feed before, when it comes back.
    let mut late = gateway.connect(TWO).await;
    let reset = resume(&mut late, &[orders("*")], &feed.cursor(0)).await;
    assert_eq!((&reset[4]["reset"], &reset[4]["cursor"]), (&json!("new_feed"), &json!(next.cursor(1))), "{reset}");
    subscribed(&mut late).await;
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn what_was_missed_comes_once_and_in_order_from_memory_and_from_the_history() {
    for recent_bytes in ["1000000", "100"] {
        let gateway = TestGateway::start(&["--shards", "1", "--recent-bytes", recent_bytes], "").await;
        let mut feed = log(&gateway, &["public.orders"]).await;
        for id in 1..=300 {
            write(&mut feed, if id % 3 == 0 { Op::Delete } else { Op::Insert }, id).await;
        }
        gateway.until_it_has_all(&feed, "public.orders").await;
        let mut client = gateway.connect(TWO).await;
        let first = resume(&mut client, &[orders("INSERT")], &feed.cursor(100)).await;
        assert_eq!(first[4]["data"]["record"]["id"], 101, "{first}");
        assert_eq!(client.json().await[4]["cursor"], feed.cursor(101));
        write(&mut feed, Op::Delete, 301).await;
        write(&mut feed, Op::Insert, 302).await;
        let (got, told) = rows(&mut client, 302).await;
        let expected: Vec<_> = (102..=302_i64)
            .filter(|id| id % 3 != 0 && *id != 301)
            .map(|id| (id, feed.cursor(id.cast_unsigned())))
            .collect();
        assert_eq!(got, expected, "with {recent_bytes} bytes of memory");
        if told == 0 {
            subscribed(&mut client).await;
        }
        assert!(is_quiet(&mut client).await);
        gateway.shutdown.cancel();
    }
}

#[tokio::test]
async fn a_client_that_reads_slowly_gets_all_of_it_or_is_told() {
    let flags = ["--queue-bytes", "20000", "--recent-bytes", "200000", "--shards", "1"];
    let gateway = TestGateway::start(&flags, "").await;
    let mut feed = log(&gateway, &["public.orders"]).await;
    let mut client = gateway.connect(TWO).await;
    resume(&mut client, &[orders("*")], "").await;
    let long = "x".repeat(2000);
    for id in 1..=5000 {
        feed.insert("public.orders", &format!(r#"{{"id":{id},"note":"{long}"}}"#)).await;
    }
    let fell = || gateway.metric("rowcast_gateway_subscriptions_fell_behind_total");
    tokio::time::timeout(support::PATIENCE, async {
        while fell().await == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    for id in 1..=5000 {
        assert_eq!(client.json().await[4]["data"]["record"]["id"], id);
        assert_eq!(client.json().await[4]["cursor"], feed.cursor(id));
    }
    assert!(is_quiet(&mut client).await);
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn all_tables_of_a_schema_are_those_that_are_watched_now_and_later() {
    let gateway = TestGateway::start(&[], "").await;
    let mut feed = log(&gateway, &["public.orders", "private.secrets"]).await;
    let mut client = gateway.connect(TWO).await;
    let schema = [json!({"event": "*", "schema": "public"})];
    ids(&join(&mut client, "realtime:floor", &config(&schema)).await);
    subscribed(&mut client).await;
    ids(&join(&mut client, "realtime:one", &config(&[orders("*")])).await);
    subscribed(&mut client).await;
    rewatch(&gateway, &mut feed, &["public.orders", "public.refunds", "private.secrets"]).await;
    let error = client.json().await;
    assert_eq!((&error[2], &error[3]), (&json!("realtime:floor"), &json!("phx_error")), "{error}");
    assert!(error[4]["reason"].as_str().unwrap().starts_with("TablesChanged"), "{error}");
    ids(&join(&mut client, "realtime:floor", &config(&schema)).await);
    subscribed(&mut client).await;
    feed.insert("public.refunds", r#"{"id":1}"#).await;
    assert_eq!(client.json().await[4]["data"]["table"], "refunds");
    // One that is gone ends both.
    rewatch(&gateway, &mut feed, &["public.refunds"]).await;
    let mut ended = [client.json().await, client.json().await].map(|message| (message[2].clone(), message[3].clone()));
    ended.sort_by_key(|(topic, _)| topic.to_string());
    assert_eq!(ended, ["realtime:floor", "realtime:one"].map(|topic| (json!(topic), json!("phx_error"))));
    let again = join(&mut client, "realtime:one", &config(&[orders("*")])).await;
    assert!(reason(&again).starts_with("UnknownTopic: no listener carries 'public.orders'"), "{again}");
    gateway.shutdown.cancel();
}
