use std::time::{Duration, Instant};

use anyhow::ensure;
use tokio::time::{sleep, timeout};

use crate::{
    bus_stage::BusStage,
    bus_writer::BusWriter,
    connect::{Dialler, Hello},
    gateways::Gateways,
    kernel::Sockets,
    load::Load,
    recipe::{KIB_PER_CLIENT, Recipe},
    report::{Measure, Report},
    usage,
};

/// Connections of `bench idle`.
#[derive(Debug, Clone, clap::Args)]
pub struct Idle {
    /// Connections of the one gateway, each with its session and a native subscription. The client's
    /// end of each is a file of this process too.
    #[arg(long, default_value_t = 19_000, value_parser = clap::value_parser!(u32).range(10..=19_000))]
    pub connections: u32,
    /// Changes of some 250 bytes that then come to all at once, while a tenth of the clients do not
    /// read, until they read again; 0 leaves it out.
    #[arg(long, default_value_t = 1280, value_parser = clap::value_parser!(u32).range(0..=20_000))]
    pub burst: u32,
    /// The gateway has its inspector, which is asked what is wrong and who lags, again and again.
    #[arg(long)]
    pub inspect: bool,
}

/// Until the system has accounted for what was allocated and freed.
const SETTLE: Duration = Duration::from_secs(2);
/// Changes of the burst that are published at once.
const BATCH: u32 = 64;
const PATIENCE: Duration = Duration::from_secs(60);

/// How often the inspector is asked.
const LOOKS: u32 = 20;

/// What a look takes, and a change that comes while somebody looks.
async fn inspect(
    gateway: &Gateways,
    writer: &BusWriter,
    load: &Load,
    report: &mut Report,
    measure: &impl Fn(&'static str, &'static str, Option<Recipe>) -> Measure,
) -> anyhow::Result<()> {
    let address = gateway.addresses()[0];
    let look = async |what: &str| {
        let asked = Instant::now();
        let (status, answer) = tokio::task::spawn_blocking({
            let path = format!("/inspect/api/{what}");
            move || e2e::process::get(address, &path)
        })
        .await??;
        ensure!(status == 200, "{what}: {status} {answer}");
        anyhow::Ok(asked.elapsed())
    };
    let (mut longest, mut slowest) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..LOOKS {
        longest = longest.max(look("overview").await?).max(look("connections?search=127.0.0").await?);
        let published = Instant::now();
        writer.batch(1).await?;
        let (looked, arrived) = tokio::join!(look("connections"), timeout(PATIENCE, load.all_have(writer.last())));
        looked?;
        ensure!(arrived.is_ok(), "a change does not reach all while somebody looks: {}", gateway.logs());
        slowest = slowest.max(published.elapsed());
    }
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    report.add(measure("the longest look of its inspector", "ms", None), ms(longest), None);
    report.add(measure("one change while somebody looks, the slowest", "ms", None), ms(slowest), None);
    Ok(())
}

/// One run: a fresh gateway before and after its clients, and after a burst.
pub async fn run(stage: &BusStage, what: &Idle, time: Duration, report: &mut Report) -> anyhow::Result<()> {
    let writer = stage.writer(1).await?;
    let flags: &[&str] = if what.inspect { &["--inspect"] } else { &[] };
    let gateway = stage.gateway_with(flags).await?;
    let pids = gateway.pids();
    sleep(SETTLE).await;
    let before = usage::resident_kib(&pids)?;
    let hello = Hello::native(&BusWriter::topic(0), None);
    let clients = Dialler::new(gateway.addresses(), &stage.cores).connect(hello, what.connections as usize).await?;
    let slow = what.connections / 10;
    let load = Load::start_without(slow as usize, clients, 0, &stage.cores)?;
    sleep(SETTLE).await;
    let each = |kib: u64| kib.saturating_sub(before) as f64 / f64::from(what.connections);
    let measure = |name, unit, recipe| Measure {
        case: format!("{} idle connections of 1 gateway, each with a native subscription", what.connections),
        what: name,
        unit,
        less_is_better: true,
        recipe,
    };
    let idle = each(usage::resident_kib(&pids)?);
    report.add(measure("resident memory, each", "KiB", Some(KIB_PER_CLIENT)), idle, None);
    let cpu = usage::cpu_s(&pids)?;
    sleep(time).await;
    let share = (usage::cpu_s(&pids)? - cpu) / time.as_secs_f64() * 100.0;
    report.add(measure("CPU of the gateway", "% of a core", None), share, None);
    // They are not only connected, but there: one change reaches all.
    let published = crate::payload::now_us();
    writer.batch(1).await?;
    ensure!(timeout(PATIENCE, load.all_have(1)).await.is_ok(), "a change does not reach all: {}", gateway.logs());
    let last_ms = (load.progress.last_read_us() - published) as f64 / 1000.0;
    report.add(measure("one change, from publish to the last", "ms", None), last_ms, None);
    if what.inspect {
        inspect(&gateway, &writer, &load, report, &measure).await?;
    }
    if what.burst > 0 {
        while writer.last() <= u64::from(what.burst) {
            writer.batch(BATCH).await?;
            let arrived = timeout(PATIENCE, load.all_have(writer.last())).await;
            ensure!(arrived.is_ok(), "the burst does not reach those that read: {}", gateway.logs());
        }
        let name = "… while a tenth does not read a burst";
        report.add(measure(name, "KiB", None), each(usage::resident_kib(&pids)?), None);
        let blocked = Sockets::of_server(gateway.addresses()[0].port())?.full;
        report.add(measure("connections that are blocked then", "", None), blocked as f64, None);
    }
    let started = Instant::now();
    load.read_all()?;
    let all = u64::from(what.connections) * writer.last();
    ensure!(timeout(PATIENCE, load.progress.reach(all)).await.is_ok(), "slow readers miss some: {}", gateway.logs());
    if what.burst > 0 {
        let took = started.elapsed().as_secs_f64() * 1000.0;
        sleep(SETTLE).await;
        report.add(measure("… after they have read everything", "KiB", None), each(usage::resident_kib(&pids)?), None);
        report.add(measure("until they had", "ms", None), took, None);
    }
    let tally = gateway.end(load, writer.last())?;
    report.clients(&tally, Duration::MAX);
    Ok(())
}
