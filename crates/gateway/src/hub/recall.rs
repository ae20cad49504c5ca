//! Single changes, as memory has them: the last ones of a topic, or the one at a cursor. For the
//! inspector, and like its lists in pieces.

use std::sync::Arc;

use protocol::{Batch, Cursor, Offset, Source, Topic};

use super::Hub;
use crate::{hit::Hit, row_key::RowKey};

/// Batches that are looked at in one piece, and bytes of changes: to look for a key is to read their JSON.
const PIECE: (usize, usize) = (1000, 64 * 1024);

/// What a change counts as, however small.
const LOOK_BYTES: usize = 128;

/// The last changes of a topic, or of one row of it.
#[derive(Debug)]
pub struct Recall {
    source: Source,
    topic: Topic,
    key: Option<RowKey>,
    most: usize,
    most_bytes: usize,
    /// Everything behind this offset has been looked at.
    before: Option<Offset>,
    bytes: usize,
    /// Those that were found, the last one first.
    pub found: Vec<Hit>,
}

/// Where a cursor is.
#[derive(Debug, Clone)]
pub enum Whereabouts {
    /// In memory.
    Here(Source, Box<Hit>),
    /// Before what memory has.
    Earlier(Source),
    /// Further than this gateway is, which is here.
    Ahead(Source, Cursor),
    /// In memory, and no change: offsets begin with 1.
    Nowhere,
    /// On another feed than there is now.
    OtherFeed,
}

impl Recall {
    /// So many changes, and about so many bytes of them.
    pub fn new(source: Source, topic: Topic, key: Option<RowKey>, most: usize, most_bytes: usize) -> Self {
        Self { source, topic, key, most, most_bytes, before: None, bytes: 0, found: Vec::new() }
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
            self.take_one(hit);
        }
    }

    fn take_one(&mut self, hit: Hit) {
        if self.key.as_ref().is_none_or(|key| key.is_of(&hit)) {
            self.bytes += hit.change.payload.len();
            self.found.push(hit);
        }
    }
}

impl Hub {
    /// Looks further back for changes of a topic; whether there is more to look at.
    pub fn recall(&self, recall: &mut Recall) -> bool {
        let Some(view) = self.feeds.get(&recall.source) else { return false };
        let before = recall.before.unwrap_or(view.last + 1);
        let mut looked_at = 0;
        let batches: Vec<Arc<Batch>> = view.recent.back_from(before - 1).take(PIECE.0).cloned().collect();
        for batch in &batches {
            let slice = batch.slice(recall.topic.as_str());
            // One that is malformed has been lost to everybody.
            let hits = slice.and_then(|slice| Hit::read(&recall.topic, slice, 0).ok()).unwrap_or_default();
            // The end of a large batch may have been looked at already.
            for hit in hits.into_iter().rev().skip_while(|hit| hit.offset() >= before) {
                recall.before = Some(hit.offset());
                looked_at += hit.change.payload.len() + LOOK_BYTES;
                recall.take_one(hit);
                if recall.is_enough() {
                    return false;
                }
                if looked_at >= PIECE.1 {
                    return true;
                }
            }
            recall.before = Some(batch.first);
        }
        !batches.is_empty() && recall.before.is_some_and(|before| before > view.recent.floor() + 1)
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
        let Ok(Some(batch)) = view.recent.after(cursor.offset - 1) else { return Whereabouts::Earlier(*source) };
        let of_slice = |(topic, slice): &(Topic, protocol::Slice)| {
            let is_in_it = slice.first().is_ok_and(|first| first <= cursor.offset) && cursor.offset <= slice.last;
            let hits = Hit::read(topic, slice, cursor.offset - 1).ok().filter(|_| is_in_it)?;
            hits.into_iter().next().filter(|hit| hit.offset() == cursor.offset)
        };
        match batch.slices.iter().find_map(of_slice) {
            Some(hit) => Whereabouts::Here(*source, Box::new(hit)),
            None => Whereabouts::Nowhere,
        }
    }
}
