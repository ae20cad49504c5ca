//! What waits for one socket: whole frames, shared with everybody else who gets them.

use std::{collections::VecDeque, io, io::IoSlice};

use bytes::{Buf, Bytes};
use tokio::net::TcpStream;

/// Most pieces that go out in one `writev`.
const PIECES: usize = 64;

/// Frames that a socket has not taken yet, in order.
#[derive(Debug, Default)]
pub struct Outbox {
    /// In place, because mostly there is only one: a queue would cost an allocation each time.
    first: Bytes,
    rest: VecDeque<Bytes>,
    bytes: usize,
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
    /// Appends one or several whole frames.
    pub fn push(&mut self, frames: Bytes) {
        let is_first = self.bytes == 0;
        self.bytes += frames.len();
        if is_first {
            self.first = frames;
        } else {
            self.rest.push_back(frames);
        }
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Writes until the socket is full or nothing is left. Returns also how many bytes went out.
    pub fn flush(&mut self, socket: &TcpStream) -> (Flushed, usize) {
        let before = self.bytes;
        let state = loop {
            if self.bytes == 0 {
                // An idle connection holds no queue.
                self.rest = VecDeque::new();
                break Flushed::All;
            }
            match self.write(socket) {
                Ok(0) => break Flushed::Dead,
                Ok(written) => self.advance(written),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break Flushed::Full,
                Err(_) => break Flushed::Dead,
            }
        };
        (state, before - self.bytes)
    }

    fn write(&self, socket: &TcpStream) -> io::Result<usize> {
        if self.rest.is_empty() {
            return socket.try_write(&self.first);
        }
        let mut slices = [IoSlice::new(&[]); PIECES];
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(std::iter::once(&self.first).chain(&self.rest)) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        socket.try_write_vectored(&slices[..count])
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        while written >= self.first.len() && !self.first.is_empty() {
            written -= self.first.len();
            self.first = self.rest.pop_front().unwrap_or_default();
        }
        self.first.advance(written);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_in_part_goes_on_where_it_stopped() {
        let mut outbox = Outbox::default();
        for piece in [&b"abc"[..], b"de", b"f"] {
            outbox.push(Bytes::from_static(piece));
        }
        let left = |outbox: &Outbox| -> Vec<u8> {
            std::iter::once(&outbox.first).chain(&outbox.rest).flat_map(|piece| piece.to_vec()).collect()
        };
        for (written, rest) in [(2, "cdef"), (1, "def"), (3, "")] {
            outbox.advance(written);
            assert_eq!((left(&outbox), outbox.bytes()), (rest.as_bytes().to_vec(), rest.len()));
        }
        outbox.push(Bytes::from_static(b"g"));
        assert_eq!(left(&outbox), b"g");
    }
}
