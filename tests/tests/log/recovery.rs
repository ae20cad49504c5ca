use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bus::{History, RedisBus};
use e2e::{
    follower::{self, Follower},
    postgres::Shutdown,
};
use protocol::{Source, Topic};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{
    load::Load,
    rss::{MIB, Rss},
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
    let told = Told::of(&stage.bus());
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
    // Lost again while it is being filled.
    for _ in 0..4 {
        stage.redis.command::<String>(&["FLUSHALL"]).await.unwrap();
        sleep(Duration::from_millis(20)).await;
    }
    stage.sql("insert into b (word) values ('the last')").await;
    let seen = stage.all_is_right(&follower, LATER).await;
    stage.assert_state(&seen).await;
    assert_eq!(seen.feeds.len(), 1, "nobody is reset");
    let told = told.stop().await;
    let of_a: Vec<u64> =
        seen.changes.iter().filter(|got| got.topic.as_str() == "public.a").map(|got| got.change.offset).collect();
    for (through, offsets) in &told {
        let all = of_a.iter().take_while(|offset| *offset <= through);
        assert!(offsets.iter().eq(all), "complete up to {through}: {} changes", offsets.len());
    }
    assert!(told.len() > 20);
    // Who comes only now finds everything too.
    let histories = stage.histories().await;
    Truth::read(&stage.connect().await).await.assert_same(&histories.iter().collect::<Vec<_>>());
    eprintln!("Redis came back: {took:?}; {} changes", seen.changes.len());
    for (what, took) in took {
        assert!(took < Duration::from_millis(1500), "{what}: {took:?}");
    }
}

/// Asks for a history again and again, and keeps what is said to be complete.
struct Told {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Vec<(u64, Vec<u64>)>>,
}

impl Told {
    fn of(bus: &RedisBus) -> Self {
        let (reader, stop) = (bus.reader(Source::Log), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let topic = Topic::new("public.a").unwrap();
        let task = tokio::spawn(async move {
            let mut told = Vec::new();
            while !stopped.load(Ordering::Acquire) {
                if let Ok(Some(head)) = reader.head().await
                    && let Ok(History::Complete { through, slices }) = reader.history(&head.feed, &topic, 0).await
                {
                    let slices = slices.iter().map(|slice| (&topic, slice));
                    let changes = follower::changes(slices, &head.feed, head.epoch, 0);
                    told.push((through, changes.iter().map(|got| got.change.offset).collect()));
                }
                sleep(Duration::from_millis(15)).await;
            }
            told
        });
        Self { stop, task }
    }

    async fn stop(self) -> Vec<(u64, Vec<u64>)> {
        self.stop.store(true, Ordering::Release);
        self.task.await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_away_the_log_goes_on_and_all_of_it_arrives() {
    let mut stage = Stage::new().await;
    let listener = stage.listener_with(&["--history-bytes", "1073741824"]).ready().await.unwrap();
    let follower = stage.follower();
    let load = Load::start(stage.url(), 2, "call work(3)", Duration::from_millis(4));
    let bulk = "update a set n = n + 1, word = repeat('x', 3000) where id between -100 and -60";
    let bulk = Load::start(stage.url(), 1, bulk, Duration::from_millis(50));
    sleep(Duration::from_millis(500)).await;
    let rss = Rss::of(&listener);
    stage.redis.kill().unwrap();
    let mut last = 0.0;
    for second in 0..15 {
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
        stage.ask("select max(events) from rowcast.tick where at > now() - interval '12s'").await.parse().unwrap();
    assert!(largest * 10.0 < last, "one of {largest} of {last}");
    stage.redis.restart(false).await.unwrap();
    let took = flows(&follower, Instant::now()).await;
    load.stop().await;
    bulk.stop().await;
    let seen = stage.all_is_right(&follower, LATER).await;
    stage.assert_state(&seen).await;
    assert_eq!(seen.feeds.len(), 1);
    let log = stage.ask("select sum(bytes) / 1048576 from rowcast.tick").await;
    assert!(rss.most() < 120 * MIB, "{} MiB", rss.most() / MIB);
    eprintln!("{log} MiB of changes, {} MiB of memory at most", rss.most() / MIB);
    eprintln!("Redis was away for 15 s: flows again after {took:?}; {} changes", seen.changes.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_the_histories_keep_comes_out_all_the_same_after_redis_was_away_and_lost_its_data() {
    let mut stage = Stage::new().await;
    // A history: 20 MiB.
    let _listener = stage.listener_with(&["--history-bytes", "20971520"]).ready().await.unwrap();
    let follower = stage.follower();
    stage.all_is_right(&follower, SOON).await;
    stage.redis.kill().unwrap();
    for _ in 0..6 {
        for table in ["a", "b", "c"] {
            let sql = format!("insert into {table} (word) select repeat('x', 80000) from generate_series(1, 50) g");
            stage.sql(&sql).await;
        }
        sleep(Duration::from_millis(200)).await;
    }
    stage.redis.restart(false).await.unwrap();
    let seen = stage.all_is_right(&follower, LATER).await;
    assert_eq!((seen.feeds.len(), seen.changes.len()), (1, 300 + 900));
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
    sleep(Duration::from_secs(5)).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_comes_back_older_than_the_log_begins_its_histories_anew_and_nobody_is_reset() {
    let mut stage = Stage::new().await;
    let mut listener = stage.listener_with(&["--log-retention-ms", "2000"]).ready().await.unwrap();
    let follower = stage.follower();
    stage.sql("insert into b (word) values ('first')").await;
    stage.all_arrived(&follower, SOON).await;
    stage.redis.pause().unwrap();
    let snapshot = stage.redis.snapshot().unwrap();
    stage.redis.resume().unwrap();
    let held = follower.look(follower::Seen::last).cast_signed();
    let client = stage.connect().await;
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        stage.sql("insert into b (word) values ('more')").await;
        sleep(Duration::from_millis(50)).await;
        let kept = "select count(*) from rowcast.tick where events > 0 and first <= $1";
        if client.query_one(kept, &[&(held + 1)]).await.unwrap().get::<_, i64>(0) == 0 {
            break;
        }
        assert!(Instant::now() < deadline, "the log still has what followed the snapshot");
    }
    stage.all_arrived(&follower, SOON).await;
    // What it has published it would still have in memory.
    listener.kill9().unwrap();
    stage.redis.restore(&snapshot).await.unwrap();
    listener.restart().unwrap();
    stage.sql("insert into b (word) values ('the last')").await;
    stage.all_arrived(&follower, LATER).await;
    let seen = follower.seen();
    seen.assert_dense();
    assert_eq!(seen.feeds.len(), 1, "nobody is reset");
    let head = stage.bus().reader(Source::Log).head().await.unwrap().unwrap();
    assert!(head.base > held.cast_unsigned() && head.last == seen.last(), "{head:?}");
    assert!(listener.log().contains("its histories begin anew"));
}
