use protocol::Close;

use super::frame::{BINARY, CLOSE, CONTINUATION, FIN, MAX_CONTROL_BYTES, PING, PONG, TEXT};

/// A whole message or control frame of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// A text message, put together from its fragments.
    Text(String),
    /// A binary message; rowcast speaks none, so it is not kept.
    Binary,
    /// A ping, with what the pong must carry.
    Ping(Vec<u8>),
    /// A pong.
    Pong,
    /// The client says goodbye.
    Close,
}

/// Why a connection must be closed: the code, and a reason for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(pub Close, pub &'static str);

/// Turns the bytes of a client into messages. Strict: what RFC 6455 forbids is a [`Violation`].
/// Holds memory only while a frame or a message is half-read, and never more than the limit and
/// one read.
#[derive(Debug)]
pub struct Decoder {
    limit: u32,
    /// Bytes of a frame that is not complete.
    partial: Vec<u8>,
    /// Payload of a message whose last fragment has not come.
    message: Vec<u8>,
    /// The kind of that message.
    fragmented: Option<u8>,
}

struct Header {
    fin: bool,
    opcode: u8,
    mask: [u8; 4],
    start: usize,
    end: usize,
}

impl Decoder {
    /// A decoder that takes messages of at most `limit` bytes.
    pub fn new(limit: u32) -> Self {
        Self { limit, partial: Vec::new(), message: Vec::new(), fragmented: None }
    }

    /// Reads on, and appends what is complete now. After a violation nothing more must be read.
    pub fn read(&mut self, input: &[u8], out: &mut Vec<Incoming>) -> Result<(), Violation> {
        if self.partial.is_empty() {
            let used = self.frames(input, out)?;
            self.partial.extend_from_slice(&input[used..]);
        } else {
            let mut held = std::mem::take(&mut self.partial);
            held.extend_from_slice(input);
            let used = self.frames(&held, out)?;
            if used < held.len() {
                held.drain(..used);
                self.partial = held;
            }
        }
        Ok(())
    }

    fn frames(&mut self, input: &[u8], out: &mut Vec<Incoming>) -> Result<usize, Violation> {
        let mut used = 0;
        while let Some(header) = self.header(&input[used..])? {
            let frame = &input[used..];
            if frame.len() < header.end {
                break;
            }
            let mut payload = frame[header.start..header.end].to_vec();
            unmask(&mut payload, header.mask);
            used += header.end;
            if let Some(incoming) = self.frame(&header, payload)? {
                let last = incoming == Incoming::Close;
                out.push(incoming);
                if last {
                    return Ok(input.len());
                }
            }
        }
        Ok(used)
    }

    /// The header, checked, as soon as it is there: what is too big is refused before it is read.
    fn header(&self, input: &[u8]) -> Result<Option<Header>, Violation> {
        let &[first, second, ref rest @ ..] = input else { return Ok(None) };
        let violation = |reason| Err(Violation(Close::ProtocolError, reason));
        let (fin, opcode) = (first & FIN != 0, first & 0x0F);
        if first & 0x70 != 0 {
            return violation("reserved bits are set");
        }
        if second & 0x80 == 0 {
            return violation("a client frame must be masked");
        }
        let (length, length_bytes) = match second & 0x7F {
            126 => {
                let Some(bytes) = rest.first_chunk::<2>() else { return Ok(None) };
                (u64::from(u16::from_be_bytes(*bytes)), 2)
            }
            127 => {
                let Some(bytes) = rest.first_chunk::<8>() else { return Ok(None) };
                (u64::from_be_bytes(*bytes), 8)
            }
            short => (u64::from(short), 0),
        };
        if (length_bytes == 2 && length < 126) || (length_bytes == 8 && length <= 0xFFFF) || length >> 63 != 0 {
            return violation("a length must take its shortest form");
        }
        match opcode {
            TEXT | BINARY if self.fragmented.is_some() => return violation("a new message inside a fragmented one"),
            CONTINUATION if self.fragmented.is_none() => return violation("a continuation of nothing"),
            TEXT | BINARY | CONTINUATION => {
                if length + self.message.len() as u64 > u64::from(self.limit) {
                    return Err(Violation(Close::TooBig, "the message is larger than this gateway takes"));
                }
            }
            CLOSE | PING | PONG => {
                if !fin || length > MAX_CONTROL_BYTES as u64 {
                    return violation("a control frame must be short and whole");
                }
            }
            _ => return violation("unknown opcode"),
        }
        let Some(mask) = rest.get(length_bytes..).and_then(|r| r.first_chunk::<4>()) else { return Ok(None) };
        let start = 2 + length_bytes + 4;
        Ok(Some(Header { fin, opcode, mask: *mask, start, end: start + length as usize }))
    }

    fn frame(&mut self, header: &Header, payload: Vec<u8>) -> Result<Option<Incoming>, Violation> {
        Ok(match header.opcode {
            PING => Some(Incoming::Ping(payload)),
            PONG => Some(Incoming::Pong),
            CLOSE => {
                check_close(&payload)?;
                Some(Incoming::Close)
            }
            _ => {
                let kind = if header.opcode == CONTINUATION { self.fragmented } else { Some(header.opcode) };
                if self.message.is_empty() {
                    self.message = payload;
                } else {
                    self.message.extend_from_slice(&payload);
                }
                if !header.fin {
                    self.fragmented = kind;
                    return Ok(None);
                }
                self.fragmented = None;
                let message = std::mem::take(&mut self.message);
                if kind == Some(BINARY) {
                    Some(Incoming::Binary)
                } else {
                    let text = String::from_utf8(message)
                        .map_err(|_| Violation(Close::InvalidText, "a text message must be UTF-8"))?;
                    Some(Incoming::Text(text))
                }
            }
        })
    }
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    for (byte, key) in payload.iter_mut().zip(mask.into_iter().cycle()) {
        *byte ^= key;
    }
}

fn check_close(payload: &[u8]) -> Result<(), Violation> {
    let violation = |reason| Err(Violation(Close::ProtocolError, reason));
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() { Ok(()) } else { violation("a close code has two bytes") };
    };
    match u16::from_be_bytes(*code) {
        1000..=1003 | 1007..=1014 | 3000..=4999 => {}
        _ => return violation("a close code that must not be sent"),
    }
    match std::str::from_utf8(reason) {
        Ok(_) => Ok(()),
        Err(_) => Err(Violation(Close::InvalidText, "a close reason must be UTF-8")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![first];
        match payload.len() {
            n if n < 126 => out.push(0x80 | n as u8),
            n if n <= 0xFFFF => {
                out.push(0x80 | 126);
                out.extend_from_slice(&(n as u16).to_be_bytes());
            }
            n => {
                out.push(0x80 | 127);
                out.extend_from_slice(&(n as u64).to_be_bytes());
            }
        }
        let mask = [0x12, 0x34, 0x56, 0x78];
        out.extend_from_slice(&mask);
        let mut masked = payload.to_vec();
        unmask(&mut masked, mask);
        out.extend_from_slice(&masked);
        out
    }

    fn decode(input: &[u8]) -> Result<Vec<Incoming>, Violation> {
        let mut out = Vec::new();
        Decoder::new(70_000).read(input, &mut out)?;
        Ok(out)
    }

    fn violation(input: &[u8]) -> Close {
        decode(input).unwrap_err().0
    }

    #[test]
    fn fragments_become_one_message_with_control_frames_between() {
        let mut input = client_frame(0x01, b"he");
        input.extend(client_frame(0x89, b"are you there"));
        input.extend(client_frame(0x00, b"ll"));
        input.extend(client_frame(0x80, b"o"));
        let expected = vec![Incoming::Ping(b"are you there".to_vec()), Incoming::Text("hello".into())];
        assert_eq!(decode(&input), Ok(expected));
    }

    #[test]
    fn what_the_standard_forbids_is_a_violation() {
        assert_eq!(violation(b"\x81\x02hi"), Close::ProtocolError);
        assert_eq!(violation(&client_frame(0xC1, b"x")), Close::ProtocolError);
        assert_eq!(violation(&client_frame(0x83, b"x")), Close::ProtocolError);
        assert_eq!(violation(&client_frame(0x80, b"x")), Close::ProtocolError);
        assert_eq!(violation(&client_frame(0x09, b"x")), Close::ProtocolError);
        assert_eq!(violation(&client_frame(0x89, &[b'x'; 126])), Close::ProtocolError);
        assert_eq!(violation(b"\x81\xfe\x00\x05"), Close::ProtocolError);
        assert_eq!(violation(&client_frame(0x88, b"x")), Close::ProtocolError);
        assert_eq!(violation(&client_frame(0x88, &1005u16.to_be_bytes())), Close::ProtocolError);
        assert_eq!(violation(&client_frame(0x81, b"\xff\xfe")), Close::InvalidText);
        let mut nested = client_frame(0x01, b"a");
        nested.extend(client_frame(0x81, b"b"));
        assert_eq!(violation(&nested), Close::ProtocolError);
    }

    #[test]
    fn a_message_over_the_limit_is_refused_by_its_header_alone() {
        assert_eq!(violation(b"\x81\xff\x00\x00\x00\x00\x00\x98\x96\x80"), Close::TooBig);
        let mut fragments = client_frame(0x01, &[b'x'; 60_000]);
        fragments.extend_from_slice(&client_frame(0x80, &[b'x'; 20_000])[..4]);
        assert_eq!(violation(&fragments), Close::TooBig);
    }

    #[test]
    fn nothing_is_kept_between_messages() {
        let mut decoder = Decoder::new(1000);
        let mut out = Vec::new();
        let input = client_frame(0x81, b"hello");
        decoder.read(&input[..7], &mut out).unwrap();
        assert!(decoder.partial.capacity() > 0);
        decoder.read(&input[7..], &mut out).unwrap();
        assert_eq!((out.len(), decoder.partial.capacity(), decoder.message.capacity()), (1, 0, 0));
    }

    proptest! {
        #[test]
        fn any_split_of_the_bytes_gives_the_same_messages(
            messages in prop::collection::vec("[a-zäöü ]{0,300}", 1..6),
            cuts in prop::collection::vec(1..400usize, 0..20),
        ) {
            let input: Vec<u8> = messages.iter().flat_map(|m| client_frame(0x81, m.as_bytes())).collect();
            let mut decoder = Decoder::new(100_000);
            let (mut out, mut rest) = (Vec::new(), &input[..]);
            for cut in cuts {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                decoder.read(now, &mut out).unwrap();
                rest = later;
            }
            decoder.read(rest, &mut out).unwrap();
            prop_assert_eq!(out, messages.into_iter().map(Incoming::Text).collect::<Vec<_>>());
        }

        #[test]
        fn rubbish_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            drop(decode(&bytes));
        }
    }
}
