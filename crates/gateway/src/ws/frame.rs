use bytes::Bytes;
use protocol::Close;

pub(super) const FIN: u8 = 0x80;
pub(super) const CONTINUATION: u8 = 0x0;
pub(super) const TEXT: u8 = 0x1;
pub(super) const BINARY: u8 = 0x2;
pub(super) const CLOSE: u8 = 0x8;
pub(super) const PING: u8 = 0x9;
pub(super) const PONG: u8 = 0xA;

/// Longest payload of a control frame.
pub(super) const MAX_CONTROL_BYTES: usize = 125;

/// Appends a whole unmasked text frame.
pub fn write_text(out: &mut Vec<u8>, payload: &[u8]) {
    write_header(out, TEXT, payload.len());
    out.extend_from_slice(payload);
}

/// A text frame.
pub fn text(payload: &str) -> Bytes {
    frame(TEXT, payload.as_bytes())
}

/// A text frame of what is UTF-8.
pub fn text_of(payload: &[u8]) -> Bytes {
    frame(TEXT, payload)
}

/// A binary frame.
pub fn binary(payload: &[u8]) -> Bytes {
    frame(BINARY, payload)
}

/// A ping without payload.
pub fn ping() -> Bytes {
    Bytes::from_static(&[FIN | PING, 0])
}

/// The answer to a ping.
pub fn pong(payload: &[u8]) -> Bytes {
    frame(PONG, payload)
}

/// A close frame; a reason longer than a control frame takes is cut.
pub fn close(close: Close, reason: &str) -> Bytes {
    let mut end = reason.len().min(MAX_CONTROL_BYTES - 2);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let mut payload = close.code().to_be_bytes().to_vec();
    payload.extend_from_slice(&reason.as_bytes()[..end]);
    frame(CLOSE, &payload)
}

fn frame(opcode: u8, payload: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(payload.len() + 10);
    write_header(&mut out, opcode, payload.len());
    out.extend_from_slice(payload);
    out.into()
}

fn write_header(out: &mut Vec<u8>, opcode: u8, length: usize) {
    out.push(FIN | opcode);
    if length <= MAX_CONTROL_BYTES {
        out.push(length as u8);
    } else if let Ok(short) = u16::try_from(length) {
        out.push(126);
        out.extend_from_slice(&short.to_be_bytes());
    } else {
        out.push(127);
        out.extend_from_slice(&(length as u64).to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_takes_the_shortest_form() {
        assert_eq!(&text("hi")[..], b"\x81\x02hi");
        assert_eq!(&text(&"x".repeat(125))[..2], b"\x81\x7d");
        assert_eq!(&text(&"x".repeat(126))[..4], b"\x81\x7e\x00\x7e");
        assert_eq!(&text(&"x".repeat(65_535))[..4], b"\x81\x7e\xff\xff");
        assert_eq!(&text(&"x".repeat(65_536))[..10], b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00");
    }

    #[test]
    fn a_long_close_reason_is_cut_between_characters() {
        let frame = close(Close::Restart, &"ä".repeat(100));
        assert_eq!((frame.len(), &frame[..4]), (2 + 2 + 122, &b"\x88\x7c\x03\xf4"[..]));
        assert!(std::str::from_utf8(&frame[4..]).is_ok());
    }
}
