//! From rows of the log to batches of its feed.

use std::collections::HashMap;

use bytes::BytesMut;
use protocol::{Batch, Batcher, FeedId, Kind, Micros, Offset, Op, Row, Topic};

use super::tick::{At, Xid};
use crate::session::Lost;

/// The columns that [`Press`] reads, in this order.
pub(crate) const COLUMNS: &str = "e.id, e.xid, e.at, e.topic, e.op, e.key, e.data, e.old, e.cut";

/// How many these are.
pub(crate) const COLUMN_COUNT: usize = 9;

/// Turns rows into batches, in the order in which they come. Their offsets follow from where it
/// began, so what it is given must be without a hole.
#[derive(Debug)]
pub(crate) struct Press {
    batcher: Batcher,
    topics: HashMap<String, Topic>,
    scratch: BytesMut,
    /// The database's time of the last tick that is complete.
    at: Micros,
}

impl Press {
    /// One whose first change gets the offset `after + 1`.
    pub(crate) fn new(feed: FeedId, after: Offset) -> Self {
        // The epoch is set by who publishes.
        Self { batcher: Batcher::new(feed, 0, after), topics: HashMap::new(), scratch: BytesMut::new(), at: 0 }
    }

    /// The offset of the last change.
    pub(crate) fn last(&self) -> Offset {
        self.batcher.last()
    }

    /// Adds rows of whole transactions. The first has the offset `first`; those that it has seen
    /// before are passed over. Full batches go to `out`.
    pub(crate) fn take(
        &mut self,
        rows: &[tokio_postgres::Row],
        first: Offset,
        out: &mut impl FnMut(Batch),
    ) -> Result<(), Lost> {
        let mut begin = 0;
        while let Some(row) = rows.get(begin) {
            let xid: Xid = row.get(1);
            let end = begin + rows[begin..].iter().take_while(|row| row.get::<_, Xid>(1) == xid).count();
            self.take_part(&rows[begin..end], xid, first + begin as u64, first + end as u64 - 1, out)?;
            begin = end;
        }
        Ok(())
    }

    /// Adds rows of one transaction whose last change has the offset `tx_last`.
    pub(crate) fn take_part(
        &mut self,
        rows: &[tokio_postgres::Row],
        xid: Xid,
        first: Offset,
        tx_last: Offset,
        out: &mut impl FnMut(Batch),
    ) -> Result<(), Lost> {
        for (row, offset) in rows.iter().zip(first..) {
            if offset <= self.last() {
                continue;
            }
            if offset != self.last() + 1 {
                return Err(Lost::Strange("a log with a hole"));
            }
            let op = u8::try_from(row.get::<_, i8>(4)).ok().and_then(Op::from_letter);
            let op = op.ok_or(Lost::Strange("a change of an unknown kind"))?;
            let text = |column| row.get::<_, Option<&str>>(column).unwrap_or_default().as_bytes();
            self.scratch.clear();
            Row::encode_parts(&mut self.scratch, op, xid.0, tx_last, [text(5), text(8), text(6), text(7)]);
            if !self.batcher.has_room_for(self.scratch.len()) {
                out(self.batcher.take(self.at));
            }
            let topic = match self.topics.get(row.get::<_, &str>(3)) {
                Some(topic) => topic,
                None => {
                    let name: &str = row.get(3);
                    let topic = Topic::new(name).map_err(|_| Lost::Strange("a topic that cannot be one"))?;
                    self.topics.entry(name.to_owned()).or_insert(topic)
                }
            };
            self.batcher.push(topic, row.get::<_, At>(2).0, Kind::Row, &self.scratch);
        }
        Ok(())
    }

    /// A tick is complete.
    pub(crate) fn finish(&mut self, at: Micros, out: &mut impl FnMut(Batch)) {
        self.at = at;
        if !self.batcher.is_empty() {
            out(self.batcher.take(at));
        }
    }
}
