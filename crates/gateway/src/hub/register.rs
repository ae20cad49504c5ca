//! What the inspector wants to know of connections, and nobody else does: who they are, where each
//! subscription began, what it was told that it missed, and who has left lately. Kept beside the
//! connections, and only where there is an inspector, so that without one it costs them nothing.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    rc::Rc,
};

use protocol::{Batch, Cursor, FeedId, Micros, Offset, ResetReason, Source, Topic, time::now};

use super::{
    Hub,
    conn::{Conn, ConnKey, SubKey},
    route::RouteForm,
    standing::Unwritten,
};
use crate::access::Claims;

/// Connections that have left and are remembered, of each shard.
const LEFT: usize = 256;

/// Topics of their subscriptions, over all of them: one connection may have had very many.
const LEFT_TOPICS: usize = 5_000;

/// Ended subscriptions of a connection, and resets of a subscription, that are remembered.
const LAST: usize = 8;

/// Whose connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The other end of the TCP connection.
    pub peer: SocketAddr,
    /// The client, where a trusted proxy tells of it; else the peer.
    pub client: IpAddr,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Register {
    guests: Vec<Option<Guest>>,
    left: VecDeque<Left>,
    left_topics: usize,
    /// Of topics that are carried.
    topics: HashMap<Source, HashMap<Topic, Seen>>,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Guest {
    pub caller: Caller,
    pub door: &'static str,
    /// The last that it has shown; `None` while it has yet to show a token.
    last_claims: Option<Claims>,
    pub since: Micros,
    pub subs: Vec<Past>,
    /// Bytes that it had not been sent when its peer was found gone.
    pub unsent: usize,
}

/// A connection that has left.
#[derive(Debug)]
pub(super) struct Left {
    pub key: ConnKey,
    pub guest: Guest,
    pub at: Micros,
    /// Bytes that it had not been sent.
    pub waits: usize,
}

/// The past of a subscription.
#[derive(Debug, Clone)]
pub(super) struct Past {
    generation: u32,
    pub id: Box<str>,
    pub topics: Rc<[Topic]>,
    /// What it asked for of them.
    pub form: RouteForm,
    pub conflate_ms: Option<u64>,
    /// Those of a channel, which has a token of its own.
    pub claims: Claims,
    /// Where it began; a plain one may be of two feeds.
    pub began: Box<[Cursor]>,
    /// Whether it brought that cursor along.
    pub resumed: bool,
    pub since: Micros,
    /// What it was told that it missed, the last few times.
    pub skipped: Vec<Skipped>,
    /// In a box: while it goes on there is none.
    pub ended: Option<Box<Ended>>,
}

/// A `reset`.
#[derive(Debug, Clone)]
pub(super) struct Skipped {
    pub reason: ResetReason,
    /// Where it was before, where that is known.
    pub after: Option<Cursor>,
    /// Where it went on from.
    pub through: Cursor,
    pub at: Micros,
}

/// The end of a subscription.
#[derive(Debug, Clone)]
pub(super) struct Ended {
    pub at: Micros,
    /// How far it had come, on each feed.
    pub reached: Vec<Reached>,
    /// Whether something stood in the connection's own queue.
    pub queued: bool,
}

/// How far a subscription is on a feed.
#[derive(Debug, Clone)]
pub(super) struct Reached {
    pub feed: FeedId,
    /// Up to here all was written to its socket, or stood in the connection's own queue.
    pub written: Offset,
    /// Up to here all was put together for it.
    pub built: Offset,
    /// How far the feed was.
    pub last: Offset,
}

/// The last change of a topic since the gateway began, or a feed later than that.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub last: Offset,
    pub at: Micros,
}

impl Register {
    pub fn guest(&self, index: u32) -> Option<&Guest> {
        self.guests.get(index as usize)?.as_ref()
    }

    fn guest_mut(&mut self, index: u32) -> Option<&mut Guest> {
        self.guests.get_mut(index as usize)?.as_mut()
    }

    fn past_mut(&mut self, sub: SubKey) -> Option<&mut Past> {
        self.guest_mut(sub.conn.index)?.subs.iter_mut().find(|past| past.generation == sub.generation)
    }

    /// Notes who has left, and forgets who did so first. The last one is kept whatever it had.
    fn remember(&mut self, left: Left) {
        self.left_topics += left.topics();
        self.left.push_back(left);
        while self.left.len() > LEFT || (self.left.len() > 1 && self.left_topics > LEFT_TOPICS) {
            let Some(first) = self.left.pop_front() else { return };
            self.left_topics -= first.topics();
        }
    }

    /// Who has left, the last one first.
    pub fn left(&self) -> impl Iterator<Item = &Left> {
        self.left.iter().rev()
    }

    /// What has come of a topic.
    pub fn seen(&self, source: Source, topic: &Topic) -> Option<Seen> {
        self.topics.get(&source)?.get(topic).copied()
    }

    /// Notes what a batch has brought, once for each topic of it that is carried.
    pub fn note_batch(&mut self, source: Source, batch: &Batch, carriers: &HashMap<Topic, Source>) {
        let topics = self.topics.entry(source).or_default();
        for (topic, slice) in batch.slices.iter().filter(|(topic, _)| carriers.contains_key(topic)) {
            topics.insert(topic.clone(), Seen { last: slice.last, at: batch.at });
        }
    }

    /// A new feed has begun: offsets that were noted are of the one before.
    pub fn forget_feed(&mut self, source: Source) {
        self.topics.remove(&source);
    }

    /// Keeps what is noted of topics that are carried, and forgets the others.
    pub fn keep(&mut self, carriers: &HashMap<Topic, Source>) {
        self.topics.values_mut().for_each(|topics| topics.retain(|topic, _| carriers.contains_key(topic)));
    }
}

impl Left {
    /// A subscription without topics takes room too.
    fn topics(&self) -> usize {
        self.guest.subs.iter().map(|past| past.topics.len().max(1)).sum()
    }
}

impl Past {
    /// Whom it is of, if that is a channel.
    pub fn claims_of_channel(&self) -> Option<&Claims> {
        matches!(self.form, RouteForm::Realtime(_)).then_some(&self.claims)
    }

    pub fn is_of(&self, generation: u32) -> bool {
        self.generation == generation
    }
}

impl Guest {
    /// What it may do: the claims of each of its channels, which have tokens of their own, or of its one
    /// token. `conn`: the connection, if it is here.
    pub fn claims<'a>(&'a self, conn: Option<&'a Conn>) -> Vec<&'a Claims> {
        let channels: Vec<&Claims> = match conn {
            Some(conn) => conn.channels.iter().map(|channel| &channel.claims).collect(),
            None => self.subs.iter().filter_map(Past::claims_of_channel).collect(),
        };
        if channels.is_empty() { self.last_claims.iter().collect() } else { channels }
    }

    pub fn past(&self, generation: u32) -> Option<&Past> {
        self.subs.iter().find(|past| past.generation == generation)
    }
}

impl Hub {
    /// Notes whose connection it is.
    pub fn introduce(&mut self, key: ConnKey, caller: Caller, door: &'static str, claims: Option<&Claims>) {
        let Some(register) = &mut self.register else { return };
        let place = key.index as usize;
        if register.guests.len() <= place {
            register.guests.resize_with(place + 1, || None);
        }
        let last_claims = claims.cloned();
        register.guests[place] = Some(Guest { caller, door, last_claims, since: now(), subs: Vec::new(), unsent: 0 });
    }

    /// Notes what it may do from now on.
    pub fn note_claims(&mut self, key: ConnKey, claims: &Claims) {
        if let Some(guest) = self.register.as_mut().and_then(|register| register.guest_mut(key.index)) {
            guest.last_claims = Some(claims.clone());
        }
    }

    /// Notes what the client of a channel may do from now on.
    pub(super) fn note_claims_of_channel(&mut self, key: ConnKey, channel: &str, claims: &Claims) {
        let guest = self.register.as_mut().and_then(|register| register.guest_mut(key.index));
        let mut pasts = guest.into_iter().flat_map(|guest| &mut guest.subs);
        if let Some(past) = pasts.find(|past| past.ended.is_none() && *past.id == *channel) {
            past.claims = claims.clone();
        }
    }

    /// Notes where a subscription begins.
    pub(super) fn note_began(&mut self, sub: SubKey, began: Vec<Cursor>, resumed: bool) {
        let Some(register) = &mut self.register else { return };
        let Some(guest) = register.guest_mut(sub.conn.index) else { return };
        let conn = &self.conns[sub.conn.index as usize];
        let it = &conn.subs[sub.index as usize];
        let key = &self.routes[it.route as usize].key;
        let channel = conn.channels.iter().find(|channel| channel.topic == it.id);
        if guest.subs.is_empty() {
            // Most connections have one, and the first push would make room for four.
            guest.subs.reserve_exact(1);
        }
        guest.subs.push(Past {
            generation: sub.generation,
            id: it.id.clone(),
            topics: Rc::clone(&key.topics),
            form: key.form.clone(),
            conflate_ms: key.conflate_ms,
            claims: channel.map_or_else(Claims::anonymous, |channel| channel.claims.clone()),
            began: began.into(),
            resumed,
            since: now(),
            skipped: Vec::new(),
            ended: None,
        });
    }

    /// Notes a `reset`.
    pub(super) fn note_skipped(&mut self, sub: SubKey, reason: ResetReason, after: Option<Cursor>, through: &Cursor) {
        let Some(past) = self.register.as_mut().and_then(|register| register.past_mut(sub)) else { return };
        if past.skipped.len() == LAST {
            past.skipped.remove(0);
        }
        past.skipped.push(Skipped { reason, after, through: through.clone(), at: now() });
    }

    /// Notes that a subscription ends, before it does.
    pub(super) fn note_ended(&mut self, conn: u32, sub: u32) {
        if self.register.is_some() {
            let unwritten = self.unwritten(&self.conns[conn as usize]);
            self.note_end(conn, sub, &unwritten);
        }
        let Some(guest) = self.register.as_mut().and_then(|register| register.guest_mut(conn)) else { return };
        let is_over = |past: &Past| past.ended.is_some();
        if guest.subs.iter().filter(|past| is_over(past)).count() > LAST
            && let Some(oldest) = guest.subs.iter().position(is_over)
        {
            guest.subs.remove(oldest);
        }
    }

    /// Notes that a connection is sent nothing more, before that is so.
    pub(super) fn note_closing(&mut self, key: ConnKey) {
        if self.register.is_some() {
            let conn = &self.conns[key.index as usize];
            let subs: Vec<u32> = conn.subs.iter().map(|(sub, _)| sub as u32).collect();
            let unwritten = self.unwritten(conn);
            subs.into_iter().for_each(|sub| self.note_end(key.index, sub, &unwritten));
        }
    }

    /// Notes that a connection's peer is gone, before what waits for it is given up.
    pub(super) fn note_dead(&mut self, key: ConnKey) {
        self.note_closing(key);
        if self.register.is_some() {
            let waits = self.waits(key.index);
            if let Some(guest) = self.register.as_mut().and_then(|register| register.guest_mut(key.index)) {
                guest.unsent = waits;
            }
        }
    }

    /// Notes that a connection leaves, before it does.
    pub(super) fn note_left(&mut self, key: ConnKey) {
        self.note_closing(key);
        if self.register.is_none() {
            return;
        }
        let waits = self.waits(key.index);
        let Some(register) = &mut self.register else { return };
        let Some(guest) = register.guests.get_mut(key.index as usize).and_then(Option::take) else { return };
        let waits = waits.max(guest.unsent);
        register.remember(Left { key, guest, at: now(), waits });
    }

    fn note_end(&mut self, conn: u32, sub: u32, unwritten: &Unwritten) {
        let generation = self.conns[conn as usize].subs[sub as usize].generation;
        let guest = self.register.as_ref().and_then(|register| register.guest(conn));
        if guest.and_then(|guest| guest.past(generation)).is_none_or(|past| past.ended.is_some()) {
            return;
        }
        let queued = !self.conns[conn as usize].outbox.is_empty();
        let ended = Ended { at: now(), reached: self.reached(conn, sub, unwritten), queued };
        let Some(guest) = self.register.as_mut().and_then(|register| register.guest_mut(conn)) else { return };
        if let Some(past) = guest.subs.iter_mut().find(|past| past.generation == generation) {
            past.ended = Some(Box::new(ended));
        }
    }

    /// Bytes that a connection has not been sent.
    pub(super) fn waits(&self, index: u32) -> usize {
        let conn = &self.conns[index as usize];
        let in_ring = conn.place.map_or(0, |place| {
            let stream = self.streams.get(place.stream);
            stream.ring.head() - stream.slot(place).position
        });
        in_ring as usize + conn.outbox.bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use protocol::config::Wrap;

    use super::*;

    fn left(index: u32, topics: usize) -> Left {
        let topics = (0..topics).map(|n| Topic::new(&format!("t{n}")).unwrap()).collect();
        let past = Past {
            generation: 0,
            id: "x".into(),
            topics,
            form: RouteForm::Plain(Wrap::None),
            conflate_ms: None,
            claims: Claims::anonymous(),
            began: Box::default(),
            resumed: false,
            since: 0,
            skipped: Vec::new(),
            ended: None,
        };
        let ip = Ipv4Addr::LOCALHOST;
        let caller = Caller { peer: (ip, 1).into(), client: ip.into() };
        let guest = Guest { caller, door: "native", last_claims: None, since: 0, subs: vec![past], unsent: 0 };
        Left { key: ConnKey { index, generation: 0 }, guest, at: 0, waits: 0 }
    }

    #[test]
    fn who_has_left_is_forgotten_by_number_and_by_topics() {
        let mut register = Register::default();
        let here = |register: &Register| register.left().map(|left| left.key.index).collect::<Vec<_>>();
        (0..300).for_each(|index| register.remember(left(index, 1)));
        assert_eq!((register.left.len(), here(&register)[0], register.left_topics), (LEFT, 299, LEFT));
        register.remember(left(300, LEFT_TOPICS - 10));
        assert_eq!(here(&register), (290..=300).rev().collect::<Vec<_>>());
        register.remember(left(301, LEFT_TOPICS + 1));
        assert_eq!(here(&register), [301], "the last one is kept");
        register.remember(left(302, 2));
        assert_eq!((here(&register), register.left_topics), (vec![302], 2));
    }
}
