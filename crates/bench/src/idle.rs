use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::{
    args::Idle,
    connect::{Dialler, Hello},
    latency::ARRIVES_WITHIN,
    load::Load,
    origin::Origin,
    recipe::KIB_PER_CLIENT,
    report::{Measure, Report},
    stage::Stage,
    usage,
};

/// Until the system has accounted for what was allocated and freed.
const SETTLE: Duration = Duration::from_secs(1);

/// One run: fresh gateways before and after their clients.
pub async fn run(stage: &Stage, what: &Idle, time: Duration, report: &mut Report) -> anyhow::Result<()> {
    let gateways = stage.gateways(2).await?;
    let pids = gateways.pids();
    let mut writer = stage.writer(Origin::Notify).await?;
    sleep(SETTLE).await;
    let before = usage::resident_kib(&pids)?;
    let hello = Hello::plain(Origin::Notify.path());
    let clients = Dialler::new(gateways.addresses(), &stage.cores).connect(hello, what.connections as usize).await?;
    let load = Load::start(clients, writer.last(), &stage.cores)?;
    sleep(SETTLE).await;
    let after = usage::resident_kib(&pids)?;
    let cpu = usage::cpu_s(&pids)?;
    sleep(time).await;
    let share = (usage::cpu_s(&pids)? - cpu) / time.as_secs_f64() * 100.0;
    // They are not only connected, but there: one change reaches all.
    load.progress.record(true);
    sleep(Duration::from_millis(50)).await;
    writer.insert(1, &load).await?;
    drop(timeout(ARRIVES_WITHIN, load.all_have(1)).await);
    let tally = gateways.end(load, writer.last())?;
    report.clients(&tally, Duration::MAX);
    let measure = |name, unit, recipe| Measure {
        case: format!("{} idle connections of 2 gateways", what.connections),
        what: name,
        unit,
        less_is_better: true,
        recipe,
    };
    let each = after.saturating_sub(before) as f64 / f64::from(what.connections);
    report.add(measure("resident memory, each", "KiB", Some(KIB_PER_CLIENT)), each, None);
    report.add(measure("CPU of gateways", "% of a core", None), share, None);
    report.add(
        measure("one change, from commit to the last", "ms", None),
        tally.from_commit.max() as f64 / 1000.0,
        None,
    );
    Ok(())
}
