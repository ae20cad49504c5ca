//! Batches: what the listener publishes at once, and how it lies on the wire.
//!
//! A batch is a head and one slice a topic. The head names the topics and the length of each
//! slice, so a gateway skips what nobody there wants without parsing it; a slice is also what a
//! topic's history keeps, byte for byte. Numbers are little-endian.
//!
//! ```text
//! head   "RC" u8 version=1 | u8 n, feed | u64 epoch | u64 first | u64 last | i64 at | u32 topics
//!        topics × ( u8 n, name | u64 last | u32 slice bytes )
//! slices changes × ( u64 offset | i64 at | u8 kind | u32 n, payload )
//! ```

use std::collections::HashMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::{Change, FeedId, Kind, Micros, Offset, Topic};

/// A batch is closed before it grows past this. Redis drops a subscriber that falls 32 MB behind
/// at once or 8 MB for 60 s, so batches are small against that. A single larger change is a batch
/// of its own.
pub const MAX_BATCH_BYTES: usize = 1024 * 1024;

const MAGIC: &[u8; 3] = b"RC\x01";
const CHANGE_HEAD_BYTES: usize = 8 + 8 + 1 + 4;

/// Consecutive changes `first..=last` of all topics. With `last == first - 1` it is empty: a
/// watermark, "this feed is complete up to `last` as of `at`".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The numbering.
    pub feed: FeedId,
    /// The term of the listener that publishes it; a higher one fences off a lower one.
    pub epoch: u64,
    /// Offset of the first change.
    pub first: Offset,
    /// Offset of the last change.
    pub last: Offset,
    /// The database's time up to which the feed is complete.
    pub at: Micros,
    /// What each topic has in it; a topic stands here at most once, and not without a change.
    pub slices: Vec<(Topic, Slice)>,
}

impl Batch {
    /// An empty batch: the feed is complete up to `last` as of `at`.
    pub fn watermark(feed: FeedId, epoch: u64, last: Offset, at: Micros) -> Self {
        Self { feed, epoch, first: last + 1, last, at, slices: Vec::new() }
    }

    /// Whether it carries no change.
    pub fn is_watermark(&self) -> bool {
        self.last < self.first
    }

    /// The number of changes.
    pub fn len(&self) -> u64 {
        (self.last + 1).saturating_sub(self.first)
    }

    /// The same as [`Batch::is_watermark`].
    pub fn is_empty(&self) -> bool {
        self.is_watermark()
    }

    /// The head alone. The wire form is this, followed by the slices in order.
    pub fn head(&self) -> Bytes {
        let mut head = BytesMut::with_capacity(64 + self.slices.len() * 48);
        head.put_slice(MAGIC);
        put_short(&mut head, self.feed.as_str());
        head.put_u64_le(self.epoch);
        head.put_u64_le(self.first);
        head.put_u64_le(self.last);
        head.put_i64_le(self.at);
        head.put_u32_le(self.slices.len() as u32);
        for (topic, slice) in &self.slices {
            put_short(&mut head, topic.as_str());
            head.put_u64_le(slice.last);
            head.put_u32_le(slice.bytes.len() as u32);
        }
        head.freeze()
    }

    /// The wire form in one piece.
    pub fn encode(&self) -> Bytes {
        let mut wire = BytesMut::from(&*self.head());
        for (_, slice) in &self.slices {
            wire.put_slice(&slice.bytes);
        }
        wire.freeze()
    }

    /// Reads the wire form. Slices share its memory and are not looked into.
    pub fn decode(mut wire: Bytes) -> Result<Self, BatchError> {
        if wire.len() < MAGIC.len() || wire.split_to(MAGIC.len()) != MAGIC[..] {
            return Err(BatchError::NotABatch);
        }
        let feed = take_short(&mut wire)?.parse().map_err(|_| BatchError::Malformed("feed"))?;
        need(&wire, 8 * 4 + 4)?;
        let (epoch, first, last) = (wire.get_u64_le(), wire.get_u64_le(), wire.get_u64_le());
        let (at, topics) = (wire.get_i64_le(), wire.get_u32_le());
        let mut lengths = Vec::new();
        for _ in 0..topics {
            let topic = Topic::new(&take_short(&mut wire)?).map_err(|_| BatchError::Malformed("topic"))?;
            need(&wire, 8 + 4)?;
            lengths.push((topic, wire.get_u64_le(), wire.get_u32_le() as usize));
        }
        let mut slices = Vec::with_capacity(lengths.len());
        for (topic, last, length) in lengths {
            need(&wire, length)?;
            slices.push((topic, Slice { last, bytes: wire.split_to(length) }));
        }
        if !wire.is_empty() || last.checked_add(1).is_none_or(|end| first > end) {
            return Err(BatchError::Malformed("length"));
        }
        Ok(Self { feed, epoch, first, last, at, slices })
    }

    /// The slice of a topic.
    pub fn slice(&self, topic: &str) -> Option<&Slice> {
        self.slices.iter().find(|(t, _)| t.as_str() == topic).map(|(_, slice)| slice)
    }
}

/// Changes of one topic, in order of offset, in wire form. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// Offset of the last change in it.
    pub last: Offset,
    /// The changes.
    pub bytes: Bytes,
}

impl Slice {
    /// Offset of the first change in it.
    pub fn first(&self) -> Result<Offset, BatchError> {
        let offset = self.bytes.first_chunk::<8>().ok_or(BatchError::Truncated)?;
        Ok(Offset::from_le_bytes(*offset))
    }

    /// The changes after `after`, in order; payloads share the slice's memory.
    pub fn changes_after(&self, after: Offset) -> Result<Vec<Change>, BatchError> {
        let mut rest = self.bytes.clone();
        let mut changes = Vec::new();
        while !rest.is_empty() {
            need(&rest, CHANGE_HEAD_BYTES)?;
            let (offset, at) = (rest.get_u64_le(), rest.get_i64_le());
            let kind = Kind::from_byte(rest.get_u8()).ok_or(BatchError::Malformed("kind"))?;
            let length = rest.get_u32_le() as usize;
            need(&rest, length)?;
            let payload = rest.split_to(length);
            if offset > after {
                changes.push(Change { offset, at, kind, payload });
            }
        }
        Ok(changes)
    }
}

/// Builds batches of a feed, one after the other, from changes as they come.
#[derive(Debug)]
pub struct Batcher {
    feed: FeedId,
    epoch: u64,
    next: Offset,
    first: Offset,
    bytes: usize,
    order: Vec<Topic>,
    slices: HashMap<Topic, (Offset, BytesMut)>,
}

impl Batcher {
    /// A builder whose first change gets the offset `after + 1`.
    pub fn new(feed: FeedId, epoch: u64, after: Offset) -> Self {
        Self { feed, epoch, next: after + 1, first: after + 1, bytes: 0, order: Vec::new(), slices: HashMap::new() }
    }

    /// The feed that it numbers.
    pub fn feed(&self) -> &FeedId {
        &self.feed
    }

    /// The offset of the last change that was pushed.
    pub fn last(&self) -> Offset {
        self.next - 1
    }

    /// Bytes of the changes since the last [`Batcher::take`].
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing was pushed since the last [`Batcher::take`].
    pub fn is_empty(&self) -> bool {
        self.next == self.first
    }

    /// Whether a payload of this length still fits under [`MAX_BATCH_BYTES`]. An empty builder
    /// takes any.
    pub fn has_room_for(&self, payload_bytes: usize) -> bool {
        self.is_empty() || self.bytes + CHANGE_HEAD_BYTES + payload_bytes <= MAX_BATCH_BYTES
    }

    /// Appends a change and returns its offset.
    pub fn push(&mut self, topic: &Topic, at: Micros, kind: Kind, payload: &[u8]) -> Offset {
        let offset = self.next;
        if !self.slices.contains_key(topic) {
            self.order.push(topic.clone());
            self.slices.insert(topic.clone(), (0, BytesMut::new()));
        }
        if let Some((last, slice)) = self.slices.get_mut(topic) {
            *last = offset;
            put_change(slice, offset, at, kind, payload);
        }
        self.bytes += CHANGE_HEAD_BYTES + payload.len();
        self.next += 1;
        offset
    }

    /// What was pushed since the last call, as a batch that is complete as of `at`; a watermark
    /// if that was nothing.
    pub fn take(&mut self, at: Micros) -> Batch {
        let mut slices = std::mem::take(&mut self.slices);
        let batch = Batch {
            feed: self.feed.clone(),
            epoch: self.epoch,
            first: self.first,
            last: self.next - 1,
            at,
            slices: self
                .order
                .drain(..)
                .filter_map(|topic| {
                    let (last, bytes) = slices.remove(&topic)?;
                    Some((topic, Slice { last, bytes: bytes.freeze() }))
                })
                .collect(),
        };
        self.first = self.next;
        self.bytes = 0;
        batch
    }
}

/// Why bytes are not a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// They do not begin like one, or like one of another version.
    #[error("not a batch of this version")]
    NotABatch,
    /// They end too early.
    #[error("a batch that ends too early")]
    Truncated,
    /// This part has a value that none may have.
    #[error("a batch with a malformed {0}")]
    Malformed(&'static str),
}

pub(crate) fn put_change(out: &mut BytesMut, offset: Offset, at: Micros, kind: Kind, payload: &[u8]) {
    out.reserve(CHANGE_HEAD_BYTES + payload.len());
    out.put_u64_le(offset);
    out.put_i64_le(at);
    out.put_u8(kind.to_byte());
    out.put_u32_le(payload.len() as u32);
    out.put_slice(payload);
}

fn put_short(out: &mut BytesMut, text: &str) {
    // Feed ids have at most 16 bytes, topics at most 127.
    out.put_u8(text.len() as u8);
    out.put_slice(text.as_bytes());
}

fn take_short(wire: &mut Bytes) -> Result<String, BatchError> {
    need(wire, 1)?;
    let length = wire.get_u8() as usize;
    need(wire, length)?;
    String::from_utf8(wire.split_to(length).to_vec()).map_err(|_| BatchError::Malformed("name"))
}

fn need(wire: &Bytes, bytes: usize) -> Result<(), BatchError> {
    if wire.len() < bytes { Err(BatchError::Truncated) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn topic(name: &str) -> Topic {
        Topic::new(name).unwrap()
    }

    #[test]
    fn offsets_are_dense_across_topics_and_batches() {
        let mut batcher = Batcher::new(FeedId::random(), 7, 40);
        batcher.push(&topic("a"), 1, Kind::Json, b"{}");
        batcher.push(&topic("b"), 2, Kind::Text, b"x");
        batcher.push(&topic("a"), 3, Kind::Json, b"[]");
        let batch = batcher.take(9);
        assert_eq!((batch.first, batch.last, batch.len()), (41, 43, 3));
        let offsets = |name: &str| -> Vec<_> {
            batch.slice(name).unwrap().changes_after(0).unwrap().iter().map(|c| c.offset).collect()
        };
        assert_eq!((offsets("a"), offsets("b")), (vec![41, 43], vec![42]));
        assert_eq!(batch.slice("a").unwrap().first(), Ok(41));
        let after = batch.slice("a").unwrap().changes_after(41).unwrap();
        let mut again = BytesMut::new();
        after[0].encode(&mut again);
        assert_eq!((after.len(), &batch.slice("a").unwrap().bytes[again.len()..]), (1, &again[..]));
        let empty = batcher.take(10);
        assert!(empty.is_watermark());
        assert_eq!((empty.first, empty.last), (44, 43));
    }

    proptest! {
        #[test]
        fn a_batch_survives_its_wire_form(
            changes in prop::collection::vec((0..4u8, any::<i64>(), prop::collection::vec(any::<u8>(), 0..50)), 0..40),
            after in 0..u64::MAX / 2,
        ) {
            let mut batcher = Batcher::new(FeedId::random(), 3, after);
            for (name, at, payload) in &changes {
                batcher.push(&topic(&format!("t{name}")), *at, Kind::Text, payload);
            }
            let batch = batcher.take(5);
            let read = Batch::decode(batch.encode()).unwrap();
            let mut payloads: Vec<_> = read.slices.iter().flat_map(|(_, s)| s.changes_after(0).unwrap()).collect();
            payloads.sort_by_key(|c| c.offset);
            prop_assert_eq!(payloads.len(), changes.len());
            for (change, (_, at, payload)) in payloads.iter().zip(&changes) {
                prop_assert_eq!((change.at, &change.payload[..]), (*at, &payload[..]));
            }
            prop_assert_eq!(read, batch);
        }

        #[test]
        fn bytes_that_are_no_batch_are_refused_without_a_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), valid_start in any::<bool>()) {
            if valid_start {
                bytes.splice(0..0, *MAGIC);
            }
            if let Ok(batch) = Batch::decode(Bytes::from(bytes)) {
                for (_, slice) in batch.slices {
                    drop(slice.changes_after(0));
                }
            }
        }

        #[test]
        fn a_cut_batch_is_refused(cut in 0..60usize) {
            let mut batcher = Batcher::new(FeedId::random(), 3, 0);
            batcher.push(&topic("a"), 1, Kind::Json, b"{\"some\": \"payload\"}");
            let wire = batcher.take(1).encode();
            prop_assert!(Batch::decode(wire.slice(..cut)).is_err());
        }
    }
}
