use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use tokio::sync::Notify;

use crate::payload::Stamp;

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
    /// Who waits for `changes` to reach this.
    target: AtomicU64,
    reached: Notify,
    recording: AtomicBool,
    stop: AtomicBool,
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
            target: AtomicU64::default(),
            reached: Notify::default(),
            recording: AtomicBool::default(),
            stop: AtomicBool::default(),
        }
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

    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    pub fn is_stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }
}
