//! A feed, as far as a shard has passed it on.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use protocol::{Batch, Catalogue, Cursor, FeedId, Micros, Offset, Source, Topic};

use super::{catch_up::Unreadable, poll::Stretch};
use crate::{feed::Start, hit::Hit, recent::Recent};

/// How long a cursor may be ahead of this gateway: other gateways may have been quicker.
const AHEAD: Duration = Duration::from_secs(5);

/// A listener that has nothing left to publish sends a watermark a second.
const MARKS_WITHIN: Duration = Duration::from_secs(3);

/// Batches that are looked at in one go, whatever they have: memory may hold a hundred thousand, and each of a
/// hundred topics is looked for in each.
const BATCHES: usize = 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct View {
    pub feed: FeedId,
    /// Where it began for this shard, and how far it is.
    pub began: Offset,
    pub last: Offset,
    pub at: Micros,
    /// When it was last heard of.
    pub heard: Instant,
    pub catalogue: Arc<Catalogue>,
    pub recent: Recent,
    /// Topics that have lost changes, and those who want them are still to be told.
    pub untold: Vec<Topic>,
    /// Where it was before the first batch that they lost something of.
    pub torn_after: Option<Offset>,
    marks: Option<Marks>,
}

/// Watermarks that have come one after the other, of one listener.
#[derive(Debug, Clone, Copy)]
struct Marks {
    epoch: u64,
    first: Instant,
    last: Instant,
}

impl View {
    /// A feed that begins here, with so many bytes of recent changes.
    pub(super) fn new(start: &Start, recent_bytes: usize) -> Self {
        Self {
            feed: start.feed.clone(),
            began: start.last,
            last: start.last,
            at: start.at,
            heard: Instant::now(),
            catalogue: Arc::clone(&start.catalogue),
            recent: Recent::new(start.last, recent_bytes),
            untold: Vec::new(),
            torn_after: None,
            marks: None,
        }
    }

    /// The changes of some topics after an offset, as memory has them: at least so many, or all, or as far as
    /// one look goes.
    pub(super) fn stretch_after(&self, topics: &[Topic], after: Offset, most: usize) -> Result<Stretch, Unreadable> {
        let mut stretch = Stretch { hits: Vec::new(), through: after, is_all: false };
        for _ in 0..BATCHES {
            if stretch.hits.len() >= most {
                break;
            }
            let Some(batch) = self.recent.after(stretch.through).map_err(|_| Unreadable::NotHere)? else {
                stretch.is_all = true;
                break;
            };
            let hits = Hit::of_batch(batch, topics, stretch.through).map_err(|_| Unreadable::Malformed)?;
            stretch.hits.extend(hits);
            stretch.through = batch.last;
        }
        Ok(stretch)
    }

    pub(super) fn cursor(&self) -> Cursor {
        Cursor::new(self.feed.clone(), self.last)
    }

    /// Notes how far it has come; how far it was before.
    pub(super) fn advance(&mut self, batch: &Batch, now: Instant) -> Offset {
        if batch.is_watermark() {
            let before = self.marks.filter(|marks| marks.epoch == batch.epoch && now - marks.last < MARKS_WITHIN);
            let first = before.map_or(now, |marks| marks.first);
            self.marks = Some(Marks { epoch: batch.epoch, first, last: now });
        }
        self.at = batch.at;
        self.heard = now;
        std::mem::replace(&mut self.last, batch.last)
    }

    /// Whether a cursor that has been ahead for that long is one that this feed has never had.
    ///
    /// Offsets of the log are PostgreSQL's: such a cursor comes from a gateway that was quicker, and
    /// while the listener is away or brings back what the bus has lost, it stays ahead. Only who has
    /// published all that there is sends one watermark after the other; a cursor that is ahead of
    /// those is of nowhere. Channels keep nothing: what a lost bus took along does not come back.
    pub(super) fn denies(&self, source: Source, ahead_since: Instant, now: Instant) -> bool {
        match (source, self.marks) {
            (Source::Notify, _) => now - ahead_since > AHEAD,
            (Source::Log, None) => false,
            (Source::Log, Some(Marks { first, last, .. })) => {
                now - last < MARKS_WITHIN && last.saturating_duration_since(first.max(ahead_since)) > AHEAD
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_looks_for_what_is_seldom_looks_at_so_much_at_a_time() {
        let (feed, [busy, quiet]) = (FeedId::random(), ["busy", "quiet"].map(|name| Topic::new(name).unwrap()));
        let start = Start { feed: feed.clone(), last: 0, at: 0, catalogue: Arc::default() };
        let (mut view, mut batcher) = (View::new(&start, 1024 * 1024), protocol::Batcher::new(feed, 1, 0));
        for n in 1..=4_000 {
            let topic = if n == 3_900 { &quiet } else { &busy };
            batcher.push(topic, 0, protocol::Kind::Json, b"{}");
            let batch = batcher.take(0);
            view.advance(&batch, Instant::now());
            view.recent.push(Arc::new(batch));
        }
        let (mut after, mut found, mut looks) = (0, Vec::new(), 0);
        loop {
            let stretch = view.stretch_after(std::slice::from_ref(&quiet), after, 10).ok().unwrap();
            assert!(stretch.through - after <= 1_100, "from {after} to {}", stretch.through);
            found.extend(stretch.hits.iter().map(Hit::offset));
            (after, looks) = (stretch.through, looks + 1);
            if stretch.is_all {
                break;
            }
        }
        assert_eq!((found, after), (vec![3_900], 4_000));
        assert!(looks < 10, "{looks}");
    }

    #[test]
    fn a_cursor_ahead_of_the_log_is_denied_by_steady_watermarks_alone() {
        let feed = FeedId::random();
        let start = Start { feed: feed.clone(), last: 5, at: 0, catalogue: Arc::default() };
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let mut view = View::new(&start, 0);
        assert!(view.denies(Source::Notify, at(0), at(6_000)));
        assert!(!view.denies(Source::Log, at(0), at(100_000)), "nobody is there");
        let mut mark = |epoch, ms| {
            view.advance(&Batch::watermark(feed.clone(), epoch, 5, 0), at(ms));
            [0, 3_000].map(|since| view.denies(Source::Log, at(since), at(ms)))
        };
        // One listener begins, and is away again; another one goes on.
        assert_eq!(mark(1, 0), [false; 2]);
        assert_eq!(mark(1, 9_000), [false; 2]);
        assert_eq!(mark(1, 10_000), [false; 2]);
        for ms in (11_000..=16_000).step_by(1_000) {
            assert_eq!(mark(2, ms), [false; 2], "{ms}");
        }
        assert_eq!(mark(2, 16_500), [true; 2]);
        assert!(!view.denies(Source::Log, at(14_000), at(16_500)), "it has not waited for long");
        assert!(!view.denies(Source::Log, at(0), at(20_000)), "they have stopped");
    }
}
