//! What is shown of a connection, and of its subscriptions.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use protocol::{Micros, Offset, Source, Topic};
use serde::Serialize;

use super::{
    super::{
        Hub,
        conn::{Conn, ConnKey, Sub, SubState},
        register::{Guest, Left, Past, Skipped},
        standing::Unwritten,
    },
    maybe_time, time,
};

/// Subscriptions that are shown of a connection, if it is shown alone.
const SUBSCRIPTIONS: usize = 100;

/// The same in a list.
pub(super) const IN_A_LIST: usize = 10;

/// A socket that has taken nothing for so long is stuck.
const STUCK: Duration = Duration::from_secs(1);

/// Bytes that may wait for a socket before it counts as one that lags: a burst.
const LAG_BYTES: usize = 64 * 1024;

/// A connection.
#[derive(Debug, Clone, Serialize)]
pub struct ConnectionLook {
    /// Its name here.
    pub id: String,
    /// How it is doing.
    pub state: &'static str,
    /// The client.
    pub client: Option<IpAddr>,
    /// The other end of its TCP connection.
    pub peer: Option<SocketAddr>,
    /// Where it came in.
    pub door: &'static str,
    /// Whom its token is about. Each channel of Supabase's protocol has its own.
    pub subjects: Vec<String>,
    /// What its tokens let it subscribe to; nothing is said where there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub may_subscribe: Option<Vec<String>>,
    /// When it came.
    #[serde(serialize_with = "maybe_time")]
    pub since: Option<Micros>,
    /// When it left.
    #[serde(serialize_with = "maybe_time", skip_serializing_if = "Option::is_none")]
    pub left: Option<Micros>,
    /// Changes, of all topics, between what was written to it and the newest.
    pub behind: Offset,
    /// Bytes that wait here for its socket.
    pub waits_bytes: usize,
    /// For how long its socket has taken nothing of them.
    pub stuck_ms: Option<u64>,
    /// How long ago it was heard of.
    pub heard_ms: Option<u64>,
    /// Bytes in the kernel that the other end has not acknowledged, where that can be known.
    pub kernel_bytes: Option<u32>,
    /// This end of its TCP connection, if it has one of its own.
    #[serde(skip)]
    pub local: Option<SocketAddr>,
    /// How many subscriptions it has.
    pub subscription_count: usize,
    /// The first of them.
    pub subscriptions: Vec<SubscriptionLook>,
}

/// A subscription of a connection.
#[derive(Debug, Clone, Serialize)]
pub struct SubscriptionLook {
    /// As the client named it.
    pub id: String,
    /// What it is to.
    pub topics: Vec<Topic>,
    /// How it is doing.
    pub state: &'static str,
    /// Whom its own token is about, if it is a channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Over how long its changes are conflated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conflate_ms: Option<u64>,
    /// Up to where it was written everything, on each feed.
    pub cursors: Vec<String>,
    /// Where it began.
    pub began: Vec<String>,
    /// Whether it brought that along.
    pub resumed: bool,
    /// When that was.
    #[serde(serialize_with = "maybe_time")]
    pub since: Option<Micros>,
    /// When it ended.
    #[serde(serialize_with = "maybe_time", skip_serializing_if = "Option::is_none")]
    pub ended: Option<Micros>,
    /// The last times that it was told that it may have missed something.
    pub resets: Vec<ResetLook>,
}

/// A `reset`.
#[derive(Debug, Clone, Serialize)]
pub struct ResetLook {
    /// Why.
    pub reason: &'static str,
    /// Where it went on from.
    pub cursor: String,
    /// When.
    #[serde(serialize_with = "time")]
    pub at: Micros,
}

impl ConnKey {
    /// Its name, on this shard.
    pub fn name(self, shard: usize) -> String {
        format!("{shard}-{}-{}", self.index, self.generation)
    }

    /// Its place on its shard.
    pub fn place(self) -> u32 {
        self.index
    }

    /// The shard and the connection of a name.
    pub fn parse(name: &str) -> Option<(usize, Self)> {
        let mut parts = name.split('-');
        let mut part = || parts.next()?.parse::<u32>().ok();
        let (shard, index, generation) = (part()?, part()?, part()?);
        parts.next().is_none().then_some((shard as usize, Self { index, generation }))
    }
}

impl Hub {
    /// A connection that is here, and all that there is to know of it.
    pub fn look_at_connection(&self, shard: usize, key: ConnKey) -> Option<ConnectionLook> {
        self.look_at_some_of(shard, key, SUBSCRIPTIONS)
    }

    /// A connection, as in a list.
    pub fn look_at_one_of_many(&self, shard: usize, key: ConnKey) -> Option<ConnectionLook> {
        self.look_at_some_of(shard, key, IN_A_LIST)
    }

    /// With so many of its subscriptions.
    pub(in super::super) fn look_at_some_of(&self, shard: usize, key: ConnKey, most: usize) -> Option<ConnectionLook> {
        let conn = self.conn(key)?;
        let now = self.now();
        let guest = self.register.as_ref().and_then(|register| register.guest(key.index));
        let (waits, unwritten) = (self.waits(key.index), self.unwritten(conn));
        let subscriptions =
            conn.subs.iter().take(most).map(|(_, sub)| self.look_at_subscription(sub, guest, &unwritten));
        Some(ConnectionLook {
            state: self.state_of(conn, waits),
            behind: self.furthest_behind(conn),
            waits_bytes: waits,
            stuck_ms: conn.stuck_since.filter(|_| conn.full).map(|since| since.age(now).as_millis() as u64),
            heard_ms: Some(conn.heard.age(now).as_millis() as u64),
            // What carries events is no TCP socket.
            local: conn.socket.local_addr().ok(),
            subscription_count: conn.subs.len(),
            subscriptions: subscriptions.collect(),
            ..ConnectionLook::of_guest(key.name(shard), guest, Some(conn))
        })
    }

    /// One that has left lately.
    pub fn look_at_one_that_left(&self, shard: usize, key: ConnKey) -> Option<ConnectionLook> {
        let left = self.register.as_ref()?.left().find(|left| left.key == key)?;
        Some(ConnectionLook::of_left(shard, left, SUBSCRIPTIONS))
    }

    /// Whether a connection is here, or has left lately.
    pub fn knows(&self, key: ConnKey) -> bool {
        self.conn(key).is_some()
            || self.register.iter().flat_map(|register| register.left()).any(|left| left.key == key)
    }

    fn look_at_subscription(&self, sub: &Sub, guest: Option<&Guest>, unwritten: &Unwritten) -> SubscriptionLook {
        let reached = Source::ALL.into_iter().filter_map(|source| self.reached_on(sub, source, unwritten));
        let route = &self.routes[sub.route as usize].key;
        SubscriptionLook {
            topics: route.topics.to_vec(),
            state: match sub.state {
                SubState::Live if route.conflate_ms.is_some() => "live, conflated",
                SubState::Live => "live",
                SubState::Held | SubState::Behind(_) => "catching up",
            },
            conflate_ms: route.conflate_ms,
            cursors: reached.map(|reached| format!("{}.{}", reached.feed, reached.written)).collect(),
            ..SubscriptionLook::of_past(&sub.id, guest.and_then(|guest| guest.past(sub.generation)))
        }
    }

    /// Changes, of all topics, that are newer than what its furthest subscription was written.
    pub(super) fn furthest_behind(&self, conn: &Conn) -> Offset {
        let of_sub = |(_, sub): (usize, &Sub)| match &sub.state {
            SubState::Behind(behind) => {
                let view = self.feeds.get(&behind.source).filter(|view| view.feed == behind.feed);
                view.map_or(0, |view| view.last.saturating_sub(behind.after))
            }
            SubState::Live | SubState::Held => 0,
        };
        let behind = conn.subs.iter().map(of_sub).max().unwrap_or(0);
        let in_ring = conn.place.and_then(|place| {
            let stream = self.streams.get(place.stream);
            let first = stream.ring.after(stream.slot(place).position).next()?;
            Some((self.feeds.get(&first.source)?.last + 1).saturating_sub(first.offset))
        });
        behind.max(in_ring.unwrap_or(0))
    }

    pub(super) fn state_of(&self, conn: &Conn, waits: usize) -> &'static str {
        let now = self.now();
        let catches_up = |(_, sub): (usize, &Sub)| !sub.is_live();
        if conn.closing.is_some() {
            "closing"
        } else if conn.full && conn.stuck_since.is_some_and(|since| since.age(now) >= STUCK) {
            "stuck"
        } else if conn.subs.iter().any(catches_up) {
            "catching up"
        } else if waits > LAG_BYTES {
            "lagging"
        } else {
            "up to date"
        }
    }
}

impl ConnectionLook {
    /// The other end of its TCP connection, where that is not the client but a proxy that tells of it.
    pub fn proxy(&self) -> Option<SocketAddr> {
        let (client, peer) = self.client.zip(self.peer)?;
        (client.to_canonical() != peer.ip().to_canonical()).then_some(peer)
    }

    fn of_guest(id: String, guest: Option<&Guest>, conn: Option<&Conn>) -> Self {
        let claims = guest.map(|guest| guest.claims(conn)).unwrap_or_default();
        let mut subjects: Vec<String> =
            claims.iter().filter_map(|claims| claims.subject()).map(str::to_owned).collect();
        subjects.sort();
        subjects.dedup();
        let mut may_subscribe: Vec<String> = claims.iter().filter_map(|claims| claims.topics()).flatten().collect();
        may_subscribe.sort();
        may_subscribe.dedup();
        let is_limited = !claims.is_empty() && claims.iter().all(|claims| claims.topics().is_some());
        Self {
            id,
            state: "",
            client: guest.map(|guest| guest.caller.client),
            peer: guest.map(|guest| guest.caller.peer),
            door: guest.map_or("unknown", |guest| guest.door),
            subjects,
            may_subscribe: is_limited.then_some(may_subscribe),
            since: guest.map(|guest| guest.since),
            left: None,
            behind: 0,
            waits_bytes: 0,
            stuck_ms: None,
            heard_ms: None,
            kernel_bytes: None,
            local: None,
            subscription_count: 0,
            subscriptions: Vec::new(),
        }
    }

    /// One that has left.
    pub(in super::super) fn of_left(shard: usize, left: &Left, most: usize) -> Self {
        let of_it = left.guest.subs.iter().take(most);
        Self {
            state: "left",
            left: Some(left.at),
            waits_bytes: left.waits,
            subscription_count: left.guest.subs.len(),
            subscriptions: of_it.map(|past| SubscriptionLook::of_past(&past.id, Some(past))).collect(),
            ..Self::of_guest(left.key.name(shard), Some(&left.guest), None)
        }
    }
}

impl SubscriptionLook {
    fn of_past(id: &str, past: Option<&Past>) -> Self {
        let reset = |skipped: &Skipped| ResetLook {
            reason: skipped.reason.as_str(),
            cursor: skipped.through.to_string(),
            at: skipped.at,
        };
        let ended = past.and_then(|past| past.ended.as_ref());
        let reached = ended.into_iter().flat_map(|ended| &ended.reached);
        Self {
            id: id.to_owned(),
            topics: past.map(|past| past.topics.to_vec()).unwrap_or_default(),
            state: "ended",
            subject: past.and_then(Past::claims_of_channel).and_then(|claims| claims.subject()).map(str::to_owned),
            conflate_ms: past.and_then(|past| past.conflate_ms),
            cursors: reached.map(|reached| format!("{}.{}", reached.feed, reached.written)).collect(),
            began: past.iter().flat_map(|past| &past.began).map(ToString::to_string).collect(),
            resumed: past.is_some_and(|past| past.resumed),
            since: past.map(|past| past.since),
            ended: ended.map(|ended| ended.at),
            resets: past.iter().flat_map(|past| &past.skipped).map(reset).collect(),
        }
    }
}
