//! Server-Sent Events: `/sse`, for browsers without a line of a library, and for curl.
//!
//! ```text
//! retry: 1204
//!
//! id: k3f9.1041
//! event: subscribed
//! data: {"type":"subscribed","cursor":"k3f9.1041","resumed":true}
//!
//! id: k3f9.1042
//! data: {"type":"change","cursor":"k3f9.1042","topic":"public.orders","op":"UPDATE","data":{…},…}
//! ```
//!
//! The messages are those of the native protocol, without `id` and `route`. A change is an event without a
//! name, so that `onmessage` gets it; the others are named: `subscribed`, `tx_end`, `watermark`, `reset`,
//! `refused` (an `error`, which to a page is the browser's own) and `close`, the last one. Each that moves
//! the client on has its cursor as event id, which the browser sends when it comes back.

mod door;
mod event;
mod stream;

pub use door::serve;
pub use event::{event, heartbeat, retry, write_event};
pub use stream::Follower;
