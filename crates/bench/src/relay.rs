//! What Redis takes by itself: one thread that hears a plain PUBLISH and writes what it says to each
//! socket in turn. No history, no numbering, no repair: every server behind Redis pays at least this.

use std::{
    io::Write,
    net::{Ipv4Addr, TcpListener},
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::time::timeout;

use crate::{
    bus_stage::BusStage,
    bus_writer::due,
    connect::{Dialler, Hello},
    floor::{self, WARM},
    latency::ARRIVES_WITHIN,
    load::{Load, Tally},
    payload::{self, Stamp, now_us},
    pin::Cores,
    process::Process,
    wire,
};

const CHANNEL: &str = "bench:relay";
const WARM_RATE: u32 = 50;

/// The relay's process.
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    /// Port on 127.0.0.1.
    #[arg(long, default_value_t = 0)]
    pub port: u16,
    /// Sockets to wait for.
    #[arg(long)]
    pub clients: u32,
    /// Where what it writes is published.
    #[arg(long)]
    pub redis_url: String,
    /// Seconds without a message after which it ends by itself.
    #[arg(long)]
    pub at_most: u64,
}

/// Waits for its clients, then writes what is published until they are gone.
pub fn serve(settings: &Settings) -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, settings.port))?;
    let mut redis = redis::Client::open(settings.redis_url.as_str())?.get_connection()?;
    let mut subscribed = redis.as_pubsub();
    subscribed.subscribe(CHANNEL)?;
    subscribed.set_read_timeout(Some(Duration::from_secs(settings.at_most)))?;
    let mut sockets = (0..settings.clients).map(|_| floor::accept(&listener)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut frame = Vec::new();
    loop {
        let message = subscribed.get_message()?;
        frame.clear();
        wire::write_text(&mut frame, message.get_payload_bytes());
        for socket in &mut sockets {
            if socket.write_all(&frame).is_err() {
                // The clients are gone: the run is over.
                return Ok(());
            }
        }
    }
}

/// The relay with its clients, and who publishes to it.
pub struct Relay {
    // It ends before its process, so that its clients are not cut off.
    load: Load,
    publisher: Publisher,
    _process: Process,
}

/// Publishes as the bus writer does, from the same core.
struct Publisher {
    redis: redis::Connection,
    cores: Cores,
    bytes: usize,
    last: u64,
}

impl Relay {
    /// All connected and warm.
    pub async fn up(stage: &BusStage, clients: u32, bytes: usize, at_most: u64) -> anyhow::Result<Self> {
        let flags = [
            ("--port", "{port}".to_owned()),
            ("--clients", clients.to_string()),
            ("--redis-url", stage.redis().url()),
            ("--at-most", at_most.to_string()),
        ];
        let flags = flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
        stage.cores.as_single()?;
        let process = Process::start("bench", &std::iter::once("relay".to_owned()).chain(flags).collect::<Vec<_>>())?;
        stage.cores.release()?;
        let dialler = Dialler::new(vec![process.address()], &stage.cores);
        let load = Load::start(dialler.connect(Hello::plain("/"), clients as usize).await?, 0, &stage.cores)?;
        let redis = redis::Client::open(stage.redis().url())?.get_connection()?;
        let publisher = Publisher { redis, cores: stage.cores.clone(), bytes, last: 0 };
        let relay = Self { load, publisher, _process: process };
        relay.publish(WARM_RATE, Duration::from_secs(WARM) / WARM_RATE).await
    }

    /// Goes on for a while; all has arrived then.
    pub async fn turn(self, rate: u32, time: Duration) -> anyhow::Result<Self> {
        self.load.progress.record(true);
        let relay = self.publish(rate, time).await?;
        relay.load.progress.record(false);
        Ok(relay)
    }

    /// What its clients have seen.
    pub fn end(self) -> anyhow::Result<Tally> {
        self.load.end(None)
    }

    async fn publish(mut self, rate: u32, time: Duration) -> anyhow::Result<Self> {
        let publishing = tokio::task::spawn_blocking(move || self.publisher.pace(rate, time).map(|()| self));
        let relay = publishing.await??;
        let arrived = timeout(ARRIVES_WITHIN, relay.load.all_have(relay.publisher.last)).await;
        arrived.context("what is published does not arrive behind the relay")?;
        Ok(relay)
    }
}

impl Publisher {
    fn pace(&mut self, rate: u32, time: Duration) -> anyhow::Result<()> {
        self.cores.as_bus()?;
        let (beat, start) = (Duration::from_secs(1) / rate, Instant::now());
        for count in 0.. {
            let late = start + due(beat, count);
            if late >= start + time {
                break;
            }
            std::thread::sleep(late.saturating_duration_since(Instant::now()));
            self.last += 1;
            let payload = payload::made(Stamp { id: self.last, sent_us: now_us() }, self.bytes);
            let _subscribers: u32 = redis::cmd("PUBLISH").arg(CHANNEL).arg(payload).query(&mut self.redis)?;
        }
        self.cores.release()
    }
}
