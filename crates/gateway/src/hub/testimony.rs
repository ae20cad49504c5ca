//! What a shard can say of one change and one connection: the facts, for each subscription. What they
//! mean is said in words elsewhere.

use protocol::{Cursor, Micros, Offset, ResetReason, Source, Topic};

use super::{
    ConnKey, Hub, Standing,
    conn::{Sub, SubState},
    looks::{ConnectionLook, look_at_some},
    register::Past,
};
use crate::{access::Claims, hit::Hit};

/// What is known.
#[derive(Debug, Clone)]
pub struct Testimony {
    /// The connection, without its subscriptions.
    pub connection: ConnectionLook,
    /// Whether one of its tokens covers the topic, if it has shown any.
    pub may_see: Option<bool>,
    /// Of each subscription.
    pub subscriptions: Vec<(SubscriptionName, Fact)>,
}

/// Which subscription.
#[derive(Debug, Clone)]
pub struct SubscriptionName {
    /// As the client named it.
    pub id: String,
    /// What it is to.
    pub topics: Vec<Topic>,
    /// Over how long its changes are conflated.
    pub conflate_ms: Option<u64>,
}

/// What became of the change for a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// It is not to this topic, or takes it from another source.
    OtherTopic,
    /// It is to this topic, and did not ask for what happened.
    Filtered,
    /// It began later: where, whether it brought that along, and when.
    Later(Cursor, bool, Option<Micros>),
    /// It was told that it missed something: why, where it went on, and when.
    Skipped(ResetReason, Cursor, Micros),
    /// It came before this gateway took the feed up, which is here, and the subscription was there before
    /// that. One of a plain endpoint is not told.
    BeforeTheFeed(Cursor),
    /// It still catches up on the feed before, and is to be told that there is another one.
    ToBeReset,
    /// It is on its way, or was.
    Standing(Standing),
    /// It ended before: when, and how far it was.
    EndedBefore(Micros, Offset),
    /// It ended before it had come to it: when, and how far it was.
    EndedBehind(Micros, Offset),
    /// It ended with so many bytes unsent, which the change may be among.
    EndedWithUnsent(Micros, usize),
    /// It had been written to the socket when it ended.
    EndedAfter(Micros),
    /// It ended, and had got nothing of this feed.
    Ended(Micros),
}

/// A change, and a connection that is asked what became of it: one subscription after the other.
#[derive(Debug)]
pub struct Hearing {
    key: ConnKey,
    source: Source,
    hit: Hit,
    cursor: Cursor,
    next: usize,
    heard: Vec<(SubscriptionName, Fact)>,
}

/// What had not been sent of all that a connection was to get.
#[derive(Clone, Copy)]
struct Unsent {
    bytes: usize,
    /// Whether it never will be.
    is_lost: bool,
}

impl Hearing {
    /// Of a change to a topic, at a cursor of the current feed of a source, and of a connection that is here
    /// or has left.
    pub fn new(key: ConnKey, source: Source, hit: Hit, cursor: Cursor) -> Self {
        Self { key, source, hit, cursor, next: 0, heard: Vec::new() }
    }
}

impl Hub {
    /// What is known: `None` if there is more to be asked, `Some(None)` if nobody knows the connection.
    pub fn testify(&self, shard: usize, hearing: &mut Hearing) -> Option<Option<Testimony>> {
        let Some(register) = self.register.as_ref() else { return Some(None) };
        let Hearing { key, hit, cursor, .. } = &*hearing;
        let (key, topic) = (*key, &hit.topic);
        let Some(conn) = self.conn(key) else {
            // It may have left meanwhile.
            let Some(left) = register.left().find(|left| left.key == key) else { return Some(None) };
            let unsent = Unsent { bytes: left.waits, is_lost: true };
            let fact = |past: &Past| (past.name(), self.fact_of_ended(past, hit, cursor, unsent));
            return Some(Some(Testimony {
                connection: ConnectionLook::of_left(shard, left, 0),
                may_see: may_see(&left.guest.claims(None), topic),
                subscriptions: left.guest.subs.iter().map(fact).collect(),
            }));
        };
        let guest = register.guest(key.index);
        let (mut next, mut heard) = (hearing.next, Vec::new());
        let more = look_at_some(conn.subs.capacity(), &mut next, |place| {
            let Some(sub) = conn.subs.get(place) else { return };
            let past = guest.and_then(|guest| guest.past(sub.generation));
            heard.push((self.name_of(sub), self.fact(key.index, sub, past, hearing)));
        });
        hearing.next = next;
        hearing.heard.extend(heard);
        if more {
            return None;
        }
        let Hearing { hit, cursor, .. } = &*hearing;
        let is_here = |past: &&Past| conn.subs.iter().any(|(_, sub)| past.is_of(sub.generation));
        let ended = guest.into_iter().flat_map(|guest| guest.subs.iter()).filter(|past| !is_here(past));
        let unsent = self.unsent(key.index);
        let ended: Vec<_> = ended.map(|past| (past.name(), self.fact_of_ended(past, hit, cursor, unsent))).collect();
        let Some(connection) = self.look_at_some_of(shard, key, 0) else { return Some(None) };
        let may_see = guest.and_then(|guest| may_see(&guest.claims(Some(conn)), &hit.topic));
        let subscriptions = hearing.heard.drain(..).chain(ended).collect();
        Some(Some(Testimony { connection, may_see, subscriptions }))
    }

    fn name_of(&self, sub: &Sub) -> SubscriptionName {
        let route = &self.routes[sub.route as usize].key;
        SubscriptionName { id: sub.id.to_string(), topics: route.topics.to_vec(), conflate_ms: route.conflate_ms }
    }

    fn unsent(&self, index: u32) -> Unsent {
        let lost = self.register.as_ref().and_then(|register| register.guest(index)).map_or(0, |guest| guest.unsent);
        Unsent { bytes: self.waits(index).max(lost), is_lost: lost > 0 }
    }

    /// The topics that a connection is subscribed to, or was.
    pub fn topics_of_connection(&self, key: ConnKey) -> Vec<Topic> {
        let here = self.conn(key).into_iter().flat_map(|conn| conn.subs.iter());
        let here = here.flat_map(|(_, sub)| self.routes[sub.route as usize].key.topics.iter());
        let left = self.register.iter().flat_map(|register| register.left()).filter(|left| left.key == key);
        let left = left.flat_map(|left| left.guest.subs.iter()).flat_map(|past| past.topics.iter());
        let mut topics: Vec<Topic> = here.chain(left).cloned().collect();
        topics.sort();
        topics.dedup();
        topics
    }

    fn fact(&self, conn: u32, sub: &Sub, past: Option<&Past>, hearing: &Hearing) -> Fact {
        let Hearing { source, hit, cursor, .. } = hearing;
        let route = &self.routes[sub.route as usize];
        if !self.takes(route, &hit.topic, *source) {
            return Fact::OtherTopic;
        }
        if !route.key.form.wants(hit) {
            return Fact::Filtered;
        }
        if matches!(&sub.state, SubState::Behind(behind) if behind.source == *source && behind.feed != cursor.feed) {
            return Fact::ToBeReset;
        }
        match past {
            // It is being closed, and gets no more.
            Some(past) if past.ended.is_some() => self.fact_of_ended(past, hit, cursor, self.unsent(conn)),
            past => past
                .and_then(|past| self.fact_of_past(past, cursor))
                .unwrap_or_else(|| Fact::Standing(self.standing(conn, sub, *source, cursor.offset))),
        }
    }

    /// What came before it began, or fell into a gap that it was told of.
    fn fact_of_past(&self, past: &Past, cursor: &Cursor) -> Option<Fact> {
        let view = self.feeds.values().find(|view| view.feed == cursor.feed)?;
        let began = past.began.iter().find(|began| began.feed == cursor.feed);
        if let Some(began) = began.filter(|began| cursor.offset <= began.offset) {
            return Some(Fact::Later(began.clone(), past.resumed, Some(past.since)));
        }
        let mut skipped = past.skipped.iter().filter(|skipped| {
            let after = skipped.after.as_ref().filter(|after| after.feed == cursor.feed);
            skipped.through.feed == cursor.feed
                && cursor.offset <= skipped.through.offset
                && after.map_or(0, |after| after.offset) < cursor.offset
        });
        if let Some(skipped) = skipped.next() {
            return Some(Fact::Skipped(skipped.reason, skipped.through.clone(), skipped.at));
        }
        // One that was there when the feed began has all of it, as far as it is known here.
        let is_before_all = began.is_none() && cursor.offset <= view.began;
        is_before_all.then(|| Fact::BeforeTheFeed(Cursor::new(cursor.feed.clone(), view.began)))
    }

    fn fact_of_ended(&self, past: &Past, hit: &Hit, cursor: &Cursor, unsent: Unsent) -> Fact {
        if !past.topics.contains(&hit.topic) {
            return Fact::OtherTopic;
        }
        if !past.form.wants(hit) {
            return Fact::Filtered;
        }
        if let Some(fact) = self.fact_of_past(past, cursor) {
            return fact;
        }
        let Some(ended) = &past.ended else { return Fact::OtherTopic };
        let Some(reached) = ended.reached.iter().find(|reached| reached.feed == cursor.feed) else {
            return Fact::Ended(ended.at);
        };
        if cursor.offset > reached.last {
            Fact::EndedBefore(ended.at, reached.built)
        } else if cursor.offset > reached.built {
            Fact::EndedBehind(ended.at, reached.built)
        } else if unsent.bytes > 0 && (ended.queued || cursor.offset > reached.written) {
            // What waited for it when it ended went into the connection's own queue.
            match unsent.is_lost {
                true => Fact::EndedWithUnsent(ended.at, unsent.bytes),
                false => Fact::Standing(Standing::Queued(unsent.bytes)),
            }
        } else {
            Fact::EndedAfter(ended.at)
        }
    }
}

/// Whether one of these covers a topic, if there are any.
fn may_see(claims: &[&Claims], topic: &Topic) -> Option<bool> {
    (!claims.is_empty()).then(|| claims.iter().any(|claims| claims.may_subscribe(topic.as_str())))
}

impl Past {
    fn name(&self) -> SubscriptionName {
        SubscriptionName { id: self.id.to_string(), topics: self.topics.to_vec(), conflate_ms: self.conflate_ms }
    }
}
