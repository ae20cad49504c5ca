use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::sleep;

use crate::{
    args::Floor,
    bare::Bare,
    bus_stage::BusStage,
    bus_writer::Pattern,
    ours::{Ours, Setup},
    relay::Relay,
    report::{Measure, Report},
};

/// Loads of `bench light`.
#[derive(Debug, Clone, clap::Args)]
pub struct Light {
    /// Clients of the one gateway, one run after the other.
    #[arg(long, default_value = "500,1000", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=9_000))]
    pub clients: Vec<u32>,
    /// Changes a second, each a batch of its own.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rate: u32,
}

/// Rowcast and the floor take turns this often in a run.
const TURNS: u32 = 4;

/// One run: rowcast, the floor, and the floor behind a bare PUBLISH in turn, at the same rate.
pub async fn run(stage: &BusStage, clients: u32, rate: u32, time: Duration, report: &mut Report) -> anyhow::Result<()> {
    let ours = Ours::up(stage, Setup::of(clients)).await?;
    let bytes = ours.load.progress.counts().bytes_each();
    let settings = Floor { port: 0, clients, bytes, joined: 1, rate, at_most: 8 * time.as_secs() + 120 };
    let at_most = settings.at_most;
    let bare = Bare::up(stage, settings).await?;
    let mut relay = Relay::up(stage, clients, bytes, at_most).await?;
    for _ in 0..TURNS {
        let pattern = Pattern::Pace { rate, changes: 1, time: time / TURNS };
        ours.load.progress.record(true);
        // The load client looks up when something comes, or every 20 ms.
        sleep(Duration::from_millis(50)).await;
        ours.writer.begin(pattern)?.done().await?;
        ours.settle().await?;
        ours.load.progress.record(false);
        bare.turn(time / TURNS).await?;
        relay = relay.turn(rate, time / TURNS).await?;
    }
    let (ours, floor, relay) = (ours.end()?, bare.end()?, relay.end()?);
    report.clients(&ours, time);
    report.floors_clients(&floor, time);
    report.floors_clients(&relay, time);
    let ms = |latency: &Histogram<u64>, quantile| latency.value_at_quantile(quantile) as f64 / 1000.0;
    let case = format!("{clients} clients of 1 gateway, {rate} changes/s from the bus: from publish to socket");
    let behind = format!("the same, beside the floor behind a bare PUBLISH ({clients} clients)");
    for (case, reference) in [(case, floor), (behind, relay)] {
        for (what, quantile) in [("first client", 0.0), ("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
            let measure = Measure { case: case.clone(), what, unit: "ms", less_is_better: true, recipe: None };
            report.add(measure, ms(&ours.from_insert, quantile), Some(ms(&reference.from_insert, quantile)));
        }
    }
    Ok(())
}
