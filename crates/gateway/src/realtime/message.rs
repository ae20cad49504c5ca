//! The frames of Phoenix, in both versions of its JSON, and the binary ones that carry broadcasts.
//!
//! ```text
//! 2.0.0  [join_ref, ref, topic, event, payload]
//! 1.0.0  {"topic":…,"event":…,"payload":…,"ref":…,"join_ref":…}      join_ref from clients alone
//! 2.0.0, binary, a push:
//!        3 | lengths of join_ref, ref, topic, event, meta | 0 binary, 1 JSON | join_ref ref topic event meta payload
//! 2.0.0, binary, what others get of it:
//!        4 | lengths of topic, event, meta | 0 binary, 1 JSON | topic event meta payload
//! ```

use protocol::message::json;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::broadcast::Broadcast;

/// The topic of what is about the socket, and no channel.
pub const SOCKET_TOPIC: &str = "phoenix";

/// Longest `ref` of a client. They are echoed, and kept for each channel.
const MAX_REF_BYTES: usize = 64;

/// The length of a name in a binary frame is one byte.
pub const MAX_NAME_BYTES: usize = 255;

const PUSH: u8 = 3;
const BROADCAST: u8 = 4;

/// A version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Vsn {
    /// `1.0.0`: objects.
    One,
    /// `2.0.0`: arrays, and binary frames.
    Two,
}

/// A number that a client gave to a message or a join, as it came: a JSON string or number, or null.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ref(Option<Box<str>>);

/// What a client says.
#[derive(Debug, PartialEq)]
pub struct Message {
    /// The join of the channel that it belongs to.
    pub join_ref: Ref,
    /// What the answer is to carry.
    pub reference: Ref,
    /// The channel.
    pub topic: Box<str>,
    /// What is to happen.
    pub event: Box<str>,
    /// The rest.
    pub payload: Payload,
}

/// What a message carries.
#[derive(Debug, PartialEq)]
pub enum Payload {
    /// JSON.
    Json(Value),
    /// A broadcast of a binary frame: its own event, and its content.
    Broadcast {
        /// The event that its sender chose.
        event: Box<str>,
        /// What it carries.
        content: Content,
        /// What is to be done with it besides; JSON, or nothing.
        meta: Box<str>,
    },
}

/// What a broadcast carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// JSON.
    Json(bytes::Bytes),
    /// Any bytes.
    Binary(bytes::Bytes),
}

impl Vsn {
    /// The version of a URL's `vsn`; without one it is the first, as it is for Supabase.
    pub fn of(text: Option<&str>) -> Option<Self> {
        match text {
            None | Some("1.0.0") => Some(Self::One),
            Some("2.0.0") => Some(Self::Two),
            Some(_) => None,
        }
    }

    /// A message to a client.
    pub fn write(self, join_ref: &Ref, reference: &Ref, topic: &str, event: &str, payload: &str) -> String {
        let (reference, topic) = (reference.as_json(), json(topic));
        match self {
            Self::One => format!(r#"{{"topic":{topic},"event":"{event}","payload":{payload},"ref":{reference}}}"#),
            Self::Two => format!(r#"[{},{reference},{topic},"{event}",{payload}]"#, join_ref.as_json()),
        }
    }

    /// A broadcast as its receivers get it: the payload of a frame, and whether that is text. The first version has
    /// no way to tell what is binary.
    pub fn broadcast(self, broadcast: &Broadcast) -> Option<(Vec<u8>, bool)> {
        let Broadcast { topic, event, content, .. } = broadcast;
        match (self, content) {
            (Self::Two, content) => Some((write_broadcast(topic, event, content), false)),
            (Self::One, Content::Binary(_)) => None,
            (Self::One, Content::Json(payload)) => {
                let (begin, end) = self.around(topic, "broadcast");
                let begin = format!(r#"{begin}{{"type":"broadcast","event":{},"payload":"#, json(event));
                Some(([begin.as_bytes(), payload, b"}", end.as_bytes()].concat(), true))
            }
        }
    }

    /// The beginning and the end of a message that is for everybody on a channel; its payload goes between.
    pub fn around(self, topic: &str, event: &str) -> (String, &'static str) {
        let topic = json(topic);
        match self {
            Self::One => (format!(r#"{{"topic":{topic},"event":"{event}","ref":null,"payload":"#), "}"),
            Self::Two => (format!(r#"[null,null,{topic},"{event}","#), "]"),
        }
    }
}

impl Ref {
    /// As it stands in JSON.
    pub fn as_json(&self) -> &str {
        self.0.as_deref().unwrap_or("null")
    }

    /// This one, or the other if there is none.
    pub fn or<'a>(&'a self, other: &'a Self) -> &'a Self {
        if self.0.is_some() { self } else { other }
    }

    fn of(value: Option<&RawValue>, name: &str) -> Result<Self, String> {
        match value.map(RawValue::get) {
            None | Some("null") => Ok(Self(None)),
            Some(text) if text.len() <= MAX_REF_BYTES && !text.starts_with(['[', '{', 't', 'f']) => {
                Ok(Self(Some(text.into())))
            }
            Some(_) => Err(format!("'{name}' must be a string or a number of at most {MAX_REF_BYTES} bytes")),
        }
    }

    fn of_text(text: &str) -> Self {
        Self((!text.is_empty()).then(|| json(text).into()))
    }
}

const NOT_FIRST: &str = r#"not a message of vsn 1.0.0, {"topic":…,"event":…,"payload":…,"ref":…}"#;

#[derive(Deserialize)]
struct First<'a> {
    topic: Box<str>,
    event: Box<str>,
    #[serde(default)]
    payload: Value,
    #[serde(borrow, rename = "ref", default)]
    reference: Option<&'a RawValue>,
    #[serde(borrow, default)]
    join_ref: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Second<'a>(
    #[serde(borrow)] Option<&'a RawValue>,
    #[serde(borrow)] Option<&'a RawValue>,
    Box<str>,
    Box<str>,
    Value,
);

impl Message {
    /// Reads a text frame; what is wrong with it, in words.
    pub fn of_text(vsn: Vsn, text: &str) -> Result<Self, String> {
        let (join_ref, reference, topic, event, payload) = match vsn {
            // To serde a list would be one too.
            Vsn::One if !text.trim_start().starts_with('{') => {
                return Err(NOT_FIRST.into());
            }
            Vsn::One => {
                let First { topic, event, payload, reference, join_ref } =
                    serde_json::from_str(text).map_err(|e| format!("{NOT_FIRST}: {e}"))?;
                (join_ref, reference, topic, event, payload)
            }
            Vsn::Two => {
                let Second(join_ref, reference, topic, event, payload) = serde_json::from_str(text)
                    .map_err(|e| format!("not a message of vsn 2.0.0, [join_ref, ref, topic, event, payload]: {e}"))?;
                (join_ref, reference, topic, event, payload)
            }
        };
        let (join_ref, reference) = (Ref::of(join_ref, "join_ref")?, Ref::of(reference, "ref")?);
        Ok(Self { join_ref, reference, topic, event, payload: Payload::Json(payload) })
    }

    /// Reads a binary frame, which is a push of a broadcast.
    pub fn of_binary(vsn: Vsn, bytes: &[u8]) -> Result<Self, String> {
        let malformed =
            || "not a binary message: it is 3, five lengths, the encoding, and what they tell of".to_owned();
        if vsn == Vsn::One {
            return Err("vsn 1.0.0 has no binary messages; connect with vsn=2.0.0".into());
        }
        let [kind, lengths @ .., encoding] = bytes.first_chunk::<7>().ok_or_else(malformed)?;
        if *kind != PUSH {
            return Err(format!(
                "{kind} is not a kind of binary message that a client may send; a broadcast is {PUSH}"
            ));
        }
        let mut rest = &bytes[7..];
        let mut names = [""; 5];
        for (name, length) in names.iter_mut().zip(lengths) {
            let (text, after) = rest.split_at_checked(*length as usize).ok_or_else(malformed)?;
            *name = std::str::from_utf8(text).map_err(|_| malformed())?;
            rest = after;
        }
        let [join_ref, reference, topic, event, meta] = names;
        let payload = bytes::Bytes::copy_from_slice(rest);
        let content = match encoding {
            0 => Content::Binary(payload),
            1 if check_json(rest).is_ok() => Content::Json(payload),
            1 => return Err("the payload of this binary message says that it is JSON, and is not".into()),
            other => return Err(format!("{other} is not an encoding of a binary message: 0 is binary, 1 is JSON")),
        };
        Ok(Self {
            join_ref: Ref::of_text(join_ref),
            reference: Ref::of_text(reference),
            topic: topic.into(),
            event: "broadcast".into(),
            payload: Payload::Broadcast { event: event.into(), content, meta: meta.into() },
        })
    }
}

/// A broadcast as a client of the second version gets it: the payload of a binary frame. The names are short
/// enough.
fn write_broadcast(topic: &str, event: &str, content: &Content) -> Vec<u8> {
    let (encoding, payload) = match content {
        Content::Binary(payload) => (0, payload),
        Content::Json(payload) => (1, payload),
    };
    let head = [BROADCAST, topic.len() as u8, event.len() as u8, 0, encoding];
    [&head[..], topic.as_bytes(), event.as_bytes(), payload].concat()
}

/// Whether it is JSON. To skip a value is not to look whether its strings are UTF-8, and a text frame that is not
/// would cost each client that gets it its connection.
pub(super) fn check_json(bytes: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(bytes).map_err(|e| e.to_string())?;
    serde_json::from_str::<serde::de::IgnoredAny>(text).map(drop).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refs(message: &Message) -> (&str, &str) {
        (message.join_ref.as_json(), message.reference.as_json())
    }

    #[test]
    fn both_versions_say_the_same() {
        let two = Message::of_text(Vsn::Two, r#"["6","12","realtime:floor","phx_leave",{"a":1}]"#).unwrap();
        let one = r#"{"topic":"realtime:floor","event":"phx_leave","payload":{"a":1},"ref":"12","join_ref":"6"}"#;
        assert_eq!(two, Message::of_text(Vsn::One, one).unwrap());
        assert_eq!(refs(&two), (r#""6""#, r#""12""#));
        let heartbeat = Message::of_text(Vsn::Two, r#"[null,9,"phoenix","heartbeat",{}]"#).unwrap();
        assert_eq!(refs(&heartbeat), ("null", "9"));
        let (join_ref, reference) = (&two.join_ref, &two.reference);
        assert_eq!(
            Vsn::Two.write(join_ref, reference, "realtime:a", "phx_reply", "{}"),
            r#"["6","12","realtime:a","phx_reply",{}]"#
        );
        let first = r#"{"topic":"realtime:a","event":"phx_reply","payload":{},"ref":"12"}"#;
        assert_eq!(Vsn::One.write(join_ref, reference, "realtime:a", "phx_reply", "{}"), first);
    }

    #[test]
    fn what_is_no_message_is_refused_in_words() {
        for (vsn, text, named) in [
            (Vsn::Two, "", "vsn 2.0.0"),
            (Vsn::Two, "{}", "vsn 2.0.0"),
            (Vsn::Two, r#"["1","1","realtime:a","phx_join"]"#, "vsn 2.0.0"),
            (Vsn::Two, r#"["1",["1"],"realtime:a","phx_join",{}]"#, "'ref'"),
            (Vsn::Two, r#"["1",null,7,"phx_join",{}]"#, "vsn 2.0.0"),
            (Vsn::One, r#"["1","1","realtime:a","phx_join",{}]"#, "vsn 1.0.0"),
            (Vsn::One, r#"{"topic":"a"}"#, "event"),
        ] {
            let why = Message::of_text(vsn, text).unwrap_err();
            assert!(why.contains(named), "{text}: {why}");
        }
        let long = format!(r#"["{}",null,"a","b",{{}}]"#, "x".repeat(MAX_REF_BYTES));
        assert!(Message::of_text(Vsn::Two, &long).unwrap_err().contains("'join_ref'"));
    }

    fn push(names: [&str; 5], encoding: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![PUSH];
        out.extend(names.map(|name| name.len() as u8));
        out.push(encoding);
        names.iter().for_each(|name| out.extend_from_slice(name.as_bytes()));
        out.extend_from_slice(payload);
        out
    }

    #[test]
    fn a_binary_push_is_a_broadcast() {
        let names = ["6", "", "realtime:größe", "cursor", ""];
        let message = Message::of_binary(Vsn::Two, &push(names, 1, br#"{"x":1}"#)).unwrap();
        assert_eq!(
            (refs(&message), &*message.topic, &*message.event),
            ((r#""6""#, "null"), "realtime:größe", "broadcast")
        );
        let content = Content::Json(bytes::Bytes::from_static(br#"{"x":1}"#));
        assert_eq!(
            message.payload,
            Payload::Broadcast { event: "cursor".into(), content: content.clone(), meta: "".into() }
        );
        assert_eq!(write_broadcast("realtime:a", "e", &content), b"\x04\x0a\x01\x00\x01realtime:ae{\"x\":1}");
        for (vsn, bytes, named) in [
            (Vsn::One, push(names, 1, b"{}"), "vsn 1.0.0"),
            (Vsn::Two, vec![], "not a binary message"),
            (Vsn::Two, vec![3, 255, 0, 0, 0, 0, 0], "not a binary message"),
            (Vsn::Two, [&[9][..], &push(names, 1, b"{}")[1..]].concat(), "9 is not a kind"),
            (Vsn::Two, push(names, 2, b"{}"), "2 is not an encoding"),
            (Vsn::Two, push(names, 1, b"{"), "JSON"),
        ] {
            let why = Message::of_binary(vsn, &bytes).unwrap_err();
            assert!(why.contains(named), "{bytes:?}: {why}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80), push in any::<bool>(), text in ".{0,80}") {
            let bytes = if push { [&[PUSH, 1, 1, 2, 2, 0, 0][..], &bytes].concat() } else { bytes };
            drop(Message::of_binary(Vsn::Two, &bytes));
            drop(Message::of_text(Vsn::One, &text));
            drop(Message::of_text(Vsn::Two, &text));
        }
    }

    #[test]
    fn json_is_text_too() {
        assert_eq!(check_json(r#"{"größe":[1,"ä"]}"#.as_bytes()), Ok(()));
        for bad in [&b"\"\xff\""[..], b"{", b"", b"1 2"] {
            assert!(check_json(bad).is_err(), "{bad:?}");
        }
    }
}
