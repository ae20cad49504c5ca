//! The one feed that a leader writes, and how it is kept whole on a bus that forgets.

use std::time::{Duration, Instant};

use bus::{Answer, BusError, Publisher, Term};
use protocol::{Batch, Batcher, Catalogue, FeedId, Kind, Micros, Offset, Topic};

use crate::{metrics::Metrics, tail::Tail};

/// Watermarks of the log are this far apart, about: it is looked at up to a thousand times a second.
const MARK_EVERY: Duration = Duration::from_millis(900);

/// Why a feed was begun: what clients may have missed is before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// A new session with the database: what was notified before it LISTENed is gone.
    Session,
    /// The backlog was full while the bus was away.
    Overflow,
    /// The bus lost more than is kept here.
    BusLostTooMuch,
}

impl Reason {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Overflow => "overflow",
            Self::BusLostTooMuch => "bus_lost_too_much",
        }
    }
}

/// What one call to the bus came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// The bus holds everything.
    Idle,
    /// One step nearer to that: go on.
    Moved,
    /// The bus holds a feed of a higher epoch. Whoever still holds the leader's lock goes on with
    /// [`Writer::outrank`]; else another listener leads.
    Overtaken {
        /// That epoch.
        epoch: u64,
    },
    /// The bus holds less than is needed to go on from what is kept here. The notify source begins a
    /// new feed with [`Writer::begin_feed`]; the log source reads again what the bus lost.
    Torn,
}

/// Writes one feed at a time. It knows what the bus holds as far as the bus has said, and each
/// [`Writer::step`] makes the one call that brings the bus nearer to holding everything.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    publisher: &'a mut Publisher,
    catalogue: Catalogue,
    metrics: Metrics,
    feed: FeedId,
    epoch: u64,
    /// Whether the bus has been told of the feed (since it last forgot).
    begun: bool,
    /// Whether the bus was ever told: from then on, telling it again is a repair.
    known: bool,
    /// Why this feed was begun.
    reason: Reason,
    /// Whether a bus that lost everything gets the feed's whole history back from elsewhere, and not
    /// just the tail.
    durable: bool,
    /// Whether the bus ends before what can still be brought, and is to begin there anew.
    further_on: bool,
    /// Whether the bus holds the feed, as far as is known: if it has lost it since, the feed is not to
    /// begin where it would have gone on.
    goes_on: bool,
    /// Where the bus ends; while not `begun`, where it is to begin.
    held: Offset,
    tail: Tail,
    batcher: Batcher,
    /// The database's time up to which the feed is complete.
    at: Micros,
    /// Whether that is to be published.
    mark_due: bool,
    marked: Option<Instant>,
    /// The database's time up to which the bus has been told to be complete.
    told: Micros,
}

impl<'a> Writer<'a> {
    /// A writer of a new feed. `epoch` was taken from the database, under the leader's lock.
    pub(crate) fn new(publisher: &'a mut Publisher, catalogue: Catalogue, epoch: u64, metrics: Metrics) -> Self {
        let feed = FeedId::random();
        Self {
            publisher,
            catalogue,
            metrics,
            batcher: Batcher::new(feed.clone(), epoch, 0),
            feed,
            epoch,
            begun: false,
            known: false,
            reason: Reason::Session,
            durable: false,
            further_on: false,
            goes_on: false,
            held: 0,
            tail: Tail::default(),
            at: Micros::try_from(epoch).unwrap_or(Micros::MAX),
            mark_due: false,
            marked: None,
            told: 0,
        }
    }

    /// A writer that goes on with a feed of the log after `after`, which is where the bus is to begin
    /// or to go on. Its batches come by [`Writer::append`].
    pub(crate) fn of_log(
        publisher: &'a mut Publisher,
        catalogue: Catalogue,
        feed: FeedId,
        epoch: u64,
        after: Offset,
        metrics: Metrics,
    ) -> Self {
        Self {
            batcher: Batcher::new(feed.clone(), epoch, after),
            feed,
            // It is the log that counts its feeds.
            known: true,
            durable: true,
            held: after,
            tail: Tail::starting_after(after),
            at: 0,
            ..Self::new(publisher, catalogue, epoch, metrics)
        }
    }

    /// The bus holds the feed up to here.
    pub(crate) fn go_on(&mut self) {
        self.goes_on = true;
    }

    /// The bus ends before this, and what it lacks cannot be brought any more.
    pub(crate) fn go_further_on(&mut self) {
        self.further_on = true;
    }

    /// The next batch of the feed, which has changes.
    pub(crate) fn append(&mut self, batch: Batch) {
        self.at = self.at.max(batch.at);
        self.tail.push(batch);
    }

    /// From now on the feed carries these topics. A rising epoch tells the gateways to look.
    pub(crate) fn announce(&mut self, catalogue: Catalogue) {
        self.catalogue = catalogue;
        self.epoch += 1;
        self.begun = false;
    }

    /// The last offset that the bus holds, as far as it has said.
    pub(crate) fn held(&self) -> Offset {
        self.held
    }

    /// Leaves the feed and begins another, from nothing. What was not published is dropped; returns
    /// how many changes that was.
    pub(crate) fn begin_feed(&mut self, reason: Reason) -> u64 {
        let dropped = self.batcher.last() - self.held.min(self.batcher.last());
        // Of two feeds under one epoch neither is the newer one. A successor's epoch comes from the
        // clock, in microseconds, so counting up by hand does not catch up with it.
        self.epoch += u64::from(self.known);
        self.feed = FeedId::random();
        self.batcher = Batcher::new(self.feed.clone(), self.epoch, 0);
        self.tail = Tail::default();
        self.begun = false;
        self.known = false;
        self.reason = reason;
        self.held = 0;
        self.marked = None;
        dropped
    }

    /// Claims the source under a higher epoch than the one that the bus holds. Only for who has
    /// just made sure that it holds the leader's lock. That is safe: a higher epoch can only stem
    /// from a leader that lost the lock before we got it and whose database had a clock that ran
    /// ahead of ours (it was set back, or the database moved to another machine). That leader is
    /// fenced off by our number, exactly as if the clock had been right; and the next one asks the
    /// same question if the clock is still behind.
    pub(crate) fn outrank(&mut self, epoch: u64) {
        self.epoch = epoch.max(self.epoch) + 1;
        self.rebegin(if self.durable { self.held } else { self.tail.start() });
    }

    pub(crate) fn feed(&self) -> &FeedId {
        &self.feed
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether clients can see this feed.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun
    }

    /// When a watermark of this feed was last published.
    pub(crate) fn marked(&self) -> Option<Instant> {
        self.marked
    }

    /// The database's time up to which the bus has been told to be complete.
    pub(crate) fn told(&self) -> Micros {
        self.told
    }

    /// What was published last is as good as a watermark: there is nothing newer to tell.
    pub(crate) fn is_fresh(&mut self) {
        self.marked = Some(Instant::now());
    }

    /// Whether a payload of this length still fits into the batch that is being filled.
    pub(crate) fn has_room_for(&self, payload_bytes: usize) -> bool {
        self.batcher.has_room_for(payload_bytes)
    }

    /// Adds a change to the batch that is being filled.
    pub(crate) fn push(&mut self, topic: &Topic, at: Micros, payload: &str) {
        self.batcher.push(topic, at, Kind::of(payload), payload.as_bytes());
    }

    /// Everything committed before `at` has been pushed.
    pub(crate) fn mark(&mut self, at: Micros) {
        self.at = self.at.max(at);
        self.mark_due = true;
    }

    /// The feed is complete as of `at`, and that is worth telling: nothing was told for a while.
    /// Whether it was.
    pub(crate) fn mark_at_times(&mut self, at: Micros) -> bool {
        let due = at > self.at && self.marked.is_none_or(|marked| marked.elapsed() >= MARK_EVERY);
        if due {
            self.mark(at);
        }
        due
    }

    /// Closes the batch that is being filled; steps will publish it.
    pub(crate) fn seal(&mut self) {
        if !self.batcher.is_empty() {
            self.tail.push(self.batcher.take(self.at));
        }
    }

    /// One call to the bus. After an error, the same step again.
    pub(crate) async fn step(&mut self) -> Result<Step, BusError> {
        if !self.begun {
            return self.begin().await;
        }
        match self.tail.after(self.held, self.epoch) {
            Some(batch) => self.publish(&batch).await,
            None if self.mark_due => {
                let watermark = Batch::watermark(self.feed.clone(), self.epoch, self.held, self.at);
                self.publish(&watermark).await
            }
            None => Ok(Step::Idle),
        }
    }

    async fn begin(&mut self) -> Result<Step, BusError> {
        let term = Term {
            feed: self.feed.clone(),
            epoch: self.epoch,
            after: self.held,
            at: self.at,
            catalogue: self.catalogue.clone(),
        };
        let begun = if self.further_on {
            self.publisher.begin_further_on(&term).await?
        } else if self.goes_on {
            self.publisher.go_on(&term).await?
        } else {
            self.publisher.begin(&term).await?
        };
        match begun {
            Answer::Applied | Answer::Already => {
                self.begun = true;
                self.further_on = false;
                self.goes_on = self.durable;
                if !std::mem::replace(&mut self.known, true) {
                    self.metrics.feed_begun(self.reason.as_str());
                }
                Ok(Step::Moved)
            }
            // It holds this very feed: go on where it ends.
            Answer::Behind { held: Some(held) } if self.tail.continues(held) => {
                self.held = held;
                Ok(Step::Moved)
            }
            Answer::Behind { .. } => Ok(Step::Torn),
            Answer::Conflict { epoch, .. } => Ok(Step::Overtaken { epoch }),
        }
    }

    async fn publish(&mut self, batch: &Batch) -> Result<Step, BusError> {
        let started = Instant::now();
        match self.publisher.publish(batch).await? {
            Answer::Applied | Answer::Already => {
                self.metrics.publish_seconds.observe(started.elapsed().as_secs_f64());
                self.published(batch);
                Ok(Step::Moved)
            }
            // It lost the end, or lags: go back to where it ends.
            Answer::Behind { held: Some(held) } if held < self.held && self.tail.continues(held) => {
                tracing::info!(held, expected = self.held, "the bus lost the end of the feed: publishing it again");
                self.metrics.republished.inc();
                self.held = held;
                Ok(Step::Moved)
            }
            Answer::Behind { held: Some(_) } => Ok(Step::Torn),
            Answer::Behind { held: None } if self.durable => Ok(Step::Torn),
            // It lost everything. Beginning the same feed where our memory of it begins, nobody who
            // was up to date notices.
            Answer::Behind { held: None } => {
                tracing::info!(from = self.tail.start(), "the bus came back empty: bringing the feed back");
                self.metrics.republished.inc();
                self.rebegin(self.tail.start());
                Ok(Step::Moved)
            }
            Answer::Conflict { feed, epoch, held } if epoch < self.epoch => {
                tracing::info!(%feed, epoch, "the bus came back with an older history: bringing the feed back");
                self.metrics.republished.inc();
                let ours = feed == self.feed && self.tail.continues(held);
                if self.durable && !ours {
                    return Ok(Step::Torn);
                }
                self.rebegin(if ours { held } else { self.tail.start() });
                Ok(Step::Moved)
            }
            Answer::Conflict { epoch, .. } => Ok(Step::Overtaken { epoch }),
        }
    }

    fn rebegin(&mut self, after: Offset) {
        self.begun = false;
        self.held = after;
    }

    fn published(&mut self, batch: &Batch) {
        self.held = batch.last;
        self.told = batch.at;
        if batch.at >= self.at && self.mark_due {
            self.mark_due = false;
            self.marked = Some(Instant::now());
            self.metrics.watermarks.inc();
        }
        if !batch.is_watermark() {
            self.metrics.batches.inc();
            self.metrics.changes.inc_by(batch.len());
            self.metrics.bytes.inc_by(batch.slices.iter().map(|(_, slice)| slice.bytes.len() as u64).sum());
            self.tail.trim(self.held);
        }
    }
}

#[cfg(test)]
mod tests;
