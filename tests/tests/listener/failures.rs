use std::time::Duration;

use e2e::{eventually::eventually, postgres::Shutdown, process::Process, proxy::Proxy};
use tokio::time::{Instant, sleep};

use crate::stage::{BACK, SOON, Stage};

/// Writes numbers to channel `a` until it is dropped; says how many were committed.
async fn write_for(stage: &Stage, time: Duration) -> usize {
    let client = stage.connect().await;
    let end = Instant::now() + time;
    let mut n = 0;
    while Instant::now() < end {
        client.execute("select pg_notify('a', $1)", &[&format!("n{n}")]).await.unwrap();
        n += 1;
        sleep(Duration::from_millis(2)).await;
    }
    n
}

async fn redis_restarts(keep_data: bool) {
    let mut stage = Stage::new().await;
    let listener = stage.listener().await;
    let follower = stage.follower();
    let before = write_for(&stage, Duration::from_millis(500)).await;
    follower.until("before", SOON, |seen| seen.changes.len() == before).await;
    stage.redis.kill().unwrap();
    stage.notify(&["while away"]).await;
    eventually("red", SOON, async || match listener.get("/readyz").await {
        Ok((503, body)) if body.contains("bus") => Ok(()),
        other => Err(other),
    })
    .await;
    stage.redis.restart(keep_data).await.unwrap();
    follower.got("while away", BACK).await;
    stage.notify(&["after"]).await;
    let seen = follower.got("after", BACK).await;
    seen.assert_dense();
    assert_eq!((seen.changes.len(), seen.feeds.len()), (before + 2, 1));
    // Not only to those that were there: the histories are back too.
    let fresh = stage.follower();
    let seen = fresh.got("after", BACK).await;
    assert_eq!((seen.changes.len(), seen.feeds), (before + 2, follower.seen().feeds));
    assert_eq!(listener.metric("bus_reconnects_total").await.unwrap(), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_restarts_with_its_data_is_continued() {
    redis_restarts(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_restarts_empty_gets_the_same_feed_back() {
    redis_restarts(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_emptied_while_it_runs_gets_the_same_feed_back() {
    let stage = Stage::new().await;
    let _listener = stage.listener().await;
    let follower = stage.follower();
    stage.notify(&["1", "2"]).await;
    follower.got("2", SOON).await;
    stage.redis.command::<()>(&["FLUSHALL"]).await.unwrap();
    stage.notify(&["3"]).await;
    let seen = follower.got("3", BACK).await;
    assert_eq!((seen.payloads(), seen.feeds.len()), (vec!["1", "2", "3"], 1));
    let fresh = stage.follower().got("3", BACK).await;
    assert_eq!(fresh.payloads(), ["1", "2", "3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pump_drains_postgres_while_redis_is_away_and_nothing_is_lost() {
    const BURST: usize = 100_000;
    // Its own server: the queue is one for all databases.
    let mut stage = Stage::breakable().await;
    let listener = stage.listener().await;
    let follower = stage.follower();
    follower.until("a feed", SOON, |seen| seen.feeds.len() == 1).await;
    stage.redis.kill().unwrap();
    let client = stage.connect().await;
    for from in (0..BURST).step_by(10_000) {
        let sql =
            format!("select pg_notify('b', repeat('x', 200) || n) from generate_series({from}, {}) n", from + 9_999);
        client.batch_execute(&format!("do $$ begin perform {}; end $$", &sql[7..])).await.unwrap();
    }
    eventually("a queue that is drained", SOON, async || {
        let usage: f64 = client.query_one("select pg_notification_queue_usage()", &[]).await.unwrap().get(0);
        let waiting = listener.metric("backlog_bytes").await.unwrap() as usize;
        if usage < 1e-3 && waiting > BURST * 200 { Ok(()) } else { Err((usage, waiting)) }
    })
    .await;
    stage.redis.restart(true).await.unwrap();
    let seen = follower.until("all", SOON, |seen| seen.changes.len() == BURST).await;
    seen.assert_dense();
    for (n, got) in seen.changes.iter().enumerate() {
        assert!(got.payload().ends_with(&format!("x{n}")), "{n}");
    }
    assert_eq!(seen.feeds.len(), 1);
    assert_eq!(listener.metric("backlog_bytes").await.unwrap(), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_backlog_is_dropped_and_everybody_is_told() {
    let mut stage = Stage::new().await;
    let listener = stage.listener_with(&["--buffer-bytes", "1048576"]).ready().await.unwrap();
    let follower = stage.follower();
    stage.notify(&["before"]).await;
    follower.got("before", SOON).await;
    stage.redis.kill().unwrap();
    stage
        .sql("do $$ begin perform pg_notify('a', repeat('x', 1000) || n) from generate_series(1, 5000) n; end $$")
        .await;
    eventually("dropped", SOON, async || match listener.metric("dropped_notifications_total").await {
        Ok(dropped) if dropped > 0.0 => Ok(()),
        other => Err(other),
    })
    .await;
    assert!(listener.metric("backlog_bytes").await.unwrap() <= 1_048_576.0);
    stage.redis.restart(true).await.unwrap();
    let seen = follower.until("a new feed", BACK, |seen| seen.feeds.len() == 2).await;
    assert!(seen.feeds[0] != seen.feeds[1]);
    stage.notify(&["after"]).await;
    let seen = follower.got("after", BACK).await;
    seen.assert_dense();
    assert_eq!(listener.metric("feeds_total{reason=\"overflow\"}").await.unwrap(), 1.0);
    assert_eq!(listener.log().matches("backlog is full").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_that_is_larger_than_the_backlog_resets_nobody_while_redis_works() {
    const BURST: usize = 300_000;
    let stage = Stage::breakable().await;
    let listener = stage.listener_with(&["--buffer-bytes", "1048576"]).ready().await.unwrap();
    let follower = stage.follower();
    follower.until("a feed", SOON, |seen| seen.feeds.len() == 1).await;
    let sql =
        format!("do $$ begin perform pg_notify('b', repeat('x', 200) || n) from generate_series(1, {BURST}) n; end $$");
    stage.sql(&sql).await;
    let seen = follower.until("all", 3 * SOON, |seen| seen.changes.len() == BURST).await;
    seen.assert_dense();
    assert_eq!((seen.feeds.len(), listener.metric("dropped_notifications_total").await.unwrap()), (1, 0.0));
}

async fn postgres_restarts(how: Option<Shutdown>) {
    let mut stage = Stage::breakable().await;
    let listener = stage.listener().await;
    let follower = stage.follower();
    stage.notify(&["before"]).await;
    follower.got("before", SOON).await;
    match how {
        Some(how) => stage.postgres.stop(how).await.unwrap(),
        None => stage.postgres.kill9().unwrap(),
    }
    eventually("red", SOON, async || match listener.get("/readyz").await {
        Ok((503, body)) if body.contains("PostgreSQL") => Ok(()),
        other => Err(other),
    })
    .await;
    stage.postgres.restart(Shutdown::Fast).await.unwrap();
    let seen = follower.until("a new feed", BACK, |seen| seen.feeds.len() == 2).await;
    assert!(seen.feeds[0] != seen.feeds[1]);
    stage.notify(&["after"]).await;
    follower.got("after", BACK).await.assert_dense();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_was_stopped_is_listened_to_again_in_a_new_feed() {
    postgres_restarts(Some(Shutdown::Fast)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_was_killed_is_listened_to_again_in_a_new_feed() {
    postgres_restarts(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_falls_silent_is_noticed_within_5_seconds() {
    let stage = Stage::new().await;
    let proxy = Proxy::to(stage.postgres.port()).await.unwrap();
    let url = stage.postgres.url_at(&stage.database, proxy.port());
    let listener = Process::listener(&url, &stage.redis.url(), &["--channels", "a"]).unwrap().ready().await.unwrap();
    let follower = stage.follower();
    stage.notify(&["before"]).await;
    follower.got("before", SOON).await;
    proxy.stall();
    eventually("red", Duration::from_secs(5), async || match listener.get("/readyz").await {
        Ok((503, body)) if body.contains("PostgreSQL") => Ok(()),
        other => Err(other),
    })
    .await;
    proxy.cut();
    proxy.forward();
    follower.until("a new feed", BACK + Duration::from_secs(3), |seen| seen.feeds.len() == 2).await;
    stage.notify(&["after"]).await;
    follower.got("after", BACK).await.assert_dense();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_waits_for_a_standby_resets_nobody() {
    let stage = Stage::breakable().await;
    let listener = stage.listener().await;
    let follower = stage.follower();
    stage.notify(&["before"]).await;
    follower.got("before", SOON).await;
    let set = async |value: &str| {
        let client = stage.connect().await;
        client.batch_execute(&format!("alter system set synchronous_standby_names = '{value}'")).await.unwrap();
        client.batch_execute("select pg_reload_conf()").await.unwrap();
    };
    // Nobody is that standby, so this commit waits, and holds the lock that every NOTIFY takes.
    set("nobody").await;
    sleep(Duration::from_millis(300)).await;
    let waiting = stage.connect().await;
    let waiting = tokio::spawn(async move { waiting.batch_execute("create table t (); notify a, 'waited'").await });
    eventually("said", SOON, async || match listener.log() {
        log if log.contains("NOTIFY waits") => Ok(()),
        log => Err(log),
    })
    .await;
    sleep(Duration::from_secs(4)).await;
    set("").await;
    waiting.await.unwrap().unwrap();
    let seen = follower.got("waited", SOON).await;
    stage.notify(&["after"]).await;
    assert_eq!(follower.got("after", SOON).await.feeds, seen.feeds);
    assert_eq!(seen.feeds.len(), 1);
}
