//! What was received and is not yet published, bounded by bytes.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use prometheus_client::metrics::gauge::Gauge;
use protocol::{Micros, Topic};
use tokio::sync::{Notify, mpsc};

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
    let shared = Arc::new(Shared { bytes, overflow: AtomicBool::new(false), overflowed: Notify::new() });
    (Intake { sender, shared: shared.clone(), limit }, Outlet { receiver, shared })
}

#[derive(Debug)]
struct Shared {
    bytes: Gauge,
    overflow: AtomicBool,
    overflowed: Notify,
}

/// The pump's end. Never blocks.
#[derive(Debug)]
pub(crate) struct Intake {
    sender: mpsc::UnboundedSender<Item>,
    shared: Arc<Shared>,
    limit: usize,
}

impl Intake {
    /// Adds an item. `false`: there is no room, and it was dropped; so is everything until the
    /// other end has dropped the rest with [`Outlet::discard`].
    pub(crate) fn add(&self, item: Item) -> bool {
        let bytes = i64::try_from(item.bytes()).unwrap_or(i64::MAX);
        let full = || usize::try_from(self.shared.bytes.get() + bytes).is_ok_and(|all| all > self.limit);
        if self.shared.overflow.load(Ordering::Acquire) || full() {
            self.shared.overflow.store(true, Ordering::Release);
            self.shared.overflowed.notify_one();
            return false;
        }
        self.shared.bytes.inc_by(bytes);
        self.sender.send(item).is_ok()
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
    async fn past_its_limit_everything_is_dropped_until_the_reader_has_dropped_the_rest() {
        let bytes = Gauge::default();
        let (intake, mut outlet) = backlog(2 * (ITEM_BYTES + 10), bytes.clone());
        assert!(intake.add(change("0123456789")) && intake.add(change("0123456789")));
        assert!(!outlet.is_overflowing());
        assert!(!intake.add(change("")));
        assert!(outlet.try_next().is_some());
        assert!(!intake.add(Item::Mark(1)), "a hole must not be followed by anything");
        outlet.overflowed().await;
        assert_eq!(outlet.discard(), 1);
        assert_eq!(bytes.get(), 0);
        assert!(intake.add(change("x")));
        drop(intake);
        assert!(outlet.next().await.is_some());
        assert!(outlet.next().await.is_none());
    }
}
