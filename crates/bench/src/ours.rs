use std::time::Duration;

use anyhow::ensure;
use tokio::time::{sleep, timeout};

use crate::{
    bus_stage::BusStage,
    bus_writer::BusWriter,
    connect::{Dialler, Hello},
    gateways::Gateways,
    latency::ARRIVES_WITHIN,
    load::{Load, Tally},
    window::Window,
};

/// Batches before anything counts: new connections are slower at first.
const WARM: u32 = 50;
const WARM_EVERY: Duration = Duration::from_millis(20);
/// Until the queues are as they will be, or empty again.
pub const SETTLE: Duration = Duration::from_millis(300);

/// One gateway with its clients, and who publishes to it.
pub struct Ours {
    pub writer: BusWriter,
    pub gateway: Gateways,
    pub load: Load,
}

/// What clients there are.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    pub clients: u32,
    /// Each client is on one of them, and each has as many.
    pub topics: u32,
    /// The first so many do not read.
    pub unread: u32,
}

/// How hard they are pressed.
#[derive(Debug, Clone, Copy)]
pub struct Press {
    /// Changes of a batch.
    pub changes: u32,
    /// Share of a batch that is under way when the next one is published.
    pub early_percent: u32,
}

impl Setup {
    /// All on one topic.
    pub fn of(clients: u32) -> Self {
        Self { clients, topics: 1, unread: 0 }
    }
}

impl Ours {
    /// All connected, and warm.
    pub async fn up(stage: &BusStage, setup: Setup) -> anyhow::Result<Self> {
        let Setup { clients, topics, unread } = setup;
        ensure!(clients % topics == 0, "{clients} clients cannot be spread over {topics} topics");
        let writer = stage.writer(topics).await?;
        let gateway = stage.gateway().await?;
        let hello = move |index: usize| Hello::native(&BusWriter::topic(index as u32 % topics), None);
        let clients = Dialler::new(gateway.addresses(), &stage.cores).connect_to(clients as usize, hello).await?;
        let load = Load::start_without(unread as usize, clients, writer.last(), &stage.cores)?;
        let ours = Self { writer, gateway, load };
        for _ in 0..WARM {
            ours.writer.batch(topics).await?;
            sleep(WARM_EVERY).await;
        }
        ours.settle().await?;
        Ok(ours)
    }

    /// Waits until all that read have everything.
    pub async fn settle(&self) -> anyhow::Result<()> {
        let all = timeout(ARRIVES_WITHIN, self.load.all_have(self.writer.last())).await;
        ensure!(all.is_ok(), "not all arrives; the gateway says: {}", self.gateway.logs());
        Ok(())
    }

    /// As many as it can take for a while; nothing is left of it then.
    pub async fn turn(&self, stage: &BusStage, press: Press, time: Duration) -> anyhow::Result<Window> {
        let pressing = self.writer.press(press, &self.load)?;
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
