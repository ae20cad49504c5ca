//! The frames of Phoenix, in both versions of its JSON, and the binary ones that carry broadcasts.
//!
//! ```text
//! 2.0.0  [join_ref, ref, topic, event, payload]
//! 1.0.0  {"topic":…,"event":…,"payload":…,"ref":…,"join_ref":…}      join_ref from clients alone
//! 2.0.0, binary, a push:
//!        3 | lengths of join_ref, ref, topic, event, meta | 0 binary, 1 JSON | join_ref ref topic event meta payload
//!        3 | lengths of join_ref, ref, topic, event | 0 binary, 1 JSON | join_ref ref topic event payload       2.84
//! 2.0.0, binary, what others get of it:
//!        4 | lengths of topic, event, meta | 0 binary, 1 JSON | topic event meta payload
//! ```

use std::borrow::Cow;

use protocol::message::json;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::broadcast::Broadcast;
use crate::ws::Incoming;

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

    /// Whether this is an earlier number than another. Clients count; what is no number is neither earlier nor later, so
    /// that who does not count, or sends none, is understood.
    pub fn is_before(&self, other: &Self) -> bool {
        let number = |it: &Self| it.as_json().trim_matches('"').parse::<u64>().ok();
        number(self).zip(number(other)).is_some_and(|(own, other)| own < other)
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
    /// Reads what a client sends; what is wrong with it, in words. `None`: it is no message, but a frame for the socket.
    pub fn of(vsn: Vsn, incoming: &Incoming) -> Option<Result<Self, String>> {
        match incoming {
            Incoming::Text(text) => Some(Self::of_text(vsn, text)),
            Incoming::Binary(bytes) => Some(Self::of_binary(vsn, bytes)),
            Incoming::Ping(_) | Incoming::Pong | Incoming::Close => None,
        }
    }

    /// Whether a token comes for a channel that is joined.
    pub fn is_token(&self) -> bool {
        *self.event == *"access_token"
    }

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
        let head: &[u8; 7] = bytes.first_chunk().ok_or_else(malformed)?;
        if head[0] != PUSH {
            return Err(format!(
                "{} is not a kind of binary message that a client may send; a broadcast is {PUSH}",
                head[0]
            ));
        }
        let is_old = is_without_meta(head);
        let (lengths, encoding, mut rest) = match is_old {
            true => (&head[1..5], head[5], &bytes[6..]),
            false => (&head[1..6], head[6], &bytes[7..]),
        };
        let mut names = <[Cow<'_, str>; 5]>::default();
        for (name, length) in names.iter_mut().zip(lengths) {
            let (text, after) = rest.split_at_checked(*length as usize).ok_or_else(malformed)?;
            *name = match is_old {
                true => text.iter().map(|byte| char::from(*byte)).collect(),
                false => std::str::from_utf8(text).map_err(|_| malformed())?.into(),
            };
            rest = after;
        }
        let [join_ref, reference, topic, event, meta] = &names;
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
            topic: (**topic).into(),
            event: "broadcast".into(),
            payload: Payload::Broadcast { event: (**event).into(), content, meta: (**meta).into() },
        })
    }
}

/// Whether a push is one of a client of 2.84, which has no length of the meta data: the encoding, which is 0 or 1, stands in
/// its place, and the first letter of a name in that of the encoding. It writes names with a byte a letter (ISO 8859-1;
/// of letters that have none there it sends others, so those do not arrive as they were).
fn is_without_meta(head: &[u8; 7]) -> bool {
    head[5] <= 1 && head[6] >= b' '
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
mod tests;
