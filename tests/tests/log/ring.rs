use std::time::Duration;

use bus::History;
use e2e::{eventually::eventually, process::Process};
use protocol::{Source, Topic};
use tokio::time::{Instant, sleep};

use crate::{
    load::Load,
    rss::MIB,
    stage::{LATER, SOON, Stage, leads},
};

const ON_DISK: &str = "select sum(pg_total_relation_size(inhrelid)) from pg_inherits where inhparent in ('rowcast.event'::regclass, 'rowcast.tick'::regclass)";
const GENERATION: &str = "select last_value >> 36 from rowcast.event_id";
/// 20 rows of 300 bytes and their old rows.
const UPDATES: &str = "update a set n = n + 1, word = repeat('x', 300) where id between -20 and -1";

async fn number(stage: &Stage<impl std::borrow::Borrow<e2e::postgres::PostgresServer>>, sql: &str) -> u64 {
    stage.ask(sql).await.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_slots_pass_and_the_log_stays_small_without_a_vacuum() {
    const KEPT: u64 = 16 * MIB;
    let stage = Stage::alone(&["autovacuum=off"]).await;
    let listener = stage.listener_with(&["--log-retention-bytes", &KEPT.to_string()]).ready().await.unwrap();
    let follower = stage.follower();
    let load = Load::start(stage.url(), 2, UPDATES, Duration::from_millis(12));
    let (mut most, mut generation) = (0, 0);
    let since = Instant::now();
    while generation < 6 && since.elapsed() < LATER {
        sleep(Duration::from_millis(200)).await;
        most = most.max(number(&stage, ON_DISK).await);
        generation = number(&stage, GENERATION).await;
    }
    load.stop().await;
    eprintln!(
        "ring: {generation} turns in {:?}, {:.1} MiB at most of {} kept",
        since.elapsed(),
        most as f64 / MIB as f64,
        KEPT / MIB
    );
    assert_eq!(generation, 6, "{most} bytes");
    assert!(most <= 2 * KEPT, "{most} bytes on disk");
    let sql = "select (select first + events - 1 from rowcast.tick order by id desc limit 1)";
    let last = number(&stage, sql).await;
    let seen = follower.until("everything", LATER, |seen| seen.last() == last).await;
    seen.assert_dense();
    stage.assert_state(&seen).await;
    assert_eq!(seen.feeds.len(), 1);
    let dead = "select sum(n_dead_tup) from pg_stat_user_tables where relname ~ '^(event|tick)_[0-3]$'";
    eventually("no dead rows", SOON, async || match stage.ask(dead).await {
        dead if dead == "0" => Ok(()),
        dead => Err(dead),
    })
    .await;
    assert!(listener.metric("log_bytes").await.unwrap() > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_old_goes_and_what_is_not_published_stays_however_old() {
    let mut stage = Stage::alone(&["autovacuum=off", "max_prepared_transactions=4"]).await;
    let listener = stage.listener_with(&["--log-retention-ms", "1000"]).ready().await.unwrap();
    let follower = stage.follower();
    let oldest = "select coalesce(min(first + events - 1), 0) from rowcast.tick where events > 0";
    let load = Load::start(stage.url(), 1, "call work(1)", Duration::from_millis(5));
    eventually("old ticks are gone", SOON, async || match number(&stage, oldest).await {
        oldest if oldest > 300 => Ok(()),
        oldest => Err(oldest),
    })
    .await;
    // One that is prepared keeps its leaf.
    stage.sql("begin; update a set word = 'prepared' where id = -70; prepare transaction 'p'").await;
    let leaf = "select id >> 36 from rowcast.event order by id desc limit 1";
    let prepared_in = number(&stage, leaf).await;
    // While Redis is away nothing goes.
    stage.redis.kill().unwrap();
    sleep(Duration::from_millis(300)).await;
    let published = listener.metric("log_published_offset").await.unwrap() as u64;
    sleep(Duration::from_secs(6)).await;
    assert!(number(&stage, oldest).await <= published + 1);
    stage.redis.restart(false).await.unwrap();
    let flowed = Instant::now();
    follower
        .until("changes flow again", SOON, |seen| seen.changes.last().is_some_and(|got| got.received > flowed))
        .await;
    eventually("the ring goes on past the prepared one", SOON, async || match number(&stage, GENERATION).await {
        generation if generation >= prepared_in + 2 => Ok(()),
        generation => Err((generation, prepared_in)),
    })
    .await;
    sleep(Duration::from_secs(2)).await;
    stage.sql("commit prepared 'p'").await;
    let prepared = |got: &e2e::follower::Got| {
        got.change.row().is_some_and(|row| String::from_utf8_lossy(&row.data).contains("\"prepared\""))
    };
    follower.until("what was prepared", SOON, |seen| seen.changes.iter().rev().take(200).any(prepared)).await;
    let prepared_leaf = format!("select count(*) from rowcast.event where id >> 36 = {prepared_in}");
    eventually("its leaf is emptied then", SOON, async || match number(&stage, &prepared_leaf).await {
        0 => Ok(()),
        n => Err(n),
    })
    .await;
    load.stop().await;
    stage.all_arrived(&follower, LATER).await;
    let seen = follower.seen();
    seen.assert_dense();
    stage.assert_state(&seen).await;
    assert_eq!(seen.feeds.len(), 1);
    // Who comes from before what is kept is told.
    stage.redis.command::<String>(&["FLUSHALL"]).await.unwrap();
    let reader = stage.bus().reader(Source::Log);
    eventually("a history that begins later", SOON, async || {
        let head = reader.head().await.map_err(|e| e.to_string())?.ok_or("no head")?;
        let topic = Topic::new("public.a").unwrap();
        match reader.history(&head.feed, &topic, 1).await.map_err(|e| e.to_string())? {
            History::Trimmed if head.feed == seen.feeds[0] => Ok(()),
            other => Err(format!("{other:?} {head:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tick_whose_changes_are_half_thrown_away_does_not_stop_a_refill() {
    let stage = Stage::alone(&["autovacuum=off"]).await;
    let _listener = stage.listener_with(&["--log-retention-ms", "3000"]).ready().await.unwrap();
    let follower = stage.follower();
    // It writes to one leaf, and its tick is in the next.
    let across = stage.connect().await;
    across.batch_execute("begin; insert into a (word) values ('in the first leaf')").await.unwrap();
    stage.sql("insert into b (word) values ('x')").await;
    stage.all_arrived(&follower, SOON).await;
    assert_eq!(stage.ask("select rowcast.turn_ring(0)").await, "1");
    across.batch_execute("insert into a (word) values ('in the second leaf'); commit").await.unwrap();
    // Who reads a leaf keeps it.
    across.batch_execute("begin; select from rowcast.event_1").await.unwrap();
    let load = Load::gentle(stage.url(), Duration::from_millis(10));
    eventually("the first leaf is emptied", SOON, async || {
        match stage.ask("select count(*) from rowcast.event_0").await {
            events if events == "0" => Ok(()),
            events => Err(events),
        }
    })
    .await;
    let torn = "select count(*) from rowcast.event_1 where data like '%the second leaf%'";
    assert_eq!(stage.ask(torn).await, "1");
    stage.redis.command::<String>(&["FLUSHALL"]).await.unwrap();
    sleep(Duration::from_millis(1500)).await;
    load.stop().await;
    stage.all_arrived(&follower, SOON).await;
    let seen = follower.seen();
    seen.assert_dense();
    assert_eq!(seen.feeds.len(), 1);
    assert_eq!(stage.ask("select feed_reason from rowcast.state").await, "installed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_that_is_kept_before_one_that_was_emptied_does_not_stop_a_refill() {
    let stage = Stage::alone(&["autovacuum=off"]).await;
    let mut listener = stage.listener_with(&["--log-retention-ms", "3000"]).ready().await.unwrap();
    let follower = stage.follower();
    let load = Load::gentle(stage.url(), Duration::from_millis(10));
    follower.until("some changes", SOON, |seen| seen.last() > 10).await;
    let reads = stage.connect().await;
    reads.batch_execute("begin; select from rowcast.tick_0").await.unwrap();
    eventually("the leaf after it is emptied", LATER, async || {
        let emptied = "select exists (select from rowcast.tick_0) and not exists (select from rowcast.tick_1) \
                         and exists (select from rowcast.tick_2) from rowcast.event_id where last_value >> 36 > 1";
        match stage.ask(&format!("select coalesce(({emptied}), false)")).await {
            emptied if emptied == "true" => Ok(()),
            _ => Err(number(&stage, GENERATION).await),
        }
    })
    .await;
    stage.redis.command::<String>(&["FLUSHALL"]).await.unwrap();
    sleep(Duration::from_millis(1500)).await;
    load.stop().await;
    stage.all_arrived(&follower, SOON).await;
    follower.seen().assert_dense();
    assert_eq!(follower.seen().feeds.len(), 1);
    assert_eq!(listener.term().await.unwrap(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_that_lacks_more_than_the_log_still_has_goes_on_under_load_without_a_hole() {
    let mut stage = Stage::alone(&["autovacuum=off"]).await;
    let mut listener = stage.listener_with(&["--log-retention-ms", "1000"]).ready().await.unwrap();
    let follower = stage.follower();
    let load = Load::start(stage.url(), 1, "call work(1)", Duration::from_millis(3));
    follower.until("some changes", SOON, |seen| seen.last() > 400).await;
    stage.redis.pause().unwrap();
    let snapshot = stage.redis.snapshot().unwrap();
    stage.redis.resume().unwrap();
    let held = follower.look(|seen| seen.last());
    let oldest = "select coalesce(min(first + events - 1), 0) from rowcast.tick where events > 0";
    eventually("what comes next is gone", SOON, async || match number(&stage, oldest).await {
        oldest if oldest > held + 500 => Ok(()),
        oldest => Err((oldest, held)),
    })
    .await;
    // With its memory goes what the listener could have published again.
    listener.kill9().unwrap();
    stage.redis.restore(&snapshot).await.unwrap();
    listener.restart().unwrap();
    let before = follower.look(|seen| seen.last());
    follower.until("changes flow again", SOON, |seen| seen.last() > before + 10).await;
    load.stop().await;
    stage.all_arrived(&follower, LATER).await;
    let seen = follower.seen();
    seen.assert_dense();
    assert_eq!(seen.feeds.len(), 1, "nobody is reset");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_publishes_nothing_and_the_resume_is_a_new_feed() {
    let stage = Stage::new().await;
    let listener = stage.listener().await;
    let follower = stage.follower();
    stage.all_is_right(&follower, SOON).await;
    stage.sql("select rowcast.pause()").await;
    off(&listener, "paused").await;
    let before = follower.seen();
    stage.sql("insert into a (word) values ('missed')").await;
    sleep(Duration::from_millis(2500)).await;
    let seen = follower.seen();
    assert_eq!(
        (seen.changes.len(), seen.watermarks),
        (before.changes.len(), before.watermarks),
        "nobody is told that all is well"
    );
    stage.sql("select rowcast.discard()").await;
    stage.sql("select rowcast.resume()").await;
    leads(&listener, true).await;
    follower.until("a new feed", SOON, |seen| seen.feeds.len() > 1 && seen.watermarks > before.watermarks).await;
    stage.sql("insert into a (word) values ('after')").await;
    let seen = stage.all_is_right(&follower, SOON).await;
    assert_eq!(seen.of_feed(seen.feeds.last().unwrap()).count(), 1);
    assert_eq!(stage.ask("select feed_reason from rowcast.state").await, "resumed");
    // The same with a bus that knows nothing of the feed before.
    let feeds = seen.feeds.len();
    stage.sql("select rowcast.pause()").await;
    off(&listener, "paused").await;
    stage.redis.command::<String>(&["FLUSHALL"]).await.unwrap();
    stage.sql("select rowcast.resume()").await;
    follower.until("another feed", SOON, |seen| seen.feeds.len() > feeds).await;
    stage.sql("insert into a (word) values ('after all')").await;
    let seen = stage.all_is_right(&follower, SOON).await;
    assert_eq!(seen.of_feed(seen.feeds.last().unwrap()).count(), 1);
}

async fn off(listener: &Process, why: &str) {
    eventually("it is off", SOON, async || {
        let (_, body) = listener.get("/readyz").await.map_err(|e| e.to_string())?;
        if body.contains(why) { Ok(()) } else { Err(body) }
    })
    .await;
}
