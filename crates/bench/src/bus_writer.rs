//! Publishes straight to the bus, as a listener does, on a thread of its own beside Redis.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use bus::{Answer, Publisher, RedisBus, RedisSettings, Retention, Term};
use protocol::{Batch, Batcher, Catalogue, Cursor, FeedId, Kind, Source, Topic};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};

use crate::{
    load::Load,
    ours::Press,
    payload::{self, Stamp, now_us},
    pin::Cores,
    progress::Progress,
};

/// Of a change's payload, so that its frame has some 250 bytes on the native protocol.
pub const PAYLOAD_BYTES: usize = 128;
/// Changes in a batch at most; it stays far below a MiB.
const MOST_AT_ONCE: u32 = 2000;
/// How long what was begun may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(20);
/// As from a listener that has nothing to publish.
const MARK_EVERY: Duration = Duration::from_secs(1);

/// The handle. The thread ends with it.
pub struct BusWriter {
    feed: FeedId,
    topics: u32,
    orders: mpsc::UnboundedSender<Order>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Changes so far.
    sent: AtomicU64,
    /// What it does is to end.
    rest: AtomicBool,
}

struct Order {
    pattern: Pattern,
    done: oneshot::Sender<anyhow::Result<()>>,
}

/// What it does until that is done, or until it is to rest. With several topics, each change goes to
/// the next one.
pub enum Pattern {
    /// One batch of so many changes.
    Batch(u32),
    /// So many changes a second. What is due at once is one batch, of `changes` at least.
    Pace { rate: u32, changes: u32, time: Duration },
    /// Batches, as fast as they arrive at the clients.
    Press { press: Press, progress: Arc<Progress>, deliveries_each: f64 },
}

/// What an order comes to.
pub struct Doing(oneshot::Receiver<anyhow::Result<()>>);

impl Doing {
    /// Waits until it is done.
    pub async fn done(self) -> anyhow::Result<()> {
        self.0.await.context("the bus writer has ended")?
    }
}

impl BusWriter {
    /// Begins a feed of so many topics.
    pub async fn start(redis_url: &str, topics: u32, cores: &Cores) -> anyhow::Result<Self> {
        ensure!(topics > 0, "no topic");
        let (orders, received) = mpsc::unbounded_channel();
        let (begun, begins) = oneshot::channel();
        let shared = Arc::new(Shared::default());
        let (cores, url, theirs) = (cores.clone(), redis_url.to_owned(), Arc::clone(&shared));
        std::thread::Builder::new().name("bus writer".into()).spawn(move || {
            let run = async {
                cores.as_bus()?;
                Feed::begin(&url, topics, theirs).await
            };
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(begun.send(Err(error.into()))),
            };
            runtime.block_on(async {
                match run.await {
                    Ok(feed) => {
                        drop(begun.send(Ok(feed.batcher.feed().clone())));
                        feed.serve(received).await;
                    }
                    Err(error) => drop(begun.send(Err(error))),
                }
            });
        })?;
        Ok(Self { feed: begins.await.context("the bus writer has ended")??, topics, orders, shared })
    }

    /// A topic of every feed where nothing happens.
    pub const QUIET: &str = "bench_quiet";

    /// The numbering, which begins with 1.
    pub fn feed(&self) -> &str {
        self.feed.as_str()
    }

    /// The name of a topic.
    pub fn topic(index: u32) -> String {
        format!("bench_{index}")
    }

    /// What each topic has so far, if all have the same: also its last change's id.
    pub fn last(&self) -> u64 {
        self.shared.sent.load(Relaxed) / u64::from(self.topics)
    }

    /// Where a client is that has seen so many changes of the only topic.
    pub fn cursor(&self, last: u64) -> String {
        Cursor::new(self.feed.clone(), last).to_string()
    }

    /// Begins something; what it did before must be done.
    pub fn begin(&self, pattern: Pattern) -> anyhow::Result<Doing> {
        let (done, doing) = oneshot::channel();
        self.shared.rest.store(false, Relaxed);
        self.orders.send(Order { pattern, done }).ok().context("the bus writer has ended")?;
        Ok(Doing(doing))
    }

    /// Publishes one batch.
    pub async fn batch(&self, changes: u32) -> anyhow::Result<()> {
        self.begin(Pattern::Batch(changes))?.done().await
    }

    /// Presses as fast as the clients of a load client get it.
    pub fn press(&self, press: Press, load: &Load) -> anyhow::Result<Doing> {
        let deliveries_each = load.clients as f64 / f64::from(self.topics);
        self.begin(Pattern::Press { press, progress: Arc::clone(&load.progress), deliveries_each })
    }

    /// What it does ends early; and all of it is published.
    pub async fn rest(&self, doing: Doing) -> anyhow::Result<()> {
        self.shared.rest.store(true, Relaxed);
        timeout(ENDS_WITHIN, doing.done()).await.context("what was published does not arrive")?
    }
}

/// The thread's side.
struct Feed {
    publisher: Publisher,
    batcher: Batcher,
    epoch: u64,
    topics: Vec<Topic>,
    shared: Arc<Shared>,
}

impl Feed {
    async fn begin(url: &str, topics: u32, shared: Arc<Shared>) -> anyhow::Result<Self> {
        let topics = (0..topics).map(|index| Topic::new(&BusWriter::topic(index))).collect::<Result<Vec<_>, _>>()?;
        let bus = RedisBus::new(RedisSettings {
            url: url.into(),
            namespace: "rowcast".into(),
            retention: Retention::default(),
        })?;
        let mut publisher = bus.publisher(Source::Notify);
        // As a listener's: from the clock, so that it is above that of the feed before.
        let (feed, epoch) = (FeedId::random(), protocol::time::now().cast_unsigned());
        let catalogue = Catalogue::of_channels(topics.iter().cloned().chain([Topic::new(BusWriter::QUIET)?]));
        let term = Term { feed: feed.clone(), epoch, after: 0, at: protocol::time::now(), catalogue };
        let answer = publisher.begin(&term).await?;
        ensure!(answer == Answer::Applied, "the bus does not begin a feed: {answer:?}");
        Ok(Self { publisher, batcher: Batcher::new(feed, epoch, 0), epoch, topics, shared })
    }

    async fn serve(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        let mut marks = interval(MARK_EVERY);
        marks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Order { pattern, done }) => drop(done.send(self.follow(pattern).await)),
                    None => return,
                },
                _ = marks.tick() => {
                    let (feed, last) = (self.batcher.feed().clone(), self.batcher.last());
                    let mark = Batch::watermark(feed, self.epoch, last, protocol::time::now());
                    // If the bus is gone, the next order says so.
                    drop(self.publisher.publish(&mark).await);
                }
            }
        }
    }

    async fn follow(&mut self, pattern: Pattern) -> anyhow::Result<()> {
        match pattern {
            Pattern::Batch(changes) => self.publish(changes).await,
            Pattern::Pace { rate, changes, time } => self.pace(rate, changes, time).await,
            Pattern::Press { press, progress, deliveries_each } => self.press(press, &progress, deliveries_each).await,
        }
    }

    async fn pace(&mut self, rate: u32, changes: u32, time: Duration) -> anyhow::Result<()> {
        let beat = Duration::from_secs(1) * changes / rate;
        let (start, mut beats) = (Instant::now(), 0);
        while !self.is_to_rest() && start.elapsed() < time {
            sleep_until(start + due(beat, beats)).await;
            let mut due_now = 0;
            while start + due(beat, beats) <= Instant::now() {
                beats += 1;
                due_now += changes;
            }
            // A sleep that ends early has nothing for it.
            if due_now > 0 {
                self.publish(due_now).await?;
            }
        }
        Ok(())
    }

    async fn press(&mut self, press: Press, progress: &Progress, deliveries_each: f64) -> anyhow::Result<()> {
        let Press { changes, early_percent } = press;
        let early = f64::from(changes) * f64::from(early_percent) / 100.0;
        let (start, before) = (self.batcher.last(), progress.counts().changes);
        while !self.is_to_rest() {
            let sent = (self.batcher.last() - start) as f64;
            let arrived = (sent - early).max(0.0) * deliveries_each;
            progress.reach(before + arrived as u64).await;
            self.publish(changes).await?;
        }
        Ok(())
    }

    async fn publish(&mut self, changes: u32) -> anyhow::Result<()> {
        for done in (0..changes).step_by(MOST_AT_ONCE as usize) {
            self.publish_some(MOST_AT_ONCE.min(changes - done)).await?;
        }
        Ok(())
    }

    async fn publish_some(&mut self, changes: u32) -> anyhow::Result<()> {
        let sent_us = now_us();
        let at = protocol::time::now();
        for _ in 0..changes {
            let before = self.batcher.last();
            let topics = self.topics.len() as u64;
            let id = before / topics + 1;
            let payload = payload::made(Stamp { id, sent_us }, PAYLOAD_BYTES);
            self.batcher.push(&self.topics[(before % topics) as usize], at, Kind::Json, &payload);
        }
        let batch = self.batcher.take(at);
        match self.publisher.publish(&batch).await? {
            Answer::Applied => {}
            answer => bail!("the bus does not take a batch: {answer:?}"),
        }
        self.shared.sent.store(self.batcher.last(), Relaxed);
        Ok(())
    }

    fn is_to_rest(&self) -> bool {
        self.shared.rest.load(Relaxed)
    }
}

/// When a beat is due: up to half an interval late, off the beat of any timer (by the golden ratio,
/// so that all delays occur alike).
pub fn due(beat: Duration, count: u32) -> Duration {
    beat * count + beat.mul_f64((f64::from(count) * 0.618_034).fract() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beats_come_in_order_and_at_their_rate_but_off_the_beat() {
        let beat = Duration::from_millis(100);
        let times: Vec<Duration> = (0..1000).map(|count| due(beat, count)).collect();
        assert!(times.is_sorted());
        let late = |count: usize| times[count] - beat * count as u32;
        assert!((0..1000).all(|count| late(count) <= beat / 2));
        let mean = (0..1000).map(late).sum::<Duration>() / 1000;
        assert!((24..=26).contains(&mean.as_millis()), "{mean:?}");
    }
}
