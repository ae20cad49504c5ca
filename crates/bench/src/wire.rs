//! As much of RFC 6455 as a client needs that only counts: server frames are unmasked and whole.

/// A frame in a buffer.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    pub kind: Kind,
    pub payload: &'a [u8],
}

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Data,
    Ping,
    Pong,
    Close,
}

/// Takes the first frame off a buffer; `None` if it is not all there.
pub fn take<'a>(buffer: &mut &'a [u8]) -> Option<Frame<'a>> {
    let (&[first, second], _) = buffer.split_first_chunk::<2>()?;
    let (head, length) = match second & 0x7f {
        126 => (4, u64::from(u16::from_be_bytes(*buffer.get(2..)?.first_chunk()?))),
        127 => (10, u64::from_be_bytes(*buffer.get(2..)?.first_chunk()?)),
        short => (2, u64::from(short)),
    };
    let end = head + usize::try_from(length).ok()?;
    let payload = buffer.get(head..end)?;
    *buffer = &buffer[end..];
    let kind = match first & 0x0f {
        0x8 => Kind::Close,
        0x9 => Kind::Ping,
        0xA => Kind::Pong,
        _ => Kind::Data,
    };
    Some(Frame { kind, payload })
}

/// A ping of a client. Whoever answers it has taken the client in.
pub const PING: [u8; 6] = [0x89, 0x80, 0, 0, 0, 0];

/// A client's answer to a ping, masked with zeros, which leave it as it is.
pub fn pong(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x8A, 0x80 | payload.len() as u8, 0, 0, 0, 0];
    frame.extend_from_slice(payload);
    frame
}

/// A client's text frame of fewer than 64 KiB, masked with zeros too.
pub fn client_text(payload: &str) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + 8);
    match payload.len() {
        short @ 0..126 => frame.extend([0x81, 0x80 | short as u8]),
        long => {
            frame.extend([0x81, 0x80 | 126]);
            frame.extend((long as u16).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend_from_slice(payload.as_bytes());
    frame
}

/// Appends a server's text frame of fewer than 64 KiB.
pub fn write_text(out: &mut Vec<u8>, payload: &[u8]) {
    match payload.len() {
        short @ 0..126 => out.extend([0x81, short as u8]),
        long => {
            out.extend([0x81, 126]);
            out.extend((long as u16).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_off_a_buffer_one_by_one_and_only_whole() {
        let mut bytes = Vec::new();
        write_text(&mut bytes, b"hi");
        write_text(&mut bytes, &[b'x'; 300]);
        bytes.extend([0x89, 0]);
        for cut in 0..bytes.len() {
            let mut rest = &bytes[..cut];
            let whole = std::iter::from_fn(|| take(&mut rest)).count();
            assert_eq!(whole, usize::from(cut >= 4) + usize::from(cut >= 4 + 304), "{cut}");
        }
        let mut rest = &bytes[..];
        assert_eq!(take(&mut rest), Some(Frame { kind: Kind::Data, payload: b"hi" }));
        assert_eq!(take(&mut rest).map(|frame| frame.payload.len()), Some(300));
        assert_eq!(take(&mut rest), Some(Frame { kind: Kind::Ping, payload: b"" }));
        assert!(rest.is_empty());
    }
}
