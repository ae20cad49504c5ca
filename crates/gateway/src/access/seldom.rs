use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Says yes at most once in a while: for a log line that a herd of clients could repeat.
pub(super) struct Seldom {
    start: Instant,
    every: Duration,
    /// When it may be yes again, in milliseconds after `start`.
    next_ms: AtomicU64,
}

impl Seldom {
    pub(super) fn new(every: Duration) -> Self {
        Self { start: Instant::now(), every, next_ms: AtomicU64::new(0) }
    }

    pub(super) fn now(&self) -> bool {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let now = ms(self.start.elapsed());
        let next = self.next_ms.load(Ordering::Relaxed);
        let then = now.saturating_add(ms(self.every));
        now >= next && self.next_ms.compare_exchange(next, then, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_yes_and_the_next_only_after_a_while() {
        let seldom = Seldom::new(Duration::from_secs(3600));
        assert!(seldom.now());
        assert!(!seldom.now() && !seldom.now());
        assert!([(); 3].iter().all(|()| Seldom::new(Duration::ZERO).now()));
    }
}
