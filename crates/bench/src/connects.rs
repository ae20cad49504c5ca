use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::time::sleep;

use crate::{
    bus_stage::BusStage,
    bus_writer::{BusWriter, Pattern},
    connect::{AT_ONCE, Client, Dialler, Hello},
    load::Load,
    ours::{Ours, Setup},
    report::{Measure, Report},
    usage,
};

/// Loads of `bench connects`.
#[derive(Debug, Clone, clap::Args)]
pub struct Connects {
    /// Connections of a run; all stay open. Each has sent its request, a `subscribe` once it was
    /// upgraded, and has got `subscribed`.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=18_000))]
    pub connections: u32,
    /// Handshakes that are under way at once.
    #[arg(long, default_value_t = AT_ONCE as u32, value_parser = clap::value_parser!(u32).range(1..=2000))]
    pub at_once: u32,
    /// Only with a steady fan-out to 1,000 other clients meanwhile: its p99 before and during the
    /// connects. Without this both are measured, one after the other.
    #[arg(long)]
    pub during_fanout: bool,
    /// Changes a second of that fan-out.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub rate: u32,
}

/// Who gets the fan-out.
const WATCHERS: u32 = 1000;
/// For how long it is watched while nobody connects.
const CALM: Duration = Duration::from_secs(3);
/// Longer than any run.
const LONG: Duration = Duration::from_secs(120);

/// One run.
pub async fn run(stage: &BusStage, what: &Connects, report: &mut Report) -> anyhow::Result<()> {
    if !what.during_fanout {
        alone(stage, what, report).await?;
    }
    during_fanout(stage, what, report).await
}

async fn alone(stage: &BusStage, what: &Connects, report: &mut Report) -> anyhow::Result<()> {
    let writer = stage.writer(1).await?;
    let gateway = stage.gateway().await?;
    let cpu = usage::cpu_s(&gateway.pids())?;
    let hello = Hello::native(&BusWriter::topic(0), None);
    let (clients, took) = timed(stage, what, gateway.addresses(), hello).await?;
    let cpu = usage::cpu_s(&gateway.pids())? - cpu;
    // They are not only connected, but there.
    let load = Load::start(clients, 0, &stage.cores)?;
    writer.batch(1).await?;
    load.all_have(1).await;
    report.clients(&gateway.end(load, writer.last())?, took);
    let case = format!("{} connects with handshake and subscribe, {} at once", what.connections, what.at_once);
    let measure = |what, unit, less_is_better| Measure { case: case.clone(), what, unit, less_is_better, recipe: None };
    report.add(measure("connects", "1/s", false), f64::from(what.connections) / took.as_secs_f64(), None);
    report.add(measure("CPU of the gateway", "µs each", true), cpu * 1e6 / f64::from(what.connections), None);
    Ok(())
}

/// The newcomers subscribe to a topic where nothing happens, so that the fan-out stays as it is.
async fn during_fanout(stage: &BusStage, what: &Connects, report: &mut Report) -> anyhow::Result<()> {
    let mut p99_ms = Vec::new();
    let (mut per_s, mut max_ms) = (0.0, 0.0);
    for connects in [false, true] {
        let ours = Ours::up(stage, Setup::of(WATCHERS)).await?;
        let pacing = ours.writer.begin(Pattern::Pace { rate: what.rate, changes: 1, time: LONG })?;
        sleep(Duration::from_millis(500)).await;
        ours.load.progress.record(true);
        let started = Instant::now();
        let mut newcomers: Vec<Client> = Vec::new();
        if connects {
            let hello = Hello::native(BusWriter::QUIET, None);
            let (clients, took) = timed(stage, what, ours.gateway.addresses(), hello).await?;
            per_s = f64::from(what.connections) / took.as_secs_f64();
            newcomers = clients;
        } else {
            sleep(CALM).await;
        }
        ours.load.progress.record(false);
        let watched = started.elapsed();
        sleep(Duration::from_millis(50)).await;
        ours.writer.rest(pacing).await?;
        ours.settle().await?;
        let tally = ours.end()?;
        report.clients(&tally, watched);
        let ms = |latency: &Histogram<u64>, quantile| latency.value_at_quantile(quantile) as f64 / 1000.0;
        p99_ms.push(ms(&tally.from_insert, 0.99));
        max_ms = ms(&tally.from_insert, 1.0);
        drop(newcomers);
    }
    let [calm, during] = p99_ms[..] else { anyhow::bail!("both were measured") };
    let case = format!(
        "{} connects, {} at once, during a fan-out of {} changes/s to {WATCHERS} others",
        what.connections, what.at_once, what.rate
    );
    let measure = |what, unit, less_is_better| Measure { case: case.clone(), what, unit, less_is_better, recipe: None };
    report.add(measure("connects", "1/s", false), per_s, None);
    report.add(measure("p99 of the fan-out while nobody connects", "ms", true), calm, None);
    report.add(measure("p99 of the fan-out during the connects", "ms", true), during, None);
    report.add(measure("what the connects add to it", "ms", true), during - calm, None);
    report.add(measure("max during the connects", "ms", true), max_ms, None);
    Ok(())
}

/// Connects them, and how long that took.
async fn timed(
    stage: &BusStage,
    what: &Connects,
    servers: Vec<std::net::SocketAddr>,
    hello: Hello,
) -> anyhow::Result<(Vec<Client>, Duration)> {
    let mut dialler = Dialler::new(servers, &stage.cores);
    dialler.at_once = what.at_once as usize;
    dialler.before = WATCHERS as usize;
    let started = Instant::now();
    let clients = dialler.connect(hello, what.connections as usize).await?;
    Ok((clients, started.elapsed()))
}
