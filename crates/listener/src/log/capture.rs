//! Looks at the log, makes ticks of what is new, and hands their changes on, in order.
//!
//! Looking goes on whatever happens to the rest: while the bus is away, or behind, ticks are made
//! all the same, so that none grows without bound, and read later.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, TryStreamExt, future::join_all};
use protocol::{Catalogue, FeedId, Offset, Topic, TopicInfo};
use service::{postgres::describe, systemd::Pulse};
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};
use tokio_postgres::{Statement, types::Type};

use super::{
    doorbell::{self, Doorbell, Next},
    out::{Mark, Out},
    press::{Press, changes},
    session::{LogSession, SCHEMA_VERSION},
    stored::{self, PART_BYTES, PART_EVENTS, Reads, Tick, Transaction},
    tick::{self, LOOK_TYPES, Look, Position, State, look_and_read_sql, look_sql},
};
use crate::{metrics::Metrics, session::Lost};

/// How often the log is looked at while what was found before is not handed on yet.
const WHILE_BEHIND: Duration = Duration::from_millis(100);
/// How often a sleeping listener looks: the watermark of an idle feed, and the proof that the
/// session is alive.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Transactions of a large tick whose names are read before their changes: 24 MB.
const READ_AHEAD: usize = 1_000_000;

/// Why looking has ended, other than for a lost session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Another feed has begun, or the capture was paused or resumed.
    Changed,
    /// What is to be read next is no longer kept.
    Trimmed,
}

pub(crate) struct Capture<'a> {
    session: &'a LogSession,
    feed: FeedId,
    first_tick: i64,
    state: State,
    position: Position,
    look: Statement,
    look_and_read: Statement,
    lock: Statement,
    reads: Reads,
    /// How far the log has been read, once it is known from where.
    reading: Option<Reading>,
    out: Out,
    doorbell: Doorbell,
    looked: Instant,
    /// Told when watched tables were dropped.
    dropped: Arc<Notify>,
    metrics: Metrics,
    pulse: Pulse,
}

struct Reading {
    /// The last tick that was handed on whole.
    tick: i64,
    press: Press,
}

impl<'a> Capture<'a> {
    #[expect(clippy::too_many_arguments, reason = "it is made in one place")]
    pub(crate) async fn new(
        session: &'a LogSession,
        feed: FeedId,
        first_tick: i64,
        state: State,
        position: Position,
        out: Out,
        poll_above: u64,
        dropped: Arc<Notify>,
        metrics: Metrics,
        pulse: Pulse,
    ) -> Result<Self, Lost> {
        Ok(Self {
            look: session.prepare(&look_sql(state.generation), &LOOK_TYPES).await?,
            look_and_read: session.prepare(&look_and_read_sql(state.generation), &LOOK_TYPES).await?,
            lock: session.prepare("select pg_try_advisory_lock($1)", &[Type::INT8]).await?,
            reads: Reads::prepare(session).await?,
            doorbell: Doorbell::new(poll_above, !session.prepares, Instant::now()),
            session,
            feed,
            first_tick,
            state,
            position,
            reading: None,
            out,
            looked: Instant::now(),
            dropped,
            metrics,
            pulse,
        })
    }

    /// Looks and reads until something ends it. `start` tells after which offset to read, as soon as
    /// that is known.
    pub(crate) async fn run(mut self, start: watch::Receiver<Option<Offset>>) -> Result<Ended, Lost> {
        let ended = self.go(start).await;
        if self.doorbell.is_asleep() && ended.is_ok() {
            self.wake_up().await?;
        }
        ended
    }

    async fn go(&mut self, mut start: watch::Receiver<Option<Offset>>) -> Result<Ended, Lost> {
        loop {
            self.pulse.beat();
            if self.reading.is_none() {
                let after = *start.borrow_and_update();
                if let Some(after) = after
                    && !self.begin_reading(after).await?
                {
                    return Ok(Ended::Trimmed);
                }
            }
            let known = self.state.clone();
            if self.reading.as_ref().is_some_and(|reading| reading.tick == self.position.tick) && self.out.has_room() {
                let commits = self.look_and_read().await?;
                if self.state == known {
                    self.rest(commits).await?;
                }
            } else {
                self.keep_looking().await?;
                match self.reading {
                    Some(Reading { tick, .. }) if tick < self.position.tick && self.out.has_room() => {
                        if !self.read_stored(tick + 1).await? {
                            return Ok(Ended::Trimmed);
                        }
                    }
                    Some(_) => self.wait(self.out.room()).await,
                    None => self.wait(async { drop(start.changed().await) }).await,
                }
            }
            if self.state.feed != known.feed || self.state.paused != known.paused {
                return Ok(Ended::Changed);
            }
            let dropped = self.dropped.notified().now_or_never().is_some();
            if dropped || self.state.catalogue != known.catalogue {
                self.out.announce(catalogue(self.session).await?);
            }
            if self.state.generation != known.generation {
                let generation = self.state.generation;
                self.look = self.session.prepare(&look_sql(generation), &LOOK_TYPES).await?;
                self.look_and_read = self.session.prepare(&look_and_read_sql(generation), &LOOK_TYPES).await?;
            }
        }
    }

    /// Finds where to read on; `false`: that is no longer kept.
    async fn begin_reading(&mut self, after: Offset) -> Result<bool, Lost> {
        let press = Press::new(self.feed.clone(), after);
        let tick = if after == self.position.offset {
            self.position.tick
        } else {
            match stored::holding(self.session, self.first_tick, after).await? {
                Some(tick) => tick.id - 1,
                None => return Ok(false),
            }
        };
        self.reading = Some(Reading { tick, press });
        Ok(true)
    }

    /// Waits for something, but not longer than until the next look is due.
    async fn wait(&self, for_what: impl Future<Output = ()>) {
        tokio::select! {
            () = for_what => {}
            () = sleep(WHILE_BEHIND.saturating_sub(self.looked.elapsed())) => {}
        }
    }

    /// What a sleeping or polling listener does until the next look.
    async fn rest(&mut self, commits: u64) -> Result<(), Lost> {
        let now = Instant::now();
        let next = self.doorbell.after(commits, now - self.looked, now);
        self.metrics.log_asleep.set(i64::from(self.doorbell.is_asleep()));
        match next {
            Next::WakeUp => self.wake_up().await?,
            Next::Poll(pause) => sleep(pause).await,
            Next::Sleep => {
                tokio::select! {
                    () = self.session.rung() => drop(self.metrics.log_rings.inc()),
                    () = sleep(HEARTBEAT.saturating_sub(self.looked.elapsed())) => {}
                }
            }
        }
        Ok(())
    }

    async fn wake_up(&mut self) -> Result<(), Lost> {
        self.session.execute(&format!("select pg_advisory_unlock({})", doorbell::LOCK)).await?;
        self.doorbell.locked(false);
        Ok(())
    }

    /// A look, if one is due; for while something else takes long.
    async fn keep_looking(&mut self) -> Result<(), Lost> {
        self.pulse.beat();
        if self.looked.elapsed() >= WHILE_BEHIND {
            if self.doorbell.is_asleep() {
                self.wake_up().await?;
            }
            let look = self.look_only().await?;
            self.note(&look)?;
        }
        Ok(())
    }

    async fn look_only(&mut self) -> Result<Look, Lost> {
        self.looked = Instant::now();
        let (tick, first) = (self.position.tick + 1, self.position.offset.cast_signed() + 1);
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
            [&self.position.snapshot, &tick, &first, &self.state.feed, &self.state.generation];
        tick::read(&mut self.session.query(&self.look, &parameters).await?)
    }

    /// Takes over what a look has found; the tick that it became, if it did.
    fn note(&mut self, look: &Look) -> Result<Option<Tick>, Lost> {
        if look.backend != self.session.backend() {
            return Err(Lost::Pooled);
        }
        if look.state.version != SCHEMA_VERSION {
            return Err(Lost::OtherVersion { installed: look.state.version, wanted: SCHEMA_VERSION });
        }
        self.metrics.log_looks.inc();
        if look.state.feed != self.state.feed || look.state.generation != self.state.generation || look.state.paused {
            // It was not made a tick: first the new circumstances.
            self.state = look.state.clone();
            return Ok(None);
        }
        self.state = look.state.clone();
        self.position.snapshot.clone_from(&look.snapshot);
        if look.events == 0 {
            return Ok(None);
        }
        let tick = Tick {
            id: self.position.tick + 1,
            first: self.position.offset + 1,
            events: look.events,
            bytes: look.bytes,
            at: look.at,
        };
        self.position.tick = tick.id;
        self.position.offset = tick.last();
        self.metrics.log_ticks.inc();
        self.metrics.log_last.set(self.position.offset.cast_signed());
        Ok(Some(tick))
    }

    /// A look and the read of what it finds, and the lock if it is wanted, in one round trip; how
    /// many transactions it found.
    async fn look_and_read(&mut self) -> Result<u64, Lost> {
        self.looked = Instant::now();
        let (tick, first) = (self.position.tick + 1, self.position.offset.cast_signed() + 1);
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
            [&self.position.snapshot, &tick, &first, &self.state.feed, &self.state.generation];
        let look = self.session.query(&self.look_and_read, &parameters);
        let mut rows = if self.doorbell.wants_lock() {
            // The lock first: what is written after the look has to ring. Both are prepared, so they
            // run in this order.
            let lock = self.session.query(&self.lock, &[&doorbell::LOCK]);
            let (locked, rows) = tokio::join!(biased; lock, look);
            self.doorbell.locked(locked?.first().is_some_and(|row| row.get(0)));
            rows?
        } else {
            look.await?
        };
        let mut look = tick::read(&mut rows)?;
        if look.events > PART_EVENTS {
            look = self.look_only().await?;
        }
        let before = self.state.clone();
        let Some(tick) = self.note(&look)? else {
            if self.state == before {
                self.out.mark(Mark { last: self.position.offset, at: look.at, newest: true });
            }
            return Ok(0);
        };
        if tick.is_large() {
            return Ok(1);
        }
        if changes(&rows) != tick.events {
            return Err(Lost::Strange("fewer changes than its tick says"));
        }
        let commits = stored::in_order(&mut rows);
        self.hand_on(&tick, &rows)?;
        Ok(commits as u64)
    }

    fn hand_on(&mut self, tick: &Tick, rows: &[tokio_postgres::Row]) -> Result<(), Lost> {
        let Some(reading) = &mut self.reading else { return Ok(()) };
        let out = &mut |batch| self.out.send(batch);
        reading.press.take(rows, tick.first, out)?;
        Self::finish(reading, tick, tick.id == self.position.tick, &self.out)
    }

    fn finish(reading: &mut Reading, tick: &Tick, newest: bool, out: &Out) -> Result<(), Lost> {
        reading.press.finish(tick.at, &mut |batch| out.send(batch));
        if reading.press.last() != tick.last() {
            return Err(Lost::Strange("fewer changes than its tick says"));
        }
        reading.tick = tick.id;
        out.mark(Mark { last: tick.last(), at: tick.at, newest });
        Ok(())
    }

    /// Reads ticks of before, from this one on; `false`: it is no longer kept, or not whole.
    async fn read_stored(&mut self, id: i64) -> Result<bool, Lost> {
        let run = self.reads.run(self.session, id).await?;
        match run[..] {
            [] => return Ok(false),
            [tick] if tick.is_large() => return self.read_large(&tick).await,
            _ => {}
        }
        // In one round trip: they may be small, and many.
        let reads = run.iter().map(|tick| self.reads.small(self.session, tick.id));
        for (tick, rows) in run.iter().zip(join_all(reads).await) {
            let rows = rows?;
            if changes(&rows) != tick.events {
                return Ok(false);
            }
            self.hand_on(tick, &rows)?;
        }
        Ok(true)
    }

    /// Reads a tick in parts of bounded size, transaction by transaction, and goes on looking.
    async fn read_large(&mut self, tick: &Tick) -> Result<bool, Lost> {
        tracing::info!(changes = tick.events, mib = tick.bytes >> 20, "reading a large step of the log in parts");
        let (client, task) = self.session.reader().await?;
        let failed = |e: tokio_postgres::Error| Lost::Failed(describe(&e));
        let list = client.query_raw(&stored::transactions_sql(), [tick.id]).await.map_err(failed)?;
        tokio::pin!(list);
        let mut next = tick.first;
        let mut ahead = Vec::new();
        loop {
            // Read ahead of the changes, so that no query stays open while these wait for the bus: an
            // open one holds up the clean-up of the whole database.
            let ended = loop {
                let row = tokio::select! {
                    row = list.try_next() => row.map_err(failed)?,
                    () = sleep(WHILE_BEHIND) => {
                        self.keep_looking().await?;
                        continue;
                    }
                };
                let Some(row) = row else { break true };
                ahead.push(Transaction {
                    xid: row.get(0),
                    events: row.get::<_, i64>(1).cast_unsigned(),
                    bytes: row.get::<_, i64>(2).cast_unsigned(),
                });
                if ahead.len() == READ_AHEAD {
                    break false;
                }
            };
            let mut rest = &ahead[..];
            while !rest.is_empty() {
                let (mut events, mut bytes) = (0, 0);
                let full = |transaction: &Transaction| {
                    events += transaction.events;
                    bytes += transaction.bytes;
                    events > PART_EVENTS || bytes > PART_BYTES
                };
                let count = rest.iter().position(full).map_or(rest.len(), |last| last + 1);
                let (part, later) = rest.split_at(count);
                if !self.read_part(part, next).await? {
                    return Ok(false);
                }
                next += part.iter().map(|transaction| transaction.events).sum::<u64>();
                rest = later;
            }
            ahead.clear();
            if ended {
                break;
            }
        }
        drop(client);
        task.abort();
        let Some(reading) = &mut self.reading else { return Ok(true) };
        if next != tick.last() + 1 {
            return Ok(false);
        }
        Self::finish(reading, tick, tick.id == self.position.tick, &self.out)?;
        Ok(true)
    }

    /// Reads these transactions, whose first change has the offset `first`.
    async fn read_part(&mut self, transactions: &[Transaction], first: Offset) -> Result<bool, Lost> {
        let events: u64 = transactions.iter().map(|tx| tx.events).sum();
        let Some(reading) = &self.reading else { return Ok(true) };
        if events == 0 || reading.press.last() >= first + events - 1 {
            return Ok(true);
        }
        let (small, large) = match transactions.split_last() {
            Some((last, before)) if last.events > PART_EVENTS || last.bytes > PART_BYTES => (before, Some(last)),
            _ => (transactions, None),
        };
        self.make_room().await?;
        let rows = self.reads.chunk(self.session, small).await?;
        if changes(&rows) != small.iter().map(|tx| tx.events).sum::<u64>() {
            return Ok(false);
        }
        let mut next = first;
        if let Some(reading) = &mut self.reading {
            reading.press.take(&rows, next, &mut |batch| self.out.send(batch))?;
            next += changes(&rows);
        }
        match large {
            Some(transaction) => self.read_transaction(transaction, next).await,
            None => Ok(true),
        }
    }

    /// Reads one large transaction in pages.
    async fn read_transaction(&mut self, transaction: &Transaction, first: Offset) -> Result<bool, Lost> {
        let tx_last = first + transaction.events - 1;
        let (mut next, mut after) = (first, 0);
        while next <= tx_last {
            self.make_room().await?;
            let rows = self.reads.part(self.session, transaction.xid, after).await?;
            let Some(last) = rows.last() else { return Ok(false) };
            after = last.get(0);
            if let Some(reading) = &mut self.reading {
                reading.press.take_part(&rows, transaction.xid, next, tx_last, &mut |batch| self.out.send(batch))?;
            }
            next += changes(&rows);
        }
        Ok(next == tx_last + 1)
    }

    /// Waits until what was read has gone on, and goes on looking meanwhile.
    async fn make_room(&mut self) -> Result<(), Lost> {
        self.keep_looking().await?;
        while !self.out.has_room() {
            self.wait(self.out.room()).await;
            self.keep_looking().await?;
        }
        Ok(())
    }
}

/// What is watched at the moment. A table that was dropped is no longer.
pub(crate) async fn catalogue(session: &LogSession) -> Result<Catalogue, Lost> {
    // A column that was renamed or dropped since the watch has no type.
    let sql = "select w.topic, w.columns, w.key, array(select coalesce(t.typname::text, 'unknown') \
                 from unnest(w.columns) with ordinality c(name, place) \
                 left join pg_attribute a on a.attrelid = w.relation and a.attname = c.name and not a.attisdropped \
                 left join pg_type t on t.oid = a.atttypid order by c.place) from rowcast.watched w \
               where exists (select from pg_class c where c.oid = w.relation) order by w.topic";
    let rows = session.query_all(sql, &[]).await?;
    let mut topics = Vec::with_capacity(rows.len());
    for row in rows {
        let topic = Topic::new(row.get(0)).map_err(|_| Lost::Strange("a topic that cannot be one"))?;
        topics.push(TopicInfo { topic, columns: row.get(1), key: row.get(2), types: row.get(3) });
    }
    Ok(Catalogue { topics })
}
