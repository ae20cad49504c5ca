use std::{collections::HashMap, time::Duration};

use e2e::process::Process;
use protocol::Kind;
use tokio_postgres::error::SqlState;

use crate::stage::{SOON, Stage};

#[tokio::test(flavor = "multi_thread")]
async fn every_notification_of_every_channel_arrives_once_and_in_order() {
    const CHANNELS: usize = 20;
    const WRITERS: usize = 4;
    const EACH: usize = 500;
    let stage = Stage::new().await;
    let names: Vec<_> = (0..CHANNELS).map(|n| format!("c{n}")).collect();
    let listener = Process::listener(&stage.url(), &stage.redis.url(), &["--channels", &names.join(",")]);
    let listener = listener.unwrap().ready().await.unwrap();
    let follower = stage.follower();
    let write = async |writer: usize| {
        let client = stage.connect().await;
        for n in 0..EACH {
            let channel = format!("c{}", (n * 7 + writer) % CHANNELS);
            client.execute("select pg_notify($1, $2)", &[&channel, &format!("{writer}:{n}")]).await.unwrap();
        }
    };
    tokio::join!(write(0), write(1), write(2), write(3));
    let all = |seen: &e2e::follower::Seen| seen.changes.len() == WRITERS * EACH;
    let seen = follower.until("all", SOON, all).await;

    seen.assert_dense();
    assert_eq!(seen.feeds.len(), 1);
    let mut next: HashMap<usize, usize> = HashMap::new();
    for got in &seen.changes {
        let (writer, n) = got.payload().split_once(':').unwrap();
        let (writer, n): (usize, usize) = (writer.parse().unwrap(), n.parse().unwrap());
        assert_eq!(got.topic.as_str(), format!("c{}", (n * 7 + writer) % CHANNELS));
        assert_eq!(n, std::mem::replace(next.entry(writer).or_default(), n + 1), "of writer {writer}");
    }
    assert_eq!(listener.metric("changes_total").await.unwrap() as usize, WRITERS * EACH);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_is_carried_byte_for_byte_whatever_it_is() {
    let stage = Stage::new().await;
    let _listener = stage.listener().await;
    let follower = stage.follower();
    let large = "x".repeat(7_999);
    let json = r#"{"a":  [1, "ü\u0041", null]}"#;
    stage.notify(&[json, "not json {", "", "\u{1f514} 'quoted' \"x\" \\", &large]).await;
    let seen = follower.got(&large, SOON).await;
    let kinds: Vec<_> = seen.changes.iter().map(|got| got.change.kind).collect();
    assert_eq!(seen.payloads(), [json, "not json {", "", "\u{1f514} 'quoted' \"x\" \\", &large]);
    assert_eq!(kinds, [Kind::Json, Kind::Text, Kind::Text, Kind::Text, Kind::Text]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_of_8000_bytes_fails_the_writers_own_insert() {
    let stage = Stage::new().await;
    let _listener = stage.listener().await;
    let follower = stage.follower();
    let client = stage.connect().await;
    let table = "create table t (text text);
        create function tell() returns trigger language plpgsql as
            $$ begin perform pg_notify('a', new.text); return new; end $$;
        create trigger tell after insert on t for each row execute function tell()";
    client.batch_execute(table).await.unwrap();
    let insert =
        async |length: usize| client.execute("insert into t values (repeat('y', $1))", &[&(length as i32)]).await;
    // Nothing that a listener could do about it: the limit is NOTIFY's.
    let refused = insert(8_000).await.unwrap_err();
    assert_eq!(refused.code(), Some(&SqlState::INVALID_PARAMETER_VALUE));
    insert(7_999).await.unwrap();
    let rows = client.query_one("select count(*) from t", &[]).await.unwrap();
    assert_eq!(rows.get::<_, i64>(0), 1);
    let seen = follower.got(&"y".repeat(7_999), SOON).await;
    assert_eq!(seen.changes.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_is_known_by_its_exact_name() {
    let stage = Stage::new().await;
    let odd = r#"Größe "x"; drop"#;
    let listener = Process::listener(&stage.url(), &stage.redis.url(), &["--channels", odd]).unwrap();
    let _listener = listener.ready().await.unwrap();
    let follower = stage.follower();
    let client = stage.connect().await;
    client.execute("select pg_notify($1, 'exact')", &[&odd]).await.unwrap();
    let seen = follower.got("exact", SOON).await;
    assert_eq!(seen.changes[0].topic.as_str(), odd);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watermark_comes_each_second_and_proves_what_came_before() {
    let stage = Stage::new().await;
    let listener = stage.listener().await;
    let follower = stage.follower();
    let seen = follower.until("three", Duration::from_secs(6), |seen| seen.watermarks >= 3).await;
    assert!(seen.changes.is_empty());
    assert!(listener.metric("watermark_age_seconds{source=\"notify\"}").await.unwrap() < 2.0);
    let head = stage.bus().reader(protocol::Source::Notify).head().await.unwrap().unwrap();
    let age = protocol::time::now() - head.at;
    assert!((0..2_500_000).contains(&age), "{age} µs");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_received_is_published_before_the_process_ends() {
    let stage = Stage::new().await;
    let mut listener = stage.listener().await;
    let follower = stage.follower();
    stage.notify(&["before"]).await;
    follower.got("before", SOON).await;
    stage.redis.pause().unwrap();
    let payloads: Vec<_> = (0..200).map(|n| n.to_string()).collect();
    stage.notify(&payloads.iter().map(|p| &**p).collect::<Vec<_>>()).await;
    listener.signal("TERM").unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    stage.redis.resume().unwrap();
    assert_eq!(listener.ended().await.unwrap(), Some(0));
    let seen = follower.got("199", SOON).await;
    seen.assert_dense();
    assert_eq!((seen.changes.len(), seen.feeds.len()), (201, 1));
}
