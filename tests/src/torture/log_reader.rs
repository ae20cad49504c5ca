use std::time::Duration;

use anyhow::Context;
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls, Row};

use super::{
    change::digest,
    truth::{Event, Snapshot, Tick, Truth},
    violation::{Crime, Violation},
};
use crate::log::CHANGES;

/// A query that takes longer finds a database that is struck.
const PATIENCE: Duration = Duration::from_secs(20);
/// Ticks that are read at once.
const TICKS: i64 = 1_000;

const TICK: &str =
    "select id, prev::text, snapshot::text, first, events from rowcast.tick where id > $1 order by id limit $2";
/// What one snapshot sees and an earlier one did not.
const EVENTS: &str = "
    select id, place, xid::text, topic, op::text, key, data, old, cut,
           to_char(at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'),
           (extract(epoch from at) * 1000)::bigint
    from {changes} change
    where xid >= pg_snapshot_xmin($1::text::pg_snapshot) and xid < pg_snapshot_xmax($2::text::pg_snapshot)
      and pg_visible_in_snapshot(xid, $2::text::pg_snapshot) and not pg_visible_in_snapshot(xid, $1::text::pg_snapshot)";
/// The changes of one tick in order, as the documents put it.
const ONE_TICK: &str = "
    select e.id, e.place, e.xid::text, e.topic, e.op::text, e.key, e.data, e.old, e.cut,
           to_char(e.at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'),
           (extract(epoch from e.at) * 1000)::bigint
    from rowcast.tick t join {changes} e
      on pg_visible_in_snapshot(e.xid, t.snapshot) and not pg_visible_in_snapshot(e.xid, t.prev)
     and e.xid >= pg_snapshot_xmin(t.prev)
    where t.id = $1
    order by max(e.id) over (partition by e.xid), e.id, e.place";

/// Reads the log, with SQL of its own and on a connection that nothing strikes but what strikes
/// PostgreSQL itself.
#[derive(Debug)]
pub struct LogReader {
    url: String,
    client: Option<Client>,
    feed: String,
    /// Of the last tick that was read.
    snapshot: String,
}

impl LogReader {
    /// Begins at the feed's base tick. Returns the truth as it is then: empty.
    pub async fn start(url: String) -> anyhow::Result<(Self, Truth)> {
        let client = connect(&url).await?;
        let row = client
            .query_one(
                "select s.feed, t.id, t.snapshot::text from rowcast.state s join rowcast.tick t on t.id = s.first_tick",
                &[],
            )
            .await
            .context("the feed's first tick")?;
        let (feed, base, snapshot) = (row.get(0), row.get(1), row.get(2));
        Ok((Self { url, client: Some(client), feed, snapshot }, Truth::after(base)))
    }

    /// The feed that the run began on. There is no reason for another one.
    pub fn feed(&self) -> &str {
        &self.feed
    }

    /// Reads what is new. `Ok(false)`: PostgreSQL cannot be reached now.
    pub async fn read(&mut self, truth: &mut Truth) -> Result<bool, Violation> {
        match self.fetch(truth.last_tick()).await {
            Ok((ticks, events, snapshot)) => {
                truth.extend(&ticks, events)?;
                self.snapshot = snapshot;
                Ok(true)
            }
            Err(error) => match error.downcast::<Violation>() {
                Ok(violation) => Err(violation),
                // It comes back.
                Err(_) => {
                    self.client = None;
                    Ok(false)
                }
            },
        }
    }

    /// How many events are in the log that no tick has, and whether nobody is about to write more.
    pub async fn unticked(&mut self) -> anyhow::Result<i64> {
        let sql = "select count(*) from rowcast.event where xid >= pg_snapshot_xmin($1::text::pg_snapshot)
                   and not pg_visible_in_snapshot(xid, $1::text::pg_snapshot)";
        let snapshot = self.snapshot.clone();
        let row = timeout(PATIENCE, self.client().await?.query_one(sql, &[&snapshot])).await??;
        Ok(row.get(0))
    }

    /// Reads ticks again, one by one and in another way: the offsets must be the same for ever.
    /// Returns how many; what is no longer kept is left out.
    pub async fn audit(&mut self, truth: &Truth, at_most: usize) -> anyhow::Result<usize> {
        let client = self.client().await?;
        let sql = "select id, first, events from rowcast.tick where events > 0 and id <= $1 order by id";
        let ticks = client.query(sql, &[&truth.last_tick()]).await?;
        let step = (ticks.len() / at_most).max(1);
        let mut read = 0;
        for tick in ticks.iter().step_by(step) {
            let (id, first, count): (i64, u64, u64) = (tick.get(0), number(tick, 1), number(tick, 2));
            let rows = client.query(&ONE_TICK.replace("{changes}", CHANGES), &[&id]).await?;
            // A leaf of the ring may have been emptied between the two queries.
            let trimmed = (rows.len() as u64) < count;
            if trimmed {
                continue;
            }
            let events = rows.iter().map(event).collect::<anyhow::Result<Vec<_>>>()?;
            let again: Vec<u64> = events.iter().map(|event| event.change().digest()).collect();
            let before: Vec<u64> =
                (first..first + count).filter_map(|offset| truth.record(offset)).map(|record| record.digest).collect();
            if again != before {
                let how = format!("tick {id} read again: {:x} from {first}, was {:x}", digest(&again), digest(&before));
                return Err(Violation::new(Crime::BrokenLog, "the log", how).into());
            }
            read += 1;
        }
        Ok(read)
    }

    async fn fetch(&mut self, last_tick: i64) -> anyhow::Result<(Vec<Tick>, Vec<Event>, String)> {
        let (feed, snapshot) = (self.feed.clone(), self.snapshot.clone());
        let client = self.client().await?;
        let state = timeout(PATIENCE, client.query_one("select feed, feed_reason from rowcast.state", &[])).await??;
        let (now, reason): (String, String) = (state.get(0), state.get(1));
        if now != feed {
            let how = format!("feed {feed} was given up for {now}: {reason}");
            return Err(Violation::new(Crime::UnexplainedReset, "the log", how).into());
        }
        let rows = timeout(PATIENCE, client.query(TICK, &[&last_tick, &TICKS])).await??;
        let Some(newest) = rows.last() else { return Ok((Vec::new(), Vec::new(), snapshot)) };
        let upto: String = newest.get(2);
        let ticks = rows.iter().map(tick).collect::<anyhow::Result<_>>()?;
        let rows =
            timeout(PATIENCE, client.query(&EVENTS.replace("{changes}", CHANGES), &[&snapshot, &upto])).await??;
        Ok((ticks, rows.iter().map(event).collect::<anyhow::Result<_>>()?, upto))
    }

    async fn client(&mut self) -> anyhow::Result<&Client> {
        let client = match self.client.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => connect(&self.url).await?,
        };
        Ok(self.client.insert(client))
    }
}

async fn connect(url: &str) -> anyhow::Result<Client> {
    let (client, connection) = timeout(PATIENCE, tokio_postgres::connect(url, NoTls)).await??;
    tokio::spawn(async move {
        // Its user sees how it ended.
        drop(connection.await);
    });
    client.batch_execute("set enable_seqscan = off; set enable_bitmapscan = off; set jit = off").await?;
    Ok(client)
}

fn number(row: &Row, column: usize) -> u64 {
    row.get::<_, i64>(column).unsigned_abs()
}

fn tick(row: &Row) -> anyhow::Result<Tick> {
    let snapshot = |column| Snapshot::parse(row.get(column)).context("a snapshot");
    Ok(Tick {
        id: row.get(0),
        prev: snapshot(1)?,
        snapshot: snapshot(2)?,
        first: number(row, 3),
        events: number(row, 4),
    })
}

fn event(row: &Row) -> anyhow::Result<Event> {
    Ok(Event {
        id: (row.get(0), row.get(1)),
        xid: row.get::<_, &str>(2).parse()?,
        topic: row.get(3),
        op: row.get(4),
        key: row.get(5),
        data: row.get(6),
        old: row.get(7),
        cut: row.get(8),
        at: row.get(9),
        at_ms: number(row, 10),
    })
}
