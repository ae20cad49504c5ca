//! How far a subscription is, and what that means for one change. Only what the hub knows: what it has
//! written to a socket, not what has arrived.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use protocol::{Offset, Source, Topic};

use super::{
    Hub,
    conn::{Conn, Sub, SubState},
    register::Reached,
    route::Route,
};
use crate::ring::Mark;

/// Where one change is on its way to a subscription that wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// All of it was written to the socket.
    Written,
    /// It waits in the ring, or half of it: so many bytes up to its end.
    InRing(u64),
    /// It was put together, and may be among these bytes of the connection's own queue.
    Queued(usize),
    /// It waits to be conflated, until then at most.
    HeldBack(Duration),
    /// The subscription catches up, and has come to here.
    CatchingUp(Offset),
    /// The shard itself is not that far.
    NotTaken(Offset),
}

/// The first frame of each route, by source, that a connection has not been written of its ring.
pub(super) struct Unwritten(HashMap<(u32, Source), Offset>);

impl Hub {
    /// Whether a route takes a topic from this source.
    pub(super) fn takes(&self, route: &Route, topic: &Topic, source: Source) -> bool {
        let is_its_own = match route.key.source {
            Some(own) => own == source,
            None => self.carriers.get(topic).is_none_or(|carrier| *carrier == source),
        };
        is_its_own && route.key.topics.contains(topic)
    }

    /// Goes through the ring of a connection once, however many subscriptions it has.
    pub(super) fn unwritten(&self, conn: &Conn) -> Unwritten {
        let mut firsts = HashMap::new();
        let Some(place) = conn.place else { return Unwritten(firsts) };
        let stream = self.streams.get(place.stream);
        // A plain one may have both sources.
        let most = |route: &u32| if self.routes[*route as usize].key.source.is_some() { 1 } else { Source::ALL.len() };
        let most: usize = stream.routes.iter().map(most).sum();
        for mark in stream.ring.after(stream.slot(place).position) {
            firsts.entry((mark.route, mark.source)).or_insert(mark.offset);
            if firsts.len() == most {
                break;
            }
        }
        Unwritten(firsts)
    }

    /// How far a subscription is, on each feed that it gets something of.
    pub(super) fn reached(&self, conn: u32, sub: u32, unwritten: &Unwritten) -> Vec<Reached> {
        let it = &self.conns[conn as usize].subs[sub as usize];
        Source::ALL.into_iter().filter_map(|source| self.reached_on(it, source, unwritten)).collect()
    }

    /// The same, on the feed of one source.
    pub(super) fn reached_on(&self, it: &Sub, source: Source, unwritten: &Unwritten) -> Option<Reached> {
        let route = &self.routes[it.route as usize];
        let is_on_it = match route.key.source {
            Some(own) => own == source,
            None => route.key.topics.iter().any(|topic| self.carriers.get(topic) == Some(&source)),
        };
        let view = self.feeds.get(&source).filter(|_| is_on_it)?;
        let (written, built) = match &it.state {
            SubState::Behind(behind) if behind.source == source && behind.feed == view.feed => {
                (behind.after, behind.after)
            }
            SubState::Behind(_) | SubState::Held => return None,
            SubState::Live => {
                let head = route.head(view.last);
                (unwritten.0.get(&(it.route, source)).map_or(head, |first| first - 1), head)
            }
        };
        Some(Reached { feed: view.feed.clone(), written, built, last: view.last })
    }

    /// Where a change is that a subscription wants, and that came after it began.
    pub(super) fn standing(&self, conn: u32, it: &Sub, source: Source, offset: Offset) -> Standing {
        let (conn, route) = (&self.conns[conn as usize], &self.routes[it.route as usize]);
        let last = self.feeds.get(&source).map_or(0, |view| view.last);
        if offset > last {
            return Standing::NotTaken(last);
        }
        let queued = if conn.outbox.is_empty() { Standing::Written } else { Standing::Queued(conn.outbox.bytes()) };
        match &it.state {
            SubState::Behind(behind) if behind.source == source && behind.after < offset => {
                Standing::CatchingUp(behind.after)
            }
            SubState::Behind(_) | SubState::Held => queued,
            SubState::Live if route.head(last) < offset => Standing::HeldBack(route.held_for(Instant::now())),
            SubState::Live => {
                let Some(place) = conn.place else { return queued };
                let stream = self.streams.get(place.stream);
                let position = stream.slot(place).position;
                // The frames of a conflated route stand for several changes: those up to their offset.
                let is_of_it = |mark: &&Mark| mark.route == it.route && mark.source == source;
                let mut unwritten = stream.ring.after(position).filter(is_of_it);
                let waiting = match route.conflating {
                    Some(_) => unwritten.take_while(|mark| mark.offset <= offset).last(),
                    None => unwritten.find(|mark| mark.offset == offset),
                };
                waiting.map_or(queued, |mark| Standing::InRing(mark.end - position + conn.outbox.bytes() as u64))
            }
        }
    }
}
