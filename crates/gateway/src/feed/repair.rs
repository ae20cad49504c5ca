//! How a gap is repaired: what was missed is read from the histories, in pieces of bounded size.

use std::{collections::HashMap, sync::Arc};

use bus::{Head, History, Position};
use bytes::{Bytes, BytesMut};
use protocol::{Batch, Offset, Slice, Source, Topic};
use tracing::{error, info};

use super::{Feed, FeedEvent, Start};

/// Bytes of a piece, about.
const PIECE_BYTES: u64 = protocol::batch::MAX_BATCH_BYTES as u64;

/// The least that is read of one of several topics.
const LEAST_BYTES: u64 = 64 * 1024;

pub(super) enum Repair {
    Done,
    /// Not everything could be read yet: the bus is being refilled, or is gone again.
    Later(String),
}

impl Feed {
    pub(super) async fn try_repair(&mut self) -> Repair {
        let head = match self.reader.head().await {
            Ok(Some(head)) => head,
            // No listener yet; or the bus was emptied, and the listener brings the feed back. What
            // comes then is judged against where we are.
            Ok(None) => {
                self.was_first = self.position.is_none() && self.source == Source::Notify;
                return Repair::Done;
            }
            Err(e) => return Repair::Later(e.to_string()),
        };
        let repair = match self.position.clone() {
            // A history from before: the listener will replace it, or bring it up to date.
            Some(position) if position.epoch > head.epoch => return Repair::Done,
            Some(position) if position.feed == head.feed => self.catch_up(position, &head).await,
            // Who is connected goes on from where the new feed begins: only what lies between the
            // two feeds may be lost.
            Some(_) => {
                let position = self.start(&head, head.base).await;
                self.catch_up(position, &head).await
            }
            None => {
                let from = if self.was_first { head.base } else { head.last };
                let position = self.start(&head, from).await;
                self.catch_up(position, &head).await
            }
        };
        self.update_catalogue(&head).await;
        repair
    }

    async fn start(&mut self, head: &Head, last: Offset) -> Position {
        info!(source = %self.source, feed = %head.feed, offset = last, topics = head.catalogue.topics.len(), "a feed begins");
        self.set_catalogue(head);
        let position = Position { feed: head.feed.clone(), epoch: head.epoch, last };
        self.position = Some(position.clone());
        // Everybody is told anyway.
        self.lost.clear();
        let start = Start { feed: head.feed.clone(), last, at: head.at, catalogue: Arc::clone(&self.catalogue) };
        self.send(FeedEvent::Started { source: self.source, start: Arc::new(start) }).await;
        position
    }

    /// Reads the changes between where this gateway is and the head, from the histories of the
    /// topics that have any, and hands them on in pieces.
    async fn catch_up(&mut self, mut position: Position, head: &Head) -> Repair {
        position.epoch = head.epoch;
        self.position = Some(position.clone());
        if head.last <= position.last {
            return Repair::Done;
        }
        let (mut changes, mut pieces) = (0, 0);
        while position.last < head.last {
            let batch = match self.read_piece(&position, head).await {
                Ok(batch) => batch,
                Err(later) => return later,
            };
            changes += batch.slices.len();
            pieces += 1;
            position.last = batch.last;
            self.position = Some(position.clone());
            match self.lost.is_empty() {
                true => self.send_batch(Arc::new(batch)).await,
                false => {
                    let lost = self.lost.iter().cloned().collect();
                    self.send_torn(Arc::new(batch), Arc::new(lost)).await;
                }
            }
        }
        info!(source = %self.source, through = head.last, pieces, slices = changes, trimmed = self.lost.len(), "repaired a gap");
        self.metrics.repaired(self.source);
        Repair::Done
    }

    /// What follows a position, about [`PIECE_BYTES`] of it. Topics that lack something are noted as
    /// lost, and left out.
    async fn read_piece(&mut self, position: &Position, head: &Head) -> Result<Batch, Repair> {
        let (after, mut through) = (position.last, head.last);
        let missed = missed_topics(head, after);
        let share = (PIECE_BYTES / missed.len().max(1) as u64).max(LEAST_BYTES);
        let mut read = Vec::new();
        for (topic, is_kept) in missed {
            // What comes after a loss is before the cursor that its clients will be told.
            if self.lost.contains(&topic) {
                continue;
            }
            if !is_kept {
                self.lost.insert(topic);
                continue;
            }
            match self.reader.history_up_to(&head.feed, &topic, after, share).await {
                Ok(History::Complete { through: to, slices }) => {
                    through = through.min(to);
                    read.push((topic, slices));
                }
                Ok(History::Trimmed) => drop(self.lost.insert(topic)),
                Ok(History::NotReady | History::OtherFeed) => {
                    return Err(Repair::Later(format!("{topic} is not ready")));
                }
                Err(e) => return Err(Repair::Later(e.to_string())),
            }
        }
        let mut slices = Vec::new();
        for (topic, read) in read {
            match cut(&read, after, through) {
                Ok(Some(slice)) => slices.push((topic, slice)),
                Ok(None) => {}
                Err(problem) => {
                    error!(source = %self.source, %topic, %problem, "a history with malformed changes");
                    self.lost.insert(topic);
                }
            }
        }
        let Head { feed, epoch, at, .. } = head;
        Ok(Batch { feed: feed.clone(), epoch: *epoch, first: after + 1, last: through, at: *at, slices })
    }
}

/// The topics that have, or may have, changes after an offset; `false` where nobody can say which.
fn missed_topics(head: &Head, after: Offset) -> Vec<(Topic, bool)> {
    if head.base > after {
        // The histories begin later than we are: every topic may have lost something.
        let carried = head.catalogue.topics.iter().map(|info| &info.topic);
        let all: HashMap<&Topic, ()> = carried.chain(head.tails.keys()).map(|topic| (topic, ())).collect();
        return all.into_keys().map(|topic| (topic.clone(), false)).collect();
    }
    head.tails.iter().filter(|(_, tail)| **tail > after).map(|(topic, _)| (topic.clone(), true)).collect()
}

/// One slice with the changes in `after+1 ..= through`.
fn cut(slices: &[Slice], after: Offset, through: Offset) -> Result<Option<Slice>, protocol::BatchError> {
    let mut bytes = BytesMut::new();
    let mut last = None;
    for slice in slices {
        let whole = slice.last <= through && slice.first()? > after;
        if whole {
            bytes.extend_from_slice(&slice.bytes);
            last = Some(slice.last);
            continue;
        }
        for change in slice.changes_after(after)? {
            if change.offset <= through {
                last = Some(change.offset);
                change.encode(&mut bytes);
            }
        }
    }
    Ok(last.map(|last| Slice { last, bytes: Bytes::from(bytes) }))
}
