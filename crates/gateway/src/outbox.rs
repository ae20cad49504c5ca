//! What waits for one connection alone (answers, pings, what it catches up with), and where each
//! piece has its place between the frames of the ring that it shares with others.

use std::{collections::VecDeque, io, io::IoSlice};

use bytes::{Buf, Bytes};
use tokio::net::TcpStream;

use crate::{
    ring::Ring,
    socket::{self, WRITE_BYTES},
};

/// Most pieces that go out in one `writev`.
const PIECES: usize = 64;

/// Whole frames, in order; the first may have been written in part.
#[derive(Debug, Default)]
pub struct Outbox {
    pieces: VecDeque<Piece>,
    bytes: usize,
}

/// Frames that follow those of the ring up to a position.
#[derive(Debug)]
struct Piece {
    at: u64,
    frames: Bytes,
}

/// What a write came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flushed {
    /// Nothing waits any more.
    All,
    /// The socket is full.
    Full,
    /// The peer is gone.
    Dead,
}

impl Outbox {
    /// Appends whole frames, to be sent after the ring's up to `at`.
    pub fn push(&mut self, at: u64, frames: Bytes) {
        if !frames.is_empty() {
            self.bytes += frames.len();
            self.pieces.push_back(Piece { at, frames });
        }
    }

    /// Bytes that wait here.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing waits here.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// After which position of the ring the last piece is to be sent.
    pub fn last_at(&self) -> Option<u64> {
        self.pieces.back().map(|piece| piece.at)
    }

    /// The connection has joined a ring, and is at `at` of it.
    pub fn rebase(&mut self, at: u64) {
        self.pieces.iter_mut().for_each(|piece| piece.at = at);
    }

    /// Takes what is still to come from a ring, between two positions, to its place between the
    /// pieces: the connection leaves the ring. What waits afterwards goes before everything of a ring
    /// that it is at `at` of.
    pub fn take_along(&mut self, ring: &Ring, mut from: u64, until: u64, at: u64) {
        // A thousand that are stuck hold a piece each, and one that grows has room for four.
        let room = VecDeque::with_capacity(self.pieces.len() + 1);
        let before = std::mem::replace(&mut self.pieces, room);
        for piece in before {
            if piece.at > from {
                self.take(ring, from, piece.at, at);
                from = piece.at;
            }
            self.pieces.push_back(Piece { at, frames: piece.frames });
        }
        if until > from {
            self.take(ring, from, until, at);
        }
    }

    fn take(&mut self, ring: &Ring, from: u64, until: u64, at: u64) {
        ring.pieces(from, until).for_each(|frames| self.push(at, frames));
    }

    /// Writes until the socket is full or nothing is left, neither here nor in the ring. Returns also
    /// how many bytes went out.
    pub fn flush(&mut self, socket: &TcpStream, ring: Option<&Ring>, position: &mut u64) -> (Flushed, usize) {
        let mut written = 0;
        loop {
            match self.write(socket, ring, *position) {
                Ok(None) => {
                    // An idle connection holds no queue.
                    self.pieces = VecDeque::new();
                    return (Flushed::All, written);
                }
                Ok(Some(0)) => return (Flushed::Dead, written),
                Ok(Some(count)) => {
                    written += count;
                    self.advance(count, position);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return (Flushed::Full, written),
                Err(_) => return (Flushed::Dead, written),
            }
        }
    }

    fn write(&self, socket: &TcpStream, ring: Option<&Ring>, position: u64) -> io::Result<Option<usize>> {
        let mut slices = [IoSlice::new(&[]); PIECES];
        let (mut count, mut room) = (0, WRITE_BYTES);
        for (place, slice) in slices.iter_mut().zip(self.slices(ring, position)) {
            let share = &slice[..slice.len().min(room)];
            if share.is_empty() {
                break;
            }
            *place = IoSlice::new(share);
            count += 1;
            room -= share.len();
        }
        match count {
            0 => Ok(None),
            1 => socket::write(socket, &slices[0]).map(Some),
            _ => socket::write_vectored(socket, &slices[..count]).map(Some),
        }
    }

    /// What is to be sent, in order.
    fn slices<'a>(&'a self, ring: Option<&'a Ring>, mut position: u64) -> impl Iterator<Item = &'a [u8]> {
        let mut pieces = self.pieces.iter().peekable();
        std::iter::from_fn(move || {
            let until = pieces.peek().map_or(u64::MAX, |piece| piece.at);
            if position < until
                && let Some(ring) = ring
            {
                let slice = ring.from(position);
                let slice = &slice[..slice.len().min((until - position) as usize)];
                if !slice.is_empty() {
                    position += slice.len() as u64;
                    return Some(slice);
                }
            }
            pieces.next().map(|piece| &piece.frames[..])
        })
    }

    fn advance(&mut self, mut written: usize, position: &mut u64) {
        while written > 0 {
            match self.pieces.front_mut() {
                Some(piece) if *position < piece.at => {
                    let share = written.min((piece.at - *position) as usize);
                    *position += share as u64;
                    written -= share;
                }
                Some(piece) => {
                    let share = written.min(piece.frames.len());
                    piece.frames.advance(share);
                    self.bytes -= share;
                    written -= share;
                    if piece.frames.is_empty() {
                        self.pieces.pop_front();
                    }
                }
                None => {
                    *position += written as u64;
                    written = 0;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::Mark;
    use protocol::Source;

    fn ring(frames: &[&str]) -> Ring {
        let mut ring = Ring::default();
        for (frame, offset) in frames.iter().zip(1..) {
            ring.push(frame.as_bytes(), Mark { end: 0, route: 0, source: Source::Log, offset, open: None });
        }
        ring
    }

    fn left(outbox: &Outbox, ring: Option<&Ring>, position: u64) -> String {
        outbox.slices(ring, position).map(|slice| str::from_utf8(slice).unwrap()).collect()
    }

    #[test]
    fn what_was_written_in_part_goes_on_where_it_stopped() {
        let ring = ring(&["abc", "de", "f"]);
        let mut outbox = Outbox::default();
        outbox.push(3, Bytes::from_static(b"12"));
        outbox.push(6, Bytes::from_static(b"3"));
        let mut position = 0;
        assert_eq!(left(&outbox, Some(&ring), position), "abc12def3");
        for (written, rest, bytes) in [(2, "c12def3", 3), (2, "2def3", 2), (1, "def3", 1), (3, "3", 1), (1, "", 0)] {
            outbox.advance(written, &mut position);
            assert_eq!((left(&outbox, Some(&ring), position), outbox.bytes()), (rest.to_owned(), bytes));
        }
        assert!(outbox.is_empty());
    }

    #[test]
    fn who_leaves_a_ring_takes_along_what_is_still_to_come_in_its_order() {
        let ring = ring(&["abc", "de", "f"]);
        let mut outbox = Outbox::default();
        outbox.push(3, Bytes::from_static(b"12"));
        outbox.push(5, Bytes::from_static(b"3"));
        outbox.take_along(&ring, 1, 5, 77);
        assert_eq!((left(&outbox, None, 77), outbox.last_at()), ("bc12de3".into(), Some(77)));
        outbox.push(77, Bytes::from_static(b"4"));
        assert_eq!((left(&outbox, None, 77), outbox.bytes()), ("bc12de34".into(), 8));
    }

    #[test]
    fn what_many_take_along_is_once_in_memory() {
        let ring = ring(&[&"x".repeat(20_000), &"y".repeat(20_000), &"z".repeat(100_000), "end"]);
        let part = |from, until| {
            let mut outbox = Outbox::default();
            outbox.take_along(&ring, from, until, 0);
            assert_eq!((outbox.bytes() as u64, outbox.pieces.len()), (until - from, 1));
            outbox.pieces.remove(0).unwrap().frames
        };
        for (from, until) in [(0, 20_000), (25_000, 40_000), (70_000, 140_000)] {
            let (one, other) = (part(from, until), part(from, until));
            assert_eq!((one.as_ptr(), &one), (other.as_ptr(), &other), "from {from}");
            assert_eq!(one, ring.from(from)[..one.len()], "from {from}");
        }
        // Of a little a copy is less than what it lies in.
        assert_ne!(part(19_000, 20_000).as_ptr(), part(19_000, 20_000).as_ptr());
    }
}
