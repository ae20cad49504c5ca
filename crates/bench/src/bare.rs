use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::{
    args::Floor,
    bus_stage::BusStage,
    connect::{Dialler, Hello},
    floor,
    latency::ARRIVES_WITHIN,
    load::{Load, Tally},
    ours::SETTLE,
    process::Process,
    window::Window,
};

/// The floor with its clients.
pub struct Bare {
    process: Process,
    load: Load,
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
