//! From a feed to the outboxes: a batch is encoded once per route, and its members share the bytes.

use std::{borrow::Borrow, sync::Arc, time::Instant};

use protocol::{Batch, Close, FeedId, Offset, ResetReason, Source, Topic, message};
use tracing::error;

use super::{
    Carried, Hub, PREFERRED, Task, View,
    conn::{Behind, ConnKey, SubKey, SubState},
    route::{Route, RouteForm, RouteKey},
};
use crate::{
    encode::{Encoder, Form},
    feed::{FeedEvent, Start},
    hit::Hit,
    ws,
};

/// A topic of the batch in hand, and whether plain routes take it from the batch's source.
#[derive(Debug, Clone, Copy)]
struct Wanted<'a> {
    topic: &'a Topic,
    by_plain: bool,
}

impl Borrow<Topic> for Wanted<'_> {
    fn borrow(&self) -> &Topic {
        self.topic
    }
}

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
        let view = View::new(start, self.settings.recent_bytes);
        if self.feeds.insert(source, view).is_some() {
            let routes = self.routes_of(source, |_| true);
            self.reset_live(source, routes, ResetReason::NewFeed);
        }
        self.catalogues_changed();
    }

    fn catalogues_changed(&mut self) {
        self.carriers.clear();
        for source in PREFERRED.into_iter().rev() {
            let infos = self.feeds.get(&source).map_or(&[][..], |view| &view.catalogue.topics);
            self.carriers.extend(infos.iter().map(|info| (info.topic.clone(), source)));
        }
        self.end_uncarried();
    }

    /// The native routes of a source of which this is true.
    fn routes_of(&self, source: Source, which: impl Fn(&Route) -> bool) -> Vec<u32> {
        let of_it = self.routes.iter().filter(|(_, route)| route.key.source == Some(source) && which(route));
        of_it.map(|(index, _)| index as u32).collect()
    }

    /// Tells every live subscription of these routes that it may have missed something. Plain
    /// endpoints have no way to be told; they stay as they are.
    fn reset_live(&mut self, source: Source, routes: Vec<u32>, reason: ResetReason) {
        let Some(cursor) = self.feeds.get(&source).map(View::cursor) else { return };
        for route in routes {
            let route = &mut self.routes[route as usize];
            route.open = None;
            for member in route.members.clone() {
                let text =
                    message::reset(&self.conns[member.conn as usize].subs[member.sub as usize].id, reason, &cursor);
                self.push(member.conn, ws::text(&text));
                self.metrics.reset(reason);
            }
        }
    }

    fn lost_changes(&mut self, source: Source, topics: &[Topic]) {
        if let Some(view) = self.feeds.get_mut(&source) {
            view.untold.clear();
        }
        let routes = self.routes_of(source, |route| route.has_one_of(topics));
        self.reset_live(source, routes, ResetReason::HistoryTrimmed);
    }

    /// Hands a batch on. Who wants a topic that has lost changes gets nothing of it, and is told
    /// before it gets anything later: with a later cursor it would not be told when it resumes.
    fn batch(&mut self, source: Source, batch: &Arc<Batch>, lost: &[Topic]) {
        let Some(view) = self.feeds.get_mut(&source) else { return };
        let before = view.advance(batch, Instant::now());
        if batch.is_watermark() {
            return;
        }
        let feed = view.feed.clone();
        let (hits, broken) = self.wanted(source, batch, before);
        let Some(view) = self.feeds.get_mut(&source) else { return };
        view.untold = lost.to_vec();
        if lost.is_empty() && broken.is_empty() {
            view.recent.push(Arc::clone(batch));
        } else {
            view.recent.restart(batch.last);
        }
        let lost = [lost, &broken[..]].concat();
        let hit = self.encode(source, &feed, &hits, batch.last, &lost);
        if !broken.is_empty() {
            error!(%source, topics = ?broken, first = batch.first, "a batch with malformed changes");
            self.lost_changes(source, &broken);
        }
        let mut touched = Vec::new();
        for &index in &hit {
            let route = &mut self.routes[index as usize];
            route.frames.finish();
            for member in &route.members {
                let hits = &mut self.conns[member.conn as usize].hits;
                if hits.is_empty() {
                    touched.push(member.conn);
                }
                if hits.last() != Some(&index) {
                    hits.push(index);
                }
            }
        }
        let behind = Behind { source, feed, after: before, open: None };
        let delivered = touched.into_iter().map(|index| self.deliver(index, &behind)).sum();
        self.metrics.delivered(delivered);
        for index in hit {
            self.routes[index as usize].frames.clear();
        }
    }

    /// The changes of a batch that somebody here wants, in order, and the topics that cannot be read.
    fn wanted<'a>(&self, source: Source, batch: &'a Batch, after: Offset) -> (Vec<Hit<Wanted<'a>>>, Vec<Topic>) {
        let (mut hits, mut broken) = (Vec::new(), Vec::new());
        let mut topics = 0;
        for (topic, slice) in &batch.slices {
            if !self.by_topic.contains_key(topic) {
                continue;
            }
            // One that nobody has told of is new, and comes from here.
            let by_plain = self.carriers.get(topic).is_none_or(|carrier| *carrier == source);
            match Hit::read(&Wanted { topic, by_plain }, slice, after) {
                Ok(read) if hits.is_empty() => hits = read,
                Ok(read) => hits.extend(read),
                Err(_) => broken.push(topic.clone()),
            }
            topics += 1;
        }
        if topics > 1 {
            hits.sort_by_key(Hit::offset);
        }
        (hits, broken)
    }

    /// Builds the frames of every route that wants something of it; which routes.
    fn encode(
        &mut self,
        source: Source,
        feed: &FeedId,
        hits: &[Hit<Wanted<'_>>],
        through: Offset,
        lost: &[Topic],
    ) -> Vec<u32> {
        let Self { routes, by_topic, encoder, open, .. } = self;
        // Those that are still open before this batch.
        let was_open = std::mem::take(open);
        let mut hit = Vec::new();
        for (place, it) in hits.iter().enumerate() {
            for &index in by_topic.get(it.topic.topic).map_or(&[][..], Vec::as_slice) {
                let route = &mut routes[index as usize];
                let takes_it = route.key.source.map_or(it.topic.by_plain, |own| own == source);
                if !takes_it || route.is_told(lost) {
                    continue;
                }
                if !route.frames.is_hit() {
                    hit.push(index);
                    route.frames.open_before = route.open;
                    if route.open.is_some_and(|open| it.is_after(open)) {
                        route.end_tx(encoder, feed);
                    }
                }
                if it.row.is_none() {
                    route.frame(encoder, feed, it, false);
                } else if let Some(before) = route.frames.pending.replace(place) {
                    route.frame(encoder, feed, &hits[before], hits[before].ends_tx(Some(it), through));
                }
            }
        }
        for &index in &hit {
            let route = &mut routes[index as usize];
            let Some(last) = route.frames.pending.take() else { continue };
            route.frame(encoder, feed, &hits[last], hits[last].ends_tx(None, through));
            let is_native = route.key.form == RouteForm::Native;
            route.open = hits[last].then_open(None, through).filter(|_| is_native);
            if route.open.is_some() {
                open.push(index);
            }
        }
        for index in was_open {
            let route = &mut routes[index as usize];
            if route.frames.is_hit() {
                continue;
            }
            match route.open {
                // It has been told of a loss, or is about to.
                None => {}
                Some(_) if route.is_told(lost) => route.open = None,
                Some(tx) if route.key.source == Some(source) && tx.last <= through => {
                    route.frames.open_before = route.open;
                    route.end_tx(encoder, feed);
                    hit.push(index);
                }
                Some(_) => open.push(index),
            }
        }
        hit
    }

    /// Gives a connection the frames of the routes it was hit by; how many. If too much waits for
    /// it already, its subscriptions fall behind instead.
    fn deliver(&mut self, index: u32, behind: &Behind) -> u64 {
        let conn = &mut self.conns[index as usize];
        let mut hits = std::mem::take(&mut conn.hits);
        let bytes: usize = hits.iter().map(|&route| self.routes[route as usize].frames.joined.len()).sum();
        let too_much = conn.closing.is_none()
            && conn.outbox.bytes() > 0
            && conn.outbox.bytes() + bytes > self.settings.queue_bytes;
        let mut delivered = 0;
        if too_much {
            self.fall_behind(index, &hits, behind);
        } else if conn.closing.is_none() {
            match hits[..] {
                [route] => {
                    let frames = &self.routes[route as usize].frames;
                    conn.push(frames.joined.clone());
                    delivered = frames.marks.len() as u64;
                }
                _ => {
                    let each = hits.iter().flat_map(|&route| self.routes[route as usize].frames.each());
                    let mut frames: Vec<_> = each.collect();
                    frames.sort_by_key(|(offset, _)| *offset);
                    delivered = frames.len() as u64;
                    frames.into_iter().for_each(|(_, frame)| conn.push(frame));
                }
            }
            self.mark_dirty(index);
        }
        hits.clear();
        self.conns[index as usize].hits = hits;
        delivered
    }

    fn fall_behind(&mut self, index: u32, routes: &[u32], behind: &Behind) {
        let conn = &self.conns[index as usize];
        let key = ConnKey { index, generation: conn.generation };
        let subs: Vec<SubKey> = conn
            .subs
            .iter()
            .filter(|(_, sub)| matches!(sub.state, SubState::Live { .. }) && routes.contains(&sub.route))
            .map(|(sub, it)| SubKey { conn: key, index: sub as u32, generation: it.generation })
            .collect();
        for sub in subs {
            self.metrics.fell_behind();
            if self.is_of_several_feeds(sub, behind.source) {
                return self.close(key, Close::TryAgainLater, "read too slowly: changes were missed");
            }
            self.detach(index, sub.index);
            let it = &mut self.conns[index as usize].subs[sub.index as usize];
            let open = self.routes[it.route as usize].frames.open_before;
            it.state = SubState::Behind(Behind { open, ..behind.clone() });
            self.tasks.push(Task::CatchUp(sub));
        }
    }

    /// Whether it gets changes of another source too, as a plain endpoint may: then there is no one
    /// place to go on from.
    fn is_of_several_feeds(&self, sub: SubKey, source: Source) -> bool {
        let route = self.conns[sub.conn.index as usize].subs[sub.index as usize].route;
        let RouteKey { topics, source: own, .. } = &self.routes[route as usize].key;
        let from_another = |topic: &Topic| matches!(self.carried(topic.as_str()), Carried::By(by) if by != source);
        own.is_none() && topics.iter().any(from_another)
    }
}

impl Route {
    pub(super) fn has_one_of(&self, topics: &[Topic]) -> bool {
        self.key.topics.iter().any(|topic| topics.contains(topic))
    }

    /// Whether its members are told of a loss in these topics, instead of getting changes.
    fn is_told(&self, lost: &[Topic]) -> bool {
        !lost.is_empty() && self.key.form == RouteForm::Native && self.has_one_of(lost)
    }

    fn frame<T: Borrow<Topic>>(&mut self, encoder: &mut Encoder, feed: &FeedId, hit: &Hit<T>, tx_end: bool) {
        let form = match self.key.form {
            RouteForm::Plain(wrap) => Form::Plain(wrap),
            RouteForm::Native => Form::Native(message::Addressee::Route(self.id)),
        };
        encoder.frame(&mut self.frames.building, form, feed, hit, tx_end);
        self.frames.marks.push((hit.offset(), self.frames.building.len()));
    }

    /// Ends its open transaction. Only native ones have any.
    fn end_tx(&mut self, encoder: &mut Encoder, feed: &FeedId) {
        let Some(open) = self.open.take() else { return };
        encoder.tx_end(&mut self.frames.building, message::Addressee::Route(self.id), feed, open);
        self.frames.marks.push((open.last, self.frames.building.len()));
    }
}
