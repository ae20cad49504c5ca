//! From rows of the log to batches of its feed.

use std::{borrow::Cow, collections::HashMap, error::Error, slice};

use bytes::BytesMut;
use protocol::{Batch, Batcher, FeedId, Kind, Micros, Offset, Op, Topic};
use tokio_postgres::{
    Row,
    types::{FromSql, Type},
};

use super::tick::{At, Xid};
use crate::session::Lost;

/// The columns that [`Press`] reads, in this order.
pub(crate) const COLUMNS: &str = "e.id, e.xid, e.at, e.topic, e.op, e.key, e.data, e.old, e.cut, e.changes";

/// How many these are.
pub(crate) const COLUMN_COUNT: usize = 10;

/// How many changes these rows of the log are.
pub(crate) fn changes(rows: &[Row]) -> u64 {
    rows.iter().map(|row| u64::from(row.get::<_, i32>(9).unsigned_abs())).sum()
}

/// A text that may be no UTF-8, although the database's encoding is: before PostgreSQL 15 a `"char"`
/// may be any byte. Such a byte becomes U+FFFD; it must not keep all changes after it from everybody.
struct Text<'a>(Cow<'a, str>);

impl<'a> FromSql<'a> for Text<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(String::from_utf8_lossy(raw)))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TEXT
    }
}

/// A column of a row of the log; empty where it is null.
fn text(row: &Row, column: usize) -> Cow<'_, str> {
    row.get::<_, Option<Text<'_>>>(column).map_or(Cow::Borrowed(""), |text| text.0)
}

/// The parts of a row of the log that is several changes: see the column `changes` of
/// `rowcast.event`. Nothing is as many times nothing.
fn split(whole: &[u8], count: u64) -> Result<impl Iterator<Item = &[u8]>, Lost> {
    const SEPARATOR: u8 = 0x1e;
    let parts = whole.iter().filter(|byte| **byte == SEPARATOR).count() as u64 + 1;
    if parts != count && !whole.is_empty() {
        return Err(Lost::Strange("more or fewer changes than their row of the log says"));
    }
    let parts = whole.split(|byte| *byte == SEPARATOR);
    Ok(parts.chain(std::iter::repeat(&[][..])).take(count as usize))
}

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
    pub(crate) fn take(&mut self, rows: &[Row], first: Offset, out: &mut impl FnMut(Batch)) -> Result<(), Lost> {
        let mut offset = first;
        for transaction in rows.chunk_by(|a, b| a.get::<_, Xid>(1) == b.get::<_, Xid>(1)) {
            let next = offset + changes(transaction);
            self.take_part(transaction, transaction[0].get(1), offset, next - 1, out)?;
            offset = next;
        }
        Ok(())
    }

    /// Adds rows of one transaction whose last change has the offset `tx_last`.
    pub(crate) fn take_part(
        &mut self,
        rows: &[Row],
        xid: Xid,
        first: Offset,
        tx_last: Offset,
        out: &mut impl FnMut(Batch),
    ) -> Result<(), Lost> {
        let mut offset = first;
        for row in rows {
            let (data, old) = (text(row, 6), text(row, 7));
            let (data, old) = (data.as_bytes(), old.as_bytes());
            let count = changes(slice::from_ref(row));
            if count == 1 {
                self.take_change(row, [data, old], xid, offset, tx_last, out)?;
            } else {
                let (data, old) = (split(data, count)?, split(old, count)?);
                for ((data, old), offset) in data.zip(old).zip(offset..) {
                    self.take_change(row, [data, old], xid, offset, tx_last, out)?;
                }
            }
            offset += count;
        }
        Ok(())
    }

    fn take_change(
        &mut self,
        row: &Row,
        [data, old]: [&[u8]; 2],
        xid: Xid,
        offset: Offset,
        tx_last: Offset,
        out: &mut impl FnMut(Batch),
    ) -> Result<(), Lost> {
        if offset <= self.last() {
            return Ok(());
        }
        if offset != self.last() + 1 {
            return Err(Lost::Strange("a log with a hole"));
        }
        let op = u8::try_from(row.get::<_, i8>(4)).ok().and_then(Op::from_letter);
        let op = op.ok_or(Lost::Strange("a change of an unknown kind"))?;
        let (key, cut) = (text(row, 5), text(row, 8));
        self.scratch.clear();
        protocol::Row::encode_parts(&mut self.scratch, op, xid.0, tx_last, [key.as_bytes(), cut.as_bytes(), data, old]);
        if !self.batcher.has_room_for(self.scratch.len()) {
            out(self.batcher.take(self.at));
        }
        let name: &str = row.get(3);
        let topic = match self.topics.get(name) {
            Some(topic) => topic,
            None => {
                let topic = Topic::new(name).map_err(|_| Lost::Strange("a topic that cannot be one"))?;
                self.topics.entry(name.to_owned()).or_insert(topic)
            }
        };
        self.batcher.push(topic, row.get::<_, At>(2).0, Kind::Row, &self.scratch);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_the_log_is_split_into_as_many_changes_as_it_says() {
        let parts = |whole: &'static str, count| split(whole.as_bytes(), count).map(Iterator::collect::<Vec<_>>);
        assert_eq!(parts("{}\u{1e}{\"a\": 1}", 2).unwrap(), [&b"{}"[..], b"{\"a\": 1}"]);
        assert_eq!(parts("\u{1e}{}\u{1e}", 3).unwrap(), [&b""[..], b"{}", b""], "old keys that are as before");
        assert_eq!(parts("", 2).unwrap(), [b"", b""], "rows that are not kept");
        assert!(parts("{}\u{1e}{}", 3).is_err() && parts("{}\u{1e}{}", 1).is_err());
    }
}
