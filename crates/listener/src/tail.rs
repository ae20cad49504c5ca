//! The end of a feed, kept to bring a bus that lost it back.

use std::collections::{HashMap, VecDeque};

use bytes::BytesMut;
use protocol::{Batch, FeedId, Offset, Slice, Topic, batch::MAX_BATCH_BYTES};

/// Published changes kept at most. A Redis that restarts without its data, or fails over to a
/// replica that lags, is brought back from here; if it lacks more, a new feed begins.
pub(crate) const TAIL_BYTES: usize = 16 * 1024 * 1024;
/// Published batches kept at most: at one change each their heads cost more than their changes.
pub(crate) const TAIL_BATCHES: usize = 16 * 1024;

/// Consecutive batches of one feed: those not yet published, and as many before them as fit.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    batches: VecDeque<Batch>,
    bytes: usize,
    end: Offset,
}

impl Tail {
    /// An empty one of a feed that goes on after an offset.
    pub(crate) fn starting_after(end: Offset) -> Self {
        Self { end, ..Self::default() }
    }

    /// The offset after which it begins.
    pub(crate) fn start(&self) -> Offset {
        self.batches.front().map_or(self.end, |batch| batch.first - 1)
    }

    /// Appends the feed's next batch, which has changes.
    pub(crate) fn push(&mut self, batch: Batch) {
        self.end = batch.last;
        self.bytes += bytes_of(&batch);
        self.batches.push_back(batch);
    }

    /// Whether a bus that ends at `held` can be continued from here.
    pub(crate) fn continues(&self, held: Offset) -> bool {
        held == self.end || self.index_after(held).is_some()
    }

    /// What comes after `held`, as one batch under `epoch`: small ones are joined, or bringing a
    /// bus back would take a round trip for each. `None` at the end.
    pub(crate) fn after(&self, held: Offset, epoch: u64) -> Option<Batch> {
        let from = self.index_after(held)?;
        let mut bytes = bytes_of(&self.batches[from]);
        let fitting = |batch: &&Batch| {
            bytes += bytes_of(batch);
            bytes <= MAX_BATCH_BYTES
        };
        let count = 1 + self.batches.range(from + 1..).take_while(fitting).count();
        if count == 1 {
            return Some(Batch { epoch, ..self.batches[from].clone() });
        }
        Some(join(self.batches.range(from..from + count), epoch))
    }

    /// Forgets what is older than the limits allow, but nothing after `held`.
    pub(crate) fn trim(&mut self, held: Offset) {
        while self.bytes > TAIL_BYTES || self.batches.len() > TAIL_BATCHES {
            let Some(oldest) = self.batches.front().filter(|oldest| oldest.last <= held) else { return };
            self.bytes -= bytes_of(oldest);
            self.batches.pop_front();
        }
    }

    /// The batch that begins right after `held`. The bus applies whole batches, so where it ends,
    /// one of these begins.
    fn index_after(&self, held: Offset) -> Option<usize> {
        self.batches.binary_search_by_key(&(held + 1), |batch| batch.first).ok()
    }
}

fn bytes_of(batch: &Batch) -> usize {
    batch.slices.iter().map(|(_, slice)| slice.bytes.len()).sum()
}

fn join<'a>(batches: impl Iterator<Item = &'a Batch>, epoch: u64) -> Batch {
    let mut ends: Option<(FeedId, Offset, Offset, i64)> = None;
    let mut order: Vec<Topic> = Vec::new();
    let mut slices: HashMap<Topic, (Offset, BytesMut)> = HashMap::new();
    for batch in batches {
        let first = ends.as_ref().map_or(batch.first, |(_, first, ..)| *first);
        ends = Some((batch.feed.clone(), first, batch.last, batch.at));
        for (topic, slice) in &batch.slices {
            let (last, bytes) = slices.entry(topic.clone()).or_insert_with(|| {
                order.push(topic.clone());
                (0, BytesMut::new())
            });
            *last = slice.last;
            bytes.extend_from_slice(&slice.bytes);
        }
    }
    let (feed, first, last, at) = ends.unwrap_or_else(|| (FeedId::random(), 1, 0, 0));
    let of_topic = |topic: Topic| {
        let (last, bytes) = slices.remove(&topic)?;
        Some((topic, Slice { last, bytes: bytes.freeze() }))
    };
    Batch { feed, epoch, first, last, at, slices: order.into_iter().filter_map(of_topic).collect() }
}

#[cfg(test)]
mod tests {
    use protocol::{Batcher, Kind};

    use super::*;

    #[test]
    fn batches_are_joined_from_any_boundary_and_keep_their_order() {
        let mut batcher = Batcher::new(FeedId::random(), 1, 0);
        let (a, b) = (Topic::new("a").unwrap(), Topic::new("b").unwrap());
        let mut tail = Tail::default();
        let mut whole = Vec::new();
        for n in 0..5i64 {
            batcher.push(&a, n, Kind::Text, format!("a{n}").as_bytes());
            batcher.push(&b, n, Kind::Text, format!("b{n}").as_bytes());
            let batch = batcher.take(n);
            whole.push(batch.clone());
            tail.push(batch);
        }
        let joined = tail.after(2, 9).unwrap();
        assert_eq!((joined.first, joined.last, joined.at, joined.epoch), (3, 10, 4, 9));
        let payloads: Vec<_> = joined.slice("b").unwrap().changes_after(0).unwrap();
        assert_eq!(payloads.iter().map(|c| c.offset).collect::<Vec<_>>(), [4, 6, 8, 10]);
        assert_eq!(tail.after(8, 1).unwrap(), whole[4]);
        assert_eq!(tail.after(10, 1), None);
        assert_eq!((tail.start(), tail.continues(10), tail.continues(3), tail.continues(11)), (0, true, false, false));
    }

    #[test]
    fn what_is_not_published_is_never_trimmed() {
        let mut batcher = Batcher::new(FeedId::random(), 1, 0);
        let mut tail = Tail::default();
        let payload = vec![b'x'; MAX_BATCH_BYTES];
        for _ in 0..20 {
            batcher.push(&Topic::new("a").unwrap(), 0, Kind::Text, &payload);
            tail.push(batcher.take(0));
        }
        tail.trim(2);
        assert_eq!(tail.start(), 2);
        tail.trim(20);
        assert_eq!(tail.start(), 5);
        assert_eq!(tail.after(5, 1).map(|batch| batch.last), Some(6), "one is as large as a batch may be");
    }
}
