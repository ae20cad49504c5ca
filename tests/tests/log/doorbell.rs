use std::{fs, time::Duration};

use e2e::{eventually::eventually, follower::Follower, process::Process};
use tokio::time::{Instant, sleep};

use crate::{
    load::Load,
    stage::{SOON, Stage},
};

async fn armed(listener: &Process, yes: bool) {
    eventually("the doorbell", SOON, async || match listener.metric("log_doorbell_armed").await {
        Ok(armed) if (armed == 1.0) == yes => Ok(()),
        other => Err(other),
    })
    .await;
}

/// Waits for one more change than there were; how long after `since` it came.
async fn next_after(follower: &Follower, before: usize, since: Instant) -> Duration {
    follower.until("the next change", SOON, |seen| seen.changes.len() > before).await.changes[before].received - since
}

#[tokio::test(flavor = "multi_thread")]
async fn at_a_low_rate_writers_ring_and_changes_come_within_milliseconds() {
    let stage = Stage::new().await;
    let listener = stage.listener().await;
    let follower = stage.follower();
    let client = stage.connect().await;
    armed(&listener, true).await;
    let mut took = Vec::new();
    for n in 0..40 {
        sleep(Duration::from_millis(30)).await;
        let before = follower.look(|seen| seen.changes.len());
        client.batch_execute(&format!("update a set n = {n} where id = -1")).await.unwrap();
        took.push(next_after(&follower, before, Instant::now()).await);
    }
    armed(&listener, true).await;
    assert!(listener.metric("log_rings_total").await.unwrap() >= 40.0);
    took.sort();
    eprintln!("doorbell: p50 {:?}, max {:?} after the commit", took[20], took[39]);
    // By heartbeats alone it would be half a second.
    assert!(took[20] < Duration::from_millis(50), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_system_does_next_to_nothing_and_writes_nothing() {
    let stage = Stage::alone(&["autovacuum=off"]).await;
    // So short that what there is in the log is old.
    let listener = stage.listener_with(&["--log-retention-ms", "1000"]).ready().await.unwrap();
    let follower = stage.follower();
    stage.sql("insert into a (n) select g from generate_series(1, 1000) g").await;
    stage.all_arrived(&follower, SOON).await;
    let marks = "select pg_current_wal_insert_lsn() - '0/0' || ' ' || pg_snapshot_xmax(pg_current_snapshot())";
    // The ring turns a last time, and the server notes which transactions are in flight.
    let mut before = String::new();
    eventually("nothing is written any more", Duration::from_secs(40), async || {
        let now = stage.ask(marks).await;
        let same = std::mem::replace(&mut before, now) == before;
        sleep(Duration::from_secs(2)).await;
        if same { Ok(()) } else { Err(before.clone()) }
    })
    .await;
    let backend: u32 = stage
        .ask("select pid from pg_stat_activity where application_name ~ 'rowcast-listener' limit 1")
        .await
        .parse()
        .unwrap();
    let (looks, watermarks) =
        (listener.metric("log_looks_total").await.unwrap(), follower.look(|seen| seen.watermarks));
    let (written, cpu, since) = (stage.ask(marks).await, (ticks(listener.pid()), ticks(backend)), Instant::now());
    sleep(Duration::from_secs(10)).await;
    let used = (ticks(listener.pid()) - cpu.0, ticks(backend) - cpu.1);
    let looks = listener.metric("log_looks_total").await.unwrap() - looks;
    let parts =
        |marks: &str| marks.split_once(' ').map(|(wal, xid)| (wal.parse::<u64>().unwrap(), xid.to_owned())).unwrap();
    let ((wal, xid), (wal_now, xid_now)) = (parts(&written), parts(&stage.ask(marks).await));
    // The server notes, once after something was written, which transactions are in flight: 56 bytes.
    assert!(wal_now - wal < 100 && xid_now == xid, "{} bytes of WAL, xid {xid_now} after {xid}", wal_now - wal);
    let watermarks = follower.look(|seen| seen.watermarks) - watermarks;
    assert!((8..=12).contains(&watermarks), "{watermarks} in 10 s");
    armed(&listener, true).await;
    let seconds = since.elapsed().as_secs_f64();
    eprintln!(
        "idle: {:.1} looks/s, listener {} %, its session {} % of a core",
        looks / seconds,
        used.0 as f64 / seconds,
        used.1 as f64 / seconds
    );
    assert!((8.0..=13.0).contains(&looks), "{looks} looks in {seconds} s");
    // A tick is a hundredth of a second. The build under test is not an optimised one.
    assert!(used.0 + used.1 < 20, "{used:?} ticks in {seconds} s");
}

/// The time on a processor that a process has had, in hundredths of a second.
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn at_a_high_rate_the_log_is_polled_and_writers_do_not_ring() {
    let stage = Stage::new().await;
    let listener = stage.listener_with(&["--log-poll-above", "300"]).ready().await.unwrap();
    let follower = stage.follower();
    armed(&listener, true).await;
    let load = Load::start(
        stage.url(),
        3,
        "do $$ begin for i in 1..50 loop insert into a (n) values (i); commit; end loop; end $$",
        Duration::ZERO,
    );
    armed(&listener, false).await;
    let (rings, changes) =
        (listener.metric("log_rings_total").await.unwrap(), follower.look(|seen| seen.changes.len()));
    let mut polled = 0;
    // Longer than a watermark may be old.
    for _ in 0..100 {
        sleep(Duration::from_millis(70)).await;
        polled += u32::from(listener.metric("log_doorbell_armed").await.unwrap() == 0.0);
        // What is watched by its watermarks is up to date all the time; on a machine that cannot follow it
        // is late, and may say so.
        let (ready, why) = listener.get("/readyz").await.unwrap();
        let late = listener.metric("log_backlog_seconds").await.unwrap();
        assert!(ready == 200 || late > 0.1, "{why}, {late} s late");
    }
    let (rings, changes) =
        (listener.metric("log_rings_total").await.unwrap() - rings, follower.look(|seen| seen.changes.len()) - changes);
    load.stop().await;
    eprintln!("high rate: {rings} rings for {changes} changes, polled {polled} %");
    assert!(polled > 60 && rings * 10.0 < changes as f64, "{rings} rings for {changes} changes, polled {polled} %");
    stage.all_is_right(&follower, SOON).await;
    armed(&listener, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_wake_up_is_lost_by_who_writes_while_the_listener_falls_asleep() {
    let stage = Stage::new().await;
    // Awake at two commits in a tenth of a second.
    let listener = stage.listener_with(&["--log-poll-above", "10"]).ready().await.unwrap();
    let follower = stage.follower();
    let (client, other) = (stage.connect().await, stage.connect().await);
    let mut slowest = Duration::ZERO;
    for round in 0..60u64 {
        for n in 0..3 {
            client.batch_execute(&format!("update a set n = {n} where id = -1")).await.unwrap();
        }
        // It writes before, at and after the moment of falling asleep, and commits later.
        sleep(Duration::from_millis(round * 37 % 260)).await;
        other.batch_execute("begin; update b set n = n + 1 where id = -1").await.unwrap();
        sleep(Duration::from_millis(round * 23 % 130)).await;
        let before = follower.look(|seen| seen.changes.len());
        other.batch_execute("commit").await.unwrap();
        slowest = slowest.max(next_after(&follower, before, Instant::now()).await);
    }
    eprintln!("falling asleep: {slowest:?} at most");
    // Who is not rung for looks after a second.
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
    // Who has written without ringing keeps it awake.
    let held = stage.connect().await;
    let load = Load::start(stage.url(), 2, "update a set n = n + 1 where id = -2", Duration::ZERO);
    armed(&listener, false).await;
    held.batch_execute("begin; update c set n = n + 1 where id = -1").await.unwrap();
    load.stop().await;
    sleep(Duration::from_millis(1500)).await;
    armed(&listener, false).await;
    held.batch_execute("commit").await.unwrap();
    armed(&listener, true).await;
    stage.all_is_right(&follower, SOON).await;
}
