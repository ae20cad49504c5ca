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
mod tests {
    use bus::{History, MemoryBus, Retention};
    use protocol::Source;

    use super::*;

    const EPOCH: u64 = 1_000;

    fn topic() -> Topic {
        Topic::new("a").unwrap()
    }

    fn catalogue() -> Catalogue {
        Catalogue::of_channels([topic()])
    }

    fn writer(publisher: &mut Publisher) -> Writer<'_> {
        Writer::new(publisher, catalogue(), EPOCH, Metrics::default())
    }

    /// Steps until there is nothing to do; what else came of it.
    async fn settle(writer: &mut Writer<'_>) -> Step {
        for _ in 0..100 {
            match writer.step().await.unwrap() {
                Step::Moved => {}
                other => return other,
            }
        }
        panic!("it never settles");
    }

    async fn write(writer: &mut Writer<'_>, payloads: &[&str]) {
        for payload in payloads {
            writer.push(&topic(), 1, payload);
            writer.seal();
            assert_eq!(settle(writer).await, Step::Idle);
        }
    }

    /// The payloads that the bus holds of the writer's feed, after an offset.
    async fn held(bus: &MemoryBus, writer: &Writer<'_>, after: Offset) -> Vec<String> {
        match bus.reader(Source::Notify).history(writer.feed(), &topic(), after).await.unwrap() {
            History::Complete { slices, .. } => slices
                .iter()
                .flat_map(|slice| slice.changes_after(after).unwrap())
                .map(|change| String::from_utf8(change.payload.to_vec()).unwrap())
                .collect(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_log_does_not_begin_late_on_a_bus_that_has_lost_it_just_now() {
        let bus = MemoryBus::new(Retention::default());
        let mut publisher = bus.publisher(Source::Log);
        let feed = FeedId::random();
        let mut of_log = Writer::of_log(&mut publisher, catalogue(), feed.clone(), EPOCH, 7, Metrics::default());
        // The bus was seen to end at 7; since then it was emptied.
        of_log.go_on();
        assert_eq!(of_log.step().await.unwrap(), Step::Torn);
        assert_eq!(bus.reader(Source::Log).head().await.unwrap(), None, "a refill will begin before 7");
        // The same when the catalogue changes.
        let mut of_log = Writer::of_log(&mut publisher, catalogue(), feed, EPOCH, 0, Metrics::default());
        assert_eq!(settle(&mut of_log).await, Step::Idle);
        bus.clear();
        of_log.announce(catalogue());
        assert_eq!(of_log.step().await.unwrap(), Step::Torn);
    }

    #[tokio::test]
    async fn a_bus_that_came_back_empty_gets_the_same_feed_again() {
        let bus = MemoryBus::new(Retention::default());
        let mut publisher = bus.publisher(Source::Notify);
        let mut writer = writer(&mut publisher);
        write(&mut writer, &["1", "2", "3"]).await;
        let feed = writer.feed().clone();
        bus.clear();
        write(&mut writer, &["4"]).await;
        assert_eq!(
            (writer.feed(), held(&bus, &writer, 0).await),
            (&feed, ["1", "2", "3", "4"].map(String::from).into())
        );
        bus.clear();
        writer.mark(5_000);
        assert_eq!(settle(&mut writer).await, Step::Idle);
        assert_eq!(held(&bus, &writer, 2).await, ["3", "4"]);
        let head = bus.reader(Source::Notify).head().await.unwrap().unwrap();
        assert_eq!((head.last, head.at, writer.marked().is_some()), (4, 5_000, true));
    }

    #[tokio::test]
    async fn a_bus_that_came_back_older_is_continued_where_it_ends() {
        let bus = MemoryBus::new(Retention::default());
        let mut publisher = bus.publisher(Source::Notify);
        let mut writer = writer(&mut publisher);
        write(&mut writer, &["1", "2", "3"]).await;
        // What a replica that lagged holds: the same feed, two changes earlier.
        let old = older(&bus, &writer, 1).await;
        assert_eq!(old, Answer::Applied);
        write(&mut writer, &["4"]).await;
        assert_eq!(held(&bus, &writer, 1).await, ["2", "3", "4"]);
    }

    /// Makes the bus hold the writer's feed up to `last` only.
    async fn older(bus: &MemoryBus, writer: &Writer<'_>, last: Offset) -> Answer {
        bus.clear();
        let term =
            Term { feed: writer.feed().clone(), epoch: writer.epoch(), after: last, at: 0, catalogue: catalogue() };
        bus.publisher(Source::Notify).begin(&term).await.unwrap()
    }

    #[tokio::test]
    async fn a_bus_that_lost_more_than_is_kept_is_torn() {
        let bus = MemoryBus::new(Retention::default());
        let mut publisher = bus.publisher(Source::Notify);
        let mut writer = writer(&mut publisher);
        let large = "x".repeat(protocol::batch::MAX_BATCH_BYTES);
        write(&mut writer, &[large.as_str(); 20]).await;
        let feed = writer.feed().clone();
        older(&bus, &writer, 1).await;
        writer.push(&topic(), 1, "lost");
        writer.seal();
        assert_eq!(settle(&mut writer).await, Step::Torn);
        assert_eq!(writer.begin_feed(Reason::BusLostTooMuch), 1);
        write(&mut writer, &["new"]).await;
        assert_ne!(writer.feed(), &feed);
        assert_eq!(held(&bus, &writer, 0).await, ["new"]);
    }

    #[tokio::test]
    async fn another_history_of_a_lower_epoch_is_replaced_by_the_same_feed() {
        let bus = MemoryBus::new(Retention::default());
        let mut publisher = bus.publisher(Source::Notify);
        let mut writer = writer(&mut publisher);
        write(&mut writer, &["1", "2"]).await;
        let feed = writer.feed().clone();
        begin_other(&bus, EPOCH - 1).await;
        write(&mut writer, &["3"]).await;
        assert_eq!((writer.feed(), held(&bus, &writer, 0).await), (&feed, ["1", "2", "3"].map(String::from).into()));
    }

    #[tokio::test]
    async fn a_higher_epoch_fences_us_off_unless_we_still_hold_the_lock() {
        let bus = MemoryBus::new(Retention::default());
        let mut publisher = bus.publisher(Source::Notify);
        let mut writer = writer(&mut publisher);
        write(&mut writer, &["1"]).await;
        begin_other(&bus, EPOCH + 7).await;
        writer.push(&topic(), 1, "2");
        writer.seal();
        assert_eq!(settle(&mut writer).await, Step::Overtaken { epoch: EPOCH + 7 });
        writer.outrank(EPOCH + 7);
        assert_eq!(settle(&mut writer).await, Step::Idle);
        assert_eq!((writer.epoch(), held(&bus, &writer, 0).await), (EPOCH + 8, ["1", "2"].map(String::from).into()));
    }

    #[tokio::test]
    async fn a_clock_that_was_set_back_does_not_stop_a_new_leader() {
        let bus = MemoryBus::new(Retention::default());
        begin_other(&bus, EPOCH + 1).await;
        let mut publisher = bus.publisher(Source::Notify);
        let mut writer = writer(&mut publisher);
        assert_eq!(settle(&mut writer).await, Step::Overtaken { epoch: EPOCH + 1 });
        writer.outrank(EPOCH + 1);
        write(&mut writer, &["1"]).await;
        assert_eq!(held(&bus, &writer, 0).await, ["1"]);
    }

    #[tokio::test]
    async fn a_publish_whose_answer_was_lost_is_not_published_twice() {
        let bus = MemoryBus::new(Retention::default());
        let mut publisher = bus.publisher(Source::Notify);
        let mut writer = writer(&mut publisher);
        write(&mut writer, &["1"]).await;
        writer.push(&topic(), 1, "2");
        writer.seal();
        let batch = writer.tail.after(1, EPOCH).unwrap();
        assert_eq!(bus.publisher(Source::Notify).publish(&batch).await.unwrap(), Answer::Applied);
        assert_eq!(settle(&mut writer).await, Step::Idle);
        write(&mut writer, &["3"]).await;
        assert_eq!(held(&bus, &writer, 0).await, ["1", "2", "3"]);
    }

    #[tokio::test]
    async fn a_new_feed_of_the_same_leader_has_a_higher_epoch() {
        let bus = MemoryBus::new(Retention::default());
        let mut publisher = bus.publisher(Source::Notify);
        let mut writer = writer(&mut publisher);
        write(&mut writer, &["1"]).await;
        assert_eq!(writer.begin_feed(Reason::Overflow), 0);
        write(&mut writer, &["2"]).await;
        assert_eq!((writer.epoch(), held(&bus, &writer, 0).await), (EPOCH + 1, vec!["2".to_owned()]));
    }

    async fn begin_other(bus: &MemoryBus, epoch: u64) {
        let term = Term { feed: FeedId::random(), epoch, after: 0, at: 0, catalogue: catalogue() };
        bus.clear();
        assert_eq!(bus.publisher(Source::Notify).begin(&term).await.unwrap(), Answer::Applied);
    }
}
