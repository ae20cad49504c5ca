//! From the backlog to the bus: all that has arrived goes out at once, one publish in flight.

use std::time::Duration;

use bus::BusError;
use protocol::Backoff;
use service::systemd::Pulse;
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    backlog::{Item, Outlet},
    condition::{Condition, Role},
    lock::LeaderLock,
    metrics::Metrics,
    outage::Outage,
    session::{Lost, Session},
    writer::{Reason, Step, Writer},
};

/// The publishing side of a leader's session.
pub(crate) struct Publishing<'a> {
    pub(crate) writer: Writer<'a>,
    pub(crate) outlet: Outlet,
    /// An item that did not fit into the last batch.
    pub(crate) carried: Option<Item>,
    pub(crate) outage: Outage,
    pub(crate) backoff: Backoff,
    /// Changes dropped since the bus last worked.
    pub(crate) dropped: u64,
    /// Slows down two leaders that outrank each other: databases that share a namespace.
    pub(crate) rivalry: Backoff,
    pub(crate) condition: watch::Sender<Condition>,
    pub(crate) metrics: Metrics,
    pub(crate) pulse: Pulse,
    pub(crate) lock: LeaderLock,
}

impl<'a> Publishing<'a> {
    pub(crate) fn new(
        writer: Writer<'a>,
        outlet: Outlet,
        lock: LeaderLock,
        condition: watch::Sender<Condition>,
        metrics: Metrics,
        pulse: Pulse,
    ) -> Self {
        let ms = Duration::from_millis;
        Self {
            writer,
            outlet,
            carried: None,
            dropped: 0,
            outage: Outage::new("the bus"),
            backoff: Backoff::new(ms(100), ms(1000)),
            rivalry: Backoff::new(ms(100), ms(5000)),
            condition,
            metrics,
            pulse,
            lock,
        }
    }

    /// Publishes until the connection has ended and all that it brought is published, or until
    /// `finish` is cancelled and all that has arrived is published. An error: the lock is lost.
    pub(crate) async fn run(&mut self, session: &Session, finish: &CancellationToken) -> Result<(), Lost> {
        loop {
            self.settle(session).await?;
            self.pulse.beat();
            if self.fill() {
                continue;
            }
            let item = tokio::select! {
                biased;
                item = self.outlet.next() => item,
                () = finish.cancelled() => return Ok(()),
            };
            match item {
                Some(item) => self.carried = Some(item),
                None => return Ok(()),
            }
        }
    }

    /// Moves what has arrived into the writer, up to a batch. Says whether that was anything.
    fn fill(&mut self) -> bool {
        let mut any = false;
        while let Some(item) = self.carried.take().or_else(|| self.outlet.try_next()) {
            match item {
                Item::Change { topic, at, payload } if self.writer.has_room_for(payload.len()) => {
                    self.writer.push(&topic, at, &payload);
                }
                Item::Mark(at) => self.writer.mark(at),
                too_much => {
                    self.carried = Some(too_much);
                    break;
                }
            }
            any = true;
        }
        self.writer.seal();
        any
    }

    /// Steps until the bus holds everything, for as long as that takes.
    async fn settle(&mut self, session: &Session) -> Result<(), Lost> {
        loop {
            self.pulse.beat();
            if self.outlet.is_overflowing() {
                self.overflow();
            }
            match self.writer.step().await {
                Ok(Step::Idle) => {
                    self.works();
                    return Ok(());
                }
                Ok(Step::Moved) => self.works(),
                Ok(Step::Torn) => {
                    let dropped = self.writer.begin_feed(Reason::BusLostTooMuch);
                    self.metrics.dropped.inc_by(dropped);
                    tracing::error!(
                        feed = %self.writer.feed(), dropped,
                        "the bus lost more than is kept here: a new feed begins, and all clients are told"
                    );
                }
                Ok(Step::Overtaken { epoch }) => self.overtaken(session, epoch).await?,
                Err(error) => self.failed(&error).await,
            }
            // The bus in memory never waits, and the heartbeat shares this task.
            tokio::task::yield_now().await;
        }
    }

    fn works(&mut self) {
        self.backoff.reset();
        self.outlet.flows();
        if self.outage.mended() {
            self.metrics.bus_back.inc();
        }
        if self.writer.has_begun() && std::mem::take(&mut self.dropped) > 0 {
            tracing::warn!(feed = %self.writer.feed(), "a new feed has begun, because notifications were dropped");
        }
        let feed = self.writer.has_begun().then(|| self.writer.feed().clone());
        let marked = self.writer.marked();
        self.condition.send_if_modified(|condition| {
            let same = condition.bus.is_none()
                && condition.marked == marked
                && matches!(&condition.role, Role::Leader(known) if *known == feed);
            if !same {
                *condition = Condition { role: Role::Leader(feed), bus: None, marked };
            }
            !same
        });
    }

    async fn failed(&mut self, error: &BusError) {
        self.metrics.bus_error(error);
        self.outlet.stands();
        let reason = error.to_string();
        self.outage.failed(&reason);
        self.condition.send_modify(|condition| condition.bus = Some(reason));
        let delay = self.backoff.delay();
        tokio::select! {
            () = sleep(delay) => {}
            () = self.outlet.overflowed() => {}
        }
    }

    fn overflow(&mut self) {
        // Once an outage: a busy database fills the backlog again and again.
        if self.dropped == 0 {
            tracing::error!(
                "the backlog is full (--buffer-bytes): what waits is dropped; when the bus is back a new feed begins, \
                 and all clients are told"
            );
        }
        let carried = matches!(self.carried.take(), Some(Item::Change { .. }));
        let dropped = self.outlet.discard() + self.writer.begin_feed(Reason::Overflow) + u64::from(carried);
        self.metrics.dropped.inc_by(dropped);
        self.dropped += dropped;
    }

    async fn overtaken(&mut self, session: &Session, epoch: u64) -> Result<(), Lost> {
        if !session.holds(self.lock).await? {
            return Err(Lost::NotLeader);
        }
        tracing::warn!(
            epoch,
            ours = self.writer.epoch(),
            "the bus holds a later epoch than ours, but the leader's lock is ours: going on with a higher one. If this \
             comes again, listeners of two databases use one namespace (--namespace)"
        );
        sleep(self.rivalry.delay()).await;
        self.writer.outrank(epoch);
        Ok(())
    }
}
