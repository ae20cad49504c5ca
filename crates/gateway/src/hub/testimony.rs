//! What a shard can say of one change and one connection: the facts, for each subscription. What they
//! mean is said in words elsewhere.

use protocol::{Cursor, Micros, Offset, ResetReason, Source, Topic};

use super::{
    ConnKey, Hub, Standing,
    conn::Sub,
    looks::ConnectionLook,
    register::{Guest, Past},
};
use crate::hit::Hit;

/// What is known.
#[derive(Debug, Clone)]
pub struct Testimony {
    /// The connection, without its subscriptions.
    pub connection: ConnectionLook,
    /// Whether its token covers the topic, as far as it is known what it may do.
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
    /// It ended, and how far it was by then is not known.
    Ended(Micros),
}

impl Hub {
    /// What is known of a change to a topic, at a cursor of the current feed of a source, and of a
    /// connection that is here or has left.
    pub fn testify(&self, shard: usize, key: ConnKey, source: Source, hit: &Hit, cursor: &Cursor) -> Option<Testimony> {
        let topic = &hit.topic;
        let register = self.register.as_ref()?;
        let Some(conn) = self.conn(key) else {
            let left = register.left().find(|left| left.key == key)?;
            let subs = left.guest.subs.iter();
            let fact = |past: &Past| (past.name(), self.fact_of_ended(past, hit, cursor, left.waits));
            return Some(Testimony {
                connection: ConnectionLook::of_left(shard, left),
                may_see: left.guest.may_see(topic),
                subscriptions: subs.map(fact).collect(),
            });
        };
        let guest = register.guest(key.index);
        let here = conn.subs.iter().map(|(_, sub)| {
            let route = &self.routes[sub.route as usize].key;
            let (topics, conflate_ms) = (route.topics.to_vec(), route.conflate_ms);
            let name = SubscriptionName { id: sub.id.to_string(), topics, conflate_ms };
            let past = guest.and_then(|guest| guest.past(sub.generation));
            (name, self.fact(key.index, sub, past, source, hit, cursor))
        });
        let is_here = |past: &&Past| conn.subs.iter().any(|(_, sub)| past.is_of(sub.generation));
        let ended = guest.into_iter().flat_map(|guest| guest.subs.iter()).filter(|past| !is_here(past));
        let ended = ended.map(|past| (past.name(), self.fact_of_ended(past, hit, cursor, self.waits(key.index))));
        Some(Testimony {
            connection: self.look_at_connection(shard, key)?,
            may_see: guest.and_then(|guest| guest.may_see(topic)),
            subscriptions: here.chain(ended).collect(),
        })
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

    fn fact(&self, conn: u32, sub: &Sub, past: Option<&Past>, source: Source, hit: &Hit, cursor: &Cursor) -> Fact {
        let route = &self.routes[sub.route as usize];
        if !self.takes(route, &hit.topic, source) {
            return Fact::OtherTopic;
        }
        if !route.key.form.wants(hit) {
            return Fact::Filtered;
        }
        past.and_then(|past| self.fact_of_past(past, cursor))
            .unwrap_or_else(|| Fact::Standing(self.standing(conn, sub, source, cursor.offset)))
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
        let at = Cursor::new(cursor.feed.clone(), view.began);
        is_before_all.then_some(Fact::Later(at, false, Some(past.since)))
    }

    fn fact_of_ended(&self, past: &Past, hit: &Hit, cursor: &Cursor, waits: usize) -> Fact {
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
        } else if waits > 0 && (ended.queued || cursor.offset > reached.written) {
            Fact::EndedWithUnsent(ended.at, waits)
        } else {
            Fact::EndedAfter(ended.at)
        }
    }
}

impl Guest {
    fn may_see(&self, topic: &Topic) -> Option<bool> {
        Some(self.claims.as_ref()?.may_subscribe(topic.as_str()))
    }
}

impl Past {
    fn name(&self) -> SubscriptionName {
        SubscriptionName { id: self.id.to_string(), topics: self.topics.to_vec(), conflate_ms: self.conflate_ms }
    }
}
