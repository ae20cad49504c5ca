//! A change that somebody here wants, looked into once, however many routes it goes to.

use std::borrow::Borrow;

use protocol::{Batch, BatchError, Change, Kind, Offset, Row, Slice, Topic, message::OfTx};

/// A change on its way to subscriptions. `T` is its topic, borrowed where it comes from a batch.
#[derive(Debug, Clone)]
pub struct Hit<T = Topic> {
    /// Its topic.
    pub topic: T,
    /// The change.
    pub change: Change,
    /// What its payload says, if it is a row.
    pub row: Option<Box<Row>>,
}

/// A transaction of which a subscription has had changes, and may get more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenTx {
    /// Which.
    pub tx: u64,
    /// The offset of its last change, on whatever topic.
    pub last: Offset,
}

impl<T: Clone + Borrow<Topic>> Hit<T> {
    /// The changes of a slice after an offset.
    pub fn read(topic: &T, slice: &Slice, after: Offset) -> Result<Vec<Self>, BatchError> {
        let look = |change: Change| {
            let row = match change.kind {
                Kind::Row => Some(Box::new(change.row().ok_or(BatchError::Malformed("row"))?)),
                Kind::Json | Kind::Text => None,
            };
            Ok(Self { topic: topic.clone(), change, row })
        };
        slice.changes_after(after)?.into_iter().map(look).collect()
    }
}

impl Hit {
    /// The changes of a batch to some topics after an offset, in order.
    pub fn of_batch(batch: &Batch, topics: &[Topic], after: Offset) -> Result<Vec<Self>, BatchError> {
        let mut hits = Vec::new();
        for topic in topics {
            if let Some(slice) = batch.slice(topic.as_str()) {
                hits.extend(Self::read(topic, slice, after)?);
            }
        }
        hits.sort_by_key(Self::offset);
        Ok(hits)
    }
}

impl<T> Hit<T> {
    /// Its place in the feed.
    pub fn offset(&self) -> Offset {
        self.change.offset
    }

    /// Whether it ends its transaction for a subscription that gets `next` after it; or, if that is
    /// nothing, that has everything up to `through` then.
    fn ends_tx(&self, next: Option<&Self>, through: Offset) -> bool {
        let Some(row) = &self.row else { return false };
        // A transaction's changes come one behind the other.
        match next.and_then(|next| next.row.as_deref()) {
            Some(next) => next.tx != row.tx,
            None => row.tx_last <= through,
        }
    }

    /// What a native client is told of its transaction, in the same circumstances.
    pub fn of_tx(&self, next: Option<&Self>, through: Offset) -> OfTx {
        if self.ends_tx(next, through) { OfTx::Ends } else { OfTx::GoesOn }
    }

    /// What is open after it, in the same circumstances.
    pub fn then_open(&self, next: Option<&Self>, through: Offset) -> Option<OpenTx> {
        let row = self.row.as_deref()?;
        (!self.ends_tx(next, through)).then_some(OpenTx { tx: row.tx, last: row.tx_last })
    }

    /// Whether it is of another transaction.
    pub fn is_after(&self, open: OpenTx) -> bool {
        self.row.as_deref().is_none_or(|row| row.tx != open.tx)
    }
}
