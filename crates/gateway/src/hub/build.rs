//! A batch as frames: once for each route that wants something of it.

use std::{borrow::Borrow, time::Instant};

use protocol::{Batch, FeedId, Offset, Source, Topic};

use super::{
    Hub,
    route::{Built, Frames, Route},
};
use crate::{encode::Encoder, hit::Hit};

/// A topic of the batch in hand, and whether plain routes take it from the batch's source.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    topic: &'a Topic,
    by_plain: bool,
}

impl Borrow<Topic> for Wanted<'_> {
    fn borrow(&self) -> &Topic {
        self.topic
    }
}

impl Hub {
    /// The changes of a batch that somebody here wants, in order, and the topics that cannot be read.
    pub(super) fn wanted<'a>(
        &self,
        source: Source,
        batch: &'a Batch,
        after: Offset,
    ) -> (Vec<Hit<Wanted<'a>>>, Vec<Topic>) {
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
    pub(super) fn encode(
        &mut self,
        source: Source,
        feed: &FeedId,
        hits: &[Hit<Wanted<'_>>],
        through: Offset,
        lost: &[Topic],
    ) -> Vec<u32> {
        let Self { routes, by_topic, encoder, open, settings, .. } = self;
        // Those that are still open before this batch.
        let was_open = std::mem::take(open);
        let (mut hit, mut conflated) = (Vec::new(), Vec::new());
        for (place, it) in hits.iter().enumerate() {
            for &index in by_topic.get(it.topic.topic).map_or(&[][..], Vec::as_slice) {
                let route = &mut routes[index as usize];
                let takes_it = route.key.source.map_or(it.topic.by_plain, |own| own == source);
                if !takes_it || !route.key.form.wants(it) || route.is_told(lost) {
                    continue;
                }
                route.rate.all += 1;
                if let Some(conflating) = &mut route.conflating {
                    if !std::mem::replace(&mut conflating.touched, true) {
                        conflated.push(index);
                    }
                    route.conflate(encoder, feed, it);
                    continue;
                }
                if !route.frames.is_hit() {
                    hit.push(index);
                    route.frames.open = route.open;
                    if route.open.is_some_and(|open| it.is_after(open)) {
                        route.end_tx(encoder, feed);
                    }
                }
                if it.row.is_none() {
                    route.frame(encoder, feed, it, None, through);
                } else if let Some(before) = route.frames.pending.replace(place) {
                    route.frame(encoder, feed, &hits[before], Some(it), through);
                }
            }
        }
        for &index in &hit {
            let route = &mut routes[index as usize];
            let Some(last) = route.frames.pending.take() else { continue };
            route.frame(encoder, feed, &hits[last], None, through);
            route.open = route.frames.open;
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
                    route.frames.open = route.open;
                    route.end_tx(encoder, feed);
                    hit.push(index);
                }
                Some(_) => open.push(index),
            }
        }
        let now = Instant::now();
        for &index in &conflated {
            let route = &mut routes[index as usize];
            let Some(conflating) = &mut route.conflating else { continue };
            conflating.touched = false;
            if conflating.is_due(now, settings.queue_bytes) {
                route.hand_on(encoder, feed, Some(through));
            }
            if route.frames.is_hit() {
                hit.push(index);
            }
        }
        conflated.into_iter().for_each(|index| self.time(index));
        hit
    }
}

impl Route {
    pub(super) fn has_one_of(&self, topics: &[Topic]) -> bool {
        self.key.topics.iter().any(|topic| topics.contains(topic))
    }

    /// Whether its members are told of a loss in these topics, instead of getting changes.
    pub(super) fn is_told(&self, lost: &[Topic]) -> bool {
        !lost.is_empty() && self.key.form.has_cursors() && self.has_one_of(lost)
    }

    /// Builds the frame of a change, which `next` follows, if that is in the same batch.
    fn frame<T: Borrow<Topic>>(
        &mut self,
        encoder: &mut Encoder,
        feed: &FeedId,
        hit: &Hit<T>,
        next: Option<&Hit<T>>,
        through: Offset,
    ) {
        let form = self.key.form.for_route(self.id);
        let Frames { building, built, open, .. } = &mut self.frames;
        encoder.frame(building, form, feed, hit, hit.of_tx(next, through));
        built.push(Built { offset: hit.offset(), end: building.len(), open: *open });
        *open = hit.then_open(next, through).filter(|_| self.key.form.is_native());
    }

    /// Ends its open transaction. Plain ones have none.
    fn end_tx(&mut self, encoder: &mut Encoder, feed: &FeedId) {
        let Some(ended) = self.open.take() else { return };
        let Frames { building, built, open, .. } = &mut self.frames;
        encoder.tx_end(building, self.key.form.for_route(self.id), feed, ended);
        built.push(Built { offset: ended.last, end: building.len(), open: open.take() });
    }
}
