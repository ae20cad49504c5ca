//! A row change, as it lies in a change's payload.
//!
//! What PostgreSQL wrote as JSON stays as it is: the listener puts the parts one behind the other,
//! and a gateway slices them out again.
//!
//! ```text
//! u8 op | u64 tx | u64 tx_last | u32 n, key | u32 n, cut | u32 n, data | u32 n, old
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::Offset;

/// What happened to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Op {
    /// It was inserted.
    Insert,
    /// It was changed, perhaps its key too.
    Update,
    /// It was deleted.
    Delete,
    /// All rows of the table, or of one of its partitions, are gone.
    Truncate,
}

impl Op {
    /// Every op.
    pub const ALL: [Self; 4] = [Self::Insert, Self::Update, Self::Delete, Self::Truncate];

    /// Its name in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "INSERT",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Truncate => "TRUNCATE",
        }
    }

    /// Its letter in the log and on the wire.
    pub fn letter(self) -> u8 {
        match self {
            Self::Insert => b'I',
            Self::Update => b'U',
            Self::Delete => b'D',
            Self::Truncate => b'T',
        }
    }

    /// The op of a letter.
    pub fn from_letter(letter: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|op| op.letter() == letter)
    }
}

/// One row change. A part that does not apply is empty; the others are JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What happened.
    pub op: Op,
    /// The transaction that did it, as PostgreSQL numbers them.
    pub tx: u64,
    /// The offset of that transaction's last change, on whatever topic.
    pub tx_last: Offset,
    /// Array of the names of the key columns.
    pub key: Bytes,
    /// Array of the names of the columns whose values were too large to be kept.
    pub cut: Bytes,
    /// The new row.
    pub data: Bytes,
    /// The old row, or as much of it as was asked for.
    pub old: Bytes,
}

const HEAD_BYTES: usize = 1 + 8 + 8;

impl Row {
    /// Bytes of its wire form.
    pub fn encoded_bytes(&self) -> usize {
        HEAD_BYTES + 4 * 4 + self.key.len() + self.cut.len() + self.data.len() + self.old.len()
    }

    /// Appends its wire form: the payload of a change of kind [`crate::Kind::Row`].
    pub fn encode(&self, out: &mut BytesMut) {
        let parts = [&self.key[..], &self.cut, &self.data, &self.old];
        Self::encode_parts(out, self.op, self.tx, self.tx_last, parts);
    }

    /// The same, from parts that lie elsewhere: key, cut, data, old.
    pub fn encode_parts(out: &mut BytesMut, op: Op, tx: u64, tx_last: Offset, parts: [&[u8]; 4]) {
        out.reserve(HEAD_BYTES + parts.iter().map(|part| 4 + part.len()).sum::<usize>());
        out.put_u8(op.letter());
        out.put_u64_le(tx);
        out.put_u64_le(tx_last);
        for part in parts {
            // A value of PostgreSQL has less than 1 GiB.
            out.put_u32_le(part.len() as u32);
            out.put_slice(part);
        }
    }

    /// Reads a payload; its parts share the payload's memory. `None`: it is not one.
    pub fn decode(payload: &Bytes) -> Option<Self> {
        let mut rest = payload.clone();
        if rest.len() < HEAD_BYTES {
            return None;
        }
        let op = Op::from_letter(rest.get_u8())?;
        let (tx, tx_last) = (rest.get_u64_le(), rest.get_u64_le());
        let row = Self {
            op,
            tx,
            tx_last,
            key: take_part(&mut rest)?,
            cut: take_part(&mut rest)?,
            data: take_part(&mut rest)?,
            old: take_part(&mut rest)?,
        };
        rest.is_empty().then_some(row)
    }
}

fn take_part(rest: &mut Bytes) -> Option<Bytes> {
    if rest.len() < 4 {
        return None;
    }
    let length = rest.get_u32_le() as usize;
    (rest.len() >= length).then(|| rest.split_to(length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_row_survives_its_wire_form_and_a_cut_one_is_refused(
            op in 0..4usize,
            tx in any::<u64>(),
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 4),
            cut in any::<prop::sample::Index>(),
        ) {
            let part = |n: usize| Bytes::from(parts[n].clone());
            let row = Row { op: Op::ALL[op], tx, tx_last: tx / 2, key: part(0), cut: part(1), data: part(2), old: part(3) };
            let mut wire = BytesMut::new();
            row.encode(&mut wire);
            let wire = wire.freeze();
            prop_assert_eq!(wire.len(), row.encoded_bytes());
            prop_assert_eq!(Row::decode(&wire), Some(row));
            prop_assert_eq!(Row::decode(&wire.slice(..cut.index(wire.len()))), None);
        }
    }
}
