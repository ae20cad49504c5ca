//! Whether the listener sleeps until a writer rings, or looks by itself.
//!
//! A NOTIFY holds a lock of the whole cluster until its commit is on disk, so with many writers it
//! costs most of their throughput. The trigger therefore rings only while the listener sleeps: it
//! tries to share an advisory lock, and rings if it cannot. Who wants to sleep takes that lock
//! alone. No wake-up is lost: a writer that did not ring holds the lock until its commit, so until
//! then nobody can fall asleep. A dead listener lets go of it, and nobody pays for NOTIFY then.

use std::{
    ops::RangeInclusive,
    time::{Duration, Instant},
};

/// The lock's key: the bytes of `rowcast`. The triggers of `sql/rowcast` have the same.
pub(crate) const LOCK: i64 = 32_210_705_904_137_076;
/// The channel that writers ring on.
pub(crate) const CHANNEL: &str = "rowcast_log";

/// Lets go of the lock if this session has it.
pub(crate) fn let_go_sql() -> String {
    let (high, low) = (LOCK >> 32, LOCK & 0xffff_ffff);
    format!(
        "select pg_advisory_unlock({LOCK}) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid() \
         and classid = {high}::oid and objid = {low}::oid and objsubid = 1 and mode = 'ExclusiveLock'"
    )
}

/// Over this span commits are counted.
const WINDOW: Duration = Duration::from_millis(100);
/// While there is something at each look, the next one follows after four times what it took, within
/// these limits. So the looks take a fifth of the time at most, and what one of them costs is shared
/// by the more changes, the more are written.
const BUSY: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_millis(5);
/// While nothing happens and the listener may not sleep (somebody who has written does not commit,
/// or a ring would make PREPARE TRANSACTION fail), the looks become as rare as this: half a percent
/// of a core.
const QUIET: Duration = Duration::from_millis(20);

/// What to do until the next look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Sleep until somebody rings.
    Sleep,
    /// Let go of the lock, and look at once.
    WakeUp,
    /// Look again after this.
    Poll(Duration),
}

/// Decides, by the rate of commits.
#[derive(Debug)]
pub(crate) struct Doorbell {
    /// Commits in a [`WINDOW`] above which rings cost the writers more than looks cost us.
    above: u64,
    /// Whether sleeping is allowed at all.
    may_sleep: bool,
    asleep: bool,
    since: Instant,
    commits: u64,
    /// Those of the window before.
    before: u64,
    pause: Duration,
}

impl Doorbell {
    /// `above`: commits a second.
    pub(crate) fn new(above: u64, may_sleep: bool, now: Instant) -> Self {
        let above = above / (1000 / WINDOW.as_millis() as u64);
        Self { above, may_sleep, asleep: false, since: now, commits: 0, before: 0, pause: *BUSY.start() }
    }

    /// Whether the writers ring.
    pub(crate) fn is_asleep(&self) -> bool {
        self.asleep
    }

    /// Whether the next look should ask for the lock too. Half the limit, so that a rate at the
    /// limit does not switch all the time.
    pub(crate) fn wants_lock(&self) -> bool {
        self.may_sleep && !self.asleep && self.rate() <= self.above / 2
    }

    /// Whether the lock is ours.
    pub(crate) fn locked(&mut self, asleep: bool) {
        self.asleep = asleep;
    }

    /// A look that took so long has found this many commits; what comes next.
    pub(crate) fn after(&mut self, commits: u64, took: Duration, now: Instant) -> Next {
        let windows = now.duration_since(self.since).as_millis() / WINDOW.as_millis();
        if windows > 0 {
            self.before = if windows == 1 { self.commits } else { 0 };
            self.commits = 0;
            self.since = now;
        }
        self.commits += commits;
        if self.asleep {
            return if self.rate() > self.above { Next::WakeUp } else { Next::Sleep };
        }
        self.pause =
            if commits > 0 { (4 * took).clamp(*BUSY.start(), *BUSY.end()) } else { self.pause.mul_f64(1.3).min(QUIET) };
        Next::Poll(self.pause)
    }

    fn rate(&self) -> u64 {
        self.commits.max(self.before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn at_low_rates_it_sleeps_and_at_high_rates_it_looks() {
        let start = Instant::now();
        let mut bell = Doorbell::new(1000, true, start);
        assert!(bell.wants_lock());
        bell.locked(true);
        assert_eq!(bell.after(1, MS / 4, start), Next::Sleep);
        assert_eq!(bell.after(99, MS / 4, start + 50 * MS), Next::Sleep);
        assert_eq!(bell.after(1, MS / 4, start + 60 * MS), Next::WakeUp, "101 commits in 100 ms");
        bell.locked(false);
        assert_eq!(bell.after(30, MS / 4, start + 61 * MS), Next::Poll(MS));
        assert!(!bell.wants_lock());
        assert_eq!(bell.after(20, MS / 4, start + 110 * MS), Next::Poll(MS));
        assert!(!bell.wants_lock(), "the window before was busy");
        bell.after(20, MS / 4, start + 215 * MS);
        assert!(bell.wants_lock());
    }

    #[test]
    fn the_longer_a_look_takes_the_longer_is_the_pause() {
        let start = Instant::now();
        let mut bell = Doorbell::new(1000, false, start);
        assert_eq!(bell.after(1, MS / 10, start), Next::Poll(MS));
        assert_eq!(bell.after(1, MS, start), Next::Poll(4 * MS));
        assert_eq!(bell.after(1, 2 * MS, start), Next::Poll(5 * MS));
    }

    #[test]
    fn who_may_not_sleep_looks_ever_less_often_while_nothing_happens() {
        let start = Instant::now();
        let mut bell = Doorbell::new(1000, false, start);
        assert!(!bell.wants_lock());
        let pauses: Vec<Next> = (0..20).map(|_| bell.after(0, MS / 4, start)).collect();
        assert_eq!(pauses.last(), Some(&Next::Poll(QUIET)));
        assert_eq!(bell.after(1, MS / 4, start), Next::Poll(MS));
    }
}
