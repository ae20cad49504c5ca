use std::time::Duration;

use anyhow::ensure;
use tokio::time::sleep;

use crate::{
    bus_stage::BusStage,
    bus_writer::Pattern,
    kernel::Sockets,
    ours::{Ours, Setup},
    report::{Measure, Report},
    usage,
};

/// Load of `bench stuck`.
#[derive(Debug, Clone, clap::Args)]
pub struct Stuck {
    /// Clients of the one gateway, those that are stuck included.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(2..=19_000))]
    pub clients: u32,
    /// Clients that never read. The run without them has as many that read.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=18_999))]
    pub stuck: u32,
    /// Changes a second, of some 250 bytes; 32 are one batch. A socket takes some hundred KiB before
    /// its client is stuck, and after 30 s it is cut off: the time that --seconds says must lie
    /// between.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(32..=5000))]
    pub rate: u32,
}

const BATCH: u32 = 32;

/// What was seen of one run.
struct Seen {
    p50_ms: f64,
    p99_ms: f64,
    grown_kib: f64,
    servers: Sockets,
    clients: Sockets,
}

/// One run: without stuck clients, and with them.
pub async fn run(stage: &BusStage, what: &Stuck, time: Duration, report: &mut Report) -> anyhow::Result<()> {
    ensure!(what.stuck < what.clients, "{} of {} clients are stuck: nobody reads", what.stuck, what.clients);
    let without = once(stage, what, 0, time, report).await?;
    let with = once(stage, what, what.stuck, time, report).await?;
    let case = format!("{} of {} clients never read, {} changes/s", what.stuck, what.clients, what.rate);
    let measure = |what, unit, less_is_better| Measure { case: case.clone(), what, unit, less_is_better, recipe: None };
    report.add(measure("p50 of the others", "ms", true), with.p50_ms, None);
    report.add(measure("p50 without them", "ms", true), without.p50_ms, None);
    report.add(measure("p99 of the others", "ms", true), with.p99_ms, None);
    report.add(measure("p99 without them", "ms", true), without.p99_ms, None);
    report.add(measure("stuck clients whose socket is full", "", false), with.servers.full as f64, None);
    report.add(measure("the gateway's memory grew by", "KiB", true), with.grown_kib, None);
    report.add(measure("without them by", "KiB", true), without.grown_kib, None);
    let each = |with: Sockets, without: Sockets| {
        with.bytes.saturating_sub(without.bytes) as f64 / 1024.0 / f64::from(what.stuck)
    };
    report.add(
        measure("the kernel's memory for each, gateway's end", "KiB", true),
        each(with.servers, without.servers),
        None,
    );
    report.add(
        measure("the kernel's memory for each, client's end", "KiB", true),
        each(with.clients, without.clients),
        None,
    );
    Ok(())
}

async fn once(
    stage: &BusStage,
    what: &Stuck,
    unread: u32,
    time: Duration,
    report: &mut Report,
) -> anyhow::Result<Seen> {
    let ours = Ours::up(stage, Setup { unread, ..Setup::of(what.clients) }).await?;
    let before = usage::resident_kib(&ours.gateway.pids())?;
    ours.load.progress.record(true);
    sleep(Duration::from_millis(50)).await;
    ours.writer.begin(Pattern::Pace { rate: what.rate, changes: BATCH, time })?.done().await?;
    ours.settle().await?;
    ours.load.progress.record(false);
    let after = usage::resident_kib(&ours.gateway.pids())?;
    let port = ours.gateway.addresses()[0].port();
    let (servers, clients) = (Sockets::of_server(port)?, Sockets::of_clients(port)?);
    let connections = u64::from(what.clients);
    ensure!(servers.count == connections, "{} of {connections} connections are left", servers.count);
    let tally = ours.end()?;
    report.clients(&tally, time);
    let ms = |quantile| tally.from_insert.value_at_quantile(quantile) as f64 / 1000.0;
    Ok(Seen { p50_ms: ms(0.5), p99_ms: ms(0.99), grown_kib: after as f64 - before as f64, servers, clients })
}
