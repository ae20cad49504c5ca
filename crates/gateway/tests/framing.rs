//! The framing, held against another one: tungstenite reads the same of the same bytes, however they
//! are cut, and refuses nothing that is taken here.

use std::io::{self, ErrorKind, Read, Write};

use gateway::ws::{self, Decoder, Incoming, Violation};
use proptest::{prelude::*, sample::Index};
use protocol::Close;
use tokio_tungstenite::tungstenite::{
    Error, Message, WebSocket,
    error::{CapacityError, ProtocolError},
    protocol::{Role, WebSocketConfig},
};

const LIMIT: u32 = 70_000;

/// A frame of a client, which may be wrong in every way.
#[derive(Debug, Clone)]
struct Frame {
    first: u8,
    mask: Option<[u8; 4]>,
    payload: Vec<u8>,
    /// The bytes of its length, if more than it takes.
    length_bytes: usize,
}

impl Frame {
    fn good(first: u8, payload: impl Into<Vec<u8>>, mask: [u8; 4]) -> Self {
        Self { first, mask: Some(mask), payload: payload.into(), length_bytes: 0 }
    }

    fn write(&self, out: &mut Vec<u8>) {
        let (length, masked) = (self.payload.len(), if self.mask.is_some() { 0x80 } else { 0 });
        out.push(self.first);
        if length <= 125 && self.length_bytes == 0 {
            out.push(masked | length as u8);
        } else if length <= 0xFFFF && self.length_bytes <= 2 {
            out.push(masked | 126);
            out.extend((length as u16).to_be_bytes());
        } else {
            out.push(masked | 127);
            out.extend((length as u64).to_be_bytes());
        }
        let mask = self.mask.unwrap_or_default();
        out.extend(self.mask.into_iter().flatten());
        out.extend(self.payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    }
}

fn bytes_of(frames: &[Frame]) -> Vec<u8> {
    let mut out = Vec::new();
    frames.iter().for_each(|frame| frame.write(&mut out));
    out
}

/// Where to cut `length` bytes.
fn pieces<'a>(input: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(input.len() + 1)).chain([0, input.len()]).collect();
    at.sort_unstable();
    at.windows(2).map(|ends| &input[ends[0]..ends[1]]).collect()
}

/// What the gateway makes of it: the messages, and the violation that ended it.
fn ours(pieces: &[&[u8]]) -> (Vec<Incoming>, Option<Violation>) {
    let (mut decoder, mut out) = (Decoder::new(LIMIT), Vec::new());
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

/// A socket of which each piece is one read. What is written to it is lost.
struct Pieces<'a>(std::vec::IntoIter<&'a [u8]>, &'a [u8]);

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.1.is_empty() {
            self.1 = self.0.next().ok_or(ErrorKind::WouldBlock)?;
        }
        self.1.read(buffer)
    }
}

impl Write for Pieces<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What tungstenite makes of it.
fn theirs(role: Role, pieces: Vec<&[u8]>) -> (Vec<Message>, Option<Error>) {
    let limit = Some(LIMIT as usize);
    let config = WebSocketConfig::default().max_message_size(limit).max_frame_size(limit);
    let mut socket = WebSocket::from_raw_socket(Pieces(pieces.into_iter(), &[]), role, Some(config));
    let mut out = Vec::new();
    loop {
        match socket.read() {
            Ok(message) => out.push(message),
            Err(Error::Io(e)) if e.kind() == ErrorKind::WouldBlock => return (out, None),
            Err(Error::ConnectionClosed) => return (out, None),
            Err(error) => return (out, Some(error)),
        }
    }
}

fn as_ours(message: Message) -> Incoming {
    match message {
        Message::Text(text) => Incoming::Text(text.to_string()),
        Message::Binary(bytes) => Incoming::Binary(bytes.to_vec()),
        Message::Ping(payload) => Incoming::Ping(payload.to_vec()),
        Message::Pong(_) => Incoming::Pong,
        Message::Close(_) => Incoming::Close,
        Message::Frame(_) => unreachable!("never read"),
    }
}

fn code_for(error: &Error) -> Option<Close> {
    match error {
        Error::Utf8(_) => Some(Close::InvalidText),
        Error::Capacity(CapacityError::MessageTooLong { .. }) => Some(Close::TooBig),
        Error::Protocol(_) => Some(Close::ProtocolError),
        _ => None,
    }
}

/// What is refused here and taken by tungstenite, and why.
const STRICTER: [&str; 2] = [
    // RFC 6455, 5.2: the minimal number of bytes MUST be used.
    "a length must take its shortest form",
    // 7.4: it tells its caller of a protocol error and answers with one, as a message.
    "a close code that must not be sent",
];

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => "[a-zäöü€🦀 ]{0,40}".prop_map(String::into_bytes),
        2 => prop::collection::vec(any::<u8>(), 0..130),
        1 => prop::sample::select(vec![0, 1, 125, 126, 127, 65_535, 65_536, 69_999, 70_000]).prop_map(|n| vec![b'x'; n]),
    ]
}

fn control() -> impl Strategy<Value = Frame> {
    (prop::sample::select(vec![0x89u8, 0x8A]), prop::collection::vec(any::<u8>(), 0..126), any::<[u8; 4]>())
        .prop_map(|(first, payload, mask)| Frame::good(first, payload, mask))
}

/// A message in fragments (cut between any bytes, not characters), with control frames between them.
fn message() -> impl Strategy<Value = Vec<Frame>> {
    let content = prop_oneof![
        ("[a-zäöü€🦀 ]{0,300}".prop_map(String::into_bytes), Just(0x01u8)),
        (prop::collection::vec(any::<u8>(), 0..300), Just(0x02u8)),
        (prop::sample::select(vec![65_535usize, 65_536, 70_000]).prop_map(|n| vec![b'x'; n]), Just(0x01u8)),
    ];
    let between = prop::collection::vec(prop::collection::vec(control(), 0..2), 8);
    (content, prop::collection::vec(any::<Index>(), 0..7), between, any::<[u8; 4]>()).prop_map(
        |((content, kind), cuts, mut between, mask)| {
            let fragments = pieces(&content, &cuts);
            let last = fragments.len() - 1;
            let mut frames = Vec::new();
            for (i, fragment) in fragments.into_iter().enumerate() {
                let (opcode, fin) = (if i == 0 { kind } else { 0 }, if i == last { 0x80 } else { 0 });
                frames.push(Frame::good(opcode | fin, fragment, mask));
                if i < last {
                    frames.append(&mut between[i]);
                }
            }
            frames
        },
    )
}

/// Mostly right in one thing and wrong in another.
fn any_frame() -> impl Strategy<Value = Frame> {
    let first = prop_oneof![
        8 => prop::sample::select(vec![0x00u8, 0x80, 0x01, 0x81, 0x02, 0x82, 0x89, 0x8A]),
        1 => Just(0x88u8),
        1 => any::<u8>(),
    ];
    let close = (any::<u16>(), "[a-zäöü]{0,70}").prop_map(|(code, reason)| {
        // Half of them among the codes that mean something.
        let code = if code % 2 == 0 { 995 + code % 25 } else { code };
        [&code.to_be_bytes()[..], reason.as_bytes()].concat()
    });
    let mask = prop_oneof![15 => any::<[u8; 4]>().prop_map(Some), 1 => Just(None)];
    let length_bytes = prop_oneof![20 => Just(0usize), 1 => Just(2usize), 1 => Just(8usize)];
    (first, mask, payload(), close, length_bytes).prop_map(|(first, mask, payload, close, length_bytes)| Frame {
        first,
        mask,
        payload: if first == 0x88 && payload.len() > 1 { close } else { payload },
        length_bytes,
    })
}

/// The same messages come out, and if it ends badly, then in the same way.
fn agree(input: &[u8], cuts: &[Index]) -> Result<(), TestCaseError> {
    let (mine, violation) = ours(&pieces(input, cuts));
    prop_assert_eq!(&ours(&[input]), &(mine.clone(), violation.clone()), "the cuts make a difference");
    let (other, mut error) = theirs(Role::Server, pieces(input, cuts));
    let other: Vec<_> = other.into_iter().map(as_ours).collect();
    prop_assert!(other.starts_with(&mine));
    let Some(violation) = violation else {
        prop_assert!(error.is_none(), "only tungstenite refuses: {error:?}");
        prop_assert_eq!(mine, other);
        return Ok(());
    };
    if STRICTER.contains(&violation.1) {
        return Ok(());
    }
    prop_assert_eq!(mine, other);
    if error.is_none() {
        // What is wrong from its first bytes on is refused here at once, there when the frame is whole.
        let whole = [input, &[0; LIMIT as usize + 14]].concat();
        error = theirs(Role::Server, vec![&whole]).1;
    }
    let code = error.as_ref().and_then(code_for);
    // A frame may be wrong in two things, and its header is looked at first here.
    prop_assert!(
        if violation.0 == Close::InvalidText { code == Some(violation.0) } else { code.is_some() },
        "{violation:?} is {error:?} to tungstenite"
    );
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_messages_cut_anywhere_are_read_as_tungstenite_reads_them(
        messages in prop::collection::vec(prop_oneof![message(), control().prop_map(|frame| vec![frame])], 0..6),
        goodbye in prop::option::of((1000u16..1004, "[a-zäöü]{0,61}")),
        cuts in prop::collection::vec(any::<Index>(), 0..12),
    ) {
        let mut frames = messages.concat();
        if let Some((code, reason)) = goodbye {
            frames.push(Frame::good(0x88, [&code.to_be_bytes()[..], reason.as_bytes()].concat(), [1, 2, 3, 4]));
        }
        let input = bytes_of(&frames);
        let (mine, violation) = ours(&pieces(&input, &cuts));
        prop_assert_eq!(violation, None);
        let (other, error) = theirs(Role::Server, pieces(&input, &cuts));
        prop_assert!(error.is_none(), "{error:?}");
        prop_assert_eq!(mine, other.into_iter().map(as_ours).collect::<Vec<_>>());
    }

    #[test]
    fn what_tungstenite_refuses_is_refused(
        frames in prop::collection::vec(any_frame(), 1..6),
        cuts in prop::collection::vec(any::<Index>(), 0..12),
    ) {
        agree(&bytes_of(&frames), &cuts)?;
    }

    #[test]
    fn bytes_that_are_no_frames_are_refused_as_tungstenite_refuses_them(
        good in message(),
        rubbish in prop::collection::vec(any::<u8>(), 0..60),
        cuts in prop::collection::vec(any::<Index>(), 0..6),
    ) {
        let mut input = bytes_of(&good);
        input.extend(rubbish);
        agree(&input, &cuts)?;
    }

    #[test]
    fn a_message_that_was_spoilt_in_one_byte_is_read_or_refused_as_by_tungstenite(
        good in message(),
        at in any::<Index>(),
        byte in any::<u8>(),
        cuts in prop::collection::vec(any::<Index>(), 0..6),
    ) {
        let mut input = bytes_of(&good);
        let at = at.index(input.len());
        input[at] = byte;
        agree(&input, &cuts)?;
    }

    #[test]
    fn what_is_written_is_what_a_tungstenite_client_reads(
        texts in prop::collection::vec(prop_oneof![
            "[a-zäöü€🦀 ]{0,300}",
            prop::sample::select(vec![125usize, 126, 65_535, 65_536]).prop_map(|n| "x".repeat(n)),
        ], 0..6),
        payload in prop::collection::vec(any::<u8>(), 0..126),
        close in prop::sample::select(Close::ALL.to_vec()),
        reason in "[a-zäöü€🦀]{0,100}",
        cuts in prop::collection::vec(any::<Index>(), 0..12),
    ) {
        let mut written = Vec::new();
        let mut expected = Vec::new();
        for text in &texts {
            ws::write_text(&mut written, text.as_bytes());
            written.extend_from_slice(&ws::text(text));
            written.extend_from_slice(&ws::binary(text.as_bytes()));
            expected.extend([Message::text(text), Message::text(text), Message::binary(text.as_bytes().to_vec())]);
        }
        written.extend_from_slice(&ws::ping());
        written.extend_from_slice(&ws::pong(&payload));
        written.extend_from_slice(&ws::close(close, &reason));
        expected.extend([Message::Ping(Vec::new().into()), Message::Pong(payload.into())]);
        let (mut read, error) = theirs(Role::Client, pieces(&written, &cuts));
        prop_assert!(error.is_none(), "{error:?}");
        let Some(Message::Close(Some(goodbye))) = read.pop() else { panic!("no close frame") };
        prop_assert_eq!(read, expected);
        prop_assert_eq!(u16::from(goodbye.code), close.code());
        prop_assert!(reason.starts_with(goodbye.reason.as_str()));
        prop_assert!(goodbye.reason.len() == reason.len() || goodbye.reason.len() > 119);
    }
}

/// The differences, one by one: who changes one side learns of it here.
#[test]
fn what_only_tungstenite_takes_is_known() {
    let mask = [9, 8, 7, 6];
    let long = |length_bytes| Frame { length_bytes, ..Frame::good(0x81, "hi", mask) };
    let code = |code: u16| Frame::good(0x88, code.to_be_bytes(), mask);
    for (frame, reason) in
        [(long(2), STRICTER[0]), (long(8), STRICTER[0]), (code(1005), STRICTER[1]), (code(5000), STRICTER[1])]
    {
        let input = bytes_of(&[frame]);
        assert_eq!(ours(&[&input]).1.map(|violation| violation.1), Some(reason));
        assert!(matches!(theirs(Role::Server, vec![&input]), (read, None) if read.len() == 1));
    }
    // And what both refuse, by name.
    let unmasked = bytes_of(&[Frame { mask: None, ..Frame::good(0x81, "hi", mask) }]);
    assert_eq!(ours(&[&unmasked]).1.map(|violation| violation.0), Some(Close::ProtocolError));
    let (_, error) = theirs(Role::Server, vec![&unmasked]);
    assert!(matches!(error, Some(Error::Protocol(ProtocolError::UnmaskedFrameFromClient))));
}
