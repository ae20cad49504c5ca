//! Where the log stands when somebody begins to lead, and where the bus is to go on.

use bus::{BusError, Head, History, Reader, Retention};
use protocol::{FeedId, Offset};

use super::{
    press::{Press, changes},
    session::LogSession,
    stored::{self, Reads},
    tick::{Position, State},
};
use crate::session::Lost;

/// What the database says about the log.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    pub(crate) feed: FeedId,
    /// The feed's base tick.
    pub(crate) first_tick: i64,
    /// The cluster at which the feed began, and the one that this is.
    cluster: (String, String),
    pub(crate) state: State,
    pub(crate) position: Position,
}

impl Log {
    pub(crate) async fn load(session: &LogSession) -> Result<Self, Lost> {
        let sql = "select s.feed, s.first_tick, s.cluster, rowcast.cluster(), s.paused_at is not null, s.catalogue, \
                     (select last_value >> 36 from rowcast.event_id), t.id, t.first + t.events - 1, t.snapshot::text, s.version \
                   from rowcast.state s, lateral \
                     (select * from rowcast.tick t where t.id >= s.first_tick order by t.id desc limit 1) t";
        let row = session.query_opt(sql, &[]).await?.ok_or(Lost::Strange("a log without a tick"))?;
        let feed: String = row.get(0);
        Ok(Self {
            first_tick: row.get(1),
            cluster: (row.get(2), row.get(3)),
            state: State {
                paused: row.get(4),
                version: row.get(10),
                catalogue: row.get(5),
                generation: row.get(6),
                feed: feed.clone(),
            },
            position: Position { tick: row.get(7), offset: row.get::<_, i64>(8).cast_unsigned(), snapshot: row.get(9) },
            feed: feed.parse().map_err(|_| Lost::Strange("a feed without a proper id"))?,
        })
    }
}

/// Where the bus goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Start {
    /// After this offset; it holds all before, or gets it from there on.
    After(Offset),
    /// After this offset; the bus ends before it, at what is no longer in the log. It was published,
    /// but the bus has come back older than that.
    FurtherOn(Offset),
    /// A new feed had to begin; the reason.
    NewFeed(&'static str),
}

/// Compares what the bus holds with the log. `seen` is how far the bus was when it last said so.
///
/// A database that went back in time (it failed over to a standby that lagged, or was restored)
/// would give offsets out a second time, for other changes. It shows by a bus that is ahead of the
/// log, or whose last change is another one than the log's. Where another timeline answers than
/// before, the last change has to be the same one, or a new feed begins. Where another cluster does
/// (a dump was loaded), its transactions are numbered anew, so ticks and snapshots mean nothing.
pub(crate) async fn decide(
    session: &LogSession,
    log: &Log,
    reader: &Reader,
    head: Option<&Head>,
    seen: Option<Offset>,
    history: Retention,
) -> Result<Result<Start, BusError>, Lost> {
    let same_cluster = log.cluster.0 == log.cluster.1;
    let identity = |cluster: &str| cluster.split(':').next().map(str::to_owned);
    if identity(&log.cluster.0) != identity(&log.cluster.1) {
        return Ok(Ok(Start::NewFeed("other_cluster")));
    }
    let ours = head.filter(|head| head.feed == log.feed);
    let verdict = match ours {
        // As the log was when this term began: since then it may have grown past the bus, with other changes.
        _ if ours.map(|head| head.last).max(seen) > Some(log.position.offset) => Some(false),
        Some(head) => match last_change(reader, head).await {
            Ok(Some(held)) => same_change(session, log, head.last, &held).await?,
            Ok(None) => None,
            Err(error) => return Ok(Err(error)),
        },
        None => None,
    };
    match verdict {
        Some(false) => return Ok(Ok(Start::NewFeed("went_back"))),
        None if !same_cluster => return Ok(Ok(Start::NewFeed("other_cluster"))),
        Some(true) if !same_cluster => session.execute("select rowcast.keep_feed()").await?,
        Some(true) | None => {}
    }
    let last = last_offset(session, log).await?;
    if let Some(head) = ours {
        let kept = head.last == last || stored::holding(session, log.first_tick, head.last).await?.is_some();
        let whole = kept && stored::whole_after(session, log.first_tick, head.last).await? == head.last;
        if whole {
            return Ok(Ok(Start::After(head.last)));
        }
    }
    let topics: i64 = session.query_one("select count(*) from rowcast.watched", &[]).await?.get(0);
    let bytes = history.bytes.saturating_mul(topics.max(1).cast_unsigned());
    let after = stored::refill_after(session, log.first_tick, last, history.ms, bytes).await?;
    // What nobody has seen yet comes out, however much it is; it was never thrown away.
    let after = seen.map_or(after, |seen| seen.min(after));
    let after = stored::whole_after(session, log.first_tick, after).await?;
    Ok(Ok(match ours {
        Some(head) if after > head.last => Start::FurtherOn(after),
        Some(head) => Start::After(head.last),
        None => Start::After(after),
    }))
}

/// How far the log is by now: ticks have gone on while the bus was asked.
async fn last_offset(session: &LogSession, log: &Log) -> Result<Offset, Lost> {
    let sql = "select first + events - 1 from rowcast.tick where id >= $1 order by id desc limit 1";
    let row = session.query_opt(sql, &[&log.first_tick]).await?.ok_or(Lost::Strange("a log without a tick"))?;
    Ok(row.get::<_, i64>(0).cast_unsigned())
}

/// The payload of the last change that the bus holds, if it still does.
async fn last_change(reader: &Reader, head: &Head) -> Result<Option<bytes::Bytes>, BusError> {
    let topic = head.tails.iter().find(|(_, tail)| **tail == head.last).map(|(topic, _)| topic);
    let (Some(topic), Some(before)) = (topic, head.last.checked_sub(1)) else { return Ok(None) };
    let History::Complete { slices, .. } = reader.history(&head.feed, topic, before).await? else { return Ok(None) };
    let changes = slices.iter().filter_map(|slice| slice.changes_after(before).ok()).flatten();
    Ok(changes.into_iter().find(|change| change.offset == head.last).map(|change| change.payload))
}

/// Whether the log has the same change at an offset; `None` where that cannot be told.
async fn same_change(
    session: &LogSession,
    log: &Log,
    offset: Offset,
    held: &bytes::Bytes,
) -> Result<Option<bool>, Lost> {
    let Some(tick) = stored::holding(session, log.first_tick, offset - 1).await? else { return Ok(None) };
    if tick.is_large() {
        return Ok(None);
    }
    let rows = Reads::prepare(session).await?.small(session, tick.id).await?;
    if changes(&rows) != tick.events {
        return Ok(None);
    }
    let (mut press, mut batches) = (Press::new(log.feed.clone(), tick.first - 1), Vec::new());
    press.take(&rows, tick.first, &mut |batch| batches.push(batch))?;
    press.finish(tick.at, &mut |batch| batches.push(batch));
    let slices = batches.iter().flat_map(|batch| &batch.slices);
    let mut ours = slices.filter_map(|(_, slice)| slice.changes_after(offset - 1).ok()).flatten();
    Ok(Some(ours.any(|change| change.offset == offset && change.payload == *held)))
}
