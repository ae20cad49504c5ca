//! Single changes, as memory has them: the last ones of a topic, or the one at a cursor. For the
//! inspector. The shard only gives the batches: what is in them is read elsewhere.

use std::sync::Arc;

use protocol::{Batch, Cursor, FeedId, Offset, Slice, Source, Topic};

use super::{Hub, looks::Piece};
use crate::{hit::Hit, row_key::RowKey};

/// Bytes of a topic, about, and batches that have something of it, that are given at a time.
const AT_A_TIME: (usize, usize) = (1024 * 1024, 1000);

/// The last changes of a topic, or of one row of it.
#[derive(Debug)]
pub struct Recall {
    topic: Topic,
    key: Option<RowKey>,
    most: usize,
    most_bytes: usize,
    bytes: usize,
    /// Those that were found, the last one first.
    pub found: Vec<Hit>,
}

/// What memory has of a topic: its batches, the newest first.
#[derive(Debug)]
pub struct Remembered {
    source: Source,
    topic: Topic,
    /// The feed, and behind which offset everything has been looked at; nothing before the first look.
    from: Option<Cursor>,
    bytes: usize,
    batches: Vec<Arc<Batch>>,
}

/// Where a cursor is.
#[derive(Debug, Clone)]
pub enum Whereabouts {
    /// In memory: in this batch.
    Here(Source, Arc<Batch>),
    /// Before what memory has.
    Earlier(Source),
    /// Further than this gateway is, which is here.
    Ahead(Source, Cursor),
    /// It is that of no change: offsets begin with 1.
    Nowhere,
    /// On another feed than there is now.
    OtherFeed,
}

impl Recall {
    /// So many changes, and about so many bytes of them.
    pub fn new(topic: Topic, key: Option<RowKey>, most: usize, most_bytes: usize) -> Self {
        Self { topic, key, most, most_bytes, bytes: 0, found: Vec::new() }
    }

    /// Whether it has as many as are wanted.
    pub fn is_enough(&self) -> bool {
        self.found.len() >= self.most || self.bytes >= self.most_bytes
    }

    /// Takes what it wants of some changes that come before all that it has; in order.
    pub fn take(&mut self, hits: impl DoubleEndedIterator<Item = Hit>) {
        for hit in hits.rev() {
            if self.is_enough() {
                return;
            }
            if self.key.as_ref().is_none_or(|key| key.is_of(&hit)) {
                self.bytes += hit.change.payload.len();
                self.found.push(hit);
            }
        }
    }

    /// The same of a batch.
    pub fn take_batch(&mut self, batch: &Batch) {
        let slice = batch.slice(self.topic.as_str());
        // One that is malformed has been lost to everybody.
        let hits = slice.and_then(|slice| Hit::read(&self.topic, slice, 0).ok()).unwrap_or_default();
        self.take(hits.into_iter());
    }
}

impl Remembered {
    /// What one source has of it.
    pub fn new(source: Source, topic: Topic) -> Self {
        Self { source, topic, from: None, bytes: 0, batches: Vec::new() }
    }

    /// The feed that these are of, once it was looked.
    pub fn feed(&self) -> Option<&FeedId> {
        self.from.as_ref().map(|from| &from.feed)
    }

    /// The next of the batches; none if there are no more.
    pub fn take(&mut self) -> Vec<Arc<Batch>> {
        self.bytes = 0;
        std::mem::take(&mut self.batches)
    }
}

impl Hub {
    /// Looks further back for batches that have something of a topic; whether there is more to look at
    /// before the next are given.
    pub fn remember(&self, remembered: &mut Remembered) -> bool {
        let Remembered { source, topic, from, bytes, batches } = remembered;
        let Some(view) = self.feeds.get(source) else { return false };
        let from = from.get_or_insert_with(|| Cursor::new(view.feed.clone(), view.last + 1));
        if from.feed != view.feed {
            return false;
        }
        let piece = Piece::begin();
        for batch in view.recent.back_from(from.offset - 1) {
            from.offset = batch.first;
            if let Some(slice) = batch.slice(topic.as_str()) {
                batches.push(Arc::clone(batch));
                *bytes += slice.bytes.len();
            }
            if *bytes >= AT_A_TIME.0 || batches.len() >= AT_A_TIME.1 {
                return false;
            }
            if piece.is_over() {
                return true;
            }
        }
        false
    }

    /// The change at a cursor.
    pub fn whereabouts(&self, cursor: &Cursor) -> Whereabouts {
        let Some((source, view)) = self.feeds.iter().find(|(_, view)| view.feed == cursor.feed) else {
            return Whereabouts::OtherFeed;
        };
        if cursor.offset == 0 {
            return Whereabouts::Nowhere;
        }
        if cursor.offset > view.last {
            return Whereabouts::Ahead(*source, view.cursor());
        }
        match view.recent.after(cursor.offset - 1) {
            Ok(Some(batch)) => Whereabouts::Here(*source, Arc::clone(batch)),
            Ok(None) => Whereabouts::Nowhere,
            Err(_) => Whereabouts::Earlier(*source),
        }
    }
}

/// The change of a batch that has this offset, if it has one.
pub fn change_at(batch: &Batch, offset: Offset) -> Option<Hit> {
    let has_it = |slice: &Slice| slice.first().is_ok_and(|first| first <= offset) && offset <= slice.last;
    batch.slices.iter().filter(|(_, slice)| has_it(slice)).find_map(|(topic, slice)| {
        let hits = Hit::read(topic, slice, offset - 1).ok()?;
        hits.into_iter().next().filter(|hit| hit.offset() == offset)
    })
}
