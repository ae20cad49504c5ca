//! What a client and a gateway say to each other on `/rowcast`: JSON text frames.
//!
//! ```text
//! ← {"type":"hello","gateway":"gateway-1","version":"0.1.0"}
//! → {"type":"subscribe","id":"a","topics":["sensor_updates"],"since":"k3f9.1041"}
//! ← {"type":"subscribed","id":"a","route":17,"cursor":"k3f9.1041","resumed":true}
//! ← {"type":"change","id":"a","cursor":"k3f9.1042","topic":"sensor_updates","data":{…},"at":"…"}
//! ← {"type":"change","route":17,"cursor":"k3f9.1043",…}
//! ← {"type":"change","route":18,"cursor":"h7ax.7","topic":"public.orders","op":"UPDATE","key":["id"],
//!    "data":{…},"old":{…},"at":"…","tx":"7431","tx_end":true}
//! ← {"type":"tx_end","route":18,"cursor":"h7ax.9","tx":"7432"}
//! ← {"type":"watermark","cursor":"k3f9.1043","at":"…"}
//! ← {"type":"reset","id":"a","reason":"history_trimmed","cursor":"k3f9.2000"}
//! ← {"type":"error","id":"a","code":"unknown_topic","message":"…"}
//! → {"type":"unsubscribe","id":"a"}    ← {"type":"unsubscribed","id":"a"}
//! → {"type":"auth","token":"…"}        ← {"type":"authenticated"}
//! → {"type":"ping"}                    ← {"type":"pong"}
//! ```
//!
//! A client keeps a cursor for each subscription: that of the last `subscribed`, `change`, `tx_end`
//! or `reset` of it, or of the last `watermark` of its feed, which is for all on that feed and comes
//! only while all are up to date. A frame with an `id` is for that subscription; one with a `route`
//! is for the one subscription of this connection that was answered with it.
//!
//! `subscribed` comes first, then changes. With `since` it comes once it is known whether nothing is
//! missing: at once as a rule; while the bus is being refilled after a loss, when that is done.
//!
//! # A NOTIFY payload
//!
//! Its `change` has `topic`, `data` (JSON as it is, other text as a string) and `at`, when the
//! listener got it.
//!
//! # A row of a watched table
//!
//! Its `change` has these members too. What does not apply is left out, but for `data`.
//!
//! - `op`: `INSERT`, `UPDATE`, `DELETE` or `TRUNCATE`.
//! - `key`: the names of the key columns. A table without a primary key has none.
//! - `data`: the new row; `null` for `DELETE` and `TRUNCATE` (`{"partition":"…"}` if only that
//!   partition was emptied).
//! - `old`: the old row, or its key, as the table is watched.
//! - `at`: when the statement ran, by the database's clock.
//! - `tx`: the transaction, as a string: it may be above 2^53. Its changes come one behind the other.
//! - `tx_end`: `true` at the transaction's last change *for this subscription*, whatever else it did
//!   to tables that are not subscribed to. Where that is known only later (a transaction that is
//!   larger than a batch), a message `tx_end` tells it instead. A change of another transaction ends
//!   the one before too, which is what a client goes by that was not there for all of it.
//! - `cut`: the names of the columns whose values are left out, because the change was larger than
//!   the table's `max_change_bytes`.
//!
//! # Conflation
//!
//! A subscription with `"conflate":{"every_ms":250}` gets for each row what its changes in that time
//! come to, at most once in it: the first at once, what follows together. An `INSERT` that was followed
//! by updates is an `INSERT` with the last `data`; updates are one, with the first `old` and the last
//! `data`. A `DELETE` is always told, also one that an `INSERT` of the same key follows, or has come
//! before in that time. What cannot be joined, a `TRUNCATE` or a changed key, comes at once, behind all
//! that waits; so does all that waits when it has grown too large. There is no `tx`: what comes is no
//! transaction. The last `change` of each time has the cursor of all of it, and those before it that of
//! the time before, so who resumes in between gets all of it again, as it is by then.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::{Change, Cursor, ErrorCode, FeedId, Kind, Micros, Offset, ResetReason, Row, Topic, time::rfc3339};

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
const LATER: [&str; 4] = ["where", "columns", "ops", "snapshot"];

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

/// `hello`: the first frame of every connection; which gateway this is.
pub fn hello(gateway: &str, version: &str) -> String {
    format!(r#"{{"type":"hello","gateway":{},"version":{}}}"#, json(gateway), json(version))
}

/// `subscribed`: changes of this subscription follow. `cursor` is where they begin: the `since` of
/// one that resumes, so that it is always safe to keep.
pub fn subscribed(id: &str, route: u64, cursor: &Cursor, resumed: bool) -> String {
    format!(r#"{{"type":"subscribed","id":{},"route":{route},"cursor":"{cursor}","resumed":{resumed}}}"#, json(id))
}

/// `unsubscribed`: no change of this subscription follows.
pub fn unsubscribed(id: &str) -> String {
    format!(r#"{{"type":"unsubscribed","id":{}}}"#, json(id))
}

/// `reset`: changes between what the client has and `cursor` may be missing; what follows is
/// complete from `cursor` on.
pub fn reset(id: &str, reason: ResetReason, cursor: &Cursor) -> String {
    format!(r#"{{"type":"reset","id":{},"reason":"{reason}","cursor":"{cursor}"}}"#, json(id))
}

/// `watermark`: the client has every change up to `cursor`, as of `at`.
pub fn watermark(cursor: &Cursor, at: Micros) -> String {
    format!(r#"{{"type":"watermark","cursor":"{cursor}","at":"{}"}}"#, rfc3339(at))
}

/// `error`: a message was refused.
pub fn error(id: Option<&str>, code: ErrorCode, message: &str) -> String {
    let id = id.map(|id| format!(r#""id":{},"#, json(id))).unwrap_or_default();
    format!(r#"{{"type":"error",{id}"code":"{code}","message":{}}}"#, json(message))
}

/// `authenticated`: the token was accepted.
pub const AUTHENTICATED: &str = r#"{"type":"authenticated"}"#;
/// `pong`: the answer to a ping.
pub const PONG: &str = r#"{"type":"pong"}"#;

/// Whom a `change` is for: everybody on a route, or one subscription that catches up.
#[derive(Debug, Clone, Copy)]
pub enum Addressee<'a> {
    /// All subscriptions of this route.
    Route(u64),
    /// The subscription with this id.
    Subscription(&'a str),
}

impl Addressee<'_> {
    /// The beginning of a message of this type, up to the cursor.
    fn open(self, out: &mut Vec<u8>, kind: &str, feed: &FeedId, offset: Offset) {
        use std::io::Write;
        let written = match self {
            Self::Route(route) => write!(out, r#"{{"type":"{kind}","route":{route},"cursor":"{feed}.{offset}","#),
            Self::Subscription(id) => {
                write!(out, r#"{{"type":"{kind}","id":{},"cursor":"{feed}.{offset}","#, json(id))
            }
        };
        // Writing to a Vec cannot fail.
        debug_assert!(written.is_ok());
    }
}

/// `change`, with a NOTIFY payload as the database sent it.
pub fn change(out: &mut Vec<u8>, to: Addressee<'_>, feed: &FeedId, topic: &Topic, change: &Change) {
    to.open(out, "change", feed, change.offset);
    put(out, "topic", json(topic.as_str()).as_bytes());
    match change.kind {
        Kind::Json => put(out, "data", &change.payload),
        Kind::Text | Kind::Row => put(out, "data", json(&String::from_utf8_lossy(&change.payload)).as_bytes()),
    }
    put_at(out, change.at);
    close(out);
}

/// What a row's `change` tells of its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfTx {
    /// For who gets this, more of it may come.
    GoesOn,
    /// For who gets this, it is the last of it.
    Ends,
    /// Nothing: changes of several may have been conflated.
    Untold,
}

/// `change`, with a row as the database wrote it.
pub fn row_change(
    out: &mut Vec<u8>,
    to: Addressee<'_>,
    feed: &FeedId,
    topic: &Topic,
    change: &Change,
    row: &Row,
    of_tx: OfTx,
) {
    to.open(out, "change", feed, change.offset);
    put(out, "topic", json(topic.as_str()).as_bytes());
    put_name(out, "op", row.op.as_str());
    put_part(out, "key", &row.key);
    put_rows(out, row);
    put_at(out, change.at);
    if of_tx != OfTx::Untold {
        put_name(out, "tx", &row.tx.to_string());
    }
    if of_tx == OfTx::Ends {
        put(out, "tx_end", b"true");
    }
    put_part(out, "cut", &row.cut);
    close(out);
}

/// `tx_end`: the transaction has no more changes for who gets this, which was not known when it got
/// the last one. The cursor is that of the transaction's last change.
pub fn tx_end(out: &mut Vec<u8>, to: Addressee<'_>, feed: &FeedId, last: Offset, tx: u64) {
    to.open(out, "tx_end", feed, last);
    put_name(out, "tx", &tx.to_string());
    close(out);
}

/// A row's change for a front end that knows nothing of rowcast: table, op, data, old.
pub fn plain_row(out: &mut Vec<u8>, topic: &Topic, row: &Row) {
    out.push(b'{');
    put(out, "table", json(topic.as_str()).as_bytes());
    put_name(out, "op", row.op.as_str());
    put_rows(out, row);
    close(out);
}

/// `data`, which always stands there, and `old`.
fn put_rows(out: &mut Vec<u8>, row: &Row) {
    put(out, "data", if row.data.is_empty() { b"null" } else { &row.data });
    put_part(out, "old", &row.old);
}

fn put_part(out: &mut Vec<u8>, name: &str, part: &[u8]) {
    if !part.is_empty() {
        put(out, name, part);
    }
}

fn put_at(out: &mut Vec<u8>, at: Micros) {
    put_name(out, "at", &rfc3339(at));
}

/// A text in which nothing needs to be escaped.
fn put_name(out: &mut Vec<u8>, name: &str, value: &str) {
    for part in ["\"", name, "\":\"", value, "\","] {
        out.extend_from_slice(part.as_bytes());
    }
}

fn put(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    out.extend_from_slice(value);
    out.push(b',');
}

/// Ends an object, in place of the last comma.
fn close(out: &mut Vec<u8>) {
    out.pop();
    out.push(b'}');
}

/// A JSON string.
pub fn json(text: &str) -> String {
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Op;
    use bytes::Bytes;

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

    #[test]
    fn a_change_carries_json_as_it_is_and_text_as_a_string() {
        let feed: FeedId = "k3f9".parse().unwrap();
        let write = |kind, payload: &'static str, to| {
            let mut out = Vec::new();
            let it = Change { offset: 5, at: 0, kind, payload: Bytes::from_static(payload.as_bytes()) };
            change(&mut out, to, &feed, &Topic::new("t").unwrap(), &it);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            write(Kind::Json, "{\"a\" : 1}", Addressee::Route(3)),
            r#"{"type":"change","route":3,"cursor":"k3f9.5","topic":"t","data":{"a" : 1},"at":"1970-01-01T00:00:00.000000Z"}"#
        );
        assert_eq!(
            write(Kind::Text, "say \"hi\"", Addressee::Subscription("x")),
            r#"{"type":"change","id":"x","cursor":"k3f9.5","topic":"t","data":"say \"hi\"","at":"1970-01-01T00:00:00.000000Z"}"#
        );
    }

    fn row(op: Op, key: &'static str, data: &'static str, old: &'static str, cut: &'static str) -> Row {
        let part = |text: &'static str| Bytes::from_static(text.as_bytes());
        Row { op, tx: 7431, tx_last: 9, key: part(key), cut: part(cut), data: part(data), old: part(old) }
    }

    #[test]
    fn a_row_has_the_members_that_apply_and_its_json_as_it_is() {
        let (feed, topic): (FeedId, _) = ("k3f9".parse().unwrap(), Topic::new("public.orders").unwrap());
        let write = |row: &Row, of_tx| {
            let it = Change { offset: 5, at: 0, kind: Kind::Row, payload: Bytes::new() };
            let (mut native, mut plain) = (Vec::new(), Vec::new());
            row_change(&mut native, Addressee::Route(17), &feed, &topic, &it, row, of_tx);
            plain_row(&mut plain, &topic, row);
            [native, plain].map(|json| String::from_utf8(json).unwrap())
        };
        assert_eq!(
            write(&row(Op::Update, r#"["id"]"#, r#"{"id":1.10, "s":"ä"}"#, r#"{"id":1}"#, r#"["photo"]"#), OfTx::Ends),
            [
                r#"{"type":"change","route":17,"cursor":"k3f9.5","topic":"public.orders","op":"UPDATE","key":["id"],"data":{"id":1.10, "s":"ä"},"old":{"id":1},"at":"1970-01-01T00:00:00.000000Z","tx":"7431","tx_end":true,"cut":["photo"]}"#,
                r#"{"table":"public.orders","op":"UPDATE","data":{"id":1.10, "s":"ä"},"old":{"id":1}}"#,
            ]
        );
        assert_eq!(
            write(&row(Op::Truncate, "", "", "", ""), OfTx::GoesOn),
            [
                r#"{"type":"change","route":17,"cursor":"k3f9.5","topic":"public.orders","op":"TRUNCATE","data":null,"at":"1970-01-01T00:00:00.000000Z","tx":"7431"}"#,
                r#"{"table":"public.orders","op":"TRUNCATE","data":null}"#,
            ]
        );
        let [conflated, _] = write(&row(Op::Delete, r#"["id"]"#, "", r#"{"id":1}"#, ""), OfTx::Untold);
        assert!(!conflated.contains(r#""tx""#), "{conflated}");
        let mut end = Vec::new();
        tx_end(&mut end, Addressee::Subscription("x"), &feed, 9, 7431);
        assert_eq!(end, br#"{"type":"tx_end","id":"x","cursor":"k3f9.9","tx":"7431"}"#);
    }
}
