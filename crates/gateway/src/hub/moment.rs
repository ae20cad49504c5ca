use std::{num::NonZeroU32, time::Duration};

/// Steps of a hub's clock in a second.
const STEPS_PER_S: u32 = 16;

/// When something was, or is to be: in steps since the hub began. Eight years fit, and four bytes of
/// each connection do where an `Instant` takes sixteen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(NonZeroU32);

impl Moment {
    /// The beginning.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// So long after it.
    pub fn after(self, span: Duration) -> Self {
        self.plus(steps(span))
    }

    /// So many steps after it, or as late as there is.
    pub fn plus(self, steps: u32) -> Self {
        Self(self.0.saturating_add(steps))
    }

    /// How long ago it was; nothing if it is yet to come.
    pub fn age(self, now: Self) -> Duration {
        Duration::from_secs(u64::from(now.0.get().saturating_sub(self.0.get()))) / STEPS_PER_S
    }

    /// Whether a span that began then is over now.
    pub fn is_over(self, steps: u32, now: Self) -> bool {
        self.plus(steps) <= now
    }
}

/// How many steps a span takes; one that has begun counts.
pub(super) fn steps(span: Duration) -> u32 {
    u32::try_from((span.as_millis() * u128::from(STEPS_PER_S)).div_ceil(1000)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_over_when_it_is_and_not_before() {
        let (begun, span) = (Moment::FIRST.after(Duration::from_secs(10)), steps(Duration::from_millis(1010)));
        assert_eq!(span, 17);
        assert!(begun.is_over(span, begun.after(Duration::from_secs(2))));
        assert!(!begun.is_over(span, begun.after(Duration::from_secs(1))));
        assert_eq!(begun.age(begun.after(Duration::from_millis(1500))), Duration::from_millis(1500));
        assert_eq!(begun.age(Moment::FIRST), Duration::ZERO);
        assert!(!begun.is_over(span, Moment::FIRST), "what was stamped later than now has just begun");
    }

    #[test]
    fn what_is_too_far_off_is_never() {
        let never = Moment::FIRST.after(Duration::MAX);
        assert_eq!(never, never.after(Duration::from_secs(1)));
        assert!(never > Moment::FIRST.after(Duration::from_secs(8 * 365 * 86_400)));
        assert_eq!(size_of::<Option<Moment>>(), 4);
    }
}
