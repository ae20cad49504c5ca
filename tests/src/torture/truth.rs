use std::collections::HashMap;

use super::{
    change::Change,
    replica::Replica,
    table::{Tables, table_of},
    violation::{Crime, Violation},
};

/// A snapshot as PostgreSQL writes it: `xmin:xmax:xip,xip`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    xmin: u64,
    xmax: u64,
    in_progress: Vec<u64>,
}

impl Snapshot {
    /// Reads one.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let (xmin, xmax) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let in_progress: Option<Vec<u64>> =
            parts.next()?.split(',').filter(|xid| !xid.is_empty()).map(|xid| xid.parse().ok()).collect();
        Some(Self { xmin, xmax, in_progress: in_progress? })
    }

    /// Whether a transaction had ended when it was taken.
    pub fn sees(&self, xid: u64) -> bool {
        xid < self.xmin || (xid < self.xmax && !self.in_progress.contains(&xid))
    }
}

/// A row of `rowcast.tick`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tick {
    /// One more than the previous one's.
    pub id: i64,
    /// Its changes are not visible in this,
    pub prev: Snapshot,
    /// and in this they are.
    pub snapshot: Snapshot,
    /// The offset of its first change.
    pub first: u64,
    /// How many changes it has.
    pub events: u64,
}

/// A row of `rowcast.event`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// From the sequence; and its place among several with one id.
    pub id: (i64, i32),
    /// The transaction.
    pub xid: u64,
    /// The table.
    pub topic: String,
    /// `I`, `U`, `D` or `T`.
    pub op: String,
    /// Names of the key columns, as JSON.
    pub key: Option<String>,
    /// The new row, as JSON.
    pub data: Option<String>,
    /// The old row, as JSON.
    pub old: Option<String>,
    /// Columns left out, as JSON.
    pub cut: Option<String>,
    /// When.
    pub at: String,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
}

impl Event {
    /// What a client must be told.
    pub fn change(&self) -> Change<'_> {
        Change {
            topic: &self.topic,
            op: match &*self.op {
                "I" => "INSERT",
                "U" => "UPDATE",
                "D" => "DELETE",
                "T" => "TRUNCATE",
                other => other,
            },
            key: self.key.as_deref(),
            data: self.data.as_deref(),
            old: self.old.as_deref(),
            cut: self.cut.as_deref(),
            tx: self.xid,
            at: &self.at,
        }
    }
}

/// One change of the log, as little of it as the judge needs: 32 bytes, so that hours fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// [`Change::digest`].
    pub digest: u64,
    /// The transaction.
    pub xid: u64,
    /// Bytes of all changes of all tables up to this one.
    pub bytes: u64,
    /// When it was written, in seconds since 1970.
    pub at_s: u32,
    /// The table, as a bit of [`Tables`].
    pub table: Tables,
    /// The tables that the same transaction changes after this.
    pub later: Tables,
}

/// What really happened: the log, put in order by the judge's own reading of its rules.
#[derive(Debug, Default)]
pub struct Truth {
    records: Vec<Record>,
    transactions: u64,
    last_tick: i64,
    /// What the log makes of the tables; shows whether the log's order is a possible one.
    replica: Replica,
}

impl Truth {
    /// A log that begins after this tick.
    pub fn after(base_tick: i64) -> Self {
        Self { last_tick: base_tick, ..Self::default() }
    }

    /// The offset of the last change.
    pub fn last(&self) -> u64 {
        self.records.len() as u64
    }

    /// How many transactions it has.
    pub fn transactions(&self) -> u64 {
        self.transactions
    }

    /// The last tick.
    pub fn last_tick(&self) -> i64 {
        self.last_tick
    }

    /// What it makes of the tables.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// The change with this offset.
    pub fn record(&self, offset: u64) -> Option<&Record> {
        self.records.get(usize::try_from(offset.checked_sub(1)?).ok()?)
    }

    /// The first change of these tables in `after+1 ..= upto`.
    pub fn next(&self, tables: Tables, after: u64, upto: u64) -> Option<u64> {
        (after + 1..=upto.min(self.last())).find(|&offset| self.record(offset).is_some_and(|r| r.table & tables != 0))
    }

    /// The last change of these tables.
    pub fn last_of(&self, tables: Tables) -> u64 {
        self.records.iter().rposition(|record| record.table & tables != 0).map_or(0, |at| at as u64 + 1)
    }

    /// Bytes of the changes in `after+1 ..= upto`.
    pub fn bytes(&self, after: u64, upto: u64) -> u64 {
        let upto_bytes = |offset: u64| self.record(offset.min(self.last())).map_or(0, |record| record.bytes);
        upto_bytes(upto).saturating_sub(upto_bytes(after))
    }

    /// Takes in the ticks that follow, and every event that the last one's snapshot sees and that
    /// what was taken in before did not. Checks that they are what they say.
    pub fn extend(&mut self, ticks: &[Tick], events: Vec<Event>) -> Result<(), Violation> {
        let mut of_tick: Vec<Vec<Event>> = ticks.iter().map(|_| Vec::new()).collect();
        for event in events {
            let at = ticks.partition_point(|tick| !tick.snapshot.sees(event.xid));
            let taken = ticks.get(at).filter(|tick| !tick.prev.sees(event.xid));
            match (taken, of_tick.get_mut(at)) {
                (Some(_), Some(tick)) => tick.push(event),
                _ => return Err(broken(format!("event {:?} of transaction {} is in no tick", event.id, event.xid))),
            }
        }
        for (tick, mut events) in ticks.iter().zip(of_tick) {
            let (first, count) = (self.last() + 1, events.len() as u64);
            if tick.id != self.last_tick + 1 || tick.first != first || tick.events != count {
                let said = format!("tick {} has {} changes from {} on", tick.id, tick.events, tick.first);
                return Err(broken(format!("{said}; it is tick {} with {count} from {first}", self.last_tick + 1)));
            }
            self.last_tick = tick.id;
            let mut greatest: HashMap<u64, (i64, i32)> = HashMap::new();
            for event in &events {
                let greatest = greatest.entry(event.xid).or_insert(event.id);
                *greatest = event.id.max(*greatest);
            }
            self.transactions += greatest.len() as u64;
            events.sort_by_key(|event| (greatest.get(&event.xid).copied(), event.id));
            self.append(&events)?;
        }
        Ok(())
    }

    fn append(&mut self, events: &[Event]) -> Result<(), Violation> {
        let start = self.records.len();
        for event in events {
            let change = event.change();
            let at = format!("offset {}, event {:?}, transaction {}", self.last() + 1, event.id, event.xid);
            let table =
                table_of(&event.topic).ok_or_else(|| broken(format!("{at}: nobody watches {}", event.topic)))?;
            self.replica.apply(&change).map_err(|how| broken(format!("{at}, {}: {how}", event.topic)))?;
            let length: usize = [&event.key, &event.data, &event.old].into_iter().flatten().map(String::len).sum();
            self.records.push(Record {
                digest: change.digest(),
                xid: event.xid,
                bytes: self.records.last().map_or(0, |record| record.bytes) + length as u64 + 64,
                at_s: (event.at_ms / 1000) as u32,
                table: 1 << table,
                later: 0,
            });
        }
        let mut following: Option<Record> = None;
        for record in self.records[start..].iter_mut().rev() {
            if let Some(next) = following.filter(|next| next.xid == record.xid) {
                record.later = next.later | next.table;
            }
            following = Some(*record);
        }
        Ok(())
    }
}

fn broken(how: String) -> Violation {
    Violation::new(Crime::BrokenLog, "the log", how)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::torture::table::TABLES;

    pub fn event(id: i64, xid: u64, table: usize, row: u64) -> Event {
        let data = format!(r#"{{"id":{row},"region":"north","word":"{row}","n":1}}"#);
        let key = if TABLES[table].topic == "public.words" { r#"["word"]"# } else { r#"["id"]"# };
        Event {
            id: (id, 1),
            xid,
            topic: TABLES[table].topic.into(),
            op: "I".into(),
            key: Some(key.into()),
            data: Some(data),
            old: None,
            cut: None,
            at: "2026-01-01T00:00:00.000000Z".into(),
            at_ms: 1_000_000_000,
        }
    }

    pub fn tick(id: i64, prev: &str, snapshot: &str, first: u64, events: u64) -> Tick {
        Tick { id, prev: Snapshot::parse(prev).unwrap(), snapshot: Snapshot::parse(snapshot).unwrap(), first, events }
    }

    #[test]
    fn a_snapshot_sees_what_had_ended() {
        let snapshot = Snapshot::parse("10:20:10,15").unwrap();
        let seen: Vec<u64> = (8..23).filter(|&xid| snapshot.sees(xid)).collect();
        assert_eq!(seen, [8, 9, 11, 12, 13, 14, 16, 17, 18, 19]);
        assert_eq!(Snapshot::parse("5:5:").map(|s| (s.sees(4), s.sees(5))), Some((true, false)));
        assert_eq!(Snapshot::parse("5:5"), None);
    }

    #[test]
    fn transactions_are_whole_and_come_where_their_last_event_is() {
        let mut truth = Truth::after(7);
        let ticks = [tick(8, "10:10:", "10:13:10", 1, 3), tick(9, "10:13:10", "13:13:", 4, 2)];
        let events =
            vec![event(1, 10, 0, 1), event(2, 11, 0, 2), event(3, 12, 1, 3), event(4, 11, 1, 4), event(5, 10, 0, 5)];
        truth.extend(&ticks, events).unwrap();
        let xids: Vec<u64> = (1..=5).map(|offset| truth.record(offset).unwrap().xid).collect();
        assert_eq!(xids, [12, 11, 11, 10, 10]);
        let later: Vec<Tables> = (1..=5).map(|offset| truth.record(offset).unwrap().later).collect();
        assert_eq!(later, [0, 0b10, 0, 0b01, 0]);
        assert_eq!((truth.transactions(), truth.last_of(0b10), truth.next(0b10, 1, 9)), (3, 3, Some(3)));
    }

    #[test]
    fn a_log_that_is_not_in_order_is_noticed() {
        let events = || vec![event(1, 10, 0, 1), event(2, 11, 0, 2)];
        let crime = |ticks: &[Tick], events| Truth::after(0).extend(ticks, events).map_err(|v| v.crime);
        let good = [tick(1, "10:10:", "11:11:", 1, 1), tick(2, "11:11:", "12:12:", 2, 1)];
        assert_eq!(crime(&good, events()), Ok(()));
        for ticks in [
            // The second begins too late: a transaction falls between the two.
            [good[0].clone(), tick(2, "12:12:", "12:12:", 2, 0)],
            [good[0].clone(), tick(3, "11:11:", "12:12:", 2, 1)],
            [good[0].clone(), tick(2, "11:11:", "12:12:", 3, 1)],
            [good[0].clone(), tick(2, "11:11:", "12:12:", 2, 2)],
        ] {
            assert_eq!(crime(&ticks, events()), Err(Crime::BrokenLog), "{ticks:?}");
        }
        // The same row twice: in this order nobody can have inserted it.
        assert_eq!(crime(&good, vec![event(1, 10, 0, 1), event(2, 11, 0, 1)]), Err(Crime::BrokenLog));
    }
}
