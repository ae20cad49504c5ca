use std::time::{Duration, Instant};

use anyhow::ensure;
use tokio::time::{sleep, timeout};

use crate::{
    bus_stage::BusStage,
    bus_writer::BusWriter,
    connect::{Dialler, Hello},
    load::Load,
    order::Order,
    report::{Measure, Report},
    usage,
};

/// Load of `bench herd`.
#[derive(Debug, Clone, clap::Args)]
pub struct Herd {
    /// Clients that come back at once, as after a gateway has died.
    #[arg(long, default_value_t = 15_000, value_parser = clap::value_parser!(u32).range(1..=19_000))]
    pub clients: u32,
    /// Changes that each has missed: all have the same cursor.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub behind: u32,
    /// Handshakes that are under way at once.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=4000))]
    pub at_once: u32,
}

/// Changes before those that were missed.
const BEFORE: u32 = 100;
const PATIENCE: Duration = Duration::from_secs(60);

/// One run. Each client connects, resumes from the cursor, and is complete when it has all that it
/// has missed and one change that is published while they come.
pub async fn run(stage: &BusStage, what: &Herd, report: &mut Report) -> anyhow::Result<()> {
    let writer = stage.writer(1).await?;
    let gateway = stage.gateway().await?;
    writer.batch(BEFORE).await?;
    let (since, last) = (writer.cursor(writer.last()), writer.last());
    writer.batch(what.behind).await?;
    // Until the gateway has it too.
    sleep(Duration::from_millis(200)).await;
    let load = Load::start(Vec::new(), last, &stage.cores)?;
    let mut dialler = Dialler::new(gateway.addresses(), &stage.cores);
    dialler.at_once = what.at_once as usize;
    let hello = Hello::native(&BusWriter::topic(0), Some(&since));
    let count = what.clients as usize;
    let (cpu, started) = (usage::cpu_s(&gateway.pids())?, Instant::now());
    load.progress.record(true);
    let dialling = dialler.connect_into(&load, count, move |_| hello.clone(), move |_| Order::after(last));
    let meanwhile = async {
        sleep(Duration::from_millis(100)).await;
        writer.batch(1).await
    };
    tokio::try_join!(dialling, meanwhile)?;
    let connected = started.elapsed();
    let all = u64::from(what.clients) * u64::from(what.behind + 1);
    let complete = timeout(PATIENCE, load.progress.reach(all)).await;
    let took = started.elapsed();
    let cpu = usage::cpu_s(&gateway.pids())? - cpu;
    ensure!(complete.is_ok(), "not all came back: {:?} of {all}; {}", load.progress.counts(), gateway.logs());
    let tally = gateway.end(load, writer.last())?;
    report.clients(&tally, took);
    let case = format!("{} clients come back at once, {} changes behind", what.clients, what.behind);
    let measure = |what, unit| Measure { case: case.clone(), what, unit, less_is_better: true, recipe: None };
    report.add(measure("until the last one is complete", "ms"), took.as_secs_f64() * 1000.0, None);
    report.add(measure("until the last one is connected", "ms"), connected.as_secs_f64() * 1000.0, None);
    report.add(measure("CPU of the gateway", "ms"), cpu * 1000.0, None);
    report.add(measure("missing", ""), tally.faults.missing as f64, None);
    report.add(measure("repeated", ""), tally.faults.repeated as f64, None);
    report.add(measure("reordered", ""), tally.faults.reordered as f64, None);
    Ok(())
}
