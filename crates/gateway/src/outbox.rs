//! What waits for one socket: whole frames, shared with everybody else who gets them.

use std::{collections::VecDeque, io, io::IoSlice};

use bytes::{Buf, Bytes};
use tokio::net::TcpStream;

/// Most pieces that go out in one `writev`.
const PIECES: usize = 64;

/// Frames that a socket has not taken yet, in order.
#[derive(Debug, Default)]
pub struct Outbox {
    pieces: VecDeque<Bytes>,
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
        self.bytes += frames.len();
        self.pieces.push_back(frames);
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Writes until the socket is full or nothing is left. Returns also how many bytes went out.
    pub fn flush(&mut self, socket: &TcpStream) -> (Flushed, usize) {
        let before = self.bytes;
        let state = loop {
            if self.pieces.is_empty() {
                // An idle connection holds no queue.
                self.pieces = VecDeque::new();
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
        if let [one] = self.pieces.as_slices().0
            && self.pieces.len() == 1
        {
            return socket.try_write(one);
        }
        let mut slices = [IoSlice::new(&[]); PIECES];
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        socket.try_write_vectored(&slices[..count])
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        while written > 0 {
            let Some(first) = self.pieces.front_mut() else { break };
            if written < first.len() {
                first.advance(written);
                break;
            }
            written -= first.len();
            self.pieces.pop_front();
        }
    }
}
