//! Routes that want their changes conflated: what a row's changes come to, at most once in a while.
//!
//! It is done once per route, on the way to the rings: everything after that is as for other routes.
//! Who catches up gets what it has missed conflated too, step by step, so one that reads slowly gets
//! the rows as they are when it has room, and not each change that led there.

use std::{
    borrow::Borrow,
    rc::Rc,
    time::{Duration, Instant},
};

use protocol::{Cursor, FeedId, Offset, ResetReason, Topic, message::OfTx};

use super::{
    Hub, HubHandle, Task,
    catch_up::{STEP_BYTES, Step, Unreadable},
    conn::{Behind, ConnKey, SubKey},
    encoded::{Encoded, EncodedKey, Part},
    poll::Stretch,
    route::{Built, Route},
};
use crate::{
    conflation::Conflation,
    encode::{Encoder, Form},
    historian::Subject,
    hit::Hit,
};

/// Changes that are looked at in one step of catching up, about: a few milliseconds.
const STEP_CHANGES: usize = 1000;

/// What a route that conflates has besides.
#[derive(Debug)]
pub(super) struct Conflating {
    every: Duration,
    waiting: Conflation,
    /// When it has handed on last.
    handed_on: Option<Instant>,
    /// Whether a task waits until it is time.
    timed: bool,
    /// Whether the batch in hand has something for it.
    pub touched: bool,
}

/// A route, and its number on the wire, which no other has had.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timed {
    index: u32,
    id: u64,
}

/// Where changes of one route, or of one subscription, are conflated and framed.
pub(super) struct Conflator<'a> {
    pub encoder: &'a mut Encoder,
    pub form: Form<'a>,
    pub feed: &'a FeedId,
    pub waiting: &'a mut Conflation,
    pub frames: &'a mut Vec<u8>,
    pub built: &'a mut Vec<Built>,
}

impl Conflating {
    pub fn new(every: Duration) -> Self {
        Self { every, waiting: Conflation::default(), handed_on: None, timed: false, touched: false }
    }

    /// When it is time; at once after a pause.
    fn due(&self) -> Option<Instant> {
        self.handed_on.map(|then| then + self.every)
    }

    /// Whether it is time for what waits, or that has grown too large.
    pub fn is_due(&self, now: Instant, most_bytes: usize) -> bool {
        !self.waiting.is_empty() && (self.due().is_none_or(|due| due <= now) || self.waiting.bytes() > most_bytes)
    }
}

impl Conflator<'_> {
    /// Bytes that have been put together.
    fn bytes(&self) -> usize {
        self.frames.len() + self.waiting.bytes()
    }

    /// Joins a change with those that wait. What cannot be joined is framed, behind all that waits.
    pub fn take<T: Borrow<Topic>>(&mut self, hit: &Hit<T>) {
        if !self.waiting.take(hit) {
            self.hand_on(None);
            self.frame(hit, hit.offset());
        }
    }

    /// Frames all that waits. Everything up to `through` was taken, if nothing else follows.
    pub fn hand_on(&mut self, through: Option<Offset>) {
        // Who has had a part of it gets all of it again.
        let first = self.waiting.after() + 1;
        for hit in self.waiting.drain(through) {
            self.frame(&hit, first);
        }
    }

    fn frame<T: Borrow<Topic>>(&mut self, hit: &Hit<T>, offset: Offset) {
        self.encoder.frame(self.frames, self.form, self.feed, hit, OfTx::Untold);
        self.built.push(Built { offset, end: self.frames.len(), open: None });
    }
}

impl Route {
    /// A change of the batch in hand, for a route that conflates.
    pub fn conflate<T: Borrow<Topic>>(&mut self, encoder: &mut Encoder, feed: &FeedId, hit: &Hit<T>) {
        if let Some(mut conflator) = self.conflator(encoder, feed) {
            conflator.take(hit);
        }
    }

    /// Frames what waits for a route that conflates.
    pub fn hand_on(&mut self, encoder: &mut Encoder, feed: &FeedId, through: Option<Offset>) {
        if let Some(mut conflator) = self.conflator(encoder, feed) {
            conflator.hand_on(through);
        }
        if let Some(conflating) = &mut self.conflating {
            conflating.handed_on = Some(Instant::now());
        }
    }

    /// How long what waits for a route that conflates has to wait yet.
    pub fn held_for(&self, now: Instant) -> Duration {
        let due = self.conflating.as_ref().and_then(|conflating| conflating.due());
        due.map_or(Duration::ZERO, |due| due.saturating_duration_since(now))
    }

    fn conflator<'a>(&'a mut self, encoder: &'a mut Encoder, feed: &'a FeedId) -> Option<Conflator<'a>> {
        let Conflating { waiting, .. } = self.conflating.as_deref_mut()?;
        let form = self.key.form.for_route(self.id);
        let (frames, built) = (&mut self.frames.building, &mut self.frames.built);
        Some(Conflator { encoder, form, feed, waiting, frames, built })
    }

    /// Up to where its members have got everything, if its feed is at `last`.
    pub fn head(&self, last: Offset) -> Offset {
        let waiting = self.conflating.as_ref().map(|it| &it.waiting).filter(|waiting| !waiting.is_empty());
        waiting.map_or(last, Conflation::after)
    }
}

impl HubHandle {
    /// Hands on what waits for a route when it is time.
    pub(super) async fn hand_on_in_time(self, route: Timed) {
        while let Some(due) = self.with(|hub| hub.hand_on_if_due(route)) {
            tokio::time::sleep_until(due.into()).await;
        }
    }
}

impl Hub {
    /// Has what waits for a route handed on when it is time.
    pub(super) fn time(&mut self, index: u32) {
        let route = &mut self.routes[index as usize];
        let Some(conflating) = &mut route.conflating else { return };
        self.metrics.conflated(conflating.waiting.take_joined());
        if !conflating.waiting.is_empty() && !std::mem::replace(&mut conflating.timed, true) {
            self.tasks.push(Task::HandOn(Timed { index, id: route.id }));
        }
    }

    /// When to look again; `None` if nothing waits any more.
    fn hand_on_if_due(&mut self, Timed { index, id }: Timed) -> Option<Instant> {
        let route = self.routes.get_mut(index as usize).filter(|route| route.id == id)?;
        let conflating = route.conflating.as_mut()?;
        let due = conflating.due().filter(|_| !conflating.waiting.is_empty());
        if let Some(due) = due.filter(|due| *due > Instant::now()) {
            return Some(due);
        }
        conflating.timed = false;
        self.hand_on(index);
        None
    }

    /// Hands on now what waits for a route that conflates. Who has lost changes that are not told yet
    /// gets no cursor beyond them.
    pub(super) fn hand_on(&mut self, index: u32) {
        let route = &self.routes[index as usize];
        let view = route.key.source.and_then(|source| self.feeds.get(&source));
        let through = view.filter(|view| !route.has_one_of(&view.untold)).map(|view| view.last);
        self.hand_on_through(index, through);
    }

    /// The same, and `through` is the cursor of all of it, if there is one.
    pub(super) fn hand_on_through(&mut self, index: u32, through: Option<Offset>) {
        let Self { routes, encoder, feeds, .. } = self;
        let route = &mut routes[index as usize];
        if route.conflating.as_ref().is_none_or(|conflating| conflating.waiting.is_empty()) {
            return;
        }
        let Some((source, view)) = route.key.source.and_then(|source| Some((source, feeds.get(&source)?))) else {
            return;
        };
        route.hand_on(encoder, &view.feed, through);
        let marked = self.to_be_marked(index);
        self.put_into_rings(source, vec![index]);
        self.mark(&marked);
    }

    /// Members of a route that conflates whose watermark has waited for what is handed on now.
    pub(super) fn to_be_marked(&self, index: u32) -> Vec<ConnKey> {
        let route = &self.routes[index as usize];
        if route.conflating.is_none() {
            return Vec::new();
        }
        let now = self.now();
        let slots = route.streams.iter().flat_map(|stream| &self.streams.get(*stream).slots);
        let key = |conn: u32| ConnKey { index: conn, generation: self.conns[conn as usize].generation };
        slots.map(|slot| key(slot.conn)).filter(|key| self.is_watermark_due(*key, now) && self.has_all(*key)).collect()
    }

    pub(super) fn mark(&mut self, those: &[ConnKey]) {
        if those.is_empty() {
            return;
        }
        let watermarks = self.watermarks();
        let now = self.now();
        those.iter().for_each(|key| self.send_watermarks(*key, now, &watermarks));
    }

    /// One step of a subscription that wants its changes conflated. Its end is what its route has
    /// handed on.
    pub(super) fn catch_up_conflated(&mut self, key: SubKey, index: u32, behind: Behind) -> Step {
        let (source, after) = (behind.source, behind.after);
        let Some(last) = self.feeds.get(&source).map(|view| view.last) else { return Step::Gone };
        if after > self.routes[index as usize].head(last) {
            // Another gateway was quicker; what waits here it has had in part.
            self.hand_on(index);
        }
        let head = self.routes[index as usize].head(last);
        if after >= head {
            self.caught_up(key, &Cursor::new(behind.feed, after));
            return Step::Live;
        }
        match self.conflated(key, index, &behind, head) {
            Ok(encoded) => {
                self.answer(key.conn.index, key.index, &Cursor::new(behind.feed, after), true);
                self.send_conflated(key, &encoded);
                self.metrics.resumed_from_memory(encoded.parts.len());
                Step::Again
            }
            Err(Unreadable::NotHere) => {
                let topics = self.routes[index as usize].key.topics.to_vec();
                Step::History(Subject { source, feed: behind.feed, topics }, after)
            }
            Err(Unreadable::Malformed) => {
                self.reset(key.conn, key.index, source, ResetReason::HistoryTrimmed);
                Step::Live
            }
        }
    }

    /// What memory has for it after where it is, up to `head`, or about [`STEP_BYTES`] of it; built once
    /// for all that are alike.
    fn conflated(&mut self, key: SubKey, route: u32, behind: &Behind, head: Offset) -> Result<Rc<Encoded>, Unreadable> {
        let Behind { source, ref feed, after, .. } = *behind;
        let id = self.conns[key.conn.index as usize].subs[key.index as usize].id.clone();
        let name = EncodedKey { route, id, source, after, until: head };
        if let Some(encoded) = self.encoded.get(&name) {
            return Ok(encoded);
        }
        let topics = &self.routes[route as usize].key.topics;
        let Stretch { mut hits, through, .. } = self.feeds[&source].stretch_after(topics, after, STEP_CHANGES)?;
        hits.truncate(hits.partition_point(|hit| hit.offset() <= head));
        let (encoded, _) = self.encode_conflated(key, feed, through.min(head), &hits);
        let encoded = Rc::new(encoded);
        self.encoded.put(name, &encoded);
        Ok(encoded)
    }

    /// What the first of these changes come to, about [`STEP_BYTES`] of it, and how many changes that
    /// is. They are complete up to `through`.
    fn encode_conflated(&mut self, key: SubKey, feed: &FeedId, through: Offset, hits: &[Hit]) -> (Encoded, usize) {
        let it = &self.conns[key.conn.index as usize].subs[key.index as usize];
        let (mut waiting, mut frames, mut built) = (Conflation::default(), Vec::new(), Vec::new());
        let mut conflator = Conflator {
            encoder: &mut self.encoder,
            form: self.routes[it.route as usize].key.form.for_subscription(&it.id),
            feed,
            waiting: &mut waiting,
            frames: &mut frames,
            built: &mut built,
        };
        let mut taken = 0;
        for hit in hits.iter().take(STEP_CHANGES) {
            if conflator.bytes() >= STEP_BYTES {
                break;
            }
            conflator.take(hit);
            taken += 1;
        }
        let through = hits.get(taken).map_or(through, |next| next.offset() - 1);
        conflator.hand_on(Some(through));
        self.metrics.conflated(waiting.take_joined());
        let parts = built.iter().map(|&Built { offset, end, .. }| Part { offset, end, tx: None }).collect();
        (Encoded::new(frames, parts, through, None), taken)
    }

    fn send_conflated(&mut self, key: SubKey, encoded: &Encoded) {
        self.metrics.delivered(encoded.parts.len() as u64);
        if let Some(behind) = self.behind_mut(key) {
            behind.after = encoded.through;
        }
        self.push(key.conn.index, encoded.from(0));
    }

    /// Sends what the first of these changes come to; how many changes that was. They are complete up to
    /// `through`.
    pub(super) fn send_conflated_behind(&mut self, key: SubKey, through: Offset, hits: &[Hit]) -> usize {
        let Some(Behind { feed, after, .. }) = self.behind(key).cloned() else { return 0 };
        let (encoded, taken) = self.encode_conflated(key, &feed, through.max(after), hits);
        self.send_conflated(key, &encoded);
        taken
    }
}
