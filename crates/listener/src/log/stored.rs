//! Ticks as they are stored, and reading what belongs to one.
//!
//! Order within a tick: transactions by the last id of each, and by id in each. So they come out
//! whole, and the order of each row's changes is right, because a second writer of a row gets its id
//! only after the first has committed.

use std::collections::HashMap;

use protocol::{Micros, Offset};
use tokio_postgres::{Row, Statement, types::Type};

use super::{
    press::COLUMNS,
    session::LogSession,
    tick::{At, COUNT, SIZE, Xid, new_events},
};
use crate::session::Lost;

/// A tick with more changes, or more bytes, is read in parts.
pub(crate) const PART_EVENTS: u64 = 8192;
pub(crate) const PART_BYTES: u64 = 4 * 1024 * 1024;

/// A tick that has changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tick {
    pub(crate) id: i64,
    pub(crate) first: Offset,
    pub(crate) events: u64,
    pub(crate) bytes: u64,
    pub(crate) at: Micros,
}

impl Tick {
    /// The offset of its last change.
    pub(crate) fn last(&self) -> Offset {
        self.first + self.events - 1
    }

    pub(crate) fn is_large(&self) -> bool {
        self.events > PART_EVENTS || self.bytes > PART_BYTES
    }
}

/// One transaction of a large tick.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Transaction {
    pub(crate) xid: Xid,
    pub(crate) events: u64,
    pub(crate) bytes: u64,
}

/// The statements that read ticks.
pub(crate) struct Reads {
    run: Statement,
    small: Statement,
    chunk: Statement,
    part: Statement,
}

impl Reads {
    pub(crate) async fn prepare(session: &LogSession) -> Result<Self, Lost> {
        let run = "select id, first, events, bytes, at from rowcast.tick where id >= $1 order by id limit $2";
        let chunk =
            format!("select {COLUMNS} from rowcast.event e where e.xid = any (($1::text[])::xid8[]) order by e.id");
        // At least one, and then no more than are to be in one answer, whatever their sizes.
        let part = format!(
            "select {COLUMNS} from (select e.*, sum(e.size) over (order by e.id) - e.size as before, \
                 sum(e.changes) over (order by e.id) - e.changes as changes_before from \
               (select {COLUMNS}, {SIZE} from rowcast.event e \
                 where e.xid = ($1::text)::xid8 and e.id > $2 order by e.id limit {PART_EVENTS}) e) e \
             where e.before < {PART_BYTES} and e.changes_before < {PART_EVENTS} order by e.id"
        );
        Ok(Self {
            run: session.prepare(run, &[Type::INT8, Type::INT8]).await?,
            small: session.prepare(&small_sql(), &[Type::INT8]).await?,
            chunk: session.prepare(&chunk, &[Type::TEXT_ARRAY]).await?,
            part: session.prepare(&part, &[Type::TEXT, Type::INT8]).await?,
        })
    }

    /// Ticks from this id on, as many as are read at once: one that is large, or several that are
    /// not. None: the first is no longer kept.
    pub(crate) async fn run(&self, session: &LogSession, id: i64) -> Result<Vec<Tick>, Lost> {
        const MOST: i64 = 64;
        let rows = session.query(&self.run, &[&id, &MOST]).await?;
        let (mut events, mut bytes) = (0, 0);
        let mut run: Vec<Tick> = Vec::new();
        for (tick, expected) in rows.iter().map(tick_of).zip(id..) {
            events += tick.events;
            bytes += tick.bytes;
            if tick.id != expected || (!run.is_empty() && (events > PART_EVENTS || bytes > PART_BYTES)) {
                break;
            }
            run.push(tick);
        }
        Ok(run)
    }

    /// All changes of a tick, in order; none if it is large, or not there.
    pub(crate) async fn small(&self, session: &LogSession, id: i64) -> Result<Vec<Row>, Lost> {
        let mut rows = session.query(&self.small, &[&id]).await?;
        in_order(&mut rows);
        Ok(rows)
    }

    /// All changes of these transactions, in order.
    pub(crate) async fn chunk(&self, session: &LogSession, transactions: &[Transaction]) -> Result<Vec<Row>, Lost> {
        let xids: Vec<String> = transactions.iter().map(|tx| tx.xid.0.to_string()).collect();
        let mut rows = session.query(&self.chunk, &[&xids]).await?;
        let place: HashMap<Xid, usize> = transactions.iter().map(|tx| tx.xid).zip(0..).collect();
        // Stable, so by id within each.
        rows.sort_by_key(|row| place.get(&row.get::<_, Xid>(1)).copied());
        Ok(rows)
    }

    /// The next changes of one transaction after an id.
    pub(crate) async fn part(&self, session: &LogSession, xid: Xid, after: i64) -> Result<Vec<Row>, Lost> {
        session.query(&self.part, &[&xid.0.to_string(), &after]).await
    }
}

/// The tick that holds the change after an offset; `None`: it is no longer kept.
pub(crate) async fn holding(session: &LogSession, first_tick: i64, after: Offset) -> Result<Option<Tick>, Lost> {
    let sql = "select id, first, events, bytes, at from rowcast.tick \
               where id > $1 and first <= $2 and events > 0 order by first desc limit 1";
    let next = (after + 1).cast_signed();
    let row = session.query_opt(sql, &[&first_tick, &next]).await?;
    Ok(row.as_ref().map(tick_of).filter(|tick| tick.last() > after))
}

/// The offset after which a bus that has lost everything is to be refilled: as far back as time and
/// bytes allow, of what the log still has.
pub(crate) async fn refill_after(
    session: &LogSession,
    first_tick: i64,
    last: Offset,
    ms: u64,
    bytes: u64,
) -> Result<Offset, Lost> {
    const PAGE: i64 = 2000;
    let sql = "select id, first, events, bytes, at, clock_timestamp() from rowcast.tick \
               where id > $1 and id < $2 and events > 0 order by id desc limit 2000";
    let (mut before, mut total, mut after) = (i64::MAX, 0, last);
    loop {
        let page = session.query_all(sql, &[&first_tick, &before]).await?;
        for row in &page {
            let tick = tick_of(row);
            total += tick.bytes;
            let age_ms = (row.get::<_, At>(5).0 - tick.at) / 1000;
            if total > bytes || u64::try_from(age_ms).is_ok_and(|age| age > ms) {
                return Ok(after);
            }
            after = tick.first - 1;
            before = tick.id;
        }
        if (page.len() as i64) < PAGE {
            return Ok(after);
        }
    }
}

/// The first offset, not before `after`, after which the log is whole up to its newest tick. A tick
/// may have changes in a leaf that was emptied, while it is itself in the next one; all such ticks
/// were published before that.
pub(crate) async fn whole_after(session: &LogSession, first_tick: i64, after: Offset) -> Result<Offset, Lost> {
    let Some(oldest) = holding(session, first_tick, after).await? else { return Ok(after) };
    let sql = "select max(id) from rowcast.tick";
    let newest: i64 = session.query_one(sql, &[]).await?.get(0);
    let events = new_events("e.changes", "(select prev from a)", "(select snapshot from b)");
    let sql = format!(
        "with a as materialized (select prev, first from rowcast.tick where id = $1), \
         b as materialized (select snapshot, first + events as next from rowcast.tick where id = $2) \
         select (select {COUNT} from ({events}) n) = b.next - a.first, a.first, b.next from a, b"
    );
    let statement = session.prepare(&sql, &[Type::INT8, Type::INT8]).await?;
    // The first that begins what is whole is searched for between these: it is whole after the last.
    let (mut torn, mut whole, mut from) = (oldest.id - 1, newest + 1, None);
    let mut middle = oldest.id;
    while torn + 1 < whole {
        let rows = session.query(&statement, &[&middle, &newest]).await?;
        match rows.first() {
            Some(row) if row.get(0) => (whole, from) = (middle, Some(row.get::<_, i64>(1) - 1)),
            Some(row) => {
                torn = middle;
                from = from.or(Some(row.get::<_, i64>(2) - 1));
            }
            // A leaf that somebody reads may stay when the next one is emptied.
            None => torn = middle,
        }
        middle = torn + (whole - torn) / 2;
    }
    Ok(from.map_or(after, |from| after.max(from.cast_unsigned())))
}

/// The transactions of a large tick, in order. Parameter: its id.
pub(crate) fn transactions_sql() -> String {
    let events = new_events(
        "e.xid, e.id, e.changes, coalesce(octet_length(e.data), 0) + coalesce(octet_length(e.old), 0) as bytes",
        "(select prev from t)",
        "(select snapshot from t)",
    );
    format!(
        "with t as materialized (select prev, snapshot from rowcast.tick where id = $1) \
         select xid, {COUNT}, sum(bytes)::bigint from ({events}) e group by xid order by max(id)"
    )
}

fn small_sql() -> String {
    let events = new_events(COLUMNS, "(select prev from t)", "(select snapshot from t)");
    format!(
        "with t as materialized (select prev, snapshot from rowcast.tick where id = $1 \
           and events <= {PART_EVENTS} and bytes <= {PART_BYTES}) \
         {events}"
    )
}

/// Puts all changes of a tick in order; how many transactions they are.
pub(crate) fn in_order(rows: &mut [Row]) -> usize {
    let id = |row: &Row| row.get::<_, i64>(0);
    let xid = |row: &Row| row.get::<_, Xid>(1);
    let mut last_ids = HashMap::new();
    for row in &*rows {
        let last = last_ids.entry(xid(row)).or_insert(0);
        *last = id(row).max(*last);
    }
    rows.sort_by_cached_key(|row| (last_ids.get(&xid(row)).copied(), id(row)));
    last_ids.len()
}

fn tick_of(row: &Row) -> Tick {
    Tick {
        id: row.get(0),
        first: row.get::<_, i64>(1).cast_unsigned(),
        events: row.get::<_, i64>(2).cast_unsigned(),
        bytes: row.get::<_, i64>(3).cast_unsigned(),
        at: row.get::<_, At>(4).0,
    }
}
