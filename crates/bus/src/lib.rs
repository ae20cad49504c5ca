//! How batches travel from the one listener to all gateways. This crate alone knows Redis.
//!
//! The promise, per method, which both implementations (Redis, and memory for `rowcast dev` and
//! unit tests) pass from one shared suite in `tests/contract`:
//!
//! - [`Publisher::publish`] is compare-and-append: a batch applies only if the bus ends right
//!   before it, under the same feed and epoch. So what the bus holds never has a hole.
//! - [`Subscription::next`] yields batches in order. Offsets are dense, so whatever is missed
//!   (lag, reconnect, restart) shows, and is reported as [`Event::Gap`], never silent.
//! - [`Reader::history`] is complete or refused, never partial; [`Reader::history_up_to`] is
//!   complete as far as it says.
//! - [`Reader::head`] says which feed is current, how far it goes, and what it carries.
//! - [`Broadcaster::send`] is at most once, to who is there, and apart from all of the above.
//!
//! Each [`Source`](protocol::Source) has one current feed. A listener takes it over with
//! [`Publisher::begin`], under an epoch that its database gave it while it held the leader's lock.

#![warn(missing_docs)]

mod broadcast;
mod bus;
mod memory;
mod position;
mod publisher;
mod reader;
mod redis;
mod subscription;

pub use broadcast::{Broadcaster, Broadcasts, Heard};
pub use bus::Bus;
pub use memory::MemoryBus;
pub use position::{Position, Step};
pub use publisher::{Answer, Publisher, Term};
pub use reader::{Head, History, Reader};
pub use redis::{RedisBus, RedisSettings};
pub use subscription::{Event, Subscription};

/// What a topic's history keeps at most; past either limit its oldest changes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Bytes of changes, per topic.
    pub bytes: u64,
    /// Age of changes, by the publisher's clock.
    pub ms: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self { bytes: 16 * 1024 * 1024, ms: 600_000 }
    }
}

/// Why the bus could not do what it was asked. Nothing says whether a publish that failed was
/// applied: publish the same batch again, and the answer tells.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BusError {
    /// It cannot be reached, or did not answer in time. Try again.
    #[error("the bus is unavailable: {0}")]
    Unavailable(String),
    /// It answered with an error (out of memory, no permission, a key of another type). Trying
    /// again helps once somebody has mended it.
    #[error("the bus refused: {0}")]
    Refused(String),
    /// What it holds is not what a publisher of this version writes.
    #[error("the bus holds something malformed: {0}")]
    Malformed(String),
}
