//! What a gateway says but changes.

use super::json;
use crate::{Close, Cursor, ErrorCode, Micros, ResetReason, time::rfc3339};

/// `hello`: the first frame of every connection; which gateway this is.
pub fn hello(gateway: &str, version: &str) -> String {
    format!(r#"{{"type":"hello","gateway":{},"version":{}}}"#, json(gateway), json(version))
}

/// `subscribed`: changes of this subscription follow. `cursor` is where they begin: the `since` of
/// one that resumes, so that it is always safe to keep. A stream of events has no id and no route.
pub fn subscribed(to: Option<(&str, u64)>, cursor: &Cursor, resumed: bool) -> String {
    let to = to.map(|(id, route)| format!(r#""id":{},"route":{route},"#, json(id))).unwrap_or_default();
    format!(r#"{{"type":"subscribed",{to}"cursor":"{cursor}","resumed":{resumed}}}"#)
}

/// `unsubscribed`: no change of this subscription follows.
pub fn unsubscribed(id: &str) -> String {
    format!(r#"{{"type":"unsubscribed","id":{}}}"#, json(id))
}

/// `caught_up`: a subscription that resumed, or read too slowly, has all that it missed: everything
/// up to `cursor`. From now on it gets changes as they come.
pub fn caught_up(id: Option<&str>, cursor: &Cursor) -> String {
    let id = id.map(|id| format!(r#""id":{},"#, json(id))).unwrap_or_default();
    format!(r#"{{"type":"caught_up",{id}"cursor":"{cursor}"}}"#)
}

/// `reset`: changes between what the client has and `cursor` may be missing; what follows is
/// complete from `cursor` on.
pub fn reset(id: Option<&str>, reason: ResetReason, cursor: &Cursor) -> String {
    let id = id.map(|id| format!(r#""id":{},"#, json(id))).unwrap_or_default();
    format!(r#"{{"type":"reset",{id}"reason":"{reason}","cursor":"{cursor}"}}"#)
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

/// `close`: the last event of a stream, which has no close frames. The code is the close's name.
pub fn close(close: Close, reason: &str) -> String {
    format!(r#"{{"type":"close","code":"{}","reason":{}}}"#, close.name(), json(reason))
}

/// `authenticated`: the token was accepted.
pub const AUTHENTICATED: &str = r#"{"type":"authenticated"}"#;
/// `pong`: the answer to a ping.
pub const PONG: &str = r#"{"type":"pong"}"#;
