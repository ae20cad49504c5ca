#![warn(missing_docs)]
//! The words that every part of rowcast shares. No I/O, no runtime.
//!
//! Read in this order: [`Topic`] is what a client subscribes to, a [`Change`] is what it gets, a
//! [`Cursor`] is what it keeps to resume, a [`Batch`] is how changes travel, and [`message`] is what
//! a client and a gateway say to each other. [`config`] is `rowcast.toml`.

pub mod backoff;
pub mod batch;
pub mod change;
pub mod close;
pub mod config;
pub mod cursor;
pub mod error_code;
pub mod message;
pub mod row;
pub mod source;
pub mod time;
pub mod topic;

pub use backoff::Backoff;
pub use batch::{Batch, BatchError, Batcher, Slice};
pub use change::{Change, Kind};
pub use close::{Close, Reconnect};
pub use cursor::{Cursor, CursorError, FeedId, Offset};
pub use error_code::{ErrorCode, ResetReason};
pub use row::{Op, Row};
pub use source::{Catalogue, Source, TopicInfo};
pub use time::Micros;
pub use topic::{Topic, TopicError, TopicPattern};
