//! Moves the ring of the log on, and empties what is old: by TRUNCATE, so nothing has to be vacuumed.
//!
//! Of four leaves one is being written. The next one must be empty before the ring moves on, and a
//! leaf is emptied only when all that it holds was published, longer ago than the log is to be kept.
//! So while nothing is published nothing is thrown away; the current leaf grows.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use protocol::{Micros, Offset};
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};

use super::{session::LogSession, stored, tick::At};
use crate::{metrics::Metrics, session::Lost};

/// How much of the log is kept; past either limit its oldest quarter may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogRetention {
    /// Age of ticks, in milliseconds.
    pub ms: u64,
    /// Bytes on disk.
    pub bytes: u64,
}

impl Default for LogRetention {
    fn default() -> Self {
        Self { ms: 3_600_000, bytes: 4 * 1024 * 1024 * 1024 }
    }
}

const EVERY: Duration = Duration::from_secs(1);
/// How often a leaf is asked for that cannot be emptied, at least.
const SELDOM: Duration = Duration::from_secs(15);

#[derive(Debug, Clone, Copy)]
struct Leaf {
    number: i64,
    bytes: u64,
    /// Whether anything was ever written to it since it was emptied.
    used: bool,
    /// Its first tick, if it has one with changes.
    oldest: Option<Micros>,
    /// Its last tick: when, and which.
    newest: Option<Micros>,
    last_tick: Option<i64>,
}

pub(crate) struct Ring<'a> {
    pub(crate) session: &'a LogSession,
    pub(crate) first_tick: i64,
    pub(crate) retention: LogRetention,
    pub(crate) published: watch::Receiver<Offset>,
    pub(crate) metrics: Metrics,
    /// Until when no leaf is asked for, because one could not be emptied, and how long that pause is.
    pub(crate) blocked: Option<(Instant, Duration)>,
    /// How many watched tables were dropped.
    pub(crate) dropped: Option<i64>,
    /// Told when that changes.
    pub(crate) changed: Arc<Notify>,
}

impl Ring<'_> {
    /// Looks after the ring until the session is lost.
    pub(crate) async fn run(mut self) -> Result<(), Lost> {
        loop {
            self.turn().await?;
            sleep(EVERY).await;
        }
    }

    async fn turn(&mut self) -> Result<(), Lost> {
        let (generation, now, leaves) = self.look().await?;
        let total: u64 = leaves.iter().map(|leaf| leaf.bytes).sum();
        self.metrics.log_bytes.set(i64::try_from(total).unwrap_or(i64::MAX));
        let age = |at: Micros| (now - at) as f64 / 1e6;
        self.metrics.log_age.set(leaves.iter().filter_map(|leaf| leaf.oldest).map(age).fold(0.0, f64::max));
        self.gauge(now).await?;
        self.look_for_dropped_tables().await?;

        let Some(current) = leaves.iter().find(|leaf| leaf.number == generation & 3) else { return Ok(()) };
        let keep = i64::try_from(self.retention.ms.saturating_mul(1000)).unwrap_or(i64::MAX);
        // Three leaves hold what is to be kept, or a little more, while the fourth is empty or filling.
        let full = current.bytes >= self.retention.bytes / 3;
        let old = current.oldest.is_some_and(|at| now - at >= keep / 2);
        let next = leaves[((generation + 1) & 3) as usize];
        // The newest tick says how far the numbering is: its leaf stays, and an idle log is left alone.
        let newest = leaves.iter().filter_map(|leaf| leaf.last_tick).max();
        let old_ones = |leaf: &&Leaf| leaf.used && leaf.number != current.number && leaf.last_tick != newest;
        let waits = self.blocked.is_some_and(|(until, _)| until > Instant::now());
        for leaf in leaves.iter().filter(old_ones).filter(|_| !waits) {
            let expired = leaf.newest.is_none_or(|at| now - at >= keep);
            if expired || (full && leaf.number == next.number) {
                self.empty(leaf, if expired { now.saturating_sub(keep) } else { now }).await?;
            }
        }
        if full || old {
            let sql = "select rowcast.turn_ring($1)";
            let turned: Option<i64> = self.session.query_one(sql, &[&generation]).await?.get(0);
            tracing::debug!(generation, ?turned, "the ring of the log is to move on");
        }
        Ok(())
    }

    /// The generation, the database's time, and the leaves.
    async fn look(&self) -> Result<(i64, Micros, [Leaf; 4]), Lost> {
        let leaf = |n: i64| {
            format!(
                "select {n}::bigint, pg_total_relation_size('rowcast.event_{n}') + pg_total_relation_size('rowcast.tick_{n}'), \
                 exists (select from rowcast.event_{n}) or exists (select from rowcast.tick_{n}), \
                 (select at from rowcast.tick_{n} where events > 0 order by id limit 1), \
                 (select at from rowcast.tick_{n} order by id desc limit 1), \
                 (select id from rowcast.tick_{n} order by id desc limit 1)"
            )
        };
        let sql = (0..4).map(leaf).collect::<Vec<_>>().join(" union all ");
        let rows = self.session.query_all(&format!("{sql} order by 1"), &[]).await?;
        let leaves: Vec<Leaf> = rows
            .iter()
            .map(|row| Leaf {
                number: row.get(0),
                bytes: row.get::<_, i64>(1).cast_unsigned(),
                used: row.get(2),
                oldest: row.get::<_, Option<At>>(3).map(|at| at.0),
                newest: row.get::<_, Option<At>>(4).map(|at| at.0),
                last_tick: row.get(5),
            })
            .collect();
        let row =
            self.session.query_one("select last_value >> 36, clock_timestamp() from rowcast.event_id", &[]).await?;
        let leaves = leaves.try_into().map_err(|_| Lost::Strange("a ring without four leaves"))?;
        Ok((row.get(0), row.get::<_, At>(1).0, leaves))
    }

    /// Empties a leaf, if all in it was published and is older than `before`.
    async fn empty(&mut self, leaf: &Leaf, before: Micros) -> Result<(), Lost> {
        let published = self.published.borrow().cast_signed();
        let from = leaf.last_tick.unwrap_or(0).max(self.first_tick);
        let Some(horizon) = self.horizon(from, before, published).await? else { return Ok(()) };
        // A statement of its own: one that reads ticks cannot truncate them.
        let sql = "select rowcast.empty_leaf($1, ($2::text)::pg_snapshot)";
        let number = i32::try_from(leaf.number).unwrap_or_default();
        let answer: String = self.session.query_one(sql, &[&number, &horizon]).await?.get(0);
        match answer.as_str() {
            "emptied" => {
                self.blocked = None;
                tracing::debug!(leaf = number, bytes = leaf.bytes, "emptied a leaf of the log");
            }
            _ => {
                // Asked again ever less often: it takes a lock, if only for a moment.
                let pause = self.blocked.map_or(EVERY, |(_, pause)| (pause * 2).min(SELDOM));
                self.blocked = Some((Instant::now() + pause, pause));
                tracing::debug!(leaf = number, answer, "a leaf of the log cannot be emptied yet");
            }
        }
        Ok(())
    }

    /// What the newest tick shows that is old enough and published: the more it shows, the better. Ticks
    /// are numbered without a hole, and there may be millions, so it is searched for by halves.
    async fn horizon(&self, from: i64, before: Micros, published: i64) -> Result<Option<String>, Lost> {
        let sql = "select at, first + events - 1, snapshot::text from rowcast.tick where id >= $1 order by id limit 1";
        let newest: Option<i64> = self.session.query_one("select max(id) from rowcast.tick", &[]).await?.get(0);
        let (mut low, mut high, mut horizon) = (from, newest.unwrap_or(0), None);
        while low <= high {
            let middle = low + (high - low) / 2;
            let row = self.session.query_opt(sql, &[&middle]).await?;
            let fits = row.filter(|row| row.get::<_, At>(0).0 <= before && row.get::<_, i64>(1) <= published);
            match fits {
                Some(row) => {
                    horizon = Some(row.get(2));
                    low = middle + 1;
                }
                None => high = middle - 1,
            }
        }
        Ok(horizon)
    }

    /// DROP TABLE tells nobody.
    async fn look_for_dropped_tables(&mut self) -> Result<(), Lost> {
        let sql =
            "select count(*) from rowcast.watched w where not exists (select from pg_class c where c.oid = w.relation)";
        let dropped = self.session.query_one(sql, &[]).await?.get(0);
        if self.dropped.replace(dropped).is_some_and(|before| before != dropped) {
            self.changed.notify_one();
        }
        Ok(())
    }

    async fn gauge(&self, now: Micros) -> Result<(), Lost> {
        // Those that have written: what they wrote comes when they commit, and keeps its leaf until then.
        let sql = "select coalesce(extract(epoch from clock_timestamp() - min(began)), 0)::float8 from ( \
                     select a.xact_start from pg_stat_activity a where a.backend_xid is not null \
                     union all select p.prepared from pg_prepared_xacts p) o(began)";
        let row = self.session.query_one(sql, &[]).await?;
        self.metrics.log_oldest_transaction.set(row.get(0));
        let published = *self.published.borrow();
        let last = self.metrics.log_last.get().cast_unsigned();
        let waiting = stored::holding(self.session, self.first_tick, published).await?.filter(|_| published < last);
        let age = waiting.map_or(0.0, |tick| (now - tick.at) as f64 / 1e6);
        self.metrics.log_backlog.set(last.saturating_sub(published).cast_signed());
        self.metrics.log_backlog_seconds.set(age.max(0.0));
        Ok(())
    }
}
