use std::time::Duration;

use anyhow::ensure;
use tokio::time::{sleep, timeout};

use crate::{
    args::Floor,
    bus_stage::BusStage,
    bus_writer::BusWriter,
    connect::{Dialler, Hello},
    floor,
    gateways::Gateways,
    latency::ARRIVES_WITHIN,
    load::{Load, Tally},
    machine,
    process::Process,
    report::{Measure, Report},
    window::Window,
};

/// Loads of `bench fanout`.
#[derive(Debug, Clone, clap::Args)]
pub struct Fanout {
    /// Clients of the one gateway, one run after the other.
    #[arg(long, default_value = "1000,10000", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=19_000))]
    pub clients: Vec<u32>,
    /// Changes of a batch, one run after the other. The next batch is published when nine tenths of
    /// the one before have arrived; the floor joins as many frames in a write.
    #[arg(long, default_value = "1,8,32", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub changes: Vec<u32>,
}

/// Batches before anything counts.
pub const WARM: u32 = 50;
const WARM_EVERY: Duration = Duration::from_millis(20);
/// Rowcast and the floor take turns this often in a run, if there are files for the clients of both.
const TURNS: u32 = 4;
/// Until the queues of a turn are as they will be.
const SETTLE: Duration = Duration::from_millis(300);
/// Open files that are no clients.
const OWN_FILES: u64 = 200;

/// A gateway with its clients, all on one topic, and who publishes to it.
pub struct Ours {
    pub writer: BusWriter,
    pub gateway: Gateways,
    pub load: Load,
}

/// The floor with its clients.
pub struct Bare {
    process: Process,
    load: Load,
}

/// What both did in a run.
struct Both {
    ours: (Window, Tally),
    floor: (Window, Tally),
}

/// One run at one load: rowcast and the floor in turn.
pub async fn run(
    stage: &BusStage,
    clients: u32,
    changes: u32,
    time: Duration,
    report: &mut Report,
) -> anyhow::Result<()> {
    let Both { ours: (ours, mut tally), floor: (bare, floor_tally) } = measure(stage, clients, changes, time).await?;
    // Whoever works on the load client's core keeps it from reading.
    tally.cpu_s = ours.cpu[1].all_s();
    report.clients(&tally, ours.elapsed);
    report.floors_clients(&floor_tally, bare.elapsed);
    let batch = if changes == 1 { "1 change a batch".to_owned() } else { format!("{changes} changes a batch") };
    let case = format!("{clients} clients of 1 gateway on a core of its own, {batch} from the bus");
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

async fn measure(stage: &BusStage, clients: u32, changes: u32, time: Duration) -> anyhow::Result<Both> {
    let ours = Ours::up(stage, clients).await?;
    let bytes = ours.load.progress.counts().bytes_each();
    let settings = Floor { port: 0, clients, bytes, joined: changes, rate: 0, at_most: 8 * time.as_secs() + 120 };
    if u64::from(clients) * 2 + OWN_FILES > machine::open_files() {
        let window = ours.turn(stage, changes, time).await?;
        let tally = ours.end()?;
        let bare = Bare::up(stage, settings).await?;
        let floor = bare.turn(time).await?;
        return Ok(Both { ours: (window, tally), floor: (floor, bare.end()?) });
    }
    let bare = Bare::up(stage, settings).await?;
    let (mut window, mut floor): (Option<Window>, Option<Window>) = (None, None);
    for _ in 0..TURNS {
        let turn = ours.turn(stage, changes, time / TURNS).await?;
        window = Some(window.map_or_else(|| turn.clone(), |before| before.plus(&turn)));
        let turn = bare.turn(time / TURNS).await?;
        floor = Some(floor.map_or_else(|| turn.clone(), |before| before.plus(&turn)));
    }
    let (Some(window), Some(floor)) = (window, floor) else { anyhow::bail!("there were no turns") };
    Ok(Both { ours: (window, ours.end()?), floor: (floor, bare.end()?) })
}

impl Ours {
    /// All connected, and warm.
    pub async fn up(stage: &BusStage, clients: u32) -> anyhow::Result<Self> {
        let writer = stage.writer(1).await?;
        let gateway = stage.gateway().await?;
        let hello = Hello::native(&BusWriter::topic(0), None);
        let clients = Dialler::new(gateway.addresses(), &stage.cores).connect(hello, clients as usize).await?;
        let load = Load::start(clients, writer.last(), &stage.cores)?;
        let ours = Self { writer, gateway, load };
        for _ in 0..WARM {
            ours.writer.batch(1).await?;
            sleep(WARM_EVERY).await;
        }
        ours.settle().await?;
        Ok(ours)
    }

    /// Waits until all have everything.
    pub async fn settle(&self) -> anyhow::Result<()> {
        let all = timeout(ARRIVES_WITHIN, self.load.all_have(self.writer.last())).await;
        ensure!(all.is_ok(), "not all arrives; the gateway says: {}", self.gateway.logs());
        Ok(())
    }

    /// As many as it can take for a while; nothing is left of it then.
    async fn turn(&self, stage: &BusStage, changes: u32, time: Duration) -> anyhow::Result<Window> {
        let pressing = self.writer.press(changes, &self.load)?;
        sleep(SETTLE).await;
        let window = Window::watch(&self.load, &[self.gateway.pids(), stage.beside_load()], time).await?;
        self.writer.rest(pressing).await?;
        self.settle().await?;
        Ok(window)
    }

    /// What the clients have seen.
    pub fn end(self) -> anyhow::Result<Tally> {
        self.gateway.end(self.load, self.writer.last())
    }
}

impl Bare {
    /// All connected and warm, and paused.
    pub async fn up(stage: &BusStage, settings: Floor) -> anyhow::Result<Self> {
        let clients = settings.clients as usize;
        let process = floor::start(&stage.cores, &settings)?;
        let dialler = Dialler::new(vec![process.address()], &stage.cores);
        let load = Load::start(dialler.connect(Hello::plain("/"), clients).await?, 0, &stage.cores)?;
        timeout(ARRIVES_WITHIN, load.all_have(floor::WARM * u64::from(settings.joined))).await?;
        process.pause()?;
        Ok(Self { process, load })
    }

    /// Goes on for a while.
    pub async fn turn(&self, time: Duration) -> anyhow::Result<Window> {
        self.process.go_on()?;
        sleep(SETTLE).await;
        let window = Window::watch(&self.load, &[vec![self.process.pid()]], time).await?;
        self.process.pause()?;
        sleep(SETTLE).await;
        Ok(window)
    }

    /// What its clients have seen.
    pub fn end(self) -> anyhow::Result<Tally> {
        self.load.end(None)
    }
}
