//! From the line to the bus: all that waits goes out at once, one publish in flight.

use std::time::Duration;

use bus::{BusError, Head, Publisher, Reader, Retention};
use protocol::{Backoff, FeedId, Micros, Offset, batch::MAX_BATCH_BYTES};
use service::systemd::Pulse;
use tokio::{sync::watch, time::sleep};

use super::{
    out::{Came, Line},
    session::LogSession,
    start::{self, Log, Start},
};
use crate::{
    condition::{Condition, Role},
    metrics::Metrics,
    outage::Outage,
    session::Lost,
    writer::{Step, Writer},
};

/// What clients see is up to date if it is not older than this, by the database's clock.
const FRESH_US: Micros = 1_000_000;

/// Why publishing has ended, other than for a lost session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The bus holds something else than was thought: begin again from what it says.
    BusChanged,
    /// A new feed has begun, because the database is not what it was.
    NewFeed,
}

pub(crate) struct Publishing<'a> {
    pub(crate) session: &'a LogSession,
    pub(crate) log: Log,
    pub(crate) reader: Reader,
    pub(crate) publisher: &'a mut Publisher,
    /// The term's number; it rises.
    pub(crate) epoch: &'a mut u64,
    pub(crate) history: Retention,
    pub(crate) line: Line,
    /// Where the log is to be read from, as soon as that is known.
    pub(crate) start: watch::Sender<Option<Offset>>,
    /// How far the bus was when it last said so, in whichever term.
    pub(crate) held: &'a mut Option<(FeedId, Offset)>,
    /// How far the bus is.
    pub(crate) published: watch::Sender<Offset>,
    pub(crate) outage: &'a mut Outage,
    pub(crate) condition: watch::Sender<Condition>,
    pub(crate) metrics: Metrics,
    pub(crate) pulse: Pulse,
}

impl Publishing<'_> {
    /// Publishes until something ends it.
    pub(crate) async fn run(mut self) -> Result<Ended, Lost> {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(150));
        let (head, after, further_on) = loop {
            self.pulse.beat();
            match self.decide().await? {
                Ok((head, Start::After(after))) => break (head, after, false),
                Ok((head, Start::FurtherOn(after))) => break (head, after, true),
                Ok((_, Start::NewFeed(reason))) => {
                    tracing::error!(
                        reason, feed = %self.log.feed,
                        "the database is not the one that these changes were published from: a new feed begins, and all \
                         clients are told"
                    );
                    self.session.query_one("select rowcast.begin_feed($1)", &[&reason]).await?;
                    return Ok(Ended::NewFeed);
                }
                Err(error) => self.failed(&error, &mut backoff).await,
            }
        };
        if let Some(head) = &head {
            // A later leader's clock may be behind. The lock is ours, so it is not a later leader.
            *self.epoch = (*self.epoch).max(head.epoch + u64::from(head.feed != self.log.feed));
        }
        if self.held.as_ref().is_some_and(|(feed, _)| *feed != self.log.feed) {
            // Of two feeds under one epoch neither is the newer one, and the bus may have lost the other.
            *self.epoch += 1;
        }
        let refill = head.as_ref().is_none_or(|head| head.feed != self.log.feed);
        tracing::info!(feed = %self.log.feed, epoch = *self.epoch, after, refill, "publishing the log");
        self.published.send_replace(after);
        self.start.send_replace(Some(after));
        self.publish(after, refill, further_on).await
    }

    async fn decide(&mut self) -> Result<Result<(Option<Head>, Start), BusError>, Lost> {
        let head = match self.reader.head().await {
            Ok(head) => head,
            Err(error) => return Ok(Err(error)),
        };
        let seen = self.held.as_ref().filter(|(feed, _)| *feed == self.log.feed).map(|(_, held)| *held);
        let start = start::decide(self.session, &self.log, &self.reader, head.as_ref(), seen, self.history).await?;
        Ok(start.map(|start| (head, start)))
    }

    async fn publish(&mut self, after: Offset, refill: bool, further_on: bool) -> Result<Ended, Lost> {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(150));
        let catalogue = self.line.catalogue();
        let feed = self.log.feed.clone();
        let mut writer =
            Writer::of_log(&mut *self.publisher, catalogue, feed, *self.epoch, after, self.metrics.clone());
        if !refill && !further_on {
            writer.go_on();
        }
        if further_on {
            tracing::warn!(after, "the bus is older than the log goes back: its histories begin anew");
            writer.go_further_on();
        }
        loop {
            self.pulse.beat();
            match writer.step().await {
                Ok(Step::Moved) => {}
                Ok(Step::Idle) => {
                    // Also while there are changes all the time.
                    if let Some(catalogue) = self.line.new_catalogue() {
                        writer.announce(catalogue);
                        *self.epoch = writer.epoch();
                        continue;
                    }
                    let bytes = fill(&mut self.line, &mut writer);
                    if bytes == 0 && !mark(&mut self.line, &mut writer) {
                        match self.line.next().await {
                            Came::Batch(batch) => writer.append(batch),
                            Came::Catalogue(catalogue) => {
                                writer.announce(catalogue);
                                *self.epoch = writer.epoch();
                            }
                            Came::Mark => {}
                            Came::End => std::future::pending().await,
                        }
                    }
                    continue;
                }
                Ok(Step::Torn) => {
                    tracing::info!("the bus has lost changes: they come back from the log");
                    self.metrics.republished.inc();
                    return Ok(Ended::BusChanged);
                }
                Ok(Step::Overtaken { epoch }) => {
                    // Who held the lock before may have been quicker than its own end. The lock is
                    // what counts, and the next tick fails if it is not ours.
                    tracing::warn!(
                        epoch,
                        ours = writer.epoch(),
                        "the bus holds a later epoch than ours: going on with a higher one"
                    );
                    *self.epoch = epoch + 1;
                    sleep(backoff.delay()).await;
                    return Ok(Ended::BusChanged);
                }
                Err(error) => {
                    let (published, delay) = (writer.held(), backoff.delay());
                    self.metrics.bus_error(&error);
                    self.outage.failed(&error.to_string());
                    self.condition.send_modify(|condition| condition.bus = Some(error.to_string()));
                    tracing::debug!(published, "the bus did not take a batch");
                    sleep(delay).await;
                    continue;
                }
            }
            backoff.reset();
            if self.outage.mended() {
                self.metrics.bus_back.inc();
            }
            self.published.send_replace(writer.held());
            *self.held = Some((writer.feed().clone(), writer.held()));
            self.metrics.log_published.set(writer.held().cast_signed());
            // With changes at each look there is never a moment for a watermark.
            if self.line.mark().is_some_and(|mark| mark.newest && mark.at - writer.told() < FRESH_US) {
                writer.is_fresh();
            }
            let (marked, feed) = (writer.marked(), writer.has_begun().then(|| writer.feed().clone()));
            self.condition.send_if_modified(|condition| {
                let now = Condition { role: Role::Leader(feed), bus: None, marked };
                let changed = *condition != now;
                *condition = now;
                changed
            });
            // The bus in memory never waits.
            tokio::task::yield_now().await;
        }
    }

    async fn failed(&mut self, error: &BusError, backoff: &mut Backoff) {
        self.metrics.bus_error(error);
        self.outage.failed(&error.to_string());
        self.condition.send_modify(|condition| condition.bus = Some(error.to_string()));
        sleep(backoff.delay()).await;
    }
}

/// Moves what waits to the writer, up to a batch; how many bytes.
fn fill(line: &mut Line, writer: &mut Writer<'_>) -> usize {
    let mut bytes = 0;
    while bytes < MAX_BATCH_BYTES
        && let Some(batch) = line.try_next()
    {
        bytes += batch.slices.iter().map(|(_, slice)| slice.bytes.len()).sum::<usize>();
        writer.append(batch);
    }
    bytes
}

/// Passes on that the feed is complete, once the bus holds all of it; whether there was anything new
/// to say.
fn mark(line: &mut Line, writer: &mut Writer<'_>) -> bool {
    match line.mark() {
        Some(mark) if mark.last == writer.held() => writer.mark_at_times(mark.at),
        _ => false,
    }
}
