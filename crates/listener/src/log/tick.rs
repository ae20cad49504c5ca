//! Ticks: the durable steps of the log.
//!
//! This is PgQ's snapshot difference. A tick stores `pg_current_snapshot()`; what is new is every
//! event whose transaction is visible now and was not in the snapshot before. Neither `id > last`
//! (which loses a transaction that commits late) nor `xid < xmin` (which waits for the longest
//! transaction of the cluster, and puts updates of a row in the wrong order) does that.

use protocol::{Micros, Offset};
use serde::Deserialize;
use tokio_postgres::{
    Row,
    types::{FromSql, Kind, Type},
};

use super::{
    press::{COLUMN_COUNT, COLUMNS},
    session::SCHEMA_VERSION,
    stored::{PART_BYTES, PART_EVENTS},
};
use crate::session::Lost;

/// Where the log has got to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Position {
    /// The last tick.
    pub(crate) tick: i64,
    /// The offset of its last change.
    pub(crate) offset: Offset,
    /// What is known to be counted. It moves on without a tick while nothing happens.
    pub(crate) snapshot: String,
}

/// What one look at the log found.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Look {
    pub(crate) snapshot: String,
    /// Changes that are new. If there are any they have become a tick, unless the state is another one
    /// than was thought.
    pub(crate) events: u64,
    pub(crate) bytes: u64,
    /// The database's time up to which this is complete.
    pub(crate) at: Micros,
    #[serde(flatten)]
    pub(crate) state: State,
    /// The process that looked: always the same one, if the connection is a direct one.
    pub(crate) backend: i32,
}

/// What there is to know about the log besides its ticks.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct State {
    pub(crate) feed: String,
    pub(crate) paused: bool,
    /// Of the schema: it may be upgraded while we read.
    pub(crate) version: i32,
    /// Counts changes of what is watched.
    pub(crate) catalogue: i64,
    /// Place of the ring.
    pub(crate) generation: i64,
}

/// The two halves of a difference, each an index probe of its own: written as one OR they become a
/// sequential scan as soon as the table is analysed. Of those in flight before, only the ones that
/// are visible now are read: 300,000 rows that are not yet committed would cost 23 ms a look.
/// `$prev` and `$now` are replaced by expressions.
const NEW_EVENTS: &str = "\
    select $columns from rowcast.event e \
      where e.xid >= pg_snapshot_xmax($prev) \
        and e.xid < pg_snapshot_xmax($now) \
        and pg_visible_in_snapshot(e.xid, $now) \
    union all \
    select $columns from rowcast.event e \
      where e.xid = any (array(select x from pg_snapshot_xip($prev) x \
        where pg_visible_in_snapshot(x, $now)))";

/// The events that are visible in one snapshot and not in the other.
pub(crate) fn new_events(columns: &str, prev: &str, now: &str) -> String {
    NEW_EVENTS.replace("$columns", columns).replace("$prev", prev).replace("$now", now)
}

/// [`Look`], as JSON: in one column, so that the rows that are changes do not carry it.
const FOUND: &str = "(select row_to_json(f)::text from (select w.now::text as snapshot, n.events, n.bytes, \
    (extract(epoch from statement_timestamp()) * 1000000)::bigint as at, \
    s.feed, s.paused, s.version, s.catalogue, s.generation, pg_backend_pid() as backend from w, n, s) f)";

/// A look at the log which becomes a tick if there is anything new: one statement, so that what is
/// counted is what the snapshot shows. Parameters: previous snapshot, tick id, its first offset,
/// feed, generation.
pub(crate) fn look_sql(generation: i64) -> String {
    let events = new_events(&format!("e.changes, {SIZE}"), "(select prev from w)", "(select now from w)");
    let tick = tick_sql(generation, "n.events > 0");
    format!(
        "with {WINDOW}, n as materialized (select {COUNT} as events, coalesce(sum(size), 0)::bigint as bytes \
           from ({events}) new), {tick} select {FOUND}"
    )
}

/// The same, with the changes of the tick, each as [`COLUMNS`]; see [`read`]. The answer comes when
/// the tick is on disk. More than [`PART_EVENTS`] changes are not counted to the end, and do not
/// become a tick: a look has to follow. More than [`PART_BYTES`] are not in the answer.
///
/// The new events are read once, for the count and for the answer: of the 0.4 ms that a look takes
/// at low rates, where nothing is in the processor's caches, half would be the second time. They come
/// unsorted: it is cheaper to sort them here.
pub(crate) fn look_and_read_sql(generation: i64) -> String {
    let columns = format!("{COLUMNS}, {SIZE}");
    let events = new_events(&columns, "(select prev from w)", "(select now from w)");
    let tick = tick_sql(generation, &format!("n.events between 1 and {PART_EVENTS}"));
    let nothing = "null, ".repeat(COLUMN_COUNT);
    format!(
        "with {WINDOW}, e as materialized ({events} limit {PART_EVENTS} + 1), \
         n as materialized (select {COUNT} as events, coalesce(sum(size), 0)::bigint as bytes from e), {tick} \
         select {COLUMNS}, null from e where (select events <= {PART_EVENTS} and bytes <= {PART_BYTES} from n) \
         union all select {nothing}{FOUND}"
    )
}

/// Reads the answer to [`look_sql`] or [`look_and_read_sql`], and takes the look out of it.
pub(crate) fn read(rows: &mut Vec<Row>) -> Result<Look, Lost> {
    // It comes last, if PostgreSQL appends in the order of the text, which it does not promise.
    let found = rows.iter().rposition(|row| row.get::<_, Option<&str>>(row.len() - 1).is_some());
    let row = rows.swap_remove(found.ok_or(Lost::Strange("a look without a result"))?);
    serde_json::from_str(row.get(row.len() - 1)).map_err(|_| Lost::Strange("a look with a strange result"))
}

/// How many changes the rows of `rowcast.event` are.
pub(crate) const COUNT: &str = "coalesce(sum(changes), 0)::bigint";
pub(crate) const SIZE: &str = "coalesce(octet_length(e.data), 0) + coalesce(octet_length(e.old), 0) as size";
const WINDOW: &str = "w as materialized (select pg_current_snapshot() as now, ($1::text)::pg_snapshot as prev)";

fn tick_sql(generation: i64, found: &str) -> String {
    let leaf = leaf_of(generation);
    format!(
        "s as materialized (select feed, paused_at is not null as paused, version, catalogue, \
           (select last_value >> 36 from rowcast.event_id) as generation from rowcast.state), \
         t as (insert into rowcast.tick_{leaf} (id, prev, snapshot, first, events, bytes, at) \
           select $2, w.prev, w.now, $3, n.events, n.bytes, statement_timestamp() from w, n, s \
           where {found} and s.feed = $4 and s.generation = $5 and not s.paused and s.version = {SCHEMA_VERSION})"
    )
}

pub(crate) const LOOK_TYPES: [Type; 5] = [Type::TEXT, Type::INT8, Type::INT8, Type::TEXT, Type::INT8];

/// The leaf of the ring that a generation writes to.
pub(crate) fn leaf_of(generation: i64) -> i64 {
    generation & 3
}

/// A `timestamptz`, in microseconds since 1970.
pub(crate) struct At(pub(crate) Micros);

impl<'a> FromSql<'a> for At {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        // PostgreSQL counts from 2000-01-01.
        const EPOCH: Micros = 946_684_800_000_000;
        Ok(Self(Micros::from_be_bytes(raw.try_into()?) + EPOCH))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TIMESTAMPTZ
    }
}

/// An `xid8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Xid(pub(crate) u64);

impl<'a> FromSql<'a> for Xid {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(u64::from_be_bytes(raw.try_into()?)))
    }

    fn accepts(ty: &Type) -> bool {
        *ty.kind() == Kind::Simple && ty.name() == "xid8"
    }
}
