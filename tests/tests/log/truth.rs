use std::collections::HashMap;

use e2e::{
    follower::{Got, Seen},
    log::CHANGES,
    torture::truth::Snapshot,
};
use tokio_postgres::Client;

/// The current feed as the log has it, read by other means than the listener's.
pub struct Truth {
    changes: Vec<Event>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Event {
    offset: u64,
    topic: String,
    op: u8,
    tx: u64,
    tx_last: u64,
    key: String,
    cut: String,
    data: String,
    old: String,
}

struct Tick {
    prev: Snapshot,
    snapshot: Snapshot,
    first: i64,
    events: i64,
}

impl Truth {
    /// Reads all ticks and all events, and says which event is in which tick.
    pub async fn read(client: &Client) -> Self {
        let sql = "select t.id, prev::text, snapshot::text, first, events from rowcast.tick t, rowcast.state s \
                   where t.id > s.first_tick order by t.id";
        let rows = client.query(sql, &[]).await.unwrap();
        let ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
        assert!(ids.windows(2).all(|pair| pair[1] == pair[0] + 1), "ticks are numbered without a hole: {ids:?}");
        let ticks: Vec<Tick> = rows
            .iter()
            .map(|row| Tick {
                prev: Snapshot::parse(row.get(1)).unwrap(),
                snapshot: Snapshot::parse(row.get(2)).unwrap(),
                first: row.get(3),
                events: row.get(4),
            })
            .collect();
        let mut of_tick: Vec<Vec<((i64, i32), Event)>> = ticks.iter().map(|_| Vec::new()).collect();
        let sql = format!("select id, xid::text, topic, op::text, key, cut, data, old, place from {CHANGES} c");
        for row in client.query(&sql, &[]).await.unwrap() {
            let text = |column| row.get::<_, Option<String>>(column).unwrap_or_default();
            let tx: u64 = row.get::<_, String>(1).parse().unwrap();
            let at = ticks.partition_point(|tick| !tick.snapshot.sees(tx));
            // Of a feed before, or not yet in a tick.
            let Some(tick) = ticks.get(at).filter(|tick| !tick.prev.sees(tx)) else { continue };
            assert!(tick.events > 0);
            let event = Event {
                offset: 0,
                topic: row.get(2),
                op: row.get::<_, String>(3).as_bytes()[0],
                tx,
                tx_last: 0,
                key: text(4),
                cut: text(5),
                data: text(6),
                old: text(7),
            };
            of_tick[at].push(((row.get(0), row.get(8)), event));
        }
        let mut changes: Vec<Event> = Vec::new();
        for (tick, mut events) in ticks.iter().zip(of_tick) {
            let mut last_id: HashMap<u64, (i64, i32)> = HashMap::new();
            for (id, event) in &events {
                let last = last_id.entry(event.tx).or_insert(*id);
                *last = (*last).max(*id);
            }
            events.sort_by_key(|(id, event)| (last_id[&event.tx], *id));
            assert_eq!((tick.first, tick.events), (changes.len() as i64 + 1, events.len() as i64), "what a tick says");
            let first = changes.len() as u64 + 1;
            changes.extend(events.into_iter().zip(first..).map(|((_, event), offset)| Event { offset, ..event }));
        }
        let mut last: Option<(u64, u64)> = None;
        for event in changes.iter_mut().rev() {
            last = last.filter(|(tx, _)| *tx == event.tx).or(Some((event.tx, event.offset)));
            event.tx_last = last.map_or(0, |(_, offset)| offset);
        }
        Self { changes }
    }

    /// That this is what was received, from the first change to the last.
    pub fn assert_same(&self, received: &[&Got]) {
        for (expected, got) in self.changes.iter().zip(received) {
            assert_eq!(Event::of(got), *expected);
        }
        assert_eq!(self.changes.len(), received.len());
    }
}

impl Event {
    fn of(got: &Got) -> Self {
        let row = got.change.row().expect("a change of the log is a row");
        let text = |part: &[u8]| str::from_utf8(part).unwrap().to_owned();
        Self {
            offset: got.change.offset,
            topic: got.topic.to_string(),
            op: row.op.letter(),
            tx: row.tx,
            tx_last: row.tx_last,
            key: text(&row.key),
            cut: text(&row.cut),
            data: text(&row.data),
            old: text(&row.old),
        }
    }
}

/// That each change of a table finds its row as the change before has left it, and that the last
/// leave what the table holds.
pub async fn assert_leads_to(client: &Client, seen: &Seen, table: &str) {
    let id = |row: &str| serde_json::from_str::<serde_json::Value>(row).unwrap()["id"].as_i64().unwrap();
    let mut rows: HashMap<i64, String> = HashMap::new();
    for got in seen.changes.iter().filter(|got| got.topic.as_str() == format!("public.{table}")) {
        let event = Event::of(got);
        let (data, old) = (event.data.clone(), event.old.clone());
        match event.op {
            b'T' => rows.clear(),
            b'I' => assert_eq!(rows.insert(id(&data), data), None, "{event:?}"),
            b'D' => assert_eq!(rows.remove(&id(&old)), Some(old), "{event:?}"),
            _ => {
                assert_eq!(rows.remove(&id(&old)), Some(old), "{event:?}");
                assert_eq!(rows.insert(id(&data), data), None, "{event:?}");
            }
        }
    }
    let sql = format!("select id::int8, row_to_json(t)::text from {table} t");
    let now: HashMap<i64, String> =
        client.query(&sql, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(rows, now, "{table}");
}
