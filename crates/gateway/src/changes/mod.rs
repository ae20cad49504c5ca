//! `/changes`: what there is after a cursor, as JSON; for curl, and for jobs that run now and then.
//!
//! ```text
//! GET /changes?topic=public.orders                         {"changes":[],"cursor":"k3f9.1041","complete":true}
//! GET /changes?topic=public.orders&since=k3f9.1041&wait=60 {"changes":[{"type":"change",…}],"cursor":"k3f9.1042","complete":true}
//! ```
//!
//! Without `since` it tells where to begin. `complete` is false where there is more: ask again, from
//! `cursor`. All changes up to that are there; where that is not so, the answer is 410, with a cursor to
//! begin anew from. With `wait` (seconds) it waits until there is something. Changes look as in the
//! native protocol; the end of a transaction that becomes known only later is not told.

mod door;
mod poll;

pub use door::serve;
pub use poll::Poll;
