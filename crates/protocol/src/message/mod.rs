//! What a client and a gateway say to each other on `/rowcast`: JSON text frames.
//!
//! ```text
//! ← {"type":"hello","gateway":"gateway-1","version":"0.1.0"}
//! → {"type":"subscribe","id":"a","topics":["sensor_updates"],"since":"k3f9.1041"}
//! ← {"type":"subscribed","id":"a","route":17,"cursor":"k3f9.1041","resumed":true}
//! ← {"type":"change","id":"a","cursor":"k3f9.1042","topic":"sensor_updates","data":{…},"at":"…"}
//! ← {"type":"caught_up","id":"a","cursor":"k3f9.1042"}
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
//! A client keeps a cursor for each subscription: that of the last `subscribed`, `change`, `tx_end`,
//! `caught_up` or `reset` of it, or of the last `watermark` of its feed, which is for all on that feed and comes
//! only while all are up to date. A frame with an `id` is for that subscription; one with a `route`
//! is for the one subscription of this connection that was answered with it.
//!
//! `subscribed` comes first, then changes. With `since` it comes once it is known whether nothing is
//! missing: at once as a rule; while the bus is being refilled after a loss, when that is done. After
//! `"resumed":true`, `caught_up` says that all that was missed has come. One that reads too slowly may
//! fall behind at any time: it then gets changes with its `id`, and `caught_up` behind them. A `reset`
//! may come in place of it.
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
//! the time before, so who resumes in between gets all of it again; until its `caught_up`, a row that it
//! had already may come as it was before.

mod answer;
mod change;
mod client;

use serde_json::Value;

pub use answer::{AUTHENTICATED, PONG, caught_up, close, error, hello, reset, subscribed, unsubscribed, watermark};
pub use change::{Addressee, OfTx, change, plain_row, row_change, tx_end};
pub use client::{CONFLATE_MS, ClientMessage, LATER, MAX_ID_BYTES, MAX_TOPICS, MIN_WATERMARK_MS, Refused, Subscribe};

/// A JSON string.
pub fn json(text: &str) -> String {
    Value::from(text).to_string()
}
