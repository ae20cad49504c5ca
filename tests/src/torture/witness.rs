use std::sync::{Mutex, MutexGuard, PoisonError};

use super::table::Tables;

/// What one subscription has been told, in order, until the judge fetches it.
#[derive(Debug)]
pub struct Witness {
    /// Client and subscription.
    pub name: String,
    /// What is subscribed to.
    pub tables: Tables,
    /// Whether it reads slowly on purpose.
    pub slow: bool,
    noted: Mutex<Vec<Noted>>,
}

/// One thing that a subscription was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Noted {
    /// It forgot everything, and begins like a new client.
    Forgot,
    /// `subscribed`.
    Subscribed {
        /// Where it begins.
        feed: String,
        /// Where it begins.
        offset: u64,
        /// Whether it goes on from where it was.
        resumed: bool,
    },
    /// `change`.
    Change {
        /// Where it is in the feed.
        offset: u64,
        /// All of it, see [`super::change::Change::digest`].
        digest: u64,
        /// Whether it was called the last one of its transaction.
        tx_end: bool,
    },
    /// `change`, of a subscription whose changes are conflated.
    Conflated {
        /// Everything up to here has come.
        offset: u64,
    },
    /// `tx_end`: its transaction has no more for this subscription.
    TxEnd {
        /// The transaction's last change, on whatever table.
        offset: u64,
        /// The transaction.
        tx: u64,
    },
    /// `watermark`: everything up to this has come.
    Watermark {
        /// Up to here.
        offset: u64,
    },
    /// `reset`.
    Reset {
        /// Why, as the gateway says.
        reason: String,
        /// Where it goes on.
        feed: String,
        /// Where it goes on.
        offset: u64,
        /// When it came, in milliseconds since 1970.
        at_ms: u64,
    },
    /// Something that the protocol does not allow.
    Odd(String),
}

impl Witness {
    /// Of a subscription that has been told nothing yet.
    pub fn new(name: String, tables: Tables, slow: bool) -> Self {
        Self { name, tables, slow, noted: Mutex::default() }
    }

    /// Notes down one thing.
    pub fn note(&self, what: Noted) {
        self.lock().push(what);
    }

    /// What was noted since the last time.
    pub fn fetch(&self) -> Vec<Noted> {
        std::mem::take(&mut self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Noted>> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
