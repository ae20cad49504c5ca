use std::time::Duration;

use super::{dice::Dice, judge::Kept};

/// How the parts are set up: the seed decides, so that several seeds try several ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Whether transactions may be prepared: the listener polls then, and is never rung for.
    pub prepares: bool,
    /// How long histories are kept in Redis.
    pub history_ms: u64,
    /// How many bytes of history a table may have in Redis.
    pub history_bytes: u64,
    /// How long the log is kept.
    pub log_retention_ms: u64,
    /// The rate above which the listener polls; low ones make it go to and fro.
    pub poll_above: u64,
    /// What a gateway keeps in memory; small ones make it read histories.
    pub recent_bytes: u64,
    /// What may wait for one socket.
    pub queue_bytes: u64,
}

impl Terms {
    /// Those of a seed.
    pub fn of(seed: u64) -> Self {
        let mut dice = Dice::of(seed, "terms", 0);
        let history_ms = dice.pick(&[15_000, 30_000, 600_000]);
        Self {
            prepares: dice.percent(50),
            history_ms,
            history_bytes: dice.pick(&[16, 64]) << 20,
            log_retention_ms: if dice.percent(50) { history_ms * 2 } else { 3_600_000 },
            poll_above: dice.pick(&[100, 1_000]),
            recent_bytes: dice.pick(&[128 << 10, 1 << 20, 16 << 20]),
            queue_bytes: dice.pick(&[128 << 10, 1 << 20]),
        }
    }

    /// What clients may rely on.
    pub fn kept(&self) -> Kept {
        let time = Duration::from_millis(self.history_ms.min(self.log_retention_ms));
        Kept { time, bytes: self.history_bytes }
    }

    /// Flags of a listener.
    pub fn listener(&self) -> Vec<String> {
        vec![
            format!("--history-ms={}", self.history_ms),
            format!("--history-bytes={}", self.history_bytes),
            format!("--log-retention-ms={}", self.log_retention_ms),
            format!("--log-poll-above={}", self.poll_above),
        ]
    }

    /// Flags of a gateway.
    pub fn gateway(&self) -> Vec<String> {
        vec![
            format!("--recent-bytes={}", self.recent_bytes),
            format!("--queue-bytes={}", self.queue_bytes),
            "--drain-ms=500".into(),
            "--shards=2".into(),
        ]
    }
}
