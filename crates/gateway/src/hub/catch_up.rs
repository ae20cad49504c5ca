//! How a subscription that is behind catches up, whether it resumes or was too slow: from memory,
//! then from the history, then by a `reset`. Complete or refused, never partial; and never more in
//! its outbox than there is room for.

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use protocol::{Backoff, Cursor, FeedId, Offset, ResetReason, Source, Topic, message};
use tokio::sync::Semaphore;

use super::{
    Hub, HubHandle, Task,
    conn::{Behind, ConnKey, SubKey, SubState},
    encoded::{Encoded, EncodedKey, Part},
    subscribe::topics_of,
};
use crate::{
    historian::{Stretch, Subject},
    hit::{Hit, OpenTx},
};

/// Bytes of frames that are put together in one step.
pub(super) const STEP_BYTES: usize = 64 * 1024;

/// What a batch counts as in a step, whatever it has for the subscription.
pub(super) const LOOK_BYTES: usize = 256;

/// What became of one step.
pub(super) enum Step {
    /// The connection or the subscription is gone.
    Gone,
    /// It has caught up.
    Live,
    /// There is more in memory.
    Again,
    /// Too much waits for the socket; it goes on when there is room.
    NoRoom,
    /// Its cursor is ahead of this gateway.
    Ahead(Source),
    /// Memory does not go back that far: what is needed, and after which offset.
    History(Subject, Offset),
}

impl HubHandle {
    /// Takes steps until the subscription is live or gone.
    pub(super) async fn bring_up_to_date(self, sub: SubKey) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        let mut ahead_since = None;
        loop {
            let step = self.with(|hub| hub.catch_up(sub));
            if !matches!(step, Step::Ahead(_)) {
                ahead_since = None;
            }
            match step {
                // No task waits for a slow client: a thousand of them took a MiB.
                Step::Gone | Step::Live | Step::NoRoom => return,
                Step::Again => tokio::task::yield_now().await,
                Step::Ahead(source) => {
                    let since = *ahead_since.get_or_insert_with(Instant::now);
                    if self.with(|hub| hub.deny(sub, source, since)) {
                        return;
                    }
                    drop(tokio::time::timeout(Duration::from_millis(250), self.moved.notified()).await);
                }
                Step::History(subject, after) => {
                    let source = subject.source;
                    let Some(turn) = self.with(|hub| hub.turn_to_read(sub)) else { return };
                    // Nobody closes it.
                    let Ok(_turn) = turn.acquire().await else { return };
                    if self.with(|hub| hub.behind(sub).is_none()) {
                        return;
                    }
                    match self.historian.read(subject, after).await {
                        Stretch::Complete { through, hits } if through > after => {
                            self.replay(sub, through, &hits).await;
                        }
                        Stretch::Trimmed => self.with(|hub| hub.lost(sub, source)),
                        // The bus is being refilled, or the feed will tell that it has moved on to
                        // the other one.
                        Stretch::Complete { .. } | Stretch::NotReady | Stretch::OtherFeed => {
                            tokio::time::sleep(backoff.delay()).await;
                        }
                    }
                }
            }
        }
    }

    /// Sends what was read from the history, as long as there is room: while a socket takes nothing,
    /// nothing is held for it. Not what the bus has and this gateway does not yet: if the bus were
    /// lost now, the client would be ahead of everything here.
    async fn replay(&self, sub: SubKey, through: Offset, hits: &[Hit]) {
        let through = self.with(|hub| hub.last_for(sub)).map_or(through, |last| through.min(last));
        let mut hits = &hits[..hits.partition_point(|hit| hit.offset() <= through)];
        loop {
            match self.with(|hub| hub.replay(sub, through, hits)) {
                Some(count) if count < hits.len() => hits = &hits[count..],
                Some(_) | None => return,
            }
            tokio::task::yield_now().await;
        }
    }
}

/// How many of these changes are about [`STEP_BYTES`].
fn step(hits: &[Hit]) -> usize {
    let mut bytes = 0;
    let is_within = |hit: &&Hit| {
        let before = bytes;
        bytes += hit.change.payload.len() + LOOK_BYTES;
        before < STEP_BYTES
    };
    hits.iter().take_while(is_within).count()
}

/// Why memory cannot serve.
pub(super) enum Unreadable {
    /// Memory does not go back that far.
    NotHere,
    Malformed,
}

impl Hub {
    pub(super) fn behind(&self, key: SubKey) -> Option<&Behind> {
        let conn = self.conn(key.conn).filter(|conn| conn.closing.is_none())?;
        let sub = conn.subs.get(key.index as usize).filter(|sub| sub.generation == key.generation)?;
        match &sub.state {
            SubState::Behind(behind) => Some(behind),
            SubState::Live | SubState::Held => None,
        }
    }

    pub(super) fn behind_mut(&mut self, key: SubKey) -> Option<&mut Behind> {
        let sub = self.conns.get_mut(key.conn.index as usize)?.subs.get_mut(key.index as usize)?;
        match &mut sub.state {
            SubState::Behind(behind) => Some(behind),
            SubState::Live | SubState::Held => None,
        }
    }

    /// How far its feed is here, for its route.
    fn last_for(&self, key: SubKey) -> Option<Offset> {
        let behind = self.behind(key)?;
        let view = self.feeds.get(&behind.source).filter(|view| view.feed == behind.feed)?;
        let route = self.conns[key.conn.index as usize].subs[key.index as usize].route;
        Some(self.routes[route as usize].head(view.last))
    }

    /// One connection is not to keep all others from the history.
    fn turn_to_read(&mut self, key: SubKey) -> Option<Rc<Semaphore>> {
        let conn = self.conn_mut(key.conn)?;
        Some(Rc::clone(conn.reading.get_or_insert_with(|| Rc::new(Semaphore::new(1)))))
    }

    /// Takes one step from memory, or says what else is needed.
    pub(super) fn catch_up(&mut self, key: SubKey) -> Step {
        let Some(Behind { source, feed, after, open, .. }) = self.behind(key).cloned() else { return Step::Gone };
        let Some(view) = self.feeds.get(&source) else { return Step::Gone };
        if view.feed != feed {
            self.reset(key.conn, key.index, source, ResetReason::NewFeed);
            return Step::Live;
        }
        if after > view.last {
            return Step::Ahead(source);
        }
        if self.is_full(key.conn) {
            if let Some(behind) = self.behind_mut(key) {
                behind.waits_for_room = true;
            }
            return Step::NoRoom;
        }
        let index = self.conns[key.conn.index as usize].subs[key.index as usize].route;
        if self.routes[index as usize].conflating.is_some() {
            return self.catch_up_conflated(key, index, Behind { source, feed, after, open, waits_for_room: false });
        }
        let topics = topics_of(&self.routes[index as usize]);
        let mut sent = match self.send_from_memory(key, &topics, after) {
            Ok(sent) => sent,
            Err(Unreadable::NotHere) => return Step::History(Subject { source, feed, topics: topics.to_vec() }, after),
            Err(Unreadable::Malformed) => {
                self.reset(key.conn, key.index, source, ResetReason::HistoryTrimmed);
                return Step::Live;
            }
        };
        if sent.is_none() {
            self.caught_up(key, &Cursor::new(feed, after));
            let route = &mut self.routes[index as usize];
            if route.open.is_none() && open.is_some() && route.key.form.is_native() {
                route.open = open;
                self.open.push(index);
            }
            return Step::Live;
        }
        let (mut changes, mut bytes) = (0, 0);
        while let Some((count, size)) = sent {
            changes += count;
            // To find that a batch has nothing for it takes time, too.
            bytes += size.max(LOOK_BYTES);
            let Some(after) = self.behind(key).map(|behind| behind.after).filter(|_| bytes < STEP_BYTES) else { break };
            // What cannot be read is told in the next step.
            sent = self.send_from_memory(key, &topics, after).unwrap_or_default();
        }
        self.metrics.resumed_from_memory(changes);
        Step::Again
    }

    /// It has everything up to here: from now on it gets what its route gets.
    pub(super) fn caught_up(&mut self, key: SubKey, here: &Cursor) {
        let (conn, sub) = (key.conn.index, key.index);
        self.answer(conn, sub, here, true);
        let (speech, it) = (self.conns[conn as usize].speech, &self.conns[conn as usize].subs[sub as usize]);
        if self.routes[it.route as usize].key.form.is_native() {
            let text = message::caught_up(speech.name(&it.id), here);
            self.push(conn, speech.say("caught_up", Some(here), &text));
        }
        self.attach(conn, sub);
    }

    /// Sends what the next batch in memory has for it; how many changes, and bytes. `None`: it has all
    /// that there is.
    pub(super) fn send_from_memory(
        &mut self,
        key: SubKey,
        topics: &[Topic],
        after: Offset,
    ) -> Result<Option<(usize, usize)>, Unreadable> {
        let Some(Behind { source, feed, .. }) = self.behind(key).cloned() else { return Ok(None) };
        let Some(view) = self.feeds.get(&source) else { return Ok(None) };
        let Some(batch) = view.recent.after(after).map_err(|_| Unreadable::NotHere)? else { return Ok(None) };
        let batch = Arc::clone(batch);
        let name = self.encoded_key(key, source, batch.first - 1, batch.last);
        let encoded = match self.encoded.get(&name) {
            Some(encoded) => encoded,
            None => {
                let hits = Hit::of_batch(&batch, topics, batch.first - 1).map_err(|_| Unreadable::Malformed)?;
                self.encode_behind(name, &feed, hits.iter(), None)
            }
        };
        Ok(self.send_encoded(key, &encoded))
    }

    fn encoded_key(&self, key: SubKey, source: Source, after: Offset, until: Offset) -> EncodedKey {
        let it = &self.conns[key.conn.index as usize].subs[key.index as usize];
        EncodedKey { route: it.route, id: it.id.clone(), source, after, until }
    }

    /// The frames of changes for a subscription, before a `next` one; built once for all that are alike.
    fn encode_behind<'a>(
        &mut self,
        name: EncodedKey,
        feed: &FeedId,
        hits: impl Iterator<Item = &'a Hit>,
        next: Option<&Hit>,
    ) -> Rc<Encoded> {
        let (form, through) = (&self.routes[name.route as usize].key.form, name.until);
        let hits: Vec<&Hit> = hits.filter(|hit| form.wants(hit)).collect();
        let form = form.for_subscription(&name.id);
        let (mut frames, mut parts, mut open) = (Vec::new(), Vec::with_capacity(hits.len()), None);
        for (place, hit) in hits.iter().enumerate() {
            let next = hits.get(place + 1).copied().or(next);
            self.encoder.frame(&mut frames, form, feed, hit, hit.of_tx(next, through));
            open = hit.then_open(next, through);
            parts.push(Part { offset: hit.offset(), end: frames.len(), tx: hit.row.as_ref().map(|row| row.tx) });
        }
        let encoded = Rc::new(Encoded::new(frames, parts, through, open));
        self.encoded.put(name, &encoded);
        encoded
    }

    /// Sends what it has not had of these frames; how many changes, and bytes.
    fn send_encoded(&mut self, key: SubKey, encoded: &Encoded) -> Option<(usize, usize)> {
        let Behind { feed, after, open, .. } = self.behind(key)?.clone();
        self.answer(key.conn.index, key.index, &Cursor::new(feed.clone(), after), true);
        let place = encoded.place_after(after);
        let first = encoded.parts.get(place);
        let ends =
            |open: &OpenTx| first.map_or(open.last <= encoded.through, |first| first.tx.is_none_or(|tx| tx != open.tx));
        let ended = open.filter(ends);
        let frames = encoded.from(place);
        let it = &mut self.conns[key.conn.index as usize].subs[key.index as usize];
        let SubState::Behind(behind) = &mut it.state else { return None };
        behind.open = if first.is_some() { encoded.open } else { open.filter(|_| ended.is_none()) };
        behind.after = encoded.through;
        let mut end = Vec::new();
        if let Some(open) = ended {
            let form = self.routes[it.route as usize].key.form.for_subscription(&it.id);
            self.encoder.tx_end(&mut end, form, &feed, open);
        }
        let (count, size) = (encoded.parts.len() - place, frames.len());
        self.push(key.conn.index, end.into());
        self.push(key.conn.index, frames);
        self.metrics.delivered(count as u64);
        Some((count, size))
    }

    /// Sends the first of these changes, which were read from the history and may begin with some that it has had;
    /// how many. They are complete up to `through`. `None`: it is gone, or has no room.
    fn replay(&mut self, key: SubKey, through: Offset, hits: &[Hit]) -> Option<usize> {
        let Behind { source, feed, after, .. } = self.behind(key)?.clone();
        if self.is_full(key.conn) {
            return None;
        }
        let route = self.conns[key.conn.index as usize].subs[key.index as usize].route;
        if self.routes[route as usize].conflating.is_some() {
            self.answer(key.conn.index, key.index, &Cursor::new(feed, after), true);
            let had = hits.partition_point(|hit| hit.offset() <= after);
            let taken = self.send_conflated_behind(key, through, &hits[had..]);
            self.metrics.resumed_from_history(taken);
            return Some(had + taken);
        }
        // Steps are cut from the beginning of what was read, so all who are served from it share their frames.
        let (step, rest) = hits.split_at(step(hits));
        let through = rest.first().map_or(through, |next| next.offset() - 1);
        if through > after {
            let name = self.encoded_key(key, source, step.first().map_or(after, |first| first.offset() - 1), through);
            let encoded = self.encoded.get(&name);
            let encoded = encoded.unwrap_or_else(|| self.encode_behind(name, &feed, step.iter(), rest.first()));
            let sent = self.send_encoded(key, &encoded).map_or(0, |(count, _)| count);
            self.metrics.resumed_from_history(sent);
        }
        Some(step.len())
    }

    /// Resets it if its feed has never had its cursor; whether that was so.
    fn deny(&mut self, key: SubKey, source: Source, ahead_since: Instant) -> bool {
        let denied = self.feeds.get(&source).is_some_and(|view| view.denies(source, ahead_since, Instant::now()));
        if denied {
            self.reset_behind(key, source, ResetReason::UnknownCursor);
        }
        denied
    }

    fn reset_behind(&mut self, key: SubKey, source: Source, reason: ResetReason) {
        if self.behind(key).is_some() {
            self.reset(key.conn, key.index, source, reason);
        }
    }

    /// What it has not got is no longer kept.
    fn lost(&mut self, key: SubKey, source: Source) {
        let Some(sub) = self.conn(key.conn).and_then(|conn| conn.subs.get(key.index as usize)) else { return };
        // One that was answered was up to date, or on its way there.
        let reason = if sub.unanswered { ResetReason::HistoryTrimmed } else { ResetReason::TooSlow };
        self.reset_behind(key, source, reason);
    }

    /// Goes on with what waits for room, if there is room now.
    pub(super) fn make_use_of_room(&mut self, key: ConnKey) {
        if self.is_full(key) {
            return;
        }
        let Some(conn) = self.conns.get_mut(key.index as usize) else { return };
        for (index, sub) in &mut conn.subs {
            if let SubState::Behind(behind) = &mut sub.state
                && std::mem::take(&mut behind.waits_for_room)
            {
                let sub = SubKey { conn: key, index: index as u32, generation: sub.generation };
                self.tasks.push(Task::CatchUp(sub));
            }
        }
    }

    fn is_full(&self, key: ConnKey) -> bool {
        self.conn(key).is_some_and(|conn| conn.full || conn.outbox.bytes() > self.settings.queue_bytes / 2)
    }
}
