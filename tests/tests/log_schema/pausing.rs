use std::time::Duration;

use serde_json::{Value, json};

use crate::{Stage, insert, stage::run};

const TABLE: &str = "create table t (id int primary key); select rowcast.watch('t');";

pub async fn paused_writes_nothing_and_resume_begins_a_new_feed(stage: Stage) {
    stage.sql(&format!("{TABLE} insert into t values (1); select rowcast.pause()")).await;
    stage.log().await;
    let feed: String = stage.value("select feed from rowcast.state").await;
    stage.sql("insert into t values (2); truncate t; create table u (id int); select rowcast.watch('u'); insert into u values (1)").await;
    stage.install().await;
    stage.sql("insert into t values (3)").await;
    assert!(stage.log().await.is_empty());
    assert!(stage.value::<bool>("select paused_at is not null from rowcast.state").await);
    stage
        .sql("select rowcast.pause(); select rowcast.resume(); insert into t values (4); insert into u values (2)")
        .await;
    assert_eq!(stage.log().await, [insert(json!({"id": 4})), insert(json!({"id": 2}))]);
    let row = stage
        .client
        .query_one("select feed <> $1, feed_reason, paused_at is null from rowcast.state", &[&feed])
        .await
        .unwrap();
    assert_eq!((row.get(0), row.get(1), row.get(2)), (true, "resumed", true));
    let feed: String = stage.value("select feed from rowcast.state").await;
    stage.sql("select rowcast.resume()").await;
    assert_eq!(stage.value::<String>("select feed from rowcast.state").await, feed, "what is not paused goes on");
}

pub async fn resume_waits_for_who_wrote_uncaptured(stage: Stage) {
    stage.sql(&format!("{TABLE} select rowcast.pause()")).await;
    let (writer, other) = (stage.session(None).await, stage.session(None).await);
    run(&writer, "begin; insert into t values (1)").await;
    let resumed = tokio::spawn(async move { run(&other, "select rowcast.resume()").await });
    let waits = "select exists (select from pg_locks where relation = 't'::regclass and not granted)";
    while !stage.value::<bool>(waits).await {
        assert!(!resumed.is_finished(), "it did not wait");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!resumed.is_finished());
    run(&writer, "commit").await;
    resumed.await.unwrap();
    let seen: bool = stage.value("select pg_visible_in_snapshot(t.xmin::text::xid8, s.snapshot) from t, (select snapshot from rowcast.tick order by id desc limit 1) s").await;
    assert!(seen, "the new feed begins after it");
}

pub async fn the_log_is_discarded_only_while_paused(stage: Stage) {
    stage.sql(&format!("{TABLE} insert into t values (1); select rowcast.begin_feed('went_back')")).await;
    let error = stage.refused("select rowcast.discard()").await;
    assert_eq!((error.code().code(), error.hint()), ("55000", Some("First select rowcast.pause();")));
    let tick: i64 = stage.value("select max(id) from rowcast.tick").await;
    stage.sql("select rowcast.pause(); select rowcast.discard()").await;
    assert_eq!(stage.value::<i64>("select count(*) from rowcast.event").await, 0);
    assert_eq!(stage.value::<i64>("select count(*) from rowcast.tick").await, 1);
    assert!(
        stage.value::<i64>("select id from rowcast.tick t join rowcast.state s on s.first_tick = t.id").await > tick
    );
}

pub async fn status_tells_how_the_log_is(stage: Stage) {
    stage.sql(&format!("{TABLE} insert into t values (1), (2)")).await;
    let writer = stage.session(None).await;
    run(&writer, "begin; insert into t values (3)").await;
    let text: String = stage.value("select row_to_json(s)::text from rowcast.status() s").await;
    let status: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(status["version"], 2);
    assert_eq!(status["feed_reason"], "installed");
    assert_eq!((&status["watched"], &status["waiting"], &status["last_offset"]), (&json!(1), &json!(2), &json!(0)));
    assert_eq!(
        (&status["generation"], &status["last_tick"], &status["paused_at"]),
        (&json!(0), &json!(1), &Value::Null)
    );
    assert!(status["waiting_s"].as_f64().unwrap() >= 0.0 && status["log_s"].as_f64().unwrap() >= 0.0);
    assert!(status["log_bytes"].as_i64().unwrap() > 0);
    assert!(status["oldest_transaction"].is_string(), "{status}");
    assert_eq!(status["listeners"], json!([]));
    // A transaction that was in flight at the last tick is waiting when it commits.
    stage.sql("insert into rowcast.tick_0 (id, prev, snapshot, first, events) select id + 1, snapshot, pg_current_snapshot(), 1, 2 from rowcast.tick").await;
    assert_eq!(stage.value::<i64>("select waiting from rowcast.status()").await, 0);
    run(&writer, "commit").await;
    assert_eq!(stage.value::<i64>("select waiting from rowcast.status()").await, 1);
    assert_eq!(stage.value::<i64>("select last_offset from rowcast.status()").await, 2);
}
