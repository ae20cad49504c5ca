//! What there is after a cursor, for somebody who asks once and then goes.

use std::time::Instant;

use protocol::{Cursor, Offset, ResetReason, Source, Topic};

use super::{Hub, Refusal, View, catch_up::Unreadable};
use crate::{historian::Subject, hit::Hit};

/// The changes of some topics after an offset.
#[derive(Debug)]
pub struct Stretch {
    /// In order.
    pub hits: Vec<Hit>,
    /// They are complete up to here.
    pub through: Offset,
    /// Whether that is all that this gateway knows of.
    pub is_all: bool,
}

/// What there is.
#[derive(Debug)]
pub enum Found {
    /// These.
    Changes(Stretch),
    /// Memory does not go back that far: what is needed.
    History(Subject),
    /// The cursor is ahead of this gateway.
    Ahead,
    /// It cannot be gone on from; this is where to begin anew.
    Reset(ResetReason, Cursor),
    /// The feed has gone.
    NotReady,
}

impl Hub {
    /// Which source has all these topics, and how far that is.
    pub fn place_of(
        &self,
        topics: &[Topic],
        since: Option<&Cursor>,
        may_see: impl Fn(&str) -> bool,
    ) -> Result<(Source, Cursor), Refusal> {
        let source = self.one_source(topics, since, may_see)?;
        Ok((source, self.feeds[&source].cursor()))
    }

    /// The changes after a cursor, as memory has them: at least one more than `most`, or all, or as far as one
    /// look goes. `asked`: when it was asked for, since when the cursor is ahead, if it is.
    pub fn changes_after(
        &self,
        source: Source,
        topics: &[Topic],
        since: &Cursor,
        asked: Instant,
        most: usize,
    ) -> Found {
        let Some(view) = self.feeds.get(&source) else { return Found::NotReady };
        if view.feed != since.feed {
            return Found::Reset(ResetReason::NewFeed, view.cursor());
        }
        if since.offset > view.last {
            let denied = view.denies(source, asked, Instant::now());
            return if denied { Found::Reset(ResetReason::UnknownCursor, view.cursor()) } else { Found::Ahead };
        }
        match view.stretch_after(topics, since.offset, most + 1) {
            Ok(stretch) => Found::Changes(stretch),
            Err(Unreadable::NotHere) => {
                let (feed, topics) = (since.feed.clone(), topics.to_vec());
                Found::History(Subject { source, feed, topics })
            }
            Err(Unreadable::Malformed) => Found::Reset(ResetReason::HistoryTrimmed, view.cursor()),
        }
    }

    /// How far the feed of a source is here.
    pub fn cursor_of(&self, source: Source) -> Option<Cursor> {
        self.feeds.get(&source).map(View::cursor)
    }
}
