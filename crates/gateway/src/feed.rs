//! A source's feed at this gateway: takes batches from the bus, repairs gaps from the histories,
//! and hands one gapless sequence to every shard.

mod repair;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use bus::{Bus, Event, Head, Position, Reader, Subscription};
use protocol::{Backoff, Batch, Catalogue, FeedId, Micros, Offset, Source, Topic};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::metrics::Metrics;
use repair::Repair;

/// A leading listener publishes every second. After this much silence the feed looks for itself
/// whether the channel has gone deaf.
const SILENCE: Duration = Duration::from_secs(3);

/// Batches on their way to the shards, in KiB. Past that the feed waits, and what comes waits on
/// the bus' side, where a limit turns it into a gap that is repaired.
const ON_THE_WAY_KIB: u32 = 32 * 1024;

/// What a shard is told. The batches between two `Started` follow each other without a hole.
#[derive(Debug, Clone)]
pub enum FeedEvent {
    /// A numbering begins here: what was missed before it is unknown.
    Started {
        /// Which source.
        source: Source,
        /// The feed, and where it is.
        start: Arc<Start>,
    },
    /// The next batch.
    Batch {
        /// Which source.
        source: Source,
        /// The changes.
        batch: Arc<Batch>,
        /// What it takes of the way to the shards.
        room: Arc<Room>,
    },
    /// The next batch, without the changes of some topics: those are lost to this gateway. Who wants
    /// one of these topics gets nothing until it has been told ([`FeedEvent::Lost`]).
    Torn {
        /// Which source.
        source: Source,
        /// The other changes.
        batch: Arc<Batch>,
        /// The topics.
        lost: Arc<Vec<Topic>>,
        /// What it takes of the way to the shards.
        room: Arc<Room>,
    },
    /// Before here changes of some topics have been lost.
    Lost {
        /// Which source.
        source: Source,
        /// The topics.
        topics: Arc<Vec<Topic>>,
    },
    /// The feed carries other topics than before.
    Catalogue {
        /// Which source.
        source: Source,
        /// What it carries now.
        catalogue: Arc<Catalogue>,
    },
}

/// A batch's share of what may be on its way to the shards; free again when all have taken it.
#[derive(Debug)]
pub struct Room {
    _share: Option<OwnedSemaphorePermit>,
}

/// Where a feed begins, for a gateway.
#[derive(Debug)]
pub struct Start {
    /// Its id.
    pub feed: FeedId,
    /// What has gone before.
    pub last: Offset,
    /// The database's time up to which it is complete.
    pub at: Micros,
    /// What it carries.
    pub catalogue: Arc<Catalogue>,
}

/// How a feed is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedState {
    /// Not connected to the bus.
    Lost,
    /// Connected, and reading what was missed.
    Repairing,
    /// Whatever the listener publishes goes out.
    Live,
}

/// What others may know of a feed.
#[derive(Debug, Clone)]
pub struct FeedStatus {
    /// How it is doing.
    pub state: FeedState,
    /// Since when.
    pub since: Instant,
    /// What it carries, once a listener has told.
    pub catalogue: Option<Arc<Catalogue>>,
}

/// One source's feed.
pub struct Feed {
    source: Source,
    subscription: Subscription,
    reader: Reader,
    shards: Vec<mpsc::Sender<FeedEvent>>,
    status: watch::Sender<FeedStatus>,
    metrics: Metrics,
    position: Option<Position>,
    catalogue: Arc<Catalogue>,
    /// Whether this gateway was there before any feed of channels: then clients of plain endpoints
    /// wait for its first change. The log's feed is older than what the bus has of it: what comes
    /// first there may be a history that is brought back.
    was_first: bool,
    /// Topics that have lost changes in the gap that is being repaired, and nobody has been told.
    lost: BTreeSet<Topic>,
    /// Reads what another listener says that it carries, until that works.
    announced: JoinSet<Head>,
    /// How many batches may be on their way.
    way: Arc<Semaphore>,
}

impl Feed {
    /// A feed that hands its events to these shards.
    pub fn new(bus: &Bus, source: Source, shards: Vec<mpsc::Sender<FeedEvent>>, metrics: Metrics) -> Self {
        Self {
            source,
            subscription: bus.subscribe(source),
            reader: bus.reader(source),
            shards,
            status: watch::Sender::new(FeedStatus { state: FeedState::Lost, since: Instant::now(), catalogue: None }),
            metrics,
            position: None,
            catalogue: Arc::default(),
            was_first: false,
            lost: BTreeSet::new(),
            announced: JoinSet::new(),
            way: Arc::new(Semaphore::new(ON_THE_WAY_KIB as usize)),
        }
    }

    /// Which source it is of.
    pub fn source(&self) -> Source {
        self.source
    }

    /// How it is doing, from now on.
    pub fn status(&self) -> watch::Receiver<FeedStatus> {
        self.status.subscribe()
    }

    /// Runs until the shutdown.
    pub async fn run(mut self, shutdown: CancellationToken) {
        shutdown.run_until_cancelled(self.follow()).await;
    }

    async fn follow(&mut self) {
        loop {
            let event = tokio::select! {
                event = tokio::time::timeout(SILENCE, self.subscription.next()) => event,
                Some(read) = self.announced.join_next() => {
                    if let Ok(head) = read {
                        self.update_catalogue(&head).await;
                    }
                    continue;
                }
            };
            match event {
                Ok(Event::Batch(batch)) => self.take(batch).await,
                Ok(Event::Gap) => {
                    if self.position.is_some() {
                        self.metrics.gap(self.source);
                    }
                    self.repair().await;
                }
                Ok(Event::Lost) => self.set_state(FeedState::Lost),
                Err(_silence) => self.listen_harder().await,
            }
        }
    }

    async fn take(&mut self, batch: Batch) {
        let new_term = self.position.as_ref().is_some_and(|p| p.epoch != batch.epoch);
        if new_term {
            self.read_what_is_announced(batch.epoch);
        }
        self.position = Some(Position { feed: batch.feed.clone(), epoch: batch.epoch, last: batch.last });
        self.send_batch(Arc::new(batch)).await;
    }

    /// Another listener goes on with the feed, or the same one with another catalogue. Read beside
    /// the feed, so that no change waits for it.
    fn read_what_is_announced(&mut self, epoch: u64) {
        self.announced.abort_all();
        let reader = self.reader.clone();
        self.announced.spawn(async move {
            let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
            loop {
                match reader.head().await {
                    Ok(Some(head)) if head.epoch >= epoch => return head,
                    // Away, or being refilled.
                    Ok(_) | Err(_) => tokio::time::sleep(backoff.delay()).await,
                }
            }
        });
    }

    async fn send_batch(&mut self, batch: Arc<Batch>) {
        self.metrics.batch(self.source, &batch);
        let room = self.room_for(&batch).await;
        self.send(FeedEvent::Batch { source: self.source, batch, room }).await;
    }

    async fn send_torn(&mut self, batch: Arc<Batch>, lost: Arc<Vec<Topic>>) {
        self.metrics.batch(self.source, &batch);
        let room = self.room_for(&batch).await;
        self.send(FeedEvent::Torn { source: self.source, batch, lost, room }).await;
    }

    async fn room_for(&self, batch: &Batch) -> Arc<Room> {
        let bytes: usize = batch.slices.iter().map(|(_, slice)| slice.bytes.len()).sum();
        let share = u32::try_from(bytes / 1024).unwrap_or(u32::MAX).clamp(1, ON_THE_WAY_KIB);
        // Nobody closes it.
        Arc::new(Room { _share: Arc::clone(&self.way).acquire_many_owned(share).await.ok() })
    }

    /// Tells of what was lost in the gap that has been repaired.
    async fn tell_losses(&mut self) {
        if !self.lost.is_empty() {
            let topics = Arc::new(std::mem::take(&mut self.lost).into_iter().collect());
            self.send(FeedEvent::Lost { source: self.source, topics }).await;
        }
    }

    /// Waits where a shard is behind: then batches wait on the bus' side, where a limit turns them
    /// into a gap that is repaired.
    async fn send(&self, event: FeedEvent) {
        for shard in &self.shards {
            // A shard that is gone is shutting down.
            drop(shard.send(event.clone()).await);
        }
    }

    fn set_state(&self, state: FeedState) {
        let source = self.source;
        self.status.send_if_modified(|status| {
            let changed = status.state != state;
            if changed {
                match state {
                    FeedState::Lost => warn!(%source, "lost the bus; reconnecting for ever"),
                    FeedState::Repairing => debug!(%source, "reading what was missed"),
                    FeedState::Live => info!(%source, "live"),
                }
                status.state = state;
                status.since = Instant::now();
            }
            changed
        });
    }

    async fn listen_harder(&mut self) {
        if self.status.borrow().state != FeedState::Live {
            return;
        }
        let Ok(Some(head)) = self.reader.head().await else { return };
        let known = self.position.as_ref();
        let newer = known.is_none_or(|p| head.epoch > p.epoch || (head.feed == p.feed && head.last > p.last));
        if newer {
            warn!(source = %self.source, last = head.last, "the channel is deaf: the bus holds more than arrived");
            self.metrics.gap(self.source);
            self.repair().await;
        }
    }

    /// Finds out what was missed, reads it, and goes on. Tries for as long as it takes.
    async fn repair(&mut self) {
        self.set_state(FeedState::Repairing);
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        loop {
            match self.try_repair().await {
                Repair::Done => break,
                Repair::Later(reason) => {
                    debug!(source = %self.source, reason, "cannot repair yet");
                    tokio::time::sleep(backoff.delay()).await;
                }
            }
        }
        self.tell_losses().await;
        if let Some(position) = &self.position {
            self.subscription.set_position(position.clone());
        }
        self.set_state(FeedState::Live);
    }

    fn set_catalogue(&mut self, head: &Head) {
        self.catalogue = Arc::new(head.catalogue.clone());
        self.status.send_modify(|status| status.catalogue = Some(Arc::clone(&self.catalogue)));
    }

    async fn update_catalogue(&mut self, head: &Head) {
        let is_of_here = self.position.as_ref().is_some_and(|p| p.feed == head.feed && p.epoch <= head.epoch);
        if is_of_here && *self.catalogue != head.catalogue {
            self.set_catalogue(head);
            let catalogue = Arc::clone(&self.catalogue);
            self.send(FeedEvent::Catalogue { source: self.source, catalogue }).await;
        }
    }
}
