use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use e2e::{
    postgres::{Durability, PostgresServer},
    redis::RedisServer,
};
use futures_util::TryStreamExt;
use tokio::time::sleep;

use crate::{
    process::Process,
    recipe::Recipe,
    report::{Measure, Report},
    stage::Stage,
    usage,
};

const TABLE: &str = "create table measurements (id bigint generated always as identity primary key, what text not null); \
    select rowcast.watch('public.measurements')";
/// So that a change has about 300 bytes.
const ROW_BYTES: u32 = 270;
/// Who writes at once.
const WRITERS: u32 = 8;
/// How long a listener may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// One run: changes are written while no listener is there; then one starts. The floor is a plain
/// query that reads the same rows.
pub async fn run(stage: &Stage, changes: u32, rows: u32, report: &mut Report) -> anyhow::Result<()> {
    let postgres =
        PostgresServer::start_with(Durability::Full, &["synchronous_commit=off", "max_wal_size=8GB"]).await?;
    let database = postgres.create_database().await?;
    let redis = RedisServer::start().await?;
    Process::run("rowcast", &["install", "--database-url", &postgres.url(&database)])?;
    postgres.execute(&database, TABLE).await?;
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..WRITERS {
        let client = postgres.connect(&database).await?;
        let statements = changes / rows / WRITERS;
        writers.spawn(async move {
            let sql = format!(
                "insert into measurements (what) select repeat('x', {ROW_BYTES}) from generate_series(1, {rows})"
            );
            let insert = client.prepare(&sql).await?;
            for _ in 0..statements {
                client.execute(&insert, &[]).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(written) = writers.join_next().await {
        written??;
    }
    let client = postgres.connect(&database).await?;
    let total: i64 = client.query_one("select count(*) from rowcast.event", &[]).await?.get(0);
    ensure!(total > 0, "nothing was written");

    stage.cores.as_servers()?;
    let arguments =
        ["--database-url", &postgres.url(&database), "--redis-url", &redis.url(), "--status-bind", "{bind}"];
    let started = Instant::now();
    let listener = Process::start("listener", &arguments.map(str::to_owned))?;
    stage.cores.release()?;
    let mut peak = 0;
    loop {
        let last: Option<i64> = redis.command(&["HGET", "rowcast:{log}:head", "last"]).await?;
        peak = peak.max(usage::resident_kib(&[listener.pid()])?);
        if last == Some(total) {
            break;
        }
        ensure!(started.elapsed() < PATIENCE, "it is at {last:?} of {total}: {}", listener.log());
        sleep(Duration::from_millis(10)).await;
    }
    let ours = total as f64 / started.elapsed().as_secs_f64();

    let begun = Instant::now();
    let plain = client.query_raw("select id, xid::text, at, topic, key, data, old from rowcast.event", [0; 0]).await?;
    tokio::pin!(plain);
    let mut read = 0;
    while let Some(row) = plain.try_next().await.context("reading the log")? {
        read += i64::from(!row.is_empty());
    }
    ensure!(read == total, "the log has {read} rows");
    let floor = total as f64 / begun.elapsed().as_secs_f64();

    let measure = |what, unit, less_is_better| Measure {
        case: format!("A listener that was away, {rows} rows a transaction: from the log to Redis"),
        what,
        unit,
        less_is_better,
        recipe: None::<Recipe>,
    };
    report.add(measure("changes", "1/s", false), ours, Some(floor));
    report.add(measure("resident memory at most", "MiB", true), peak as f64 / 1024.0, None);
    Ok(())
}
