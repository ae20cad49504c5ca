//! Short ways to say feeds, terms and batches.

use bus::{History, Term};
use protocol::{Batch, Batcher, Catalogue, FeedId, Kind, Offset, Topic};

pub fn feed(id: &str) -> FeedId {
    id.parse().unwrap()
}

pub fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

pub fn term(id: &str, epoch: u64, after: Offset) -> Term {
    let catalogue = Catalogue::of_channels(["a", "b"].map(topic));
    Term { feed: feed(id), epoch, after, at: 1_000 + after as i64, catalogue }
}

/// A batch with a change for each name, the first after `after`. A change's payload is its offset.
pub fn batch(id: &str, epoch: u64, after: Offset, topics: &[&str]) -> Batch {
    let payloads: Vec<_> = topics.iter().zip(after + 1..).map(|(name, offset)| (*name, offset.to_string())).collect();
    batch_of(id, epoch, after, payloads.iter().map(|(name, payload)| (*name, payload.as_str())))
}

pub fn batch_of<'a>(
    id: &str,
    epoch: u64,
    after: Offset,
    changes: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Batch {
    let mut batcher = Batcher::new(feed(id), epoch, after);
    for (name, payload) in changes {
        let offset = batcher.last() + 1;
        batcher.push(&topic(name), 2_000 + offset as i64, Kind::Text, payload.as_bytes());
    }
    let at = 1_000 + batcher.last() as i64;
    batcher.take(at)
}

/// The offsets of a complete history's changes.
#[track_caller]
pub fn offsets(history: History, after: Offset) -> Vec<Offset> {
    let History::Complete { slices, .. } = history else { panic!("not complete: {history:?}") };
    let changes = slices.iter().flat_map(|slice| slice.changes_after(after).unwrap());
    changes.map(|change| change.offset).collect()
}

/// No changes.
pub const NOTHING: [Offset; 0] = [];
