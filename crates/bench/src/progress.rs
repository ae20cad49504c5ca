use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use tokio::sync::Notify;

use crate::{
    order::Order,
    payload::{Stamp, now_us},
};

/// Changes whose commit is remembered; far more than are ever under way.
const COMMITS: usize = 1 << 17;

/// What the load client's thread and the others tell each other while it runs.
#[derive(Debug)]
pub struct Progress {
    /// When the writer heard of the commit of a change, in a ring.
    commits: Box<[AtomicU64]>,
    /// Changes that all clients together have received.
    changes: AtomicU64,
    /// Reads that brought them: what was joined in a write mostly comes in one.
    reads: AtomicU64,
    /// Bytes of their payloads.
    bytes: AtomicU64,
    /// When the last of them was read.
    last_read_us: AtomicU64,
    /// Who waits for `changes` to reach this.
    target: AtomicU64,
    reached: Notify,
    recording: AtomicBool,
    read_all: AtomicBool,
    stop: AtomicBool,
    /// Clients whose connection has ended, with what they have seen.
    lost: Mutex<Vec<Order>>,
}

/// Counts at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    pub changes: u64,
    pub reads: u64,
    pub bytes: u64,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            commits: std::iter::repeat_with(AtomicU64::default).take(COMMITS).collect(),
            changes: AtomicU64::default(),
            reads: AtomicU64::default(),
            bytes: AtomicU64::default(),
            last_read_us: AtomicU64::default(),
            target: AtomicU64::default(),
            reached: Notify::default(),
            recording: AtomicBool::default(),
            read_all: AtomicBool::default(),
            stop: AtomicBool::default(),
            lost: Mutex::default(),
        }
    }
}

impl Counts {
    pub fn since(self, before: Self) -> Self {
        Self {
            changes: self.changes - before.changes,
            reads: self.reads - before.reads,
            bytes: self.bytes - before.bytes,
        }
    }

    pub fn plus(self, other: Self) -> Self {
        Self { changes: self.changes + other.changes, reads: self.reads + other.reads, bytes: self.bytes + other.bytes }
    }

    /// Of a frame's payload, on average.
    pub fn bytes_each(self) -> usize {
        (self.bytes / self.changes.max(1)) as usize
    }

    pub fn per_read(self) -> f64 {
        self.changes as f64 / self.reads.max(1) as f64
    }
}

impl Progress {
    /// The writer has heard of the commit of a change.
    pub fn committed(&self, id: u64, at_us: u64) {
        self.commits[id as usize % COMMITS].store(at_us, Relaxed);
    }

    /// When that was; `None` while the writer has not heard of it.
    pub fn committed_at(&self, stamp: Stamp) -> Option<u64> {
        // What an earlier change has left there is from before this one was sent.
        Some(self.commits[stamp.id as usize % COMMITS].load(Relaxed)).filter(|&at| at >= stamp.sent_us)
    }

    /// The load client has received more.
    pub fn count(&self, more: Counts) {
        if more.changes > 0 {
            self.last_read_us.store(now_us(), Relaxed);
        }
        self.reads.fetch_add(more.reads, Relaxed);
        self.bytes.fetch_add(more.bytes, Relaxed);
        let changes = self.changes.fetch_add(more.changes, Relaxed) + more.changes;
        let target = self.target.load(Relaxed);
        if target != 0 && changes >= target {
            self.target.store(0, Relaxed);
            self.reached.notify_one();
        }
    }

    pub fn counts(&self) -> Counts {
        Counts { changes: self.changes.load(Relaxed), reads: self.reads.load(Relaxed), bytes: self.bytes.load(Relaxed) }
    }

    /// When the last change was read that any client has.
    pub fn last_read_us(&self) -> u64 {
        self.last_read_us.load(Relaxed)
    }

    /// Waits until this many changes have come in all.
    pub async fn reach(&self, changes: u64) {
        while self.changes.load(Relaxed) < changes {
            self.target.store(changes, Relaxed);
            // They may have come between the look and the wish; then nobody will say so.
            if self.changes.load(Relaxed) >= changes {
                break;
            }
            let soon = std::time::Duration::from_millis(50);
            drop(tokio::time::timeout(soon, self.reached.notified()).await);
        }
    }

    /// Whether latencies count from now on.
    pub fn record(&self, on: bool) {
        self.recording.store(on, Relaxed);
    }

    pub fn is_recording(&self) -> bool {
        self.recording.load(Relaxed)
    }

    /// From now on those are read too that were not to be.
    pub fn read_all(&self) {
        self.read_all.store(true, Relaxed);
    }

    pub fn is_reading_all(&self) -> bool {
        self.read_all.load(Relaxed)
    }

    /// A connection has ended.
    pub fn lose(&self, order: Order) {
        self.lost().push(order);
    }

    /// Takes what is known of the clients whose connection has ended.
    pub fn take_lost(&self) -> Vec<Order> {
        std::mem::take(&mut *self.lost())
    }

    pub fn count_lost(&self) -> usize {
        self.lost().len()
    }

    fn lost(&self) -> MutexGuard<'_, Vec<Order>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    pub fn is_stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }
}
