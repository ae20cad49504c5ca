use std::time::Duration;

use e2e::{follower::Follower, postgres::Shutdown};
use tokio::time::{Instant, sleep};

use crate::{
    load::Load,
    stage::{LATER, SOON, Stage},
    truth::Truth,
};

/// How long after `since` the next change came.
async fn flows(follower: &Follower, since: Instant) -> Duration {
    let seen = follower
        .until("changes flow again", SOON, |seen| seen.changes.last().is_some_and(|got| got.received > since))
        .await;
    seen.changes.iter().find(|got| got.received > since).unwrap().received - since
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_lost_all_or_some_gets_it_back_under_the_same_feed_and_nobody_is_reset() {
    let mut stage = Stage::new().await;
    let _listener = stage.listener().await;
    let follower = stage.follower();
    let load = Load::start(stage.url(), 3, "call work(3)", Duration::from_millis(2));
    sleep(Duration::from_millis(500)).await;
    let mut took = Vec::new();
    for (what, keep) in [("with its data", true), ("without its data", false), ("without its data", false)] {
        stage.redis.restart(keep).await.unwrap();
        took.push((what, flows(&follower, Instant::now()).await));
        sleep(Duration::from_millis(300)).await;
    }
    let flushed = Instant::now();
    stage.redis.command::<String>(&["FLUSHALL"]).await.unwrap();
    took.push(("emptied", flows(&follower, flushed).await));
    // Back to what it was a second ago.
    stage.redis.pause().unwrap();
    let snapshot = stage.redis.snapshot().unwrap();
    stage.redis.resume().unwrap();
    sleep(Duration::from_secs(1)).await;
    stage.redis.restore(&snapshot).await.unwrap();
    took.push(("older", flows(&follower, Instant::now()).await));
    sleep(Duration::from_millis(300)).await;
    load.stop().await;
    let seen = stage.all_is_right(&follower, LATER).await;
    stage.assert_state(&seen).await;
    assert_eq!(seen.feeds.len(), 1, "nobody is reset");
    // Who comes only now finds everything too.
    let histories = stage.histories().await;
    Truth::read(&stage.connect().await).await.assert_same(&histories.iter().collect::<Vec<_>>());
    eprintln!("Redis came back: {took:?}; {} changes", seen.changes.len());
    for (what, took) in took {
        assert!(took < Duration::from_millis(1500), "{what}: {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_away_the_log_goes_on_and_all_of_it_arrives() {
    let mut stage = Stage::new().await;
    let listener = stage.listener().await;
    let follower = stage.follower();
    let load = Load::start(stage.url(), 2, "call work(3)", Duration::from_millis(4));
    sleep(Duration::from_millis(500)).await;
    stage.redis.kill().unwrap();
    let mut last = 0.0;
    for second in 0..30 {
        sleep(Duration::from_secs(1)).await;
        let (now, ticks) = (
            listener.metric("log_last_offset").await.unwrap(),
            stage.ask("select max(at) > now() - interval '1s' from rowcast.tick").await,
        );
        assert!(now > last && ticks == "true", "after {second} s: {now} after {last}, ticks go on: {ticks}");
        last = now;
    }
    // Ticks stay small, however long it takes.
    let largest: f64 =
        stage.ask("select max(events) from rowcast.tick where at > now() - interval '25s'").await.parse().unwrap();
    assert!(largest * 10.0 < last, "one of {largest} of {last}");
    stage.redis.restart(false).await.unwrap();
    let took = flows(&follower, Instant::now()).await;
    load.stop().await;
    let seen = stage.all_is_right(&follower, LATER).await;
    stage.assert_state(&seen).await;
    assert_eq!(seen.feeds.len(), 1);
    eprintln!("Redis was away for 30 s: flows again after {took:?}; {} changes", seen.changes.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_crashed_goes_on_with_the_same_feed() {
    let mut stage = Stage::alone(&[]).await;
    let _listener = stage.listener().await;
    let follower = stage.follower();
    let load = Load::start(stage.url(), 4, "call work(3)", Duration::from_millis(1));
    for _ in 0..3 {
        sleep(Duration::from_millis(700)).await;
        stage.postgres.restart(Shutdown::Immediate).await.unwrap();
        let took = flows(&follower, Instant::now()).await;
        eprintln!("PostgreSQL came back: {took:?}");
        assert!(took < Duration::from_secs(4), "{took:?}");
    }
    stage.postgres.kill9().unwrap();
    stage.postgres.restart(Shutdown::Immediate).await.unwrap();
    flows(&follower, Instant::now()).await;
    load.stop().await;
    let seen = stage.all_is_right(&follower, LATER).await;
    stage.assert_state(&seen).await;
    assert_eq!(seen.feeds.len(), 1, "a crash loses nothing that was published");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_that_a_database_sets_for_its_users_do_not_hold_the_listener_up() {
    let stage = Stage::new().await;
    stage.sql("insert into a (word) select repeat('x', 100) from generate_series(1, 150000) g").await;
    for setting in [
        "statement_timeout = '20ms'",
        "idle_in_transaction_session_timeout = '1s'",
        "default_transaction_read_only = on",
    ] {
        stage.sql(&format!("alter database {} set {setting}", stage.database)).await;
    }
    let _listener = stage.listener().await;
    let follower = stage.follower();
    follower.until("all of it", LATER, |seen| seen.last() == 150_300).await.assert_dense();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_while_no_listener_ran_arrives_in_order() {
    let stage = Stage::alone(&["max_wal_size=4GB"]).await;
    let listener = stage.listener_with(&["--history-bytes", "1073741824"]);
    let mut listener = listener.ready().await.unwrap();
    let follower = stage.follower();
    stage.all_is_right(&follower, SOON).await;
    listener.kill9().unwrap();
    let load = Load::mixed(stage.url(), 3);
    let bulk = "update a set n = n + 1, word = repeat('x', 300) where id between -100 and -60";
    let bulk = Load::start(stage.url(), 1, bulk, Duration::ZERO);
    sleep(Duration::from_secs(8)).await;
    for load in [load, bulk] {
        assert!(load.stop().await > 10);
    }
    let since = Instant::now();
    listener.restart().unwrap();
    let before = follower.look(|seen| seen.changes.len());
    let seen = stage.all_is_right(&follower, LATER).await;
    let changes = seen.changes.len() - before;
    let (first, last) = (seen.changes[before].received, seen.changes.last().unwrap().received);
    eprintln!(
        "catching up: {changes} changes, the first {:?} after the start, {:.0} a second",
        first - since,
        changes as f64 / (last - first).as_secs_f64()
    );
    stage.assert_state(&seen).await;
    assert_eq!(seen.feeds.len(), 1);
}
