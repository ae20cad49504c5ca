//! A listener that is down for long while writers go on: how soon it has caught up, and that a
//! subscriber then has every change, once and in order.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use bus::{RedisBus, RedisSettings, Retention};
use e2e::{
    follower::Follower,
    postgres::{Durability, PostgresServer},
    redis::RedisServer,
};
use protocol::Source;
use tokio::{task::JoinSet, time::sleep};

use crate::{
    args::Away,
    pin::Cores,
    process::Process,
    report::{Measure, Report},
    usage,
};

const TABLE: &str = "create table measurements (id bigint generated always as identity primary key, what text not null); \
    select rowcast.watch('public.measurements')";
/// So that a change has about 300 bytes.
const INSERT: &str = "insert into measurements (what) select repeat('x', 270)";
const WRITERS: u32 = 8;
/// How long a listener may take to catch up, and a subscriber to have the last change.
const PATIENCE: Duration = Duration::from_secs(600);

/// One run. The writers do not stop while the listener catches up.
pub async fn run(cores: &Cores, what: &Away, report: &mut Report) -> anyhow::Result<()> {
    cores.as_servers()?;
    let postgres = PostgresServer::start_with(Durability::Full, &["max_wal_size=8GB"]).await?;
    let database = postgres.create_database().await?;
    let redis = RedisServer::start().await?;
    Process::run("rowcast", &["install", "--database-url", &postgres.url(&database)])?;
    postgres.execute(&database, TABLE).await?;
    let bind = "{bind}".to_owned();
    let arguments = ["--database-url", &postgres.url(&database), "--redis-url", &redis.url(), "--status-bind", &bind];
    let arguments = arguments.map(str::to_owned);
    let listener = Process::start("listener", &arguments)?.ready().await?;
    cores.release()?;
    let bus = RedisBus::new(RedisSettings {
        url: redis.url(),
        namespace: "rowcast".into(),
        retention: Retention::default(),
    })?;
    let follower = Follower::of(&bus, Source::Log);
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let client = postgres.connect(&database).await?;
        let (stop, pause) = (Arc::clone(&stop), Duration::from_secs(1) * WRITERS / what.rate);
        writers.spawn(async move {
            let insert = client.prepare(INSERT).await?;
            let mut beats = tokio::time::interval(pause);
            while !stop.load(Ordering::Relaxed) {
                beats.tick().await;
                client.execute(&insert, &[]).await?;
            }
            anyhow::Ok(())
        });
    }
    // It was there, and carried changes; then it dies.
    sleep(Duration::from_secs(2)).await;
    drop(listener);
    let published = async || -> anyhow::Result<i64> {
        let last: Option<i64> = redis.command(&["HGET", "rowcast:{log}:head", "last"]).await?;
        last.context("the bus has no head")
    };
    let before = published().await?;
    sleep(what.seconds_away).await;

    let client = postgres.connect(&database).await?;
    let written = async || -> anyhow::Result<i64> {
        let sql = "select count(*) from measurements";
        Ok(client.query_one(sql, &[]).await?.get(0))
    };
    let waiting = written().await? - before;
    ensure!(before > 0 && waiting > 0, "nothing was written: {before} before, {waiting} then");
    cores.as_servers()?;
    let started = Instant::now();
    let listener = Process::start("listener", &arguments)?;
    cores.release()?;
    let mut peak = 0;
    while published().await? < before + waiting {
        ensure!(started.elapsed() < PATIENCE, "not caught up: {}", listener.log());
        peak = peak.max(usage::resident_kib(&[listener.pid()])?);
        sleep(Duration::from_millis(10)).await;
    }
    let took = started.elapsed();
    stop.store(true, Ordering::Relaxed);
    while let Some(written) = writers.join_next().await {
        written??;
    }
    let all = written().await?.cast_unsigned();
    let begun = Instant::now();
    while follower.look(|seen| seen.last()) < all {
        ensure!(begun.elapsed() < PATIENCE, "the subscriber is at {}", follower.look(|seen| seen.last()));
        sleep(Duration::from_millis(10)).await;
    }
    follower.look(|seen| {
        seen.assert_dense();
        ensure!(seen.feeds.len() == 1, "clients were told to reset: {:?}", seen.feeds);
        ensure!(seen.changes.len() as u64 == all, "{} changes of {all} rows", seen.changes.len());
        Ok(())
    })?;

    let measure = |what, unit, less_is_better| Measure {
        case: "A listener that was down while writers went on, and go on".into(),
        what,
        unit,
        less_is_better,
        recipe: None,
    };
    report.add(measure("changes that waited", "", false), waiting as f64, None);
    report.add(measure("until they are on the bus", "s", true), took.as_secs_f64(), None);
    report.add(measure("changes", "1/s", false), waiting as f64 / took.as_secs_f64(), None);
    report.add(measure("resident memory of the listener at most", "MiB", true), peak as f64 / 1024.0, None);
    Ok(())
}
