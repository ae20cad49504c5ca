//! The feed's recent batches, in memory: where a client that was away for a moment resumes from.

use std::{collections::VecDeque, sync::Arc};

use protocol::{Batch, Offset};

/// Recent batches of one feed, without a hole: every change after [`Recent::floor`].
#[derive(Debug)]
pub struct Recent {
    batches: VecDeque<Arc<Batch>>,
    bytes: usize,
    limit: usize,
    floor: Offset,
}

impl Recent {
    /// An empty ring of a feed that is at `floor`, keeping up to `limit` bytes.
    pub fn new(floor: Offset, limit: usize) -> Self {
        Self { batches: VecDeque::new(), bytes: 0, limit, floor }
    }

    /// Appends the batch that continues it. The oldest go when it grows over the limit.
    pub fn push(&mut self, batch: Arc<Batch>) {
        self.bytes += size(&batch);
        self.batches.push_back(batch);
        while self.bytes > self.limit {
            let Some(oldest) = self.batches.pop_front() else { break };
            self.bytes -= size(&oldest);
            self.floor = oldest.last;
        }
    }

    /// Forgets everything: what lies before `floor` is not complete.
    pub fn restart(&mut self, floor: Offset) {
        *self = Self::new(floor, self.limit);
    }

    /// Every change after this offset is here.
    pub fn floor(&self) -> Offset {
        self.floor
    }

    /// Bytes that are here.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The batches up to an offset, the newest first.
    pub fn back_from(&self, offset: Offset) -> impl Iterator<Item = &Arc<Batch>> {
        self.batches.range(..self.batches.partition_point(|batch| batch.first <= offset)).rev()
    }

    /// The batch that holds the change after `after`, or the next one; `Err` if that is no longer
    /// here, `Ok(None)` if `after` is the end.
    pub fn after(&self, after: Offset) -> Result<Option<&Arc<Batch>>, NotHere> {
        if after < self.floor {
            return Err(NotHere);
        }
        Ok(self.batches.get(self.batches.partition_point(|batch| batch.last <= after)))
    }
}

/// The ring no longer goes back that far.
#[derive(Debug, PartialEq, Eq)]
pub struct NotHere;

fn size(batch: &Batch) -> usize {
    batch.slices.iter().map(|(_, slice)| slice.bytes.len() + 64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::{Batcher, FeedId, Kind, Topic};

    #[test]
    fn the_ring_serves_what_it_holds_and_refuses_the_rest() {
        let topic = Topic::new("t").unwrap();
        let mut batcher = Batcher::new(FeedId::random(), 1, 10);
        let mut recent = Recent::new(10, 1000);
        assert_eq!(recent.after(10), Ok(None));
        for _ in 0..10 {
            for _ in 0..2 {
                batcher.push(&topic, 0, Kind::Text, &[b'x'; 50]);
            }
            recent.push(Arc::new(batcher.take(0)));
        }
        let first = |after| recent.after(after).map(|batch| batch.map(|b| b.first));
        assert_eq!(first(30), Ok(None));
        assert_eq!(first(28), Ok(Some(29)));
        assert_eq!(first(27), Ok(Some(27)));
        assert_eq!(first(22), Ok(Some(23)));
        assert_eq!(first(21), Err(NotHere));
        let back: Vec<_> = recent.back_from(26).map(|batch| batch.first).collect();
        assert_eq!((back, recent.floor()), (vec![25, 23], 22));
        recent.restart(30);
        assert_eq!(recent.after(28), Err(NotHere));
        assert_eq!(recent.after(30), Ok(None));
    }
}
