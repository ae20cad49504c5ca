use protocol::Close;

use super::frame::{BINARY, CLOSE, CONTINUATION, FIN, MAX_CONTROL_BYTES, PING, PONG, TEXT};

/// A whole message or control frame of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// A text message, put together from its fragments.
    Text(String),
    /// A binary message. rowcast speaks none.
    Binary(Vec<u8>),
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

/// Turns the bytes of a client into messages. Strict: what RFC 6455 forbids is a [`Violation`], as
/// soon as its first byte has come. Holds memory only while a frame or a message is half-read, and
/// never more than twice the limit.
#[derive(Debug)]
pub struct Decoder {
    limit: u32,
    half: Option<Box<Half>>,
}

/// What is half-read.
#[derive(Debug, Default)]
struct Half {
    limit: u32,
    /// Bytes of a header or a control frame that is not complete.
    partial: Vec<u8>,
    /// The kind of the message that is half-read.
    kind: Option<u8>,
    /// Its frame that is half-read.
    frame: Option<DataFrame>,
    /// What has come of its payload.
    message: Vec<u8>,
    /// How much of a text is known to be UTF-8.
    checked: usize,
}

/// What is still to come of a frame of a message.
#[derive(Debug)]
struct DataFrame {
    fin: bool,
    mask: [u8; 4],
    left: usize,
}

struct Header {
    fin: bool,
    opcode: u8,
    mask: [u8; 4],
    start: usize,
    length: usize,
}

impl Decoder {
    /// A decoder that takes messages of at most `limit` bytes.
    pub fn new(limit: u32) -> Self {
        Self { limit, half: None }
    }

    /// Reads on, and appends what is complete now. After a violation nothing more must be read.
    pub fn read(&mut self, input: &[u8], out: &mut Vec<Incoming>) -> Result<(), Violation> {
        let mut half = self.half.take().map_or_else(|| Half { limit: self.limit, ..Half::default() }, |half| *half);
        half.read(input, out)?;
        self.half = (!half.is_over()).then(|| Box::new(half));
        Ok(())
    }
}

impl Half {
    /// Whether a message, and all before it, is complete.
    fn is_over(&self) -> bool {
        self.partial.is_empty() && self.kind.is_none()
    }

    fn read(&mut self, input: &[u8], out: &mut Vec<Incoming>) -> Result<(), Violation> {
        if self.partial.is_empty() {
            return self.frames(input, out);
        }
        let mut held = std::mem::take(&mut self.partial);
        held.extend_from_slice(input);
        self.frames(&held, out)
    }

    fn frames(&mut self, mut input: &[u8], out: &mut Vec<Incoming>) -> Result<(), Violation> {
        loop {
            if let Some(frame) = self.frame.take() {
                let (payload, rest) = input.split_at(frame.left.min(input.len()));
                out.extend(self.payload(frame, payload)?);
                if self.frame.is_some() {
                    return Ok(());
                }
                input = rest;
            }
            let Some(header) = self.header(input)? else { break };
            let payload = &input[header.start..];
            if matches!(header.opcode, TEXT | BINARY | CONTINUATION) {
                self.kind.get_or_insert(header.opcode);
                self.frame = Some(DataFrame { fin: header.fin, mask: header.mask, left: header.length });
                input = payload;
                continue;
            }
            let Some((payload, rest)) = payload.split_at_checked(header.length) else { break };
            out.push(control(&header, payload)?);
            if header.opcode == CLOSE {
                return Ok(());
            }
            input = rest;
        }
        self.partial.extend_from_slice(input);
        Ok(())
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
            TEXT | BINARY if self.kind.is_some() => return violation("a new message inside a fragmented one"),
            CONTINUATION if self.kind.is_none() => return violation("a continuation of nothing"),
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
        Ok(Some(Header { fin, opcode, mask: *mask, start: 2 + length_bytes + 4, length: length as usize }))
    }

    /// Takes what has come of a frame's payload; the message, if that completes it.
    fn payload(&mut self, mut frame: DataFrame, payload: &[u8]) -> Result<Option<Incoming>, Violation> {
        let start = self.message.len();
        self.message.extend_from_slice(payload);
        unmask(&mut self.message[start..], frame.mask);
        frame.left -= payload.len();
        if frame.left == 0 && frame.fin {
            return self.whole().map(Some);
        }
        if frame.left > 0 {
            frame.mask.rotate_left(payload.len() % 4);
            self.frame = Some(frame);
        }
        self.check_text()?;
        Ok(None)
    }

    fn whole(&mut self) -> Result<Incoming, Violation> {
        self.checked = 0;
        let message = std::mem::take(&mut self.message);
        match self.kind.take() {
            Some(BINARY) => Ok(Incoming::Binary(message)),
            _ => String::from_utf8(message).map(Incoming::Text).map_err(|_| NOT_UTF8),
        }
    }

    /// Refuses a half-read text that can no longer become UTF-8. Each byte is looked at once.
    fn check_text(&mut self) -> Result<(), Violation> {
        if self.kind != Some(TEXT) {
            return Ok(());
        }
        match std::str::from_utf8(&self.message[self.checked..]) {
            Ok(text) => self.checked += text.len(),
            // The last character is cut off.
            Err(e) if e.error_len().is_none() => self.checked += e.valid_up_to(),
            Err(_) => return Err(NOT_UTF8),
        }
        Ok(())
    }
}

const NOT_UTF8: Violation = Violation(Close::InvalidText, "a text message must be UTF-8");

fn control(header: &Header, payload: &[u8]) -> Result<Incoming, Violation> {
    let mut payload = payload.to_vec();
    unmask(&mut payload, header.mask);
    match header.opcode {
        PING => Ok(Incoming::Ping(payload)),
        PONG => Ok(Incoming::Pong),
        _ => check_close(&payload).map(|()| Incoming::Close),
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
    fn a_text_is_refused_with_the_first_byte_that_cannot_be_utf8() {
        // 0xF4 0x90 is above the last code point.
        let mut decoder = Decoder::new(1000);
        let mut out = Vec::new();
        let input = client_frame(0x01, b"\xce\xba\xf4\x90\x80\x80");
        for byte in &input[..9] {
            assert_eq!(decoder.read(&[*byte], &mut out), Ok(()));
        }
        assert_eq!(decoder.read(&input[9..10], &mut out), Err(NOT_UTF8));
        // A character may be cut anywhere, but not at the end of the message.
        let mut cut = client_frame(0x01, b"\xe2\x82");
        cut.extend(client_frame(0x80, b"\xac"));
        assert_eq!(decode(&cut), Ok(vec![Incoming::Text("\u{20ac}".into())]));
        let mut unfinished = client_frame(0x01, b"\xe2\x82");
        unfinished.extend(client_frame(0x80, b""));
        assert_eq!(violation(&unfinished), Close::InvalidText);
    }

    #[test]
    fn nothing_is_kept_between_messages() {
        let mut decoder = Decoder::new(1000);
        let mut out = Vec::new();
        let input = client_frame(0x81, b"hello");
        decoder.read(&input[..7], &mut out).unwrap();
        assert!(decoder.half.is_some());
        decoder.read(&input[7..], &mut out).unwrap();
        assert!(out.len() == 1 && decoder.half.is_none());
        assert_eq!(size_of::<Decoder>(), 16);
    }
}
