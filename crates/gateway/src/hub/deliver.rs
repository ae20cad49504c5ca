//! From a feed to the outboxes: a batch is encoded once per route, and its members share the bytes.

use std::sync::Arc;

use protocol::{Batch, Change, Close, Offset, ResetReason, Source, Topic, message};
use tracing::error;

use super::{
    Hub, Task, View,
    conn::{Behind, ConnKey, SubKey, SubState},
    route::{Frames, RouteForm, RouteKey},
};
use crate::{
    encode::Form,
    feed::{FeedEvent, Start},
    recent::Recent,
    ws,
};

impl Hub {
    pub(super) fn apply(&mut self, event: FeedEvent) {
        match event {
            FeedEvent::Started { source, start } => self.start(source, &start),
            FeedEvent::Batch { source, batch } => self.batch(source, &batch, &[]),
            FeedEvent::Torn { source, batch, lost } => self.batch(source, &batch, &lost),
            FeedEvent::Catalogue { source, catalogue } => {
                if let Some(view) = self.feeds.get_mut(&source) {
                    view.catalogue = catalogue;
                }
                self.end_uncarried();
            }
        }
    }

    fn start(&mut self, source: Source, start: &Start) {
        let view = View {
            feed: start.feed.clone(),
            last: start.last,
            at: start.at,
            catalogue: Arc::clone(&start.catalogue),
            recent: Recent::new(start.last, self.settings.recent_bytes),
        };
        let Some(old) = self.feeds.insert(source, view) else { return };
        let topics: Vec<Topic> =
            old.catalogue.topics.iter().chain(&start.catalogue.topics).map(|info| info.topic.clone()).collect();
        self.reset_live(source, &topics, ResetReason::NewFeed);
        self.end_uncarried();
    }

    /// Tells every live native subscription on these topics that it may have missed something.
    /// Plain endpoints have no way to be told; they stay as they are.
    fn reset_live(&mut self, source: Source, topics: &[Topic], reason: ResetReason) {
        let Some(cursor) = self.feeds.get(&source).map(View::cursor) else { return };
        let mut routes: Vec<u32> =
            topics.iter().filter_map(|topic| self.by_topic.get(topic)).flatten().copied().collect();
        routes.sort_unstable();
        routes.dedup();
        for route in routes {
            let route = &self.routes[route as usize];
            if route.key.form != RouteForm::Native {
                continue;
            }
            for member in route.members.clone() {
                let text =
                    message::reset(&self.conns[member.conn as usize].subs[member.sub as usize].id, reason, &cursor);
                self.push(member.conn, ws::text(&text));
                self.metrics.reset(reason);
            }
        }
    }

    /// Hands a batch on. Who wants a topic that has lost changes is told instead, before it gets
    /// anything later: with a later cursor it would not be told when it resumes.
    fn batch(&mut self, source: Source, batch: &Arc<Batch>, lost: &[Topic]) {
        let Some(view) = self.feeds.get_mut(&source) else { return };
        let before = view.last;
        view.last = batch.last;
        view.at = batch.at;
        if batch.is_watermark() {
            return;
        }
        let feed = view.feed.clone();
        let (changes, mut broken) = self.wanted(batch, before);
        if !broken.is_empty() {
            error!(%source, topics = ?broken, first = batch.first, "a batch with malformed changes");
        }
        broken.extend_from_slice(lost);
        let lost = broken;
        let Some(view) = self.feeds.get_mut(&source) else { return };
        if lost.is_empty() {
            view.recent.push(Arc::clone(batch));
        } else {
            view.recent.restart(batch.last);
            self.reset_live(source, &lost, ResetReason::HistoryTrimmed);
        }
        let mut hit = Vec::new();
        for (topic, change) in &changes {
            for &index in self.by_topic.get(*topic).map_or(&[][..], Vec::as_slice) {
                let route = &mut self.routes[index as usize];
                let told = !lost.is_empty() && route.key.topics.iter().any(|topic| lost.contains(topic));
                if told && route.key.form == RouteForm::Native {
                    continue;
                }
                if route.frames.marks.is_empty() {
                    hit.push(index);
                }
                let Frames { building, marks, .. } = &mut route.frames;
                self.encoder.frame(building, form_of(&route.key, route.id), &feed, topic, change);
                marks.push((change.offset, building.len()));
            }
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
        let behind = Behind { source, feed, after: before };
        let delivered = touched.into_iter().map(|index| self.deliver(index, &behind)).sum();
        self.metrics.delivered(delivered);
        for index in hit {
            self.routes[index as usize].frames.clear();
        }
    }

    /// The changes of a batch that somebody here wants, in order, and the topics that cannot be read.
    fn wanted<'a>(&self, batch: &'a Batch, after: Offset) -> (Vec<(&'a Topic, Change)>, Vec<Topic>) {
        let (mut changes, mut broken) = (Vec::new(), Vec::new());
        let mut topics = 0;
        for (topic, slice) in &batch.slices {
            if !self.by_topic.contains_key(topic) {
                continue;
            }
            match slice.changes_after(after) {
                Ok(read) => changes.extend(read.into_iter().map(|change| (topic, change))),
                Err(_) => broken.push(topic.clone()),
            }
            topics += 1;
        }
        if topics > 1 {
            changes.sort_by_key(|(_, change)| change.offset);
        }
        (changes, broken)
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
            self.conns[index as usize].subs[sub.index as usize].state = SubState::Behind(behind.clone());
            self.tasks.push(Task::CatchUp(sub));
        }
    }

    /// Whether it gets changes of another source too, as a plain endpoint may: then there is no one
    /// place to go on from.
    fn is_of_several_feeds(&self, sub: SubKey, source: Source) -> bool {
        let route = self.conns[sub.conn.index as usize].subs[sub.index as usize].route;
        let RouteKey { topics, form, .. } = &self.routes[route as usize].key;
        let carries = |view: &View| topics.iter().any(|topic| view.catalogue.get(topic.as_str()).is_some());
        *form != RouteForm::Native && self.feeds.iter().any(|(other, view)| *other != source && carries(view))
    }
}

fn form_of(key: &RouteKey, id: u64) -> Form<'static> {
    match key.form {
        RouteForm::Plain(wrap) => Form::Plain(wrap),
        RouteForm::Native => Form::Native(message::Addressee::Route(id)),
    }
}
