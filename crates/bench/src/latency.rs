use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::{sleep, timeout};

use crate::{
    args::{Floor, Latency},
    connect::{Dialler, Hello},
    floor,
    load::{Load, Tally},
    origin::Origin,
    recipe::{P50_MS, P99_MS, RATE},
    report::{Measure, Report},
    stage::Stage,
};

/// Inserts before anything counts: new connections are slower at first.
const WARM: u32 = 50;
/// How long the last change may take to arrive.
pub const ARRIVES_WITHIN: Duration = Duration::from_secs(10);

/// One run at one rate, and the floor's right after it.
pub async fn run(
    stage: &Stage,
    what: &Latency,
    origin: Origin,
    rate: u32,
    time: Duration,
    report: &mut Report,
) -> anyhow::Result<()> {
    let ours = rowcast(stage, what, origin, rate, time).await?;
    report.clients(&ours.clients, time);
    let floor = bare(stage, what, rate, time, ours.bytes).await?;
    report.floors_clients(&floor, time);
    let measure = |name, recipe| Measure {
        case: format!("{} clients of 2 gateways, {rate} changes/s from {origin}: from commit to socket", what.clients),
        what: name,
        unit: "ms",
        less_is_better: true,
        recipe,
    };
    let ms = |latency: &Histogram<u64>, quantile| latency.value_at_quantile(quantile) as f64 / 1000.0;
    let known = |recipe| (rate == RATE && what.clients == 500 && origin == Origin::Notify).then_some(recipe);
    for (name, quantile, recipe) in [("p50", 0.5, known(P50_MS)), ("p99", 0.99, known(P99_MS)), ("max", 1.0, None)] {
        // It commits nothing: its clock starts when it begins to write.
        let floors = ms(&floor.from_insert, quantile);
        report.add(measure(name, recipe), ms(&ours.clients.from_commit, quantile), Some(floors));
    }
    report.add(measure("p50 with the INSERT", None), ms(&ours.clients.from_insert, 0.5), None);
    report.add(measure("p99 with the INSERT", None), ms(&ours.clients.from_insert, 0.99), None);
    report.add(measure("p50 of the INSERT alone", None), ms(&ours.inserts, 0.5), None);
    Ok(())
}

struct Run {
    clients: Tally,
    /// Microseconds that the writer waited for its commits.
    inserts: Histogram<u64>,
    /// Of a payload.
    bytes: usize,
}

async fn rowcast(stage: &Stage, what: &Latency, origin: Origin, rate: u32, time: Duration) -> anyhow::Result<Run> {
    let gateways = stage.gateways(2).await?;
    let mut writer = stage.writer(origin).await?;
    let hello = Hello::plain(origin.path());
    let clients = Dialler::new(gateways.addresses(), &stage.cores).connect(hello, what.clients as usize).await?;
    let load = Load::start(clients, writer.last(), &stage.cores)?;
    for _ in 0..WARM {
        writer.insert(1, &load).await?;
        sleep(Duration::from_millis(20)).await;
    }
    // Whoever is late shows as missing in the end.
    drop(timeout(ARRIVES_WITHIN, load.all_have(u64::from(WARM))).await);
    load.progress.record(true);
    // The load client looks up when something comes, or every 20 ms.
    sleep(Duration::from_millis(50)).await;
    let inserts = writer.pace(rate, time, &load).await?;
    drop(timeout(ARRIVES_WITHIN, load.all_have(u64::from(WARM) + u64::from(rate) * time.as_secs())).await);
    let counts = load.progress.counts();
    let clients = gateways.end(load, writer.last())?;
    Ok(Run { clients, inserts, bytes: counts.bytes_each() })
}

async fn bare(stage: &Stage, what: &Latency, rate: u32, time: Duration, bytes: usize) -> anyhow::Result<Tally> {
    let at_most = time.as_secs() + 60;
    let settings = Floor { port: 0, clients: what.clients, bytes, joined: 1, rate, at_most };
    let process = floor::start(&stage.cores, &settings)?;
    let dialler = Dialler::new(vec![process.address()], &stage.cores);
    let load = Load::start(dialler.connect(Hello::plain("/"), what.clients as usize).await?, 0, &stage.cores)?;
    timeout(ARRIVES_WITHIN, load.all_have(floor::WARM)).await?;
    load.progress.record(true);
    sleep(time).await;
    load.end(None)
}
