//! What was received and is not yet published, bounded by bytes.
//!
//! When it is full it matters why. If the bus is away, waiting would only move the problem to the
//! database, whose notification queue grows until commits fail: what waits is dropped. If the bus
//! works and the database has just been quicker (one transaction that notifies a million times),
//! that queue is the right place for the rest, and the pump waits for room, within limits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use prometheus_client::metrics::gauge::Gauge;
use protocol::{Micros, Topic};
use tokio::{
    sync::{Notify, mpsc},
    time::timeout,
};

/// If the bus takes nothing for this long, it does not work.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// If the backlog does not get half empty within this time, the bus cannot follow, and the database
/// is protected. At 20,000 commits with a NOTIFY a second, as many as PostgreSQL does, its queue is
/// then at 2 %.
const LONGEST_FULL: Duration = Duration::from_secs(30);

/// What a waiting notification costs besides its payload: its place in the queue and the
/// allocator's share.
const ITEM_BYTES: usize = 80;

/// One thing that came in over the connection, in the order in which it came.
#[derive(Debug)]
pub(crate) enum Item {
    /// A notification.
    Change { topic: Topic, at: Micros, payload: String },
    /// The self-NOTIFY came back: everything committed before this time of the database has been
    /// received.
    Mark(Micros),
}

impl Item {
    fn bytes(&self) -> usize {
        match self {
            Self::Change { payload, .. } => ITEM_BYTES + payload.len(),
            Self::Mark(_) => ITEM_BYTES,
        }
    }
}

/// A backlog of at most `limit` bytes; `bytes` shows what it holds.
pub(crate) fn backlog(limit: usize, bytes: Gauge) -> (Intake, Outlet) {
    bytes.set(0);
    let (sender, receiver) = mpsc::unbounded_channel();
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let shared = Shared {
        bytes,
        overflow: AtomicBool::new(false),
        overflowed: Notify::new(),
        flowing: AtomicBool::new(false),
        room: Notify::new(),
    };
    let shared = Arc::new(shared);
    (Intake { sender, shared: shared.clone(), limit, full_since: None }, Outlet { receiver, shared })
}

#[derive(Debug)]
struct Shared {
    bytes: Gauge,
    overflow: AtomicBool,
    overflowed: Notify,
    /// Whether the bus takes what is published.
    flowing: AtomicBool,
    room: Notify,
}

/// The pump's end.
#[derive(Debug)]
pub(crate) struct Intake {
    sender: mpsc::UnboundedSender<Item>,
    shared: Arc<Shared>,
    limit: i64,
    /// Since when it has been more than half full, after it was full.
    full_since: Option<Instant>,
}

impl Intake {
    /// Adds an item, and waits for room only where the bus works. `false`: there is no room, and it
    /// was dropped; so is everything until the other end has dropped the rest with
    /// [`Outlet::discard`].
    pub(crate) async fn add(&mut self, item: Item) -> bool {
        let bytes = i64::try_from(item.bytes()).unwrap_or(i64::MAX);
        if !self.has_room(bytes).await {
            self.shared.overflow.store(true, Ordering::Release);
            self.shared.overflowed.notify_one();
            return false;
        }
        self.shared.bytes.inc_by(bytes);
        self.sender.send(item).is_ok()
    }

    async fn has_room(&mut self, bytes: i64) -> bool {
        loop {
            if self.shared.overflow.load(Ordering::Acquire) {
                return false;
            }
            let held = self.shared.bytes.get();
            if held < self.limit / 2 {
                self.full_since = None;
            }
            if held.saturating_add(bytes) <= self.limit {
                return true;
            }
            let since = *self.full_since.get_or_insert_with(Instant::now);
            let works = self.shared.flowing.load(Ordering::Acquire) && since.elapsed() < LONGEST_FULL;
            if !works || timeout(LONGEST_WAIT, self.shared.room.notified()).await.is_err() {
                return false;
            }
        }
    }
}

/// The publishing end.
#[derive(Debug)]
pub(crate) struct Outlet {
    receiver: mpsc::UnboundedReceiver<Item>,
    shared: Arc<Shared>,
}

impl Outlet {
    /// The next item, if there is one already.
    pub(crate) fn try_next(&mut self) -> Option<Item> {
        let item = self.receiver.try_recv().ok()?;
        self.taken(&item);
        Some(item)
    }

    /// The next item; `None` once the pump has ended and everything was taken. Safe to drop while
    /// it waits.
    pub(crate) async fn next(&mut self) -> Option<Item> {
        let item = self.receiver.recv().await?;
        self.taken(&item);
        Some(item)
    }

    fn taken(&self, item: &Item) {
        self.shared.bytes.dec_by(i64::try_from(item.bytes()).unwrap_or(i64::MAX));
    }

    /// The bus took what was published: whoever waits for room may look again.
    pub(crate) fn flows(&self) {
        self.shared.flowing.store(true, Ordering::Release);
        self.shared.room.notify_one();
    }

    /// The bus is away: nobody is to wait for room.
    pub(crate) fn stands(&self) {
        self.shared.flowing.store(false, Ordering::Release);
        self.shared.room.notify_one();
    }

    /// Whether anything was dropped for want of room.
    pub(crate) fn is_overflowing(&self) -> bool {
        self.shared.overflow.load(Ordering::Acquire)
    }

    /// Waits until something is dropped for want of room.
    pub(crate) async fn overflowed(&self) {
        while !self.is_overflowing() {
            self.shared.overflowed.notified().await;
        }
    }

    /// Drops what waits, and lets the pump add again. Returns how many changes were dropped.
    pub(crate) fn discard(&mut self) -> u64 {
        let mut changes = 0;
        while let Some(item) = self.try_next() {
            changes += u64::from(matches!(item, Item::Change { .. }));
        }
        self.shared.overflow.store(false, Ordering::Release);
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(payload: &str) -> Item {
        Item::Change { topic: Topic::new("a").unwrap(), at: 1, payload: payload.into() }
    }

    #[tokio::test]
    async fn while_the_bus_is_away_a_full_backlog_drops_everything_until_the_rest_is_dropped() {
        let bytes = Gauge::default();
        let (mut intake, mut outlet) = backlog(2 * (ITEM_BYTES + 10), bytes.clone());
        assert!(intake.add(change("0123456789")).await && intake.add(change("0123456789")).await);
        assert!(!outlet.is_overflowing());
        assert!(!intake.add(change("")).await);
        assert!(outlet.try_next().is_some());
        assert!(!intake.add(Item::Mark(1)).await, "a hole must not be followed by anything");
        outlet.overflowed().await;
        assert_eq!(outlet.discard(), 1);
        assert_eq!(bytes.get(), 0);
        assert!(intake.add(change("x")).await);
        drop(intake);
        assert!(outlet.next().await.is_some());
        assert!(outlet.next().await.is_none());
    }

    #[tokio::test]
    async fn while_the_bus_works_a_full_backlog_waits_for_room() {
        let (mut intake, mut outlet) = backlog(2 * (ITEM_BYTES + 1), Gauge::default());
        outlet.flows();
        let fill = async {
            for n in 0..100 {
                assert!(intake.add(change(&(n % 10).to_string())).await);
            }
        };
        let drain = async {
            for _ in 0..100 {
                assert!(outlet.next().await.is_some());
                outlet.flows();
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(fill, drain);
        assert!(!outlet.is_overflowing());
    }

    #[tokio::test]
    async fn a_bus_that_stops_taking_ends_the_wait() {
        let (mut intake, outlet) = backlog(ITEM_BYTES + 1, Gauge::default());
        outlet.flows();
        assert!(intake.add(change("1")).await);
        let fails = async {
            tokio::task::yield_now().await;
            outlet.stands();
        };
        assert!(!tokio::join!(intake.add(change("2")), fails).0);
        assert!(outlet.is_overflowing());
    }
}
