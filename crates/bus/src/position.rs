use protocol::{Batch, FeedId, Offset};

/// Where a receiver is: it has every change of `feed` up to `last`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The numbering.
    pub feed: FeedId,
    /// The term under which it was last published.
    pub epoch: u64,
    /// The last change that was received.
    pub last: Offset,
}

/// What a batch is to a receiver at a [`Position`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It continues (its first changes may be known already).
    Next,
    /// It holds nothing new, or comes from a listener that has been replaced.
    Old,
    /// Something between the position and the batch is missing, or a new feed has begun.
    Gap,
}

impl Position {
    /// Judges a batch.
    pub fn step(&self, batch: &Batch) -> Step {
        if batch.feed != self.feed {
            return if batch.epoch > self.epoch { Step::Gap } else { Step::Old };
        }
        if batch.epoch < self.epoch {
            return Step::Old;
        }
        // Of two batches that end here, a watermark still tells the time.
        if batch.last < self.last || (batch.last == self.last && !batch.is_watermark()) {
            Step::Old
        } else if batch.first > self.last + 1 {
            Step::Gap
        } else {
            Step::Next
        }
    }

    /// Moves on to the end of a batch that was a [`Step::Next`].
    pub fn advance(&mut self, batch: &Batch) {
        self.epoch = batch.epoch;
        self.last = batch.last;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_is_a_gap_and_a_repeat_is_old() {
        let feed: FeedId = "k3f9".parse().unwrap();
        let other: FeedId = "zzz".parse().unwrap();
        let position = Position { feed: feed.clone(), epoch: 5, last: 10 };
        let batch =
            |feed: &FeedId, epoch, first, last| Batch { feed: feed.clone(), epoch, first, last, at: 0, slices: vec![] };
        assert_eq!(position.step(&batch(&feed, 5, 11, 12)), Step::Next);
        assert_eq!(position.step(&batch(&feed, 5, 9, 12)), Step::Next);
        assert_eq!(position.step(&batch(&feed, 5, 11, 10)), Step::Next);
        assert_eq!(position.step(&batch(&feed, 6, 11, 12)), Step::Next);
        assert_eq!(position.step(&batch(&feed, 5, 8, 10)), Step::Old);
        assert_eq!(position.step(&batch(&feed, 5, 9, 8)), Step::Old);
        assert_eq!(position.step(&batch(&feed, 5, 12, 12)), Step::Gap);
        assert_eq!(position.step(&batch(&feed, 5, 13, 12)), Step::Gap);
        assert_eq!(position.step(&batch(&feed, 4, 11, 12)), Step::Old);
        assert_eq!(position.step(&batch(&other, 6, 1, 0)), Step::Gap);
        assert_eq!(position.step(&batch(&other, 5, 11, 12)), Step::Old);
    }
}
