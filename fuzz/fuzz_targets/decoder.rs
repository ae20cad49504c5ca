//! Any bytes, cut anywhere: the decoder of client frames does not panic, the cuts make no
//! difference, no message is above the limit, and nothing is taken that tungstenite refuses.
#![no_main]

use std::io::{self, ErrorKind, Read, Write};

use gateway::ws::{Decoder, Incoming, Violation};
use libfuzzer_sys::fuzz_target;
use tungstenite::{
    Error, Message, WebSocket,
    protocol::{Role, WebSocketConfig},
};

fuzz_target!(|input: &[u8]| {
    // First how it is cut: pieces of these lengths, again and again, and the limit.
    let Some((&[first, second, limit], stream)) = input.split_first_chunk() else { return };
    let limit = if limit % 2 == 0 { 200 } else { 1 << 20 };
    let (whole, violation) = ours(limit, [stream]);
    let pieces = cut(stream, [usize::from(first) + 1, usize::from(second) + 1]);
    assert_eq!(ours(limit, pieces), (whole.clone(), violation.clone()));
    for message in &whole {
        if let Incoming::Text(text) = message {
            assert!(text.len() <= limit as usize);
        }
    }
    let (theirs, error) = theirs(limit, stream);
    assert!(theirs.starts_with(&whole), "{whole:?} is {theirs:?}");
    if violation.is_none() {
        assert!(error.is_none(), "only tungstenite refuses: {error:?}");
        assert_eq!(theirs, whole);
    }
});

fn cut(mut stream: &[u8], lengths: [usize; 2]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    for length in lengths.into_iter().cycle() {
        if stream.is_empty() {
            break;
        }
        let (piece, rest) = stream.split_at(length.min(stream.len()));
        pieces.push(piece);
        stream = rest;
    }
    pieces
}

fn ours<'a>(limit: u32, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Incoming>, Option<Violation>) {
    let (mut decoder, mut out) = (Decoder::new(limit), Vec::new());
    for piece in pieces {
        if let Err(violation) = decoder.read(piece, &mut out) {
            return (out, Some(violation));
        }
        if out.last() == Some(&Incoming::Close) {
            break;
        }
    }
    (out, None)
}

/// A socket that has this to read, and takes everything.
struct Socket<'a>(&'a [u8]);

impl Read for Socket<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() { Err(ErrorKind::WouldBlock.into()) } else { self.0.read(buffer) }
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn theirs(limit: u32, stream: &[u8]) -> (Vec<Incoming>, Option<Error>) {
    let limit = Some(limit as usize);
    let config = WebSocketConfig::default().max_message_size(limit).max_frame_size(limit).read_buffer_size(4096);
    let mut socket = WebSocket::from_raw_socket(Socket(stream), Role::Server, Some(config));
    let mut out = Vec::new();
    loop {
        out.push(match socket.read() {
            Ok(Message::Text(text)) => Incoming::Text(text.to_string()),
            Ok(Message::Binary(bytes)) => Incoming::Binary(bytes.to_vec()),
            Ok(Message::Ping(payload)) => Incoming::Ping(payload.to_vec()),
            Ok(Message::Pong(_)) => Incoming::Pong,
            Ok(Message::Close(_)) => Incoming::Close,
            Ok(Message::Frame(_)) => unreachable!("never read"),
            Err(Error::Io(e)) if e.kind() == ErrorKind::WouldBlock => return (out, None),
            Err(Error::ConnectionClosed) => return (out, None),
            Err(error) => return (out, Some(error)),
        });
    }
}
