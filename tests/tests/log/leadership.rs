use std::time::Duration;

use e2e::{eventually::eventually, follower::Follower, process::Process, proxy::Proxy};
use tokio::time::{Instant, sleep};

use crate::{
    load::Load,
    stage::{LATER, SOON, Stage, leads},
};

/// Waits until changes come from another leader; how long after `since` the first one came.
async fn taken_over(follower: &Follower, epoch: u64, since: Instant, within: Duration) -> Duration {
    let seen = follower
        .until("changes of another leader", within, |seen| seen.changes.last().is_some_and(|got| got.epoch > epoch))
        .await;
    seen.changes.iter().find(|got| got.epoch > epoch).unwrap().received - since
}

fn epoch(follower: &Follower) -> u64 {
    follower.look(|seen| seen.changes.last().unwrap().epoch)
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_leader_is_killed_changes_flow_again_within_2_seconds_and_nothing_is_lost_or_twice() {
    let stage = Stage::new().await;
    let mut leader = stage.listener().await;
    leads(&leader, true).await;
    let mut standby = stage.listener().await;
    let follower = stage.follower();
    let load = Load::start(stage.url(), 3, "call work(2)", Duration::from_millis(3));
    let mut took = Vec::new();
    for n in 0..12 {
        sleep(Duration::from_millis(150)).await;
        let (before, since) = (epoch(&follower), Instant::now());
        if n % 4 == 3 {
            // Asked to end, it hands over.
            assert_eq!(leader.term().await.unwrap(), Some(0));
        } else {
            leader.kill9().unwrap();
        }
        took.push(taken_over(&follower, before, since, SOON).await);
        leader.restart().unwrap();
        leader.until_ready().await.unwrap();
        leads(&standby, true).await;
        std::mem::swap(&mut leader, &mut standby);
    }
    load.stop().await;
    let seen = stage.all_is_right(&follower, LATER).await;
    stage.assert_state(&seen).await;
    assert_eq!(seen.feeds.len(), 1, "nobody is reset");
    took.sort();
    eprintln!("take-over: p50 {:?}, max {:?} of {}; {} changes", took[6], took[11], took.len(), seen.changes.len());
    assert!(took[11] < Duration::from_secs(2), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_killed_in_the_middle_of_a_large_transaction_leaves_it_whole() {
    const ROWS: usize = 60_000;
    let stage = Stage::new().await;
    let mut listeners = [stage.listener().await, stage.listener().await];
    let follower = stage.follower();
    let small = Load::gentle(stage.url(), Duration::from_millis(5));
    sleep(Duration::from_millis(200)).await;
    let large = |n: usize| {
        format!("insert into c (n, word) select g, repeat('y', 200) from generate_series(1, {ROWS}) g -- {n}")
    };
    let mut torn = 0;
    for n in 0..4 {
        let before = follower.look(|seen| seen.last());
        let (client, sql) = (stage.connect().await, large(n));
        let written = tokio::spawn(async move { client.batch_execute(&sql).await.unwrap() });
        let seen = follower.until("a part of it", LATER, |seen| seen.last() > before + 15_000).await;
        let last = seen.changes.last().unwrap().change.clone();
        let leads = match listeners[0].metric("leader{source=\"log\"}").await.unwrap() {
            1.0 => 0,
            _ => 1,
        };
        listeners[leads].kill9().unwrap();
        torn += u32::from(last.row().unwrap().tx_last > last.offset);
        written.await.unwrap();
        stage.all_arrived(&follower, LATER).await;
        listeners[leads].restart().unwrap();
        listeners[leads].until_ready().await.unwrap();
    }
    small.stop().await;
    let seen = stage.all_is_right(&follower, LATER).await;
    stage.assert_state(&seen).await;
    assert_eq!(seen.feeds.len(), 1);
    assert!(torn > 0, "none was killed in the middle");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_sleeps_loses_the_lock_and_never_publishes_beside_its_successor() {
    let stage = Stage::new().await;
    let sleeper = stage.listener().await;
    leads(&sleeper, true).await;
    let standby = stage.listener().await;
    let follower = stage.follower();
    let load = Load::start(stage.url(), 3, "call work(2)", Duration::from_millis(2));
    sleep(Duration::from_millis(300)).await;
    let (before, since) = (epoch(&follower), Instant::now());
    sleeper.pause().unwrap();
    let took = taken_over(&follower, before, since, Duration::from_secs(8)).await;
    let after = epoch(&follower);
    sleeper.resume().unwrap();
    stands_by(&sleeper).await;
    sleep(Duration::from_millis(500)).await;
    leads(&standby, true).await;
    load.stop().await;
    let seen = stage.all_is_right(&follower, LATER).await;
    stage.assert_state(&seen).await;
    assert_eq!((seen.feeds.len(), seen.terms.len(), epoch(&follower)), (1, 2, after));
    eprintln!("a leader that sleeps is replaced after {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_behind_a_network_that_went_silent_is_replaced_and_comes_back_as_standby() {
    let stage = Stage::new().await;
    let proxy = Proxy::to(stage.postgres.port()).await.unwrap();
    let url = stage.postgres.url_at(&stage.database, proxy.port());
    let cut_off = Process::listener(&url, &stage.redis.url(), &[]).unwrap().ready().await.unwrap();
    leads(&cut_off, true).await;
    let standby = stage.listener().await;
    let follower = stage.follower();
    let load = Load::start(stage.url(), 3, "call work(2)", Duration::from_millis(2));
    sleep(Duration::from_millis(300)).await;
    let (before, since) = (epoch(&follower), Instant::now());
    // Nothing closes: without idle_session_timeout the lock would be kept for hours.
    proxy.stall();
    let took = taken_over(&follower, before, since, Duration::from_secs(8)).await;
    leads(&standby, true).await;
    proxy.forward();
    stands_by(&cut_off).await;
    load.stop().await;
    let seen = stage.all_is_right(&follower, LATER).await;
    stage.assert_state(&seen).await;
    assert_eq!((seen.feeds.len(), seen.terms.len()), (1, 2));
    eprintln!("a leader that cannot be reached is replaced after {took:?}");
}

async fn stands_by(listener: &Process) {
    eventually("it stands by", SOON, async || {
        let (ready, body) = listener.get("/readyz").await.map_err(|e| e.to_string())?;
        let leads = listener.metric("leader{source=\"log\"}").await.map_err(|e| e.to_string())?;
        if ready == 200 && leads == 0.0 && body.contains("standing by") { Ok(()) } else { Err(body) }
    })
    .await;
}
