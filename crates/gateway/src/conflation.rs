//! Conflation: of the changes of a row that come within a while, what they come to. The rules are in
//! [`protocol::message`].
//!
//! Rows do not depend on one another, so each key is joined by itself. What does depend on others, a
//! TRUNCATE or a changed key, is not joined: it has to come after all that waits, and before all that
//! follows.

mod key;

use std::{borrow::Borrow, collections::HashMap};

use bytes::Bytes;
use protocol::{Change, Kind, Offset, Op, Row, Topic};

use crate::hit::Hit;
use key::KeyReader;

/// Changes that wait for what follows them.
#[derive(Debug, Default)]
pub struct Conflation {
    /// Everything up to here has been handed on.
    after: Offset,
    rows: Vec<Waiting>,
    by_key: HashMap<Box<[u8]>, usize>,
    bytes: usize,
    /// Changes that were joined with another one.
    joined: u64,
    reader: KeyReader,
}

/// What waits for one key.
#[derive(Debug)]
struct Waiting {
    topic: Topic,
    /// The deletion of the row that there was.
    gone: Option<(Change, Row)>,
    /// An insert or an update, after that.
    there: Option<(Change, Row)>,
}

impl Conflation {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Before the first change that waits: who goes on from here misses nothing. Of no use while
    /// nothing waits.
    pub fn after(&self) -> Offset {
        self.after
    }

    /// Takes a change in. `false`: it cannot be joined with others, and goes after all that waits.
    ///
    /// Nothing of the batch that it came with is kept in memory.
    pub fn take<T: Borrow<Topic>>(&mut self, hit: &Hit<T>) -> bool {
        let Some(row) = hit.row.as_deref() else { return false };
        let topic = hit.topic.borrow();
        let Some(key) = self.reader.read(topic, row) else { return false };
        if self.rows.is_empty() {
            self.after = hit.offset() - 1;
        }
        let at = match self.by_key.get(key) {
            Some(at) => *at,
            None => {
                self.bytes += key.len() + size_of::<Waiting>();
                self.by_key.insert(key.into(), self.rows.len());
                self.rows.push(Waiting { topic: topic.clone(), gone: None, there: None });
                self.rows.len() - 1
            }
        };
        let waiting = &mut self.rows[at];
        let before = waiting.bytes();
        self.joined += u64::from(waiting.take(&hit.change, row));
        self.bytes = self.bytes - before + waiting.bytes();
        true
    }

    /// Hands on what waits, in the order in which its rows first changed. The last has the cursor of
    /// all of it, if everything up to `through` was taken in.
    pub fn drain(&mut self, through: Option<Offset>) -> Vec<Hit> {
        self.by_key.clear();
        self.bytes = 0;
        let waiting = std::mem::take(&mut self.rows).into_iter();
        let mut hits: Vec<Hit> = waiting
            .flat_map(|waiting| {
                let Waiting { topic, gone, there } = waiting;
                [gone, there].into_iter().flatten().map(move |(change, row)| {
                    let change = Change { offset: 0, ..change };
                    Hit { topic: topic.clone(), change, row: Some(Box::new(row)) }
                })
            })
            .collect();
        hits.iter_mut().for_each(|hit| hit.change.offset = self.after);
        if let (Some(last), Some(through)) = (hits.last_mut(), through) {
            last.change.offset = through;
        }
        hits
    }

    /// How many changes were joined with another one, since this was asked last.
    pub fn take_joined(&mut self) -> u64 {
        std::mem::take(&mut self.joined)
    }
}

impl Waiting {
    /// Whether another change has taken it in.
    fn take(&mut self, change: &Change, row: &Row) -> bool {
        if row.op == Op::Delete {
            let before = self.there.take();
            let joined = before.is_some() || self.gone.is_some();
            let (change, mut gone) = owned(change, row);
            // What the client has is what was there at first.
            if let Some((_, before)) = before.filter(|(_, it)| it.op == Op::Update && !it.old.is_empty()) {
                gone.old = before.old;
                gone.cut = before.cut;
            }
            self.gone.get_or_insert((change, gone));
            return joined;
        }
        let (change, row) = owned(change, row);
        match &mut self.there {
            None => {
                self.there = Some((change, row));
                false
            }
            Some((at, there)) => {
                let Row { tx, tx_last, key, cut, data, .. } = row;
                *at = change;
                let cut = both(&there.cut, cut);
                *there = Row { op: there.op, old: std::mem::take(&mut there.old), tx, tx_last, key, cut, data };
                true
            }
        }
    }

    fn bytes(&self) -> usize {
        let parts = |(_, row): &(Change, Row)| row.key.len() + row.cut.len() + row.data.len() + row.old.len();
        [&self.gone, &self.there].into_iter().flatten().map(parts).sum()
    }
}

/// A copy: a part of a batch would hold all of it.
fn owned(change: &Change, row: &Row) -> (Change, Row) {
    let copy = |part: &Bytes| Bytes::copy_from_slice(part);
    let Row { op, tx, tx_last, key, cut, data, old } = row;
    let row =
        Row { op: *op, tx: *tx, tx_last: *tx_last, key: copy(key), cut: copy(cut), data: copy(data), old: copy(old) };
    (Change { offset: change.offset, at: change.at, kind: Kind::Row, payload: Bytes::new() }, row)
}

/// Names that are in one array or the other.
fn both(one: &Bytes, other: Bytes) -> Bytes {
    if one.is_empty() || *one == other {
        return other;
    }
    let names = |json: &Bytes| serde_json::from_slice::<Vec<String>>(json).unwrap_or_default();
    let mut all = names(one);
    all.extend(names(&other));
    all.sort_unstable();
    all.dedup();
    serde_json::to_vec(&all).map_or(other, Bytes::from)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use proptest::prelude::*;

    /// `op id value was`, each change the next offset.
    fn hit(offset: Offset, op: Op, data: &str, old: &str) -> Hit {
        let part = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let key = part(r#"["id"]"#);
        let row = Row { op, tx: offset, tx_last: offset, key, cut: Bytes::new(), data: part(data), old: part(old) };
        let change = Change { offset, at: offset as i64, kind: Kind::Row, payload: Bytes::new() };
        Hit { topic: Topic::new("public.t").unwrap(), change, row: Some(Box::new(row)) }
    }

    fn shown(hits: &[Hit]) -> Vec<String> {
        let text = |part: &Bytes| String::from_utf8(part.to_vec()).unwrap();
        let show = |hit: &Hit| {
            let row = hit.row.as_ref().unwrap();
            format!("{} {} {}<{}", hit.change.offset, row.op.as_str(), text(&row.data), text(&row.old))
        };
        hits.iter().map(show).collect()
    }

    fn conflated(changes: &[(Op, &str, &str)]) -> Vec<String> {
        let mut conflation = Conflation::default();
        for (offset, (op, data, old)) in (8..).zip(changes) {
            assert!(conflation.take(&hit(offset, *op, data, old)));
        }
        shown(&conflation.drain(Some(99)))
    }

    #[test]
    fn the_changes_of_a_row_come_out_as_what_they_come_to() {
        use Op::{Delete, Insert, Update};
        let (a, b, c) = (r#"{"id":1,"v":1}"#, r#"{"id":1,"v":2}"#, r#"{"id":1,"v":3}"#);
        let insert = (Insert, a, "");
        let (to_b, to_c) = ((Update, b, a), (Update, c, b));
        assert_eq!(conflated(&[insert, to_b, to_c]), [format!("99 INSERT {c}<")]);
        assert_eq!(conflated(&[to_b, to_c]), [format!("99 UPDATE {c}<{a}")]);
        assert_eq!(conflated(&[to_b, to_c, (Delete, "", c)]), [format!("99 DELETE <{a}")], "what the client has");
        assert_eq!(conflated(&[insert, (Delete, "", a)]), [format!("99 DELETE <{a}")], "a deletion is told");
        let replaced = [format!("7 DELETE <{a}"), format!("99 INSERT {c}<")];
        assert_eq!(conflated(&[(Delete, "", a), (Insert, b, ""), to_c]), replaced);
        let again = [(Delete, "", a), (Insert, b, ""), (Delete, "", b), (Insert, c, "")];
        assert_eq!(conflated(&again), replaced, "two at most");
    }

    #[test]
    fn all_but_the_last_have_the_cursor_from_before() {
        let row = |id: u64| format!(r#"{{"id":{id}}}"#);
        let mut conflation = Conflation::default();
        for (offset, id) in [(5, 1), (6, 2), (9, 1)] {
            assert!(conflation.take(&hit(offset, Op::Insert, &row(id), "")));
        }
        assert_eq!(conflation.after(), 4);
        assert_eq!(shown(&conflation.drain(Some(9))), [r#"4 INSERT {"id":1}<"#, r#"9 INSERT {"id":2}<"#]);
        assert!(conflation.is_empty() && conflation.bytes() == 0 && conflation.take_joined() == 1);
        assert!(conflation.take(&hit(12, Op::Insert, &row(1), "")));
        assert_eq!(shown(&conflation.drain(None)), [r#"11 INSERT {"id":1}<"#], "something follows that is not joined");
    }

    #[test]
    fn what_cannot_be_joined_is_handed_back() {
        let mut conflation = Conflation::default();
        let moved = hit(1, Op::Update, r#"{"id":2}"#, r#"{"id":1}"#);
        let keyless = |mut hit: Hit| {
            hit.row.as_mut().unwrap().key = Bytes::new();
            hit
        };
        assert!(!conflation.take(&moved), "another key");
        assert!(!conflation.take(&hit(1, Op::Truncate, "", "")));
        assert!(!conflation.take(&hit(1, Op::Delete, "", "")), "no telling of what");
        assert!(!conflation.take(&keyless(hit(1, Op::Insert, r#"{"id":2}"#, ""))));
        assert!(!conflation.take(&hit(1, Op::Insert, r#"{"no":2}"#, "")));
        let mut raw = hit(1, Op::Insert, "{}", "");
        raw.row = None;
        assert!(!conflation.take(&raw), "a payload of NOTIFY");
        assert!(conflation.is_empty());
    }

    #[test]
    fn columns_that_were_cut_from_either_are_named() {
        let names = |json: &'static str| Bytes::from_static(json.as_bytes());
        assert_eq!(both(&names(r#"["a","b"]"#), names(r#"["b","c"]"#)), r#"["a","b","c"]"#);
        assert_eq!(both(&names(""), names(r#"["b"]"#)), r#"["b"]"#);
    }

    #[derive(Debug, Clone)]
    enum Event {
        Write(u8, u8),
        Delete(u8),
        Move(u8, u8),
        Truncate,
        HandOn,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            8 => (0..4u8, any::<u8>()).prop_map(|(id, value)| Event::Write(id, value)),
            4 => (0..4u8).prop_map(Event::Delete),
            1 => (0..4u8, 0..4u8).prop_map(|(from, to)| Event::Move(from, to)),
            1 => Just(Event::Truncate),
            2 => Just(Event::HandOn),
        ]
    }

    fn json(id: u8, value: u8) -> String {
        format!(r#"{{"v":{value},"id":{id}}}"#)
    }

    fn id_of(part: &Bytes) -> Option<u64> {
        serde_json::from_slice::<serde_json::Value>(part).ok()?["id"].as_u64()
    }

    /// A client that builds the table, and notices what cannot be.
    fn apply(table: &mut BTreeMap<u64, Bytes>, hit: &Hit) {
        let row = hit.row.as_ref().unwrap();
        let (new, old) = (id_of(&row.data), id_of(&row.old));
        match row.op {
            Op::Insert => assert!(table.insert(new.unwrap(), row.data.clone()).is_none(), "inserted twice"),
            Op::Update => {
                assert_eq!(table.remove(&old.unwrap()), Some(row.old.clone()), "it is the old row that it has");
                table.insert(new.unwrap(), row.data.clone());
            }
            // One that it has never had may be deleted.
            Op::Delete => drop(table.remove(&old.unwrap())),
            Op::Truncate => table.clear(),
        }
    }

    proptest! {
        #[test]
        fn what_is_handed_on_makes_the_same_table(events in prop::collection::vec(event(), 1..80)) {
            let (mut truth, mut table) = (BTreeMap::<u8, u8>::new(), BTreeMap::new());
            let (mut conflation, mut offset, mut cursor) = (Conflation::default(), 0, 0);
            let mut hand_on = |hits: Vec<Hit>, table: &mut BTreeMap<u64, Bytes>| {
                for hit in &hits {
                    assert!(hit.change.offset >= cursor, "cursors go on");
                    cursor = hit.change.offset;
                    apply(table, hit);
                }
            };
            for event in events {
                let made = match event {
                    Event::Write(id, value) => match truth.insert(id, value) {
                        None => (Op::Insert, json(id, value), String::new()),
                        Some(before) => (Op::Update, json(id, value), json(id, before)),
                    },
                    Event::Delete(id) => match truth.remove(&id) {
                        None => continue,
                        Some(before) => (Op::Delete, String::new(), json(id, before)),
                    },
                    Event::Move(from, to) if from != to && truth.contains_key(&from) && !truth.contains_key(&to) => {
                        let value = truth.remove(&from).unwrap();
                        truth.insert(to, value);
                        (Op::Update, json(to, value), json(from, value))
                    }
                    Event::Move(..) => continue,
                    Event::Truncate => {
                        truth.clear();
                        (Op::Truncate, String::new(), String::new())
                    }
                    Event::HandOn => {
                        let hits = conflation.drain(Some(offset));
                        prop_assert!(hits.len() <= 8, "two a key at most");
                        hand_on(hits, &mut table);
                        continue;
                    }
                };
                offset += 1;
                let made = hit(offset, made.0, &made.1, &made.2);
                if !conflation.take(&made) {
                    hand_on(conflation.drain(None), &mut table);
                    hand_on(vec![made], &mut table);
                }
            }
            hand_on(conflation.drain(Some(offset)), &mut table);
            let expected: Vec<String> = truth.iter().map(|(id, value)| json(*id, *value)).collect();
            let got: Vec<String> = table.values().map(|row| String::from_utf8(row.to_vec()).unwrap()).collect();
            prop_assert_eq!(got, expected);
        }
    }
}
