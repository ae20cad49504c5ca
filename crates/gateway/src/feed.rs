//! A source's feed at this gateway: takes batches from the bus, repairs gaps from the histories,
//! and hands one gapless sequence to every shard.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bus::{Bus, Event, Head, History, Position, Reader, Subscription};
use bytes::{Bytes, BytesMut};
use protocol::{Backoff, Batch, Catalogue, FeedId, Micros, Offset, Slice, Source, Topic};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::metrics::Metrics;

/// A leading listener publishes every second. After this much silence the feed looks for itself
/// whether the channel has gone deaf.
const SILENCE: Duration = Duration::from_secs(3);

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
    },
    /// The next batch, without the changes of some topics: those are lost to this gateway.
    Torn {
        /// Which source.
        source: Source,
        /// The other changes.
        batch: Arc<Batch>,
        /// The topics.
        lost: Arc<Vec<Topic>>,
    },
    /// The feed carries other topics than before.
    Catalogue {
        /// Which source.
        source: Source,
        /// What it carries now.
        catalogue: Arc<Catalogue>,
    },
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
    /// Whether this gateway was there before any feed: then clients of plain endpoints wait for the
    /// feed's first change.
    was_first: bool,
}

enum Repair {
    Done,
    /// Not everything could be read yet: the bus is being refilled, or is gone again.
    Later(String),
}

impl Feed {
    /// A feed that hands its events to these shards.
    pub fn new(bus: &Bus, source: Source, shards: Vec<mpsc::Sender<FeedEvent>>, metrics: Metrics) -> Self {
        Self {
            source,
            subscription: bus.subscribe(source),
            reader: bus.reader(source),
            shards,
            status: watch::Sender::new(FeedStatus { state: FeedState::Lost, catalogue: None }),
            metrics,
            position: None,
            catalogue: Arc::default(),
            was_first: false,
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
            match tokio::time::timeout(SILENCE, self.subscription.next()).await {
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
        self.position = Some(Position { feed: batch.feed.clone(), epoch: batch.epoch, last: batch.last });
        self.send_batch(Arc::new(batch)).await;
        // Another listener goes on with the feed; it may carry other topics.
        if new_term && let Ok(Some(head)) = self.reader.head().await {
            self.update_catalogue(&head).await;
        }
    }

    async fn send_batch(&mut self, batch: Arc<Batch>) {
        self.metrics.batch(self.source, &batch);
        self.send(FeedEvent::Batch { source: self.source, batch }).await;
    }

    async fn send_torn(&mut self, batch: Arc<Batch>, lost: Arc<Vec<Topic>>) {
        self.metrics.batch(self.source, &batch);
        self.send(FeedEvent::Torn { source: self.source, batch, lost }).await;
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
        if let Some(position) = &self.position {
            self.subscription.set_position(position.clone());
        }
        self.set_state(FeedState::Live);
    }

    async fn try_repair(&mut self) -> Repair {
        let head = match self.reader.head().await {
            Ok(Some(head)) => head,
            // No listener yet; or the bus was emptied, and the listener brings the feed back. What
            // comes then is judged against where we are.
            Ok(None) => {
                self.was_first = self.position.is_none();
                return Repair::Done;
            }
            Err(e) => return Repair::Later(e.to_string()),
        };
        let repair = match self.position.clone() {
            // A history from before: the listener will replace it.
            Some(position) if position.epoch > head.epoch => return Repair::Done,
            Some(position) if position.feed == head.feed => self.catch_up(position, &head).await,
            // Who is connected goes on from where the new feed begins: only what lies between the
            // two feeds may be lost.
            Some(_) => {
                let position = self.start(&head, head.base).await;
                self.catch_up(position, &head).await
            }
            None => {
                let from = if self.was_first { head.base } else { head.last };
                let position = self.start(&head, from).await;
                self.catch_up(position, &head).await
            }
        };
        self.update_catalogue(&head).await;
        repair
    }

    async fn start(&mut self, head: &Head, last: Offset) -> Position {
        info!(source = %self.source, feed = %head.feed, offset = last, topics = head.catalogue.topics.len(), "a feed begins");
        self.set_catalogue(head);
        let position = Position { feed: head.feed.clone(), epoch: head.epoch, last };
        self.position = Some(position.clone());
        let start = Start { feed: head.feed.clone(), last, at: head.at, catalogue: Arc::clone(&self.catalogue) };
        self.send(FeedEvent::Started { source: self.source, start: Arc::new(start) }).await;
        position
    }

    fn set_catalogue(&mut self, head: &Head) {
        self.catalogue = Arc::new(head.catalogue.clone());
        self.status.send_modify(|status| status.catalogue = Some(Arc::clone(&self.catalogue)));
    }

    async fn update_catalogue(&mut self, head: &Head) {
        if *self.catalogue != head.catalogue {
            self.set_catalogue(head);
            let catalogue = Arc::clone(&self.catalogue);
            self.send(FeedEvent::Catalogue { source: self.source, catalogue }).await;
        }
    }

    /// Reads the changes between where this gateway is and the head, from the histories of the
    /// topics that have any, and hands them on as one batch.
    async fn catch_up(&mut self, position: Position, head: &Head) -> Repair {
        if head.last <= position.last {
            self.position = Some(Position { epoch: head.epoch, ..position });
            return Repair::Done;
        }
        let mut slices = Vec::new();
        let mut trimmed = Vec::new();
        for (topic, changed) in missed_topics(head, position.last) {
            if !changed {
                trimmed.push(topic);
                continue;
            }
            match self.reader.history(&head.feed, &topic, position.last).await {
                Ok(History::Complete { slices: read, .. }) => match cut(&read, position.last, head.last) {
                    Ok(Some(slice)) => slices.push((topic, slice)),
                    Ok(None) => {}
                    Err(problem) => {
                        error!(source = %self.source, %topic, %problem, "a history with malformed changes");
                        trimmed.push(topic);
                    }
                },
                Ok(History::Trimmed) => trimmed.push(topic),
                Ok(History::NotReady | History::OtherFeed) => return Repair::Later(format!("{topic} is not ready")),
                Err(e) => return Repair::Later(e.to_string()),
            }
        }
        let batch = Batch {
            feed: head.feed.clone(),
            epoch: head.epoch,
            first: position.last + 1,
            last: head.last,
            at: head.at,
            slices,
        };
        info!(source = %self.source, changes = batch.len(), topics = batch.slices.len(), trimmed = trimmed.len(), "repaired a gap");
        self.metrics.repaired(self.source);
        self.position = Some(Position { feed: head.feed.clone(), epoch: head.epoch, last: head.last });
        match trimmed.is_empty() {
            true => self.send_batch(Arc::new(batch)).await,
            false => self.send_torn(Arc::new(batch), Arc::new(trimmed)).await,
        }
        Repair::Done
    }
}

/// The topics that have, or may have, changes after an offset; `false` where nobody can say which.
fn missed_topics(head: &Head, after: Offset) -> Vec<(Topic, bool)> {
    if head.base > after {
        // The histories begin later than we are: every topic may have lost something.
        let carried = head.catalogue.topics.iter().map(|info| &info.topic);
        let all: HashMap<&Topic, ()> = carried.chain(head.tails.keys()).map(|topic| (topic, ())).collect();
        return all.into_keys().map(|topic| (topic.clone(), false)).collect();
    }
    head.tails.iter().filter(|(_, tail)| **tail > after).map(|(topic, _)| (topic.clone(), true)).collect()
}

/// One slice with the changes in `after+1 ..= through`.
fn cut(slices: &[Slice], after: Offset, through: Offset) -> Result<Option<Slice>, protocol::BatchError> {
    let mut bytes = BytesMut::new();
    let mut last = None;
    for slice in slices {
        let whole = slice.last <= through && slice.first()? > after;
        if whole {
            bytes.extend_from_slice(&slice.bytes);
            last = Some(slice.last);
            continue;
        }
        for change in slice.changes_after(after)? {
            if change.offset <= through {
                last = Some(change.offset);
                change.encode(&mut bytes);
            }
        }
    }
    Ok(last.map(|last| Slice { last, bytes: Bytes::from(bytes) }))
}
