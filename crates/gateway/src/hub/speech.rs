//! How the hub's own words reach a connection.

use bytes::Bytes;
use protocol::{Close, Cursor, ErrorCode, message};

use super::route::RouteForm;
use crate::{realtime::Vsn, sse, ws};

/// What a connection understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speech {
    /// Frames.
    WebSocket,
    /// Frames of Supabase's protocol. What the hub says of a subscription is in [`super::channels`].
    Realtime(Vsn),
    /// Events. Nothing is ever heard of such a client but that it takes them, or has left.
    Events,
}

impl Speech {
    /// In which form its subscriptions want changes, unless they are of a plain endpoint or of a channel.
    pub(super) fn form(self) -> RouteForm {
        match self {
            Self::WebSocket | Self::Realtime(_) => RouteForm::Native,
            Self::Events => RouteForm::Events,
        }
    }

    /// The name of a subscription in what it is told. A stream of events has one, which needs none.
    pub(super) fn name(self, id: &str) -> Option<&str> {
        (self == Self::WebSocket).then_some(id)
    }

    /// A message of this type; with the cursor that the client has then, if it tells one.
    pub(super) fn say(self, kind: &str, cursor: Option<&Cursor>, text: &str) -> Bytes {
        match self {
            Self::WebSocket | Self::Realtime(_) => ws::text(text),
            Self::Events => sse::event(kind, cursor, text),
        }
    }

    /// An `error`. Its name among events is another one: to a page, `error` is the browser's.
    pub(super) fn refuse(self, id: &str, code: ErrorCode, message: &str) -> Bytes {
        self.say("refused", None, &message::error(self.name(id), code, message))
    }

    /// What shows a client that is sent nothing else that it is not forgotten.
    pub(super) fn ping(self) -> Bytes {
        match self {
            Self::WebSocket | Self::Realtime(_) => ws::ping(),
            Self::Events => sse::heartbeat(),
        }
    }

    /// A goodbye.
    pub(super) fn close(self, close: Close, reason: &str) -> Bytes {
        match self {
            Self::WebSocket | Self::Realtime(_) => ws::close(close, reason),
            Self::Events => sse::event("close", None, &message::close(close, reason)),
        }
    }

    /// The goodbye of a gateway that stops, with when to come back: a browser does so by itself.
    pub(super) fn restart(self, wait_ms: u64) -> Bytes {
        match self {
            Self::WebSocket | Self::Realtime(_) => self.close(Close::Restart, &format!(r#"{{"retry_ms":{wait_ms}}}"#)),
            Self::Events => {
                [sse::retry(wait_ms), self.close(Close::Restart, "this gateway is stopping")].concat().into()
            }
        }
    }
}
