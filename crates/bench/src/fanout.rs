use std::time::Duration;

use crate::{
    args::Floor,
    bare::Bare,
    bus_stage::BusStage,
    load::Tally,
    machine,
    ours::{Ours, Press, Setup},
    report::{Measure, Report},
    window::Window,
};

/// Loads of `bench fanout`.
#[derive(Debug, Clone, clap::Args)]
pub struct Fanout {
    /// Clients of the one gateway, one run after the other.
    #[arg(long, default_value = "1000,10000", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=19_000))]
    pub clients: Vec<u32>,
    /// Changes of a batch, one run after the other; the floor joins as many frames in a write.
    #[arg(long, default_value = "1,8,32", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub changes: Vec<u32>,
    /// Share of a batch that is under way when the next one is published. With more the gateway never
    /// waits for a slow load client, but joins changes that were to go one by one: see "changes in a
    /// read".
    #[arg(long, default_value_t = EARLY_PERCENT, value_parser = clap::value_parser!(u32).range(0..=1000), value_name = "%")]
    pub early: u32,
}

/// As long as a batch takes to the gateway.
pub const EARLY_PERCENT: u32 = 10;

/// Rowcast and the floor take turns this often in a run, if there are files for the clients of both.
const TURNS: u32 = 4;
/// Open files that are no clients.
const OWN_FILES: u64 = 200;

/// What both did in a run.
struct Both {
    ours: (Window, Tally),
    floor: (Window, Tally),
}

/// One run at one load: rowcast and the floor in turn.
pub async fn run(
    stage: &BusStage,
    setup: Setup,
    press: Press,
    time: Duration,
    report: &mut Report,
) -> anyhow::Result<()> {
    let Both { ours: (ours, mut tally), floor: (bare, floor_tally) } = measure(stage, setup, press, time).await?;
    let changes = press.changes;
    // Whoever works on the load client's core keeps it from reading.
    tally.cpu_s = ours.cpu[1].all_s();
    report.clients(&tally, ours.elapsed);
    report.floors_clients(&floor_tally, bare.elapsed);
    let batch = if changes == 1 { "1 change a batch".to_owned() } else { format!("{changes} changes a batch") };
    let topics = if setup.topics == 1 { String::new() } else { format!(" on {} topics", setup.topics) };
    let clients = setup.clients;
    let case = format!("{clients} clients{topics} of 1 gateway on a core of its own, {batch} from the bus");
    let measure = |what, unit, less_is_better| Measure { case: case.clone(), what, unit, less_is_better, recipe: None };
    let per_million = |window: &Window, cpu_s: f64| cpu_s / window.millions();
    report.add(measure("deliveries", "1/s", false), ours.per_s(), Some(bare.per_s()));
    report.add(
        measure("CPU of the gateway", "s/million", true),
        per_million(&ours, ours.cpu[0].all_s()),
        Some(per_million(&bare, bare.cpu[0].all_s())),
    );
    report.add(
        measure("its own code's", "s/million", true),
        per_million(&ours, ours.cpu[0].user_s),
        Some(per_million(&bare, bare.cpu[0].user_s)),
    );
    report.add(
        measure("the kernel's", "s/million", true),
        per_million(&ours, ours.cpu[0].system_s),
        Some(per_million(&bare, bare.cpu[0].system_s)),
    );
    let kernels = |window: &Window| window.cpu[0].system_s / window.cpu[0].all_s() * 100.0;
    report.add(measure("the kernel's share", "%", false), kernels(&ours), Some(kernels(&bare)));
    report.add(measure("changes in a read", "", false), ours.counts.per_read(), Some(bare.counts.per_read()));
    report.add(
        measure("p99 from publish to socket", "ms", true),
        tally.from_insert.value_at_quantile(0.99) as f64 / 1000.0,
        None,
    );
    Ok(())
}

async fn measure(stage: &BusStage, setup: Setup, press: Press, time: Duration) -> anyhow::Result<Both> {
    let ours = Ours::up(stage, setup).await?;
    let bytes = ours.load.progress.counts().bytes_each();
    // A change is for the clients of one topic.
    let joined = press.changes.div_ceil(setup.topics);
    let settings = Floor { port: 0, clients: setup.clients, bytes, joined, rate: 0, at_most: 8 * time.as_secs() + 120 };
    if u64::from(setup.clients) * 2 + OWN_FILES > machine::open_files() {
        let window = ours.turn(stage, press, time).await?;
        let tally = ours.end()?;
        let bare = Bare::up(stage, settings).await?;
        let floor = bare.turn(time).await?;
        return Ok(Both { ours: (window, tally), floor: (floor, bare.end()?) });
    }
    let bare = Bare::up(stage, settings).await?;
    let (mut window, mut floor): (Option<Window>, Option<Window>) = (None, None);
    for _ in 0..TURNS {
        let turn = ours.turn(stage, press, time / TURNS).await?;
        window = Some(window.map_or_else(|| turn.clone(), |before| before.plus(&turn)));
        let turn = bare.turn(time / TURNS).await?;
        floor = Some(floor.map_or_else(|| turn.clone(), |before| before.plus(&turn)));
    }
    let (Some(window), Some(floor)) = (window, floor) else { anyhow::bail!("there were no turns") };
    Ok(Both { ours: (window, ours.end()?), floor: (floor, bare.end()?) })
}
