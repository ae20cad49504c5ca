//! How long anybody in rowcast waits before trying again.

use std::time::Duration;

/// Exponential backoff with jitter: between half and all of a delay that doubles from `first` to
/// `most`. Never gives up. Half and not full jitter, so that a broken peer is not hammered.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// A backoff that starts at `first`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    /// How long to wait this time.
    pub fn delay(&mut self) -> Duration {
        let delay = self.next.mul_f64(rand::random_range(0.5..=1.0));
        self.next = (self.next * 2).min(self.most);
        delay
    }

    /// It worked: the next wait is short again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_limit_and_start_again_after_success() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(400));
        for full in [100, 200, 400, 400] {
            let delay = backoff.delay();
            assert!(delay >= ms(full / 2) && delay <= ms(full), "{delay:?} of {full}");
        }
        backoff.reset();
        assert!(backoff.delay() <= ms(100));
    }
}
