use std::{
    cell::Cell,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use tokio::time::{sleep, sleep_until, timeout};

use crate::{
    bus_stage::BusStage,
    bus_writer::{BusWriter, due},
    connect::{Dialler, Hello},
    gateways::Gateways,
    latency::ARRIVES_WITHIN,
    load::{Load, Tally},
    ours::SETTLE,
    payload::Reader,
    peers::{
        peer::{Peer, Way},
        pipe::Pipe,
        server::Server,
        writer::Writer,
    },
    usage,
    window::Window,
};

/// What warms new connections, or as many of these as come through in this time.
const WARM: u32 = 50;
const WARM_EVERY: Duration = Duration::from_millis(20);
const WARM_AT_MOST: Duration = Duration::from_secs(4);
/// What is slow is watched until so many changes have arrived, if that does not take too long.
const CHANGES_AT_LEAST: u32 = 5;
const WATCHED_AT_MOST: Duration = Duration::from_secs(30);
/// Until memory is as it stays.
const CALM: Duration = Duration::from_secs(2);
/// The next change is published when this share of the one before is still under way, as in `bench
/// fanout`: as long as it takes to the server.
const EARLY: f64 = 0.1;

/// A server that is measured, with its clients and who publishes to it.
pub struct Stand {
    server: Measured,
    writer: Writer,
    load: Load,
    /// What one change takes until all have it.
    change_takes: Duration,
    /// What getting in cost.
    pub entry: Entry,
}

/// What clients that connect cost.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    pub connects_per_s: f64,
    pub kib_each: f64,
}

enum Measured {
    Rowcast(Gateways),
    Peer(Server),
}

impl Stand {
    /// All connected; [`Stand::warm`] is to follow. Without a peer it is rowcast.
    pub async fn up(stage: &BusStage, peer: Option<&dyn Peer>, clients: u32) -> anyhow::Result<Self> {
        let (server, writer, hello) = match peer {
            None => {
                // Gateways that are started then know its topic.
                let writer = Writer::Bus(stage.writer(1).await?);
                let hello = Hello::native(&BusWriter::topic(0), None);
                (Measured::Rowcast(stage.gateway().await?), writer, hello)
            }
            Some(peer) => {
                let server = Server::start(stage, peer).await?;
                let host = match peer.way() {
                    Way::Redis => SocketAddr::from(([127, 0, 0, 1], stage.redis().port())),
                    Way::Post(_) | Way::PostOnce(_) => server.address(),
                };
                let pipe = Pipe::open(peer.way(), host).await?;
                (Measured::Peer(server), Writer::pipe(pipe), peer.hello())
            }
        };
        sleep(CALM).await;
        let before_kib = usage::resident_kib(&server.pids())?;
        let started = Instant::now();
        let dialler = Dialler::new(vec![server.address()?], &stage.cores);
        let connected =
            dialler.connect(hello, clients as usize).await.with_context(|| format!("its log: {}", server.log()))?;
        let connects_per_s = f64::from(clients) / started.elapsed().as_secs_f64();
        let reader = peer.map_or_else(Reader::new, Peer::reader);
        let load = Load::start_with(reader, 0, connected, 0, &stage.cores)?;
        sleep(CALM).await;
        let kib = usage::resident_kib(&server.pids())?.saturating_sub(before_kib);
        let entry = Entry { connects_per_s, kib_each: kib as f64 / f64::from(clients) };
        // Who publishes is beside Redis, as rowcast's is.
        stage.cores.as_bus()?;
        Ok(Self { server, writer, load, change_takes: Duration::ZERO, entry })
    }

    /// Some changes before anything counts, one by one.
    pub async fn warm(&mut self) -> anyhow::Result<()> {
        self.some_changes().await.with_context(|| format!("its log: {}", self.server.log()))
    }

    /// Of a frame's payload, as the clients saw it.
    pub fn bytes_each(&self) -> usize {
        self.load.progress.counts().bytes_each()
    }

    /// One change after the other for a while, as fast as they arrive; all of them have arrived then.
    /// The first of the window's groups is the server, the second the load client's core.
    pub async fn press(&mut self, stage: &BusStage, time: Duration) -> anyhow::Result<Window> {
        let time = time.max((self.change_takes * CHANGES_AT_LEAST).min(WATCHED_AT_MOST));
        let (is_over, groups) = (Cell::new(false), [self.server.pids(), stage.beside_load()]);
        let (load, writer) = (&self.load, &mut self.writer);
        let watching = async {
            sleep(SETTLE).await;
            let window = Window::watch(load, &groups, time).await;
            is_over.set(true);
            window
        };
        let pressing = async {
            let (sent_before, before) = (writer.sent(), load.progress.counts().changes);
            while !is_over.get() {
                let under_way = (writer.sent() - sent_before) as f64 - EARLY;
                let arrived = (under_way.max(0.0) * load.clients as f64) as u64;
                let reached = timeout(ARRIVES_WITHIN, load.progress.reach(before + arrived)).await;
                reached.context("a change does not reach all")?;
                writer.publish().await?;
            }
            anyhow::Ok(())
        };
        let (window, pressed) = tokio::join!(watching, pressing);
        pressed?;
        self.settle().await?;
        window
    }

    /// So many changes a second for a while; when all have arrived, what was late is recorded.
    pub async fn pace(&mut self, rate: u32, time: Duration) -> anyhow::Result<()> {
        self.load.progress.record(true);
        // The load client looks up when something comes, or every 20 ms.
        sleep(Duration::from_millis(50)).await;
        let (start, beat) = (tokio::time::Instant::now(), Duration::from_secs(1) / rate);
        for count in 0..rate * time.as_secs() as u32 {
            sleep_until(start + due(beat, count)).await;
            self.writer.publish().await?;
        }
        self.settle().await?;
        self.load.progress.record(false);
        Ok(())
    }

    /// What the clients have seen.
    pub fn end(self) -> anyhow::Result<Tally> {
        let last = self.writer.sent();
        self.load.end(Some(last))
    }

    async fn some_changes(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + WARM_AT_MOST;
        for nth in 0..WARM {
            let published = Instant::now();
            self.writer.publish().await?;
            self.settle().await?;
            self.change_takes = published.elapsed();
            if nth == 0 {
                self.writer.fit(self.bytes_each());
            }
            if Instant::now() > deadline {
                break;
            }
            sleep(WARM_EVERY).await;
        }
        Ok(())
    }

    async fn settle(&self) -> anyhow::Result<()> {
        let all = timeout(ARRIVES_WITHIN, self.load.all_have(self.writer.sent())).await;
        let lost = self.load.progress.count_lost();
        let counts = self.load.progress.counts().changes;
        let wanted = self.writer.sent() * self.load.clients;
        ensure!(all.is_ok(), "only {counts} of {wanted} deliveries arrived, {lost} connections were cut off");
        Ok(())
    }
}

impl Measured {
    fn address(&self) -> anyhow::Result<SocketAddr> {
        match self {
            Self::Rowcast(gateways) => gateways.addresses().first().copied().context("no gateway"),
            Self::Peer(server) => Ok(server.address()),
        }
    }

    fn pids(&self) -> Vec<u32> {
        match self {
            Self::Rowcast(gateways) => gateways.pids(),
            Self::Peer(server) => server.pids(),
        }
    }

    fn log(&self) -> String {
        match self {
            Self::Rowcast(gateways) => gateways.logs(),
            Self::Peer(server) => server.log(),
        }
    }
}
