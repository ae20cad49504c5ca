use std::time::Duration;

use tokio::time::timeout;

use crate::{
    args::{Floor, Offered, Throughput},
    connect::{Dialler, Hello},
    floor,
    latency::ARRIVES_WITHIN,
    load::{Load, Tally},
    origin::Origin,
    recipe::{CPU_S_PER_MILLION, DELIVERIES_PER_S},
    report::{Measure, Report},
    stage::Stage,
    window::Window,
};

/// One run at one load, and the floor's right after it.
pub async fn run(
    stage: &Stage,
    what: &Throughput,
    gateways: u32,
    offered: Offered,
    time: Duration,
    report: &mut Report,
) -> anyhow::Result<()> {
    let (tally, ours) = rowcast(stage, what, gateways, offered, time).await?;
    report.clients(&tally, time);
    let bytes = ours.counts.bytes_each();
    let (floor_tally, floor) = bare(stage, what, offered.rows, time, bytes).await?;
    report.floors_clients(&floor_tally, time);
    let Offered { rows, ahead } = offered;
    let gateways = if gateways == 1 { "1 gateway".to_owned() } else { format!("{gateways} gateways") };
    let rows = if rows == 1 { "1 row".to_owned() } else { format!("{rows} rows") };
    let case = format!("{} clients of {gateways}, {rows} a statement, up to {ahead} changes under way", what.clients);
    let measure =
        |name, unit, less_is_better, recipe| Measure { case: case.clone(), what: name, unit, less_is_better, recipe };
    let [of_gateways, of_upstream] = ours.cpu[..] else { anyhow::bail!("two groups were asked for") };
    let million = ours.counts.changes as f64 / 1e6;
    let (of_gateways, of_upstream) = (of_gateways.all_s(), of_upstream.all_s());
    let floors_cpu = floor.cpu[0].all_s() / (floor.counts.changes as f64 / 1e6);
    report.add(measure("deliveries", "1/s", false, Some(DELIVERIES_PER_S)), ours.per_s(), Some(floor.per_s()));
    report.add(
        measure("CPU of gateways", "s/million", true, Some(CPU_S_PER_MILLION)),
        of_gateways / million,
        Some(floors_cpu),
    );
    report.add(
        measure("CPU of all parts", "s/million", true, None),
        (of_gateways + of_upstream) / million,
        Some(floors_cpu),
    );
    report.add(measure("changes in a read", "", false, None), ours.counts.per_read(), Some(floor.counts.per_read()));
    report.add(
        measure("p99 from commit to socket", "ms", true, None),
        tally.from_commit.value_at_quantile(0.99) as f64 / 1000.0,
        None,
    );
    Ok(())
}

async fn rowcast(
    stage: &Stage,
    what: &Throughput,
    gateways: u32,
    offered: Offered,
    time: Duration,
) -> anyhow::Result<(Tally, Window)> {
    let gateways = stage.gateways(gateways).await?;
    let mut writer = stage.writer(Origin::Notify).await?;
    let before = writer.last();
    let hello = Hello::plain(Origin::Notify.path());
    let clients = Dialler::new(gateways.addresses(), &stage.cores).connect(hello, what.clients as usize).await?;
    let load = Load::start(clients, before, &stage.cores)?;
    let groups = [gateways.pids(), stage.upstream()];
    let window = tokio::select! {
        pressed = writer.press(offered, &load) => return pressed.and(Err(anyhow::anyhow!("the writer ended"))),
        window = Window::after_warming(&load, &groups, time) => window?,
    };
    writer.settle().await?;
    // Whoever is late shows as missing.
    drop(timeout(ARRIVES_WITHIN, load.all_have(writer.last() - before)).await);
    Ok((gateways.end(load, writer.last())?, window))
}

async fn bare(
    stage: &Stage,
    what: &Throughput,
    joined: u32,
    time: Duration,
    bytes: usize,
) -> anyhow::Result<(Tally, Window)> {
    let at_most = time.as_secs() + 60;
    let settings = Floor { port: 0, clients: what.clients, bytes, joined, rate: 0, at_most };
    let process = floor::start(&stage.cores, &settings)?;
    let dialler = Dialler::new(vec![process.address()], &stage.cores);
    let load = Load::start(dialler.connect(Hello::plain("/"), what.clients as usize).await?, 0, &stage.cores)?;
    timeout(ARRIVES_WITHIN, load.all_have(floor::WARM)).await?;
    let window = Window::after_warming(&load, &[vec![process.pid()]], time).await?;
    Ok((load.end(None)?, window))
}
