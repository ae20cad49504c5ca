//! Supabase Realtime: `/realtime/v1/websocket` and `/socket/websocket`, as its unmodified client speaks it.
//!
//! The client joins channels on a socket ([`message`] has the frames). A channel has bindings
//! (`postgres_changes`), and all of them together are one subscription of the hub ([`bindings`]): its frames
//! are built once for everybody who has joined the same channel with the same bindings.
//!
//! ```text
//! → ["6","6","realtime:floor","phx_join",{"config":{"postgres_changes":[{"event":"*","schema":"public","table":"orders"}],…}}]
//! ← ["6","6","realtime:floor","phx_reply",{"status":"ok","response":{"postgres_changes":[{"id":90211,"event":"*",…}]}}]
//! ← ["6",null,"realtime:floor","system",{"extension":"postgres_changes","status":"ok","message":"Subscribed to PostgreSQL","channel":"floor"}]
//! ← [null,null,"realtime:floor","postgres_changes",{"ids":[90211],"data":{"type":"UPDATE","schema":"public","table":"orders",
//!    "commit_timestamp":"…","columns":[{"name":"id","type":"int8"},…],"record":{…},"old_record":{…},"errors":null}}]
//! → [null,"9","phoenix","heartbeat",{}]   ← [null,"9","phoenix","phx_reply",{"status":"ok","response":{}}]
//! ```
//!
//! What is refused is refused in the answer, as `{"reason":"Code: text"}`; the client tries again for ever, so a
//! refusal costs no more than to read the message and to write the answer.
//!
//! This protocol has no word for a `reset`. So a channel that may have missed something ends with `phx_error`: its
//! client reports `CHANNEL_ERROR`, joins again by itself, and reports `SUBSCRIBED`, which is when to load anew.
//!
//! # Tokens
//!
//! A channel has the claims of its token, from its join or a later `access_token`; without one, or with an apikey in its
//! place, those of the request that opened the connection. So who signs out falls back to these, and a channel that they do
//! not cover ends.
//!
//! # Broadcast
//!
//! What a client sends on a channel reaches all who have joined a channel of this name, at any gateway, at most once
//! ([`broadcast`]): over the socket, or by `POST /realtime/v1/api/broadcast` (`post.rs`). Who has a token needs the
//! claim `broadcast` for both, to send and to get.
//!
//! # Resume
//!
//! A client that asks for it (`channel.updateJoinPayload({ resume: '' })` before `subscribe()`) is told its cursor in
//! `system` messages: with `Subscribed to PostgreSQL`, behind each change, and every 25 s. What it puts into `resume`
//! goes along with every later join, and it gets what it has missed. If that is not there any more, it is told by
//! `system` with `reset` (the reason) and a `cursor`, and the channel goes on.

mod binding;
mod bindings;
mod broadcast;
mod channel;
mod door;
mod join;
mod message;
mod post;
mod talk;
mod tokens;

pub use bindings::{Bindings, OpenBindings, columns};
pub use broadcast::{Broadcast, Outbound, SHARD_BROADCASTS, Sender, hear};
pub use channel::{Channel, name_of};
pub use door::serve;
pub use join::Join;
pub use message::{Message, Ref, Vsn};
pub use post::{preflight, send, send_one};
pub use talk::Talk;
pub use tokens::Tokens;
