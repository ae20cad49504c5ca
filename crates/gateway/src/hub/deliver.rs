//! From a feed to the rings: a batch is encoded once per route, and everybody on it shares the bytes.

use std::{sync::Arc, time::Instant};

use protocol::{Batch, Close, Cursor, Offset, ResetReason, Source, Topic, message};
use tracing::error;

use super::{
    Carried, Hub, PREFERRED, Task, View,
    conn::{Behind, ConnKey, Sub, SubKey, SubState},
    route::{Built, Route, RouteKey},
    stream::{Place, Stream},
};
use crate::{
    feed::{FeedEvent, Start},
    ring::Mark,
};

impl Hub {
    pub(super) fn apply(&mut self, event: FeedEvent) {
        match event {
            FeedEvent::Started { source, start } => self.start(source, &start),
            FeedEvent::Batch { source, batch, room: _ } => self.batch(source, &batch, &[]),
            FeedEvent::Torn { source, batch, lost, room: _ } => self.batch(source, &batch, &lost),
            FeedEvent::Lost { source, topics } => self.lost_changes(source, &topics),
            FeedEvent::Catalogue { source, catalogue } => {
                if let Some(view) = self.feeds.get_mut(&source) {
                    view.catalogue = catalogue;
                }
                self.catalogues_changed();
            }
        }
    }

    fn start(&mut self, source: Source, start: &Start) {
        self.encoded.clear();
        if let Some(register) = &mut self.register {
            register.forget_feed(source);
        }
        let view = View::new(start, self.settings.recent_bytes);
        // What waits is of the feed before.
        for route in self.routes_of(source, |_| true) {
            self.hand_on(route);
        }
        self.settle();
        if self.feeds.insert(source, view).is_some() {
            let routes = self.routes_of(source, |_| true);
            self.reset_live(source, routes, ResetReason::NewFeed, None);
        }
        self.catalogues_changed();
    }

    fn catalogues_changed(&mut self) {
        self.carriers.clear();
        for source in PREFERRED.into_iter().rev() {
            let infos = self.feeds.get(&source).map_or(&[][..], |view| &view.catalogue.topics);
            self.carriers.extend(infos.iter().map(|info| (info.topic.clone(), source)));
        }
        if let Some(register) = &mut self.register {
            register.keep(&self.carriers);
        }
        if let Some(view) = self.feeds.get(&Source::Log) {
            self.encoder.set_columns(&view.catalogue);
        }
        self.end_uncarried();
        self.tables_changed();
    }

    /// The routes of a source, but for plain ones, of which this is true.
    fn routes_of(&self, source: Source, which: impl Fn(&Route) -> bool) -> Vec<u32> {
        let of_it = self.routes.iter().filter(|(_, route)| route.key.source == Some(source) && which(route));
        of_it.map(|(index, _)| index as u32).collect()
    }

    /// Tells every live subscription of these routes that it may have missed something. Plain
    /// endpoints have no way to be told; they stay as they are.
    /// `after`: what came up to here was not missed, where that is known.
    fn reset_live(&mut self, source: Source, routes: Vec<u32>, reason: ResetReason, after: Option<Offset>) {
        let Some(cursor) = self.feeds.get(&source).map(View::cursor) else { return };
        let after = after.map(|offset| Cursor::new(cursor.feed.clone(), offset));
        for route in routes {
            self.routes[route as usize].open = None;
            // Before it is told, its members get no cursor beyond what is lost.
            self.hand_on_through(route, None);
            let slots = |stream: &u32| self.streams.get(*stream).slots.iter().map(|slot| slot.conn);
            let members: Vec<u32> = self.routes[route as usize].streams.iter().flat_map(slots).collect();
            for index in members {
                let conn = &self.conns[index as usize];
                let is_of_it = |(_, sub): &(usize, &Sub)| sub.route == route && sub.is_live();
                let Some((place, sub)) = conn.subs.iter().find(is_of_it) else { continue };
                let key = ConnKey { index, generation: conn.generation };
                let it = SubKey { conn: key, index: place as u32, generation: sub.generation };
                if conn.vsn().is_some() {
                    self.note_skipped(it, reason, after.clone(), &cursor);
                    self.reset_channel(key, place as u32, reason, &cursor);
                    continue;
                }
                let text = message::reset(conn.speech.name(&sub.id), reason, &cursor);
                let reset = conn.speech.say("reset", Some(&cursor), &text);
                self.note_skipped(it, reason, after.clone(), &cursor);
                self.push(index, reset);
                self.metrics.reset(reason);
            }
        }
    }

    fn lost_changes(&mut self, source: Source, topics: &[Topic]) {
        let Some(view) = self.feeds.get_mut(&source) else { return };
        view.untold.clear();
        let after = view.torn_after.take();
        let routes = self.routes_of(source, |route| route.has_one_of(topics));
        self.reset_live(source, routes, ResetReason::HistoryTrimmed, after);
    }

    /// Hands a batch on. Who wants a topic that has lost changes gets nothing of it, and is told
    /// before it gets anything later: with a later cursor it would not be told when it resumes.
    pub(super) fn batch(&mut self, source: Source, batch: &Arc<Batch>, lost: &[Topic]) {
        let Some(view) = self.feeds.get_mut(&source) else { return };
        let before = view.advance(batch, Instant::now());
        if batch.is_watermark() {
            return;
        }
        if let Some(register) = &mut self.register {
            register.note_batch(source, batch, &self.carriers);
        }
        let feed = view.feed.clone();
        let (hits, broken) = self.wanted(source, batch, before);
        let Some(view) = self.feeds.get_mut(&source) else { return };
        view.untold = lost.to_vec();
        if lost.is_empty() && broken.is_empty() {
            view.torn_after = None;
            view.recent.push(Arc::clone(batch));
        } else {
            view.torn_after.get_or_insert(before);
            view.recent.restart(batch.last);
            self.encoded.clear();
        }
        let lost = [lost, &broken[..]].concat();
        let hit = self.encode(source, &feed, &hits, batch.last, &lost);
        let marked: Vec<ConnKey> = hit.iter().flat_map(|route| self.to_be_marked(*route)).collect();
        if !broken.is_empty() {
            error!(%source, topics = ?broken, first = batch.first, "a batch with malformed changes");
            self.lost_changes(source, &broken);
        }
        self.put_into_rings(source, hit);
        self.mark(&marked);
    }

    /// Hands on what was built: each stream that has one of these routes gets its frames, in order.
    pub(super) fn put_into_rings(&mut self, source: Source, hit: Vec<u32>) {
        let mut touched = Vec::new();
        for &route in &hit {
            for &stream in &self.routes[route as usize].streams {
                let hits = &mut self.streams.get_mut(stream).hits;
                if hits.is_empty() {
                    touched.push(stream);
                }
                hits.push(route);
            }
        }
        let delivered = touched.iter().map(|&stream| self.put_into_ring(source, stream)).sum();
        self.metrics.delivered(delivered);
        for route in hit {
            self.routes[route as usize].frames.clear();
        }
        for stream in touched {
            self.streams.mark_dirty(stream);
            self.let_the_slowest_fall_behind(stream);
        }
    }

    /// How many frames that makes, over all its connections.
    fn put_into_ring(&mut self, source: Source, stream: u32) -> u64 {
        let Stream { hits, ring, slots, .. } = self.streams.get_mut(stream);
        let mark = |route, built: Built| Mark { end: 0, route, source, offset: built.offset, open: built.open };
        let frames_of = |route: u32| self.routes[route as usize].frames.each();
        let mut count = 0;
        match hits[..] {
            [route] => {
                for (built, frame) in frames_of(route) {
                    ring.push(frame, mark(route, built));
                    count += 1;
                }
            }
            _ => {
                let all = hits.iter().flat_map(|&route| frames_of(route).map(move |frame| (route, frame)));
                let mut all: Vec<_> = all.collect();
                all.sort_by_key(|(_, (built, _))| built.offset);
                count = all.len();
                all.into_iter().for_each(|(route, (built, frame))| ring.push(frame, mark(route, built)));
            }
        }
        hits.clear();
        (count * slots.len()) as u64
    }

    /// Who is further back than its stream keeps goes on from memory, or from the history. What it has
    /// been sent a part of is sent to its end first.
    fn let_the_slowest_fall_behind(&mut self, number: u32) {
        let stream = self.streams.get(number);
        let Some(tail) = stream.tail_for(self.settings.queue_bytes) else { return };
        let slow: Vec<u32> = stream.slots.iter().filter(|slot| slot.position < tail).map(|slot| slot.conn).collect();
        let all = slow.len() == stream.slots.len();
        for index in slow {
            self.fall_behind(index);
        }
        // Without connections there is no stream.
        if !all {
            self.streams.get_mut(number).ring.trim(tail);
        }
    }

    fn fall_behind(&mut self, index: u32) {
        let Some(place) = self.conns[index as usize].place else { return };
        let Stream { ring, .. } = self.streams.get(place.stream);
        let position = self.streams.get(place.stream).slot(place).position;
        let conn = &mut self.conns[index as usize];
        // What waits for it alone may say how far it is, so it stays behind what it came after.
        let until = ring.boundary(position).max(conn.outbox.last_at().unwrap_or(0));
        conn.outbox.take_along(ring, position, until, 0);
        let first_of = |route: u32| ring.after(until).find(|mark| mark.route == route).copied();
        let live = conn.subs.iter().filter(|(_, sub)| sub.is_live());
        let firsts: Vec<(u32, u32, Option<Mark>)> =
            live.map(|(sub, it)| (sub as u32, it.generation, first_of(it.route))).collect();
        self.leave_stream(index);
        self.mark_dirty(index);
        let key = ConnKey { index, generation: self.conns[index as usize].generation };
        for (sub, generation, first) in firsts {
            let sub = SubKey { conn: key, index: sub, generation };
            let route = self.conns[index as usize].subs[sub.index as usize].route;
            let Some(behind) = self.behind_at(route, first.as_ref()) else { continue };
            self.metrics.fell_behind();
            if self.is_of_several_feeds(route, behind.source) {
                return self.close(key, Close::TryAgainLater, "read too slowly: changes were missed");
            }
            self.conns[index as usize].subs[sub.index as usize].state = SubState::Behind(Box::new(behind));
            self.tasks.push(Task::CatchUp(sub));
        }
        self.restream(index);
    }

    /// Where a subscription stands that has had everything of its route but this frame and what
    /// follows it.
    fn behind_at(&self, route: u32, first: Option<&Mark>) -> Option<Behind> {
        let route = &self.routes[route as usize];
        let of_topic = |topic: &Topic| self.carriers.get(topic).copied();
        let source = first.map(|mark| mark.source).or(route.key.source);
        let source = source.or_else(|| route.key.topics.iter().find_map(of_topic))?;
        let view = self.feeds.get(&source)?;
        // What it has lost and was not told of is not behind it: then it is told when it has caught up.
        let torn_after = view.torn_after.filter(|_| route.is_told(&view.untold));
        let head = torn_after.map_or(route.head(view.last), |torn| torn.min(route.head(view.last)));
        let (after, open) = first.map_or((head, route.open), |mark| (mark.offset - 1, mark.open));
        Some(Behind { source, feed: view.feed.clone(), after, open, waits_for_room: false })
    }

    /// Before a feed takes the place of another: offsets in the rings are of the one before. Who has
    /// not got everything takes it along.
    fn settle(&mut self) {
        let streams: Vec<u32> = self.streams.iter().collect();
        for stream in streams {
            let Stream { ring, slots, .. } = self.streams.get_mut(stream);
            let head = ring.head();
            let mut lagging = Vec::new();
            for (slot, it) in slots.iter_mut().enumerate().filter(|(_, slot)| slot.position < head) {
                let conn = &mut self.conns[it.conn as usize];
                conn.outbox.take_along(ring, std::mem::replace(&mut it.position, head), head, head);
                lagging.push((it.conn, Place { stream, slot: slot as u32 }));
            }
            for (index, place) in lagging {
                self.streams.get_mut(stream).set_lagging(place);
                self.mark_dirty(index);
            }
        }
    }

    /// Whether it gets changes of another source too, as a plain endpoint may: then there is no one
    /// place to go on from.
    fn is_of_several_feeds(&self, route: u32, source: Source) -> bool {
        let RouteKey { topics, source: own, .. } = &self.routes[route as usize].key;
        let from_another = |topic: &Topic| matches!(self.carried(topic.as_str()), Carried::By(by) if by != source);
        own.is_none() && topics.iter().any(from_another)
    }
}
