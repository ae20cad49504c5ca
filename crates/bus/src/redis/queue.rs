use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use tokio::sync::Notify;

/// Messages that may wait for whoever subscribes.
pub(super) const MOST_MESSAGES: usize = 16_384;

/// Bytes that may wait.
pub(super) const MOST_BYTES: usize = 64 * 1024 * 1024;

/// What the connection hands up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    Message(Bytes),
    Gap,
    Lost,
}

/// What waits between the connection and whoever subscribes. Past its limits it forgets all that
/// it holds and says [`Item::Gap`]: who is that far behind repairs from the histories anyway.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    ready: Notify,
    heard: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    items: VecDeque<Item>,
    bytes: usize,
}

impl Queue {
    pub(super) fn message(&self, message: Bytes) {
        self.heard.fetch_add(1, Ordering::Relaxed);
        {
            let mut waiting = self.waiting();
            if waiting.items.len() >= MOST_MESSAGES || waiting.bytes + message.len() > MOST_BYTES {
                // The message is in the histories by now, and so is all that was here.
                waiting.items.clear();
                waiting.bytes = 0;
                waiting.items.push_back(Item::Gap);
            } else {
                waiting.bytes += message.len();
                waiting.items.push_back(Item::Message(message));
            }
        }
        self.ready.notify_one();
    }

    pub(super) fn gap(&self) {
        self.waiting().tell(Item::Gap);
        self.ready.notify_one();
    }

    pub(super) fn lost(&self) {
        let mut waiting = self.waiting();
        // It replaces what a connection before has left, so that a connection that comes and goes
        // does not fill the queue.
        while waiting.items.back().is_some_and(|item| *item != Item::Lost && !matches!(item, Item::Message(_))) {
            waiting.items.pop_back();
        }
        waiting.tell(Item::Lost);
        drop(waiting);
        self.ready.notify_one();
    }

    /// Messages that have come so far: a sign of life of the connection.
    pub(super) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// The next item. Safe to drop while it waits. For one caller at a time.
    pub(super) async fn next(&self) -> Item {
        loop {
            if let Some(item) = self.waiting().take() {
                return item;
            }
            self.ready.notified().await;
        }
    }

    // Nothing that runs under the lock can panic half-way through a change.
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn tell(&mut self, item: Item) {
        if self.items.back() != Some(&item) {
            self.items.push_back(item);
        }
    }

    fn take(&mut self) -> Option<Item> {
        let item = self.items.pop_front()?;
        if let Item::Message(message) = &item {
            self.bytes -= message.len();
        }
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(queue: &Queue) -> Vec<Item> {
        std::iter::from_fn(|| queue.waiting().take()).collect()
    }

    #[test]
    fn a_queue_past_its_limits_says_gap_and_goes_on() {
        let queue = Queue::default();
        for _ in 0..MOST_MESSAGES + 3 {
            queue.message(Bytes::from_static(b"x"));
        }
        let (gap, rest) = (Item::Gap, Item::Message(Bytes::from_static(b"x")));
        assert_eq!(all(&queue), [gap.clone(), rest.clone(), rest.clone()]);

        let large = Bytes::from(vec![0; MOST_BYTES / 2]);
        for _ in 0..3 {
            queue.message(large.clone());
        }
        assert_eq!(all(&queue), [gap]);
        assert_eq!(queue.waiting().bytes, 0);
    }

    #[test]
    fn a_connection_that_comes_and_goes_does_not_fill_it() {
        let queue = Queue::default();
        queue.message(Bytes::from_static(b"x"));
        for _ in 0..100 {
            queue.lost();
            queue.gap();
            queue.gap();
        }
        assert_eq!(all(&queue), [Item::Message(Bytes::from_static(b"x")), Item::Lost, Item::Gap]);
    }
}
