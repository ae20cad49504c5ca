//! How many notifications a second get from PostgreSQL to the bus:
//! `throughput DATABASE_URL [memory|REDIS_URL [COUNT [BYTES]]]`. One transaction notifies them all;
//! the clock runs from its commit to the last one on the bus.

use std::time::{Duration, Instant};

use anyhow::Context;
use bus::{Bus, MemoryBus, RedisBus, RedisSettings, Retention};
use listener::Config;
use protocol::{Source, Topic};
use service::postgres::PostgresSettings;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

const NAMESPACE: &str = "rowcast-throughput";

#[tokio::main]
#[allow(clippy::print_stdout)]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().context("which database?")?;
    let bus = match arguments.next().as_deref() {
        None | Some("memory") => Bus::Memory(MemoryBus::new(Retention::default())),
        Some(url) => Bus::Redis(RedisBus::new(RedisSettings {
            url: url.into(),
            namespace: NAMESPACE.into(),
            retention: Retention::default(),
        })?),
    };
    let count: u64 = arguments.next().map_or(Ok(500_000), |n| n.parse())?;
    let bytes: usize = arguments.next().map_or(Ok(300), |n| n.parse())?;

    let postgres = PostgresSettings::parse("the first argument", &url, "rowcast-throughput")?;
    let (writer, connection) = postgres.connect().await?;
    tokio::spawn(connection);
    let config = Config::new(postgres, vec![Topic::new("rowcast_throughput")?], NAMESPACE);
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let reader = bus.reader(Source::Notify);
    // Over Redis, the head of the run before may still be there.
    let before = reader.head().await?.map(|head| head.feed);
    let listening = tokio::spawn(async move { listener::run(config, &bus, shutdown).await });
    let feed = loop {
        match reader.head().await? {
            Some(head) if Some(&head.feed) != before.as_ref() => break head.feed,
            _ => sleep(Duration::from_millis(5)).await,
        }
    };
    // Each is different, or PostgreSQL would collapse them into one. JSON, as triggers send.
    let sql = format!(
        "do $$ begin perform pg_notify('rowcast_throughput', \
         '{{\"n\":' || n || ',\"x\":\"' || repeat('x', {bytes} - 20) || '\"}}') from generate_series(1, {count}) n; end $$"
    );
    writer.batch_execute(&sql).await?;
    let committed = Instant::now();
    loop {
        let head = reader.head().await?.context("no feed")?;
        anyhow::ensure!(head.feed == feed, "a new feed has begun");
        if head.last == count {
            break;
        }
        sleep(Duration::from_millis(1)).await;
    }
    let took = committed.elapsed();
    println!("{count} notifications of {bytes} B: {took:?}, {:.0} a second", count as f64 / took.as_secs_f64());
    stop.cancel();
    listening.await??;
    Ok(())
}
