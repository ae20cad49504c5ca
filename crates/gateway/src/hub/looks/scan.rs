//! Lists of connections: gone through in pieces, between which the shard does its work.

use std::{cmp::Reverse, collections::BTreeMap};

use protocol::{Offset, Topic};
use serde::Serialize;

use super::{
    super::{
        Hub,
        conn::{Conn, ConnKey},
        register::Guest,
    },
    ConnectionLook,
    connection::IN_A_LIST,
    piece::look_at_some,
};

/// Those that were found are counted out again when they are so many more than are wanted.
const SPARE: usize = 512;

/// In which order connections are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Who is furthest back.
    Lag,
    /// Who came last.
    New,
    /// Who came first.
    Old,
}

/// How connections do, in numbers.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Totals {
    /// All.
    pub connections: usize,
    /// By where they came in.
    pub doors: BTreeMap<&'static str, usize>,
    /// Those whose socket takes nothing.
    pub stuck: usize,
    /// Those that catch up from memory or the history.
    pub catching_up: usize,
    /// Those of the others for which much waits.
    pub lagging: usize,
    /// Those that are being closed.
    pub closing: usize,
    /// For how long the longest of those that are stuck has been so.
    pub longest_stuck_ms: u64,
    /// Changes, of all topics, that the furthest has not been written.
    pub furthest_behind: Offset,
}

impl Totals {
    /// Those of another shard too.
    pub fn add(&mut self, other: &Self) {
        self.connections += other.connections;
        other.doors.iter().for_each(|(door, count)| *self.doors.entry(door).or_default() += count);
        self.stuck += other.stuck;
        self.catching_up += other.catching_up;
        self.lagging += other.lagging;
        self.closing += other.closing;
        self.longest_stuck_ms = self.longest_stuck_ms.max(other.longest_stuck_ms);
        self.furthest_behind = self.furthest_behind.max(other.furthest_behind);
    }
}

/// Where a connection stands in a list: the greatest first.
pub type Rank = (u64, u64);

/// Goes through the connections of a shard.
#[derive(Debug, Clone)]
pub struct Scan {
    /// In which order.
    pub order: Order,
    /// What an address, an id, a subject, a door or a topic has to contain, in lower case.
    pub search: Option<String>,
    /// How many are wanted.
    pub most: usize,
    next: usize,
    /// The first of those that were found, if [`Scan`] is over; in no order.
    pub found: Vec<(Rank, ConnKey)>,
    /// How many there are like that.
    pub matched: usize,
    /// All connections.
    pub totals: Totals,
}

impl Scan {
    /// One that has not begun.
    pub fn new(order: Order, search: Option<&str>, most: usize) -> Self {
        let search = search.map(str::to_lowercase);
        Self { order, search, most, next: 0, found: Vec::new(), matched: 0, totals: Totals::default() }
    }

    /// Of those that were found, as many as are wanted; in no order.
    fn keep_the_first(&mut self) {
        if self.found.len() > self.most {
            self.found.select_nth_unstable_by_key(self.most, |(rank, key)| (Reverse(*rank), key.index));
            self.found.truncate(self.most);
        }
    }

    fn count(&mut self, state: &str, stuck_ms: u64) {
        let totals = &mut self.totals;
        match state {
            "closing" => totals.closing += 1,
            "stuck" => {
                totals.stuck += 1;
                totals.longest_stuck_ms = totals.longest_stuck_ms.max(stuck_ms);
            }
            "catching up" => totals.catching_up += 1,
            "lagging" => totals.lagging += 1,
            _ => {}
        }
    }
}

impl Hub {
    /// Looks at some more connections; whether there are more.
    pub fn scan(&self, shard: usize, scan: &mut Scan) -> bool {
        let mut next = scan.next;
        let more = look_at_some(self.conns.capacity(), &mut next, |index| {
            if let Some(conn) = self.conns.get(index) {
                self.scan_one(shard, index as u32, conn, scan);
            }
        });
        scan.next = next;
        if !more || scan.found.len() > 2 * scan.most + SPARE {
            scan.keep_the_first();
        }
        more
    }

    fn scan_one(&self, shard: usize, index: u32, conn: &Conn, scan: &mut Scan) {
        let key = ConnKey { index, generation: conn.generation };
        let guest = self.register.as_ref().and_then(|register| register.guest(index));
        let (behind, waits) = (self.furthest_behind(conn), self.waits(index));
        scan.totals.connections += 1;
        scan.totals.furthest_behind = scan.totals.furthest_behind.max(behind);
        *scan.totals.doors.entry(guest.map_or("unknown", |guest| guest.door)).or_default() += 1;
        let stuck_ms = conn.stuck_since.map_or(0, |since| since.age(self.now()).as_millis() as u64);
        scan.count(self.state_of(conn, waits), stuck_ms);
        let topics = || conn.subs.iter().flat_map(|(_, sub)| self.routes[sub.route as usize].key.topics.iter());
        if scan.search.as_ref().is_some_and(|text| !is_like(text, &key.name(shard), guest, Some(conn), topics())) {
            return;
        }
        scan.matched += 1;
        let since = guest.map_or(0, |guest| guest.since as u64);
        let rank = match scan.order {
            Order::Lag => (behind, waits as u64),
            Order::New => (since, 0),
            Order::Old => (u64::MAX - since, 0),
        };
        scan.found.push((rank, key));
    }

    /// Connections that have left and that a search finds, the last one first, and how many there are.
    pub fn look_at_those_who_left(
        &self,
        shard: usize,
        search: Option<&str>,
        most: usize,
    ) -> (Vec<ConnectionLook>, usize) {
        let search = search.map(str::to_lowercase);
        let mut found: Vec<_> = self.register.iter().flat_map(|register| register.left()).collect();
        found.retain(|left| {
            let topics = left.guest.subs.iter().flat_map(|past| past.topics.iter());
            search.as_ref().is_none_or(|text| is_like(text, &left.key.name(shard), Some(&left.guest), None, topics))
        });
        (found.iter().take(most).map(|left| ConnectionLook::of_left(shard, left, IN_A_LIST)).collect(), found.len())
    }
}

/// Whether a search finds a connection, which is here or has left.
fn is_like<'a>(
    text: &str,
    id: &str,
    guest: Option<&Guest>,
    conn: Option<&Conn>,
    mut topics: impl Iterator<Item = &'a Topic>,
) -> bool {
    let has = |it: &str| it.to_lowercase().contains(text);
    let of_guest = |guest: &Guest| {
        has(&guest.caller.client.to_string())
            || has(&guest.caller.peer.to_string())
            || has(guest.door)
            || guest.claims(conn).iter().any(|claims| claims.subject().is_some_and(has))
    };
    has(id) || guest.is_some_and(of_guest) || topics.any(|topic| has(topic.as_str()))
}
