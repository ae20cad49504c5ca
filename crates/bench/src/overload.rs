use std::time::Duration;

use crate::{
    bus_stage::BusStage,
    bus_writer::Pattern,
    ours::{Ours, Setup},
    report::{Measure, Report},
    window::Window,
};

/// Load of `bench overload`.
#[derive(Debug, Clone, clap::Args)]
pub struct Overload {
    /// Clients of the one gateway.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=19_000))]
    pub clients: u32,
    /// Changes a second, one run after the other; each goes to every client. What is due within a
    /// millisecond is one batch.
    #[arg(long, default_value = "4000", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rate: Vec<u32>,
}

/// Of the time that counts, at least so much is offered before it.
const WARM: Duration = Duration::from_secs(1);

/// One run at one rate.
pub async fn run(stage: &BusStage, clients: u32, rate: u32, time: Duration, report: &mut Report) -> anyhow::Result<()> {
    let ours = Ours::up(stage, Setup::of(clients)).await?;
    let before = ours.writer.last();
    let pattern = Pattern::Pace { rate, changes: 1, time: time + WARM * 2 };
    let pacing = ours.writer.begin(pattern)?;
    let groups = [ours.gateway.pids(), stage.beside_load()];
    let window = Window::after_warming(&ours.load, &groups, time).await?;
    ours.writer.rest(pacing).await?;
    let offered = ours.writer.last() - before;
    ours.settle().await?;
    let mut tally = ours.end()?;
    tally.cpu_s = window.cpu[1].all_s();
    report.clients(&tally, window.elapsed);
    let case = format!("{rate} changes/s offered to {clients} clients of 1 gateway");
    let measure = |what, unit, less_is_better| Measure { case: case.clone(), what, unit, less_is_better, recipe: None };
    let ms = |quantile| tally.from_insert.value_at_quantile(quantile) as f64 / 1000.0;
    report.add(measure("deliveries", "1/s", false), window.per_s(), None);
    let published = offered as f64 / (window.elapsed + WARM).as_secs_f64();
    report.add(measure("changes that were published", "1/s", false), published, None);
    report.add(measure("p50 from publish to socket", "ms", true), ms(0.5), None);
    report.add(measure("p99 from publish to socket", "ms", true), ms(0.99), None);
    report.add(measure("max", "ms", true), ms(1.0), None);
    report.add(measure("CPU of the gateway", "s/million", true), window.cpu[0].all_s() / window.millions(), None);
    report.add(measure("changes in a read", "", false), window.counts.per_read(), None);
    Ok(())
}
