//! Changes in memory as the frames of those who catch up with them. A crowd that resumes, as after a
//! gateway has died, subscribes to the same with the same id: its frames are built once.

use std::{collections::HashMap, rc::Rc};

use bytes::Bytes;
use protocol::{Offset, Source};

use crate::hit::OpenTx;

/// Past this all are forgotten.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// What frames are for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct EncodedKey {
    pub route: u32,
    /// Of the subscription.
    pub id: Box<str>,
    pub source: Source,
    /// After this offset,
    pub after: Offset,
    /// up to this one.
    pub until: Offset,
}

/// The frames that these changes come to.
#[derive(Debug)]
pub(super) struct Encoded {
    frames: Bytes,
    pub parts: Vec<Part>,
    /// Who has them has everything up to here: it may have to be several times until all is there.
    pub through: Offset,
    /// The transaction that is open after it, if there are any.
    pub open: Option<OpenTx>,
}

/// A frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub offset: Offset,
    pub end: usize,
    /// Its transaction, if it is of one.
    pub tx: Option<u64>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct EncodedBatches {
    all: HashMap<EncodedKey, Rc<Encoded>>,
    bytes: usize,
}

impl Encoded {
    pub fn new(frames: Vec<u8>, parts: Vec<Part>, through: Offset, open: Option<OpenTx>) -> Self {
        Self { frames: frames.into(), parts, through, open }
    }

    /// Of the first change after an offset.
    pub fn place_after(&self, after: Offset) -> usize {
        self.parts.partition_point(|part| part.offset <= after)
    }

    /// The frames from a place on.
    pub fn from(&self, place: usize) -> Bytes {
        let start = place.checked_sub(1).map_or(0, |before| self.parts[before].end);
        self.frames.slice(start..)
    }
}

impl EncodedBatches {
    pub fn get(&self, key: &EncodedKey) -> Option<Rc<Encoded>> {
        self.all.get(key).map(Rc::clone)
    }

    pub fn put(&mut self, key: EncodedKey, encoded: &Rc<Encoded>) {
        let entry = size_of::<(EncodedKey, Encoded)>() + key.id.len();
        self.bytes += entry + encoded.frames.len() + encoded.parts.len() * size_of::<Part>();
        if self.bytes > MOST_BYTES {
            self.clear();
        }
        self.all.insert(key, Rc::clone(encoded));
    }

    /// To be called when a route, a feed or a while has gone.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}
