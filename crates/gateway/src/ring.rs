//! The frames that a set of connections gets: once in memory, however many read them, each at its
//! own pace. A reader is a position, in bytes since the ring began; between two writes it may lie
//! within a frame.

use std::{collections::VecDeque, ops::Deref};

use bytes::Bytes;
use protocol::{Offset, Source};

use crate::hit::OpenTx;

/// A chunk takes more until it has this many bytes. So what waits for a reader is mostly one slice.
const CHUNK_BYTES: usize = 32 * 1024;

/// Of less than this a copy is taken along, and not the chunk that it lies in.
const SHARED_BYTES: usize = 4 * 1024;

/// See the module.
#[derive(Debug, Default)]
pub struct Ring {
    chunks: VecDeque<Chunk>,
    marks: VecDeque<Mark>,
    /// Where the first chunk begins.
    tail: u64,
    /// Where the next frame begins.
    head: u64,
}

/// Whole frames, one behind the other.
#[derive(Debug)]
struct Chunk {
    start: u64,
    frames: Frames,
}

#[derive(Debug)]
enum Frames {
    /// There may be more of them.
    Growing(Vec<u8>),
    /// These are all: who leaves the ring can take a part of them along.
    Whole(Bytes),
}

impl Deref for Frames {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Growing(bytes) => bytes,
            Self::Whole(bytes) => bytes,
        }
    }
}

/// A frame, and what a reader that has not had it needs to go on from elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Where it ends.
    pub end: u64,
    /// Whose it is.
    pub route: u32,
    /// Where the change came from.
    pub source: Source,
    /// Its change.
    pub offset: Offset,
    /// The route's transaction before this frame, if it was to go on.
    pub open: Option<OpenTx>,
}

impl Chunk {
    fn end(&self) -> u64 {
        self.start + self.frames.len() as u64
    }

    /// Appends a frame; whether there was room for it. If not, there is none any more.
    fn take(&mut self, frame: &[u8]) -> bool {
        let Frames::Growing(bytes) = &mut self.frames else { return false };
        let has_room = bytes.len() + frame.len() <= CHUNK_BYTES;
        if has_room {
            bytes.extend_from_slice(frame);
        } else {
            self.frames = Frames::Whole(std::mem::take(bytes).into());
        }
        has_room
    }
}

impl Ring {
    /// Where the next frame will begin.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Where the oldest of what is here begins.
    pub fn tail(&self) -> u64 {
        self.tail
    }

    /// Bytes in memory.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        (self.head - self.tail) as usize
    }

    /// Appends a frame. The end of its mark is set here.
    pub fn push(&mut self, frame: &[u8], mark: Mark) {
        if !self.chunks.back_mut().is_some_and(|chunk| chunk.take(frame)) {
            let bytes = frame.to_vec();
            let is_whole = bytes.len() > CHUNK_BYTES;
            let frames = if is_whole { Frames::Whole(bytes.into()) } else { Frames::Growing(bytes) };
            self.chunks.push_back(Chunk { start: self.head, frames });
        }
        self.head += frame.len() as u64;
        self.marks.push_back(Mark { end: self.head, ..mark });
    }

    /// What follows a position, as far as it lies together in memory; nothing at the head.
    pub fn from(&self, position: u64) -> &[u8] {
        self.two_from(position)[0]
    }

    /// What follows a position, in two pieces where it goes on elsewhere in memory. A ring that is kept
    /// for slow readers is seldom at the beginning of a chunk: with two writes where one chunk ends, they
    /// made the others a half slower.
    pub fn two_from(&self, position: u64) -> [&[u8]; 2] {
        debug_assert!(position >= self.tail, "nobody stays before the tail");
        let after = self.chunks.partition_point(|chunk| chunk.end() <= position);
        let Some(chunk) = self.chunks.get(after) else { return [&[], &[]] };
        let rest = chunk.frames.get(position.saturating_sub(chunk.start) as usize..).unwrap_or_default();
        [rest, self.chunks.get(after + 1).map_or(&[], |next| &next.frames)]
    }

    /// What lies between two positions, in as few pieces as there are. A thousand may take the same along, and
    /// that of a large frame: so they share what is much.
    pub fn pieces(&self, mut from: u64, until: u64) -> impl Iterator<Item = Bytes> {
        let first = self.chunks.partition_point(|chunk| chunk.end() <= from);
        self.chunks.range(first..).take_while(move |chunk| chunk.start < until).map(move |chunk| {
            let part = from.saturating_sub(chunk.start) as usize..(until.min(chunk.end()) - chunk.start) as usize;
            from = chunk.end();
            match &chunk.frames {
                Frames::Whole(bytes) if part.len() >= SHARED_BYTES => bytes.slice(part),
                frames => Bytes::copy_from_slice(&frames[part]),
            }
        })
    }

    /// Where that ends which a reader at a position has had a part of; the position itself if there is no
    /// such thing. That is a frame, or all frames of a route that belong together: those with the same
    /// offset, as of changes that were conflated. Who went on from elsewhere between two of them would get
    /// rows again, and older ones than it had.
    pub fn boundary(&self, position: u64) -> u64 {
        let next = self.marks.partition_point(|mark| mark.end <= position);
        let before = next.checked_sub(1);
        let is_between = before.is_some_and(|before| self.marks[before].end == position)
            || self.chunks.iter().any(|chunk| chunk.start == position);
        let Some(mut last) = (if is_between { before } else { Some(next) }) else { return position };
        while let (Some(mark), Some(next)) = (self.marks.get(last), self.marks.get(last + 1))
            && (mark.route, mark.source, mark.offset) == (next.route, next.source, next.offset)
        {
            last += 1;
        }
        self.marks.get(last).map_or(self.head, |mark| mark.end)
    }

    /// The frames after a boundary, in order.
    pub fn after(&self, boundary: u64) -> impl Iterator<Item = &Mark> {
        self.marks.range(self.marks.partition_point(|mark| mark.end <= boundary)..)
    }

    /// Where the tail would be if about so many bytes were kept; `None` if no more are here. The
    /// newest chunk is always kept.
    pub fn tail_for(&self, keep: usize) -> Option<u64> {
        let mut tail = self.tail;
        for chunk in self.chunks.iter().take(self.chunks.len().saturating_sub(1)) {
            if (self.head - tail) as usize <= keep {
                break;
            }
            tail = chunk.end();
        }
        (tail > self.tail).then_some(tail)
    }

    /// Forgets what lies before a tail that [`Ring::tail_for`] has told. Nobody may read from before
    /// it then.
    pub fn trim(&mut self, tail: u64) {
        self.chunks.drain(..self.chunks.partition_point(|chunk| chunk.end() <= tail));
        // The last one before it stays, for who is just there: see [`Ring::boundary`].
        let before = self.marks.partition_point(|mark| mark.end <= tail);
        self.marks.drain(..before.saturating_sub(1));
        self.tail = tail;
    }

    /// Forgets everything: all readers are at the head. An idle ring holds no memory.
    pub fn clear(&mut self) {
        *self = Self { head: self.head, tail: self.head, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(offset: Offset) -> Mark {
        Mark { end: 0, route: 1, source: Source::Log, offset, open: None }
    }

    fn filled(frames: u64, bytes: usize) -> Ring {
        let mut ring = Ring::default();
        for offset in 1..=frames {
            ring.push(&vec![offset as u8; bytes], mark(offset));
        }
        ring
    }

    #[test]
    fn a_reader_gets_every_byte_from_wherever_it_is() {
        let ring = filled(200, 1000);
        assert_eq!(ring.len(), 200_000);
        for position in [0, 1, 999, 1000, 32_000, 32_001, 199_999] {
            let rest = ring.pieces(position, ring.head()).collect::<Vec<_>>().concat();
            assert_eq!(rest.len() as u64, 200_000 - position);
            assert!(rest.iter().enumerate().all(|(at, byte)| *byte == ((position + at as u64) / 1000 + 1) as u8));
        }
        assert!(ring.from(ring.head()).is_empty());
        let [end, next] = ring.two_from(31_999);
        assert_eq!((end, next.len(), next[0]), (&[32; 1][..], 32_000, 33));
        assert_eq!(ring.two_from(199_999), [&[200; 1][..], &[]]);
    }

    #[test]
    fn a_boundary_is_the_end_of_the_frame_that_a_reader_is_within() {
        let ring = filled(100, 1000);
        let cases = [(0, 0), (1, 1000), (999, 1000), (1000, 1000), (31_500, 32_000), (100_000, 100_000)];
        for (position, boundary) in cases {
            assert_eq!(ring.boundary(position), boundary, "{position}");
        }
        assert_eq!(ring.after(2000).next().map(|mark| mark.offset), Some(3));
        assert_eq!(ring.after(100_000).next(), None);
    }

    #[test]
    fn frames_that_belong_together_have_one_boundary() {
        let mut ring = Ring::default();
        for offset in [1, 2, 2, 2, 3] {
            ring.push(&[0; 10], mark(offset));
        }
        ring.push(&[0; 10], Mark { route: 2, ..mark(3) });
        for (position, boundary) in
            [(0, 0), (5, 10), (10, 10), (11, 40), (20, 40), (35, 40), (40, 40), (45, 50), (50, 50)]
        {
            assert_eq!(ring.boundary(position), boundary, "{position}");
        }
        ring.trim(20);
        assert_eq!((ring.boundary(20), ring.boundary(40)), (40, 40), "also where the first of them is no longer here");
    }

    #[test]
    fn the_oldest_chunks_go_and_the_newest_stays() {
        let mut ring = filled(100, 1000);
        assert_eq!(ring.tail_for(100_000), None);
        let tail = ring.tail_for(50_000).unwrap();
        assert_eq!(tail, 64_000, "whole chunks");
        ring.trim(tail);
        assert_eq!((ring.len(), ring.boundary(tail)), (36_000, tail));
        assert_eq!(ring.after(tail).next().map(|mark| mark.offset), Some(65));
        assert_eq!(filled(1, 90_000).tail_for(10), None);
        ring.clear();
        assert_eq!((ring.len(), ring.head()), (0, 100_000));
        ring.push(&[7; 5], mark(101));
        assert_eq!(ring.from(100_000), [7; 5]);
    }
}
