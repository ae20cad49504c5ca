//! What a client may send.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::{Cursor, ErrorCode, Topic};

/// Most topics in one subscription.
pub const MAX_TOPICS: usize = 100;
/// Longest subscription id in bytes.
pub const MAX_ID_BYTES: usize = 64;
/// The shortest interval at which a client may ask for watermarks: 19,000 clients a second would
/// cost an eighth of a core.
pub const MIN_WATERMARK_MS: u64 = 5_000;
/// The shortest and the longest time over which changes may be conflated.
pub const CONFLATE_MS: RangeInclusive<u64> = 20..=60_000;

/// What a client may send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientMessage {
    /// Start a subscription.
    Subscribe(Subscribe),
    /// End one.
    Unsubscribe {
        /// Its id.
        id: String,
    },
    /// Show a token: the first one, or a fresh one.
    Auth {
        /// The token.
        token: String,
    },
    /// Ask for a pong.
    Ping,
}

/// A request to subscribe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    /// The client's name for it; without one the gateway makes one up.
    pub id: Option<String>,
    /// What to subscribe to; at least one.
    pub topics: Vec<Topic>,
    /// The last change that the client has.
    pub since: Option<Cursor>,
    /// How often the client wants a watermark.
    pub watermark_ms: Option<u64>,
    /// Over how long the client wants changes of a row to be conflated.
    pub conflate_ms: Option<u64>,
}

/// Why a frame is not a [`ClientMessage`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The subscription that it was about, if that could be read.
    pub id: Option<String>,
    /// What is wrong.
    pub code: ErrorCode,
    /// What is wrong, with the value and what would be right.
    pub message: String,
}

/// Keys of `subscribe` that belong to the protocol and are not served yet. They are refused, not
/// ignored: whoever asks for a filter must not get everything.
pub const LATER: [&str; 4] = ["where", "columns", "ops", "snapshot"];

impl ClientMessage {
    /// Reads a text frame.
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let value: Value =
            serde_json::from_str(text).map_err(|e| refused(None, ErrorCode::BadJson, format!("not JSON: {e}")))?;
        let Value::Object(mut keys) = value else {
            return Err(refused(None, ErrorCode::BadMessage, "a message is a JSON object with a 'type'".into()));
        };
        let id = take_id(&mut keys)?;
        let bad = |message: String| refused(id.clone(), ErrorCode::BadMessage, message);
        let kind = match keys.remove("type") {
            Some(Value::String(kind)) => kind,
            Some(other) => return Err(bad(format!("'type' is {}; it must be a string", show(&other)))),
            None => return Err(bad("'type' is missing; it is one of: subscribe, unsubscribe, auth, ping".into())),
        };
        let message = match kind.as_str() {
            "subscribe" => {
                if let Some(key) = LATER.into_iter().find(|key| keys.contains_key(*key)) {
                    let message = format!("'{key}' is not served by this gateway; leave it out to get every change");
                    return Err(refused(id, ErrorCode::Unsupported, message));
                }
                Self::Subscribe(Subscribe {
                    topics: take_topics(&mut keys, &id)?,
                    since: take_since(&mut keys, &id)?,
                    watermark_ms: take_every_ms(&mut keys, &id, "watermark", MIN_WATERMARK_MS..=u64::MAX)?,
                    conflate_ms: take_every_ms(&mut keys, &id, "conflate", CONFLATE_MS)?,
                    id: id.clone(),
                })
            }
            "unsubscribe" => Self::Unsubscribe {
                id: id.clone().ok_or_else(|| bad("'id' is missing: the id of the subscription to end".into()))?,
            },
            "auth" => match keys.remove("token") {
                Some(Value::String(token)) => Self::Auth { token },
                _ => return Err(bad("'token' is missing, or not a string".into())),
            },
            "ping" => Self::Ping,
            other => {
                return Err(bad(format!(
                    "'{}' is not a type; it is one of: subscribe, unsubscribe, auth, ping",
                    shorten(other)
                )));
            }
        };
        if let Some(key) = keys.keys().next() {
            let message = format!("'{}' is not a key of '{kind}'", shorten(key));
            return Err(refused(id, ErrorCode::UnknownKey, message));
        }
        Ok(message)
    }
}

fn take_id(keys: &mut Map<String, Value>) -> Result<Option<String>, Refused> {
    match keys.remove("id") {
        None => Ok(None),
        Some(Value::String(id)) if !id.is_empty() && id.len() <= MAX_ID_BYTES => Ok(Some(id)),
        Some(other) => Err(refused(
            None,
            ErrorCode::BadMessage,
            format!("'id' is {}; it must be a string of 1 to {MAX_ID_BYTES} bytes", show(&other)),
        )),
    }
}

fn take_topics(keys: &mut Map<String, Value>, id: &Option<String>) -> Result<Vec<Topic>, Refused> {
    let bad = |message: String| refused(id.clone(), ErrorCode::BadMessage, message);
    let names = match (keys.remove("topic"), keys.remove("topics")) {
        (Some(one), None) => vec![one],
        (None, Some(Value::Array(many))) => many,
        (None, Some(other)) => return Err(bad(format!("'topics' is {}; it must be a list of strings", show(&other)))),
        (Some(_), Some(_)) => return Err(bad("give 'topic' or 'topics', not both".into())),
        (None, None) => return Err(bad("'topics' is missing: a list of names, or 'topic' with one".into())),
    };
    if names.is_empty() || names.len() > MAX_TOPICS {
        return Err(bad(format!("'topics' has {} names; a subscription takes 1 to {MAX_TOPICS}", names.len())));
    }
    let mut topics = Vec::with_capacity(names.len());
    for name in names {
        let Value::String(name) = name else {
            return Err(bad(format!("the topic {} is not a string", show(&name))));
        };
        let topic = Topic::new(&name).map_err(|e| refused(id.clone(), ErrorCode::BadTopic, e.to_string()))?;
        if !topics.contains(&topic) {
            topics.push(topic);
        }
    }
    topics.sort();
    Ok(topics)
}

fn take_since(keys: &mut Map<String, Value>, id: &Option<String>) -> Result<Option<Cursor>, Refused> {
    match keys.remove("since") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => match text.parse() {
            Ok(cursor) => Ok(Some(cursor)),
            Err(e) => Err(refused(id.clone(), ErrorCode::BadCursor, format!("'since': {e}"))),
        },
        Some(other) => {
            Err(refused(id.clone(), ErrorCode::BadCursor, format!("'since' is {}; it must be a string", show(&other))))
        }
    }
}

/// `{"every_ms": N}`.
fn take_every_ms(
    keys: &mut Map<String, Value>,
    id: &Option<String>,
    key: &str,
    range: RangeInclusive<u64>,
) -> Result<Option<u64>, Refused> {
    let Some(value) = keys.remove(key) else { return Ok(None) };
    match value.get("every_ms").and_then(Value::as_u64) {
        Some(ms) if range.contains(&ms) && value.as_object().is_some_and(|o| o.len() == 1) => Ok(Some(ms)),
        _ => {
            let (least, most) = (range.start(), range.end());
            let bounds =
                if *most == u64::MAX { format!("at least {least}") } else { format!("from {least} to {most}") };
            let message = format!("'{key}' is {}; it must be {{\"every_ms\": N}} with N {bounds}", show(&value));
            Err(refused(id.clone(), ErrorCode::BadMessage, message))
        }
    }
}

fn refused(id: Option<String>, code: ErrorCode, message: String) -> Refused {
    Refused { id, code, message }
}

fn show(value: &Value) -> String {
    shorten(&value.to_string())
}

fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> ErrorCode {
        ClientMessage::parse(text).unwrap_err().code
    }

    #[test]
    fn a_subscribe_needs_only_topics() {
        let expected = |topics: &[&str]| {
            ClientMessage::Subscribe(Subscribe {
                id: None,
                topics: topics.iter().map(|t| Topic::new(t).unwrap()).collect(),
                since: None,
                watermark_ms: None,
                conflate_ms: None,
            })
        };
        assert_eq!(ClientMessage::parse(r#"{"type":"subscribe","topic":"a"}"#), Ok(expected(&["a"])));
        assert_eq!(ClientMessage::parse(r#"{"type":"subscribe","topics":["b","a","b"]}"#), Ok(expected(&["a", "b"])));
    }

    #[test]
    fn a_full_subscribe_is_read() {
        let text = r#"{"type":"subscribe","id":"x","topics":["a"],"since":"k3f9.7","watermark":{"every_ms":5000},"conflate":{"every_ms":250}}"#;
        let Ok(ClientMessage::Subscribe(subscribe)) = ClientMessage::parse(text) else { panic!("not read") };
        assert_eq!(subscribe.since.map(|c| c.offset), Some(7));
        assert_eq!((subscribe.id.as_deref(), subscribe.watermark_ms), (Some("x"), Some(5000)));
        assert_eq!(subscribe.conflate_ms, Some(250));
    }

    #[test]
    fn what_comes_later_is_refused_and_not_ignored() {
        for key in LATER {
            let refused = ClientMessage::parse(&format!(r#"{{"type":"subscribe","id":"x","topics":["a"],"{key}":1}}"#))
                .unwrap_err();
            assert_eq!((refused.code, refused.id.as_deref()), (ErrorCode::Unsupported, Some("x")));
            assert!(refused.message.contains(key));
        }
    }

    #[test]
    fn every_mistake_has_its_code() {
        assert_eq!(code("hello"), ErrorCode::BadJson);
        assert_eq!(code("[]"), ErrorCode::BadMessage);
        assert_eq!(code("{}"), ErrorCode::BadMessage);
        assert_eq!(code(r#"{"type":"shout"}"#), ErrorCode::BadMessage);
        assert_eq!(code(r#"{"type":"ping","id":7}"#), ErrorCode::BadMessage);
        assert_eq!(code(r#"{"type":"ping","extra":1}"#), ErrorCode::UnknownKey);
        assert_eq!(code(r#"{"type":"subscribe"}"#), ErrorCode::BadMessage);
        assert_eq!(code(r#"{"type":"subscribe","topics":[]}"#), ErrorCode::BadMessage);
        assert_eq!(code(r#"{"type":"subscribe","topics":[1]}"#), ErrorCode::BadMessage);
        assert_eq!(code(r#"{"type":"subscribe","topic":""}"#), ErrorCode::BadTopic);
        assert_eq!(code(r#"{"type":"subscribe","topic":"a","since":"nonsense"}"#), ErrorCode::BadCursor);
        assert_eq!(code(r#"{"type":"subscribe","topic":"a","watermark":{"every_ms":10}}"#), ErrorCode::BadMessage);
        for conflate in ["250", "{}", r#"{"every_ms":19}"#, r#"{"every_ms":60001}"#, r#"{"every_ms":250,"by":"id"}"#] {
            let text = format!(r#"{{"type":"subscribe","topic":"a","conflate":{conflate}}}"#);
            assert_eq!(code(&text), ErrorCode::BadMessage, "{text}");
        }
        assert_eq!(code(r#"{"type":"subscribe","topic":"a","wheer":"x"}"#), ErrorCode::UnknownKey);
        assert_eq!(code(r#"{"type":"unsubscribe"}"#), ErrorCode::BadMessage);
        assert_eq!(code(r#"{"type":"auth"}"#), ErrorCode::BadMessage);
    }
}
