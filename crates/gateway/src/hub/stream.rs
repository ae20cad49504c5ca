//! Connections that get the same frames: those with equal live routes. A batch's frames are put into
//! the stream's ring once; each connection is a position in it, and the sweep brings one after the
//! other to the head. So a change costs nothing for each connection but the write itself.

use std::{
    collections::HashMap,
    io::ErrorKind,
    os::fd::{AsRawFd, RawFd},
    rc::Rc,
};

use slab::Slab;

use super::{Hub, round::Round};
use crate::{outbox::Flushed, ring::Ring, socket};

/// Sockets of one stream that are written to before it is another stream's turn.
const TURN: usize = 16;

/// The streams of a hub, and which of them have something to be written.
#[derive(Debug, Default)]
pub(super) struct Streams {
    all: Slab<Stream>,
    by_routes: HashMap<Rc<[u32]>, u32>,
    /// Those that are to be swept, in turn. One that has gone meanwhile is passed over.
    dirty: std::collections::VecDeque<u32>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Stream {
    /// Whose frames these are, in order.
    pub routes: Rc<[u32]>,
    pub ring: Ring,
    pub slots: Vec<Slot>,
    /// Routes that the batch in hand has frames for; empty between batches.
    pub hits: Vec<u32>,
    /// The sweep goes round and round: each socket gets everything up to the head at the moment it is
    /// written to.
    round: Round,
    /// Where the head was when the last round was over: who is further back is not the sweep's.
    settled: u64,
    /// How many are not the sweep's.
    lagging: usize,
    /// Whether it stands in the queue.
    dirty: bool,
}

/// A connection of a stream.
#[derive(Debug)]
pub(super) struct Slot {
    /// The socket, which its connection holds open for longer than it is here. Not in an `Rc`: to look
    /// there would be one more line of memory, and page, that is cold for each of a thousand sockets.
    socket: RawFd,
    pub conn: u32,
    /// Whether it goes its own way: its socket is full, or something waits for it alone.
    lags: bool,
    /// How far it has been written.
    pub position: u64,
}

/// Where a connection is in a stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub stream: u32,
    pub slot: u32,
}

impl Streams {
    pub fn get(&self, stream: u32) -> &Stream {
        &self.all[stream as usize]
    }

    pub fn get_mut(&mut self, stream: u32) -> &mut Stream {
        &mut self.all[stream as usize]
    }

    pub fn is_idle(&self) -> bool {
        self.dirty.is_empty()
    }

    /// Whether so many bytes wait somewhere for sockets that may well take them: nothing more should
    /// be taken in before these had their turn.
    pub fn is_pressed(&self, bytes: usize) -> bool {
        let waits = |stream: &Stream| stream.dirty && !stream.round.is_over() && stream.unswept() > bytes;
        self.dirty.iter().any(|stream| self.all.get(*stream as usize).is_some_and(waits))
    }

    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.all.iter().map(|(stream, _)| stream as u32)
    }

    /// The stream's ring has grown: everybody of it is to be looked at.
    pub fn mark_dirty(&mut self, stream: u32) {
        let it = &mut self.all[stream as usize];
        it.round.begin(it.slots.len());
        if !it.dirty {
            it.dirty = true;
            self.dirty.push_back(stream);
        }
    }
}

impl Stream {
    pub fn slot(&self, place: Place) -> &Slot {
        &self.slots[place.slot as usize]
    }

    pub fn slot_mut(&mut self, place: Place) -> &mut Slot {
        &mut self.slots[place.slot as usize]
    }

    /// Whether a connection has been sent everything.
    pub fn is_at_head(&self, place: Place) -> bool {
        let slot = self.slot(place);
        !slot.lags && slot.position == self.ring.head()
    }

    /// Bytes that are still to be written to who is the sweep's. What the ring keeps besides is for those who lag.
    fn unswept(&self) -> usize {
        (self.ring.head() - self.settled) as usize
    }

    /// Where the tail would be if about so many bytes were kept, and no less than the sweep is to write:
    /// however much has come at once, who has not had its turn is not slow.
    pub fn tail_for(&self, keep: usize) -> Option<u64> {
        self.ring.tail_for(keep).filter(|_| self.settled > self.ring.tail()).map(|tail| tail.min(self.settled))
    }

    /// From now on the connection's own task or queue writes to it.
    pub fn set_lagging(&mut self, place: Place) {
        let slot = &mut self.slots[place.slot as usize];
        if !std::mem::replace(&mut slot.lags, true) {
            self.lagging += 1;
        }
    }

    /// It has everything, and is the sweep's again.
    pub fn has_caught_up(&mut self, place: Place) {
        let slot = &mut self.slots[place.slot as usize];
        if std::mem::replace(&mut slot.lags, false) {
            self.lagging -= 1;
        }
        self.forget_what_all_have();
    }

    fn forget_what_all_have(&mut self) {
        if self.lagging == 0 && self.round.is_over() {
            debug_assert!(self.slots.iter().all(|slot| slot.position == self.ring.head()), "all have all");
            self.ring.clear();
        }
    }
}

impl Hub {
    /// Puts a connection into the stream of its live routes, and takes it out of the one before. What
    /// still waits for it there goes along.
    pub(super) fn restream(&mut self, index: u32) {
        let conn = &self.conns[index as usize];
        let mut routes: Vec<u32> = match conn.closing {
            // It is sent no more.
            Some(_) => Vec::new(),
            None => conn.subs.iter().filter(|(_, sub)| sub.is_live()).map(|(_, sub)| sub.route).collect(),
        };
        routes.sort_unstable();
        if conn.place.is_some_and(|place| *self.streams.get(place.stream).routes == *routes) {
            return;
        }
        if let Some(place) = conn.place {
            let stream = self.streams.get(place.stream);
            let (from, until) = (stream.slot(place).position, stream.ring.head());
            self.conns[index as usize].outbox.take_along(&stream.ring, from, until, 0);
            self.leave_stream(index);
        }
        if !routes.is_empty() {
            self.join_stream(index, routes.into());
        }
        if !self.conns[index as usize].outbox.is_empty() {
            self.mark_dirty(index);
        }
    }

    fn join_stream(&mut self, index: u32, routes: Rc<[u32]>) {
        let Self { streams: Streams { all, by_routes, .. }, conns, routes: known, .. } = self;
        let number = *by_routes.entry(routes).or_insert_with_key(|routes| {
            let number = all.insert(Stream::of(Rc::clone(routes))) as u32;
            for &route in routes.iter() {
                known[route as usize].streams.push(number);
            }
            number
        });
        let (stream, conn) = (&mut all[number as usize], &mut conns[index as usize]);
        let position = stream.ring.head();
        let lags = conn.full || !conn.outbox.is_empty();
        conn.outbox.rebase(position);
        conn.place = Some(Place { stream: number, slot: stream.slots.len() as u32 });
        stream.slots.push(Slot { socket: conn.socket.as_raw_fd(), conn: index, lags, position });
        stream.lagging += usize::from(lags);
        stream.round.grown();
    }

    /// Takes a connection out of its stream; what waits for it there is given up.
    pub(super) fn leave_stream(&mut self, index: u32) {
        let Some(place) = self.conns[index as usize].place.take() else { return };
        let stream = self.streams.get_mut(place.stream);
        let slot = stream.slots.swap_remove(place.slot as usize);
        stream.lagging -= usize::from(slot.lags);
        if stream.slots.is_empty() {
            let routes = Rc::clone(&stream.routes);
            self.streams.all.remove(place.stream as usize);
            self.streams.by_routes.remove(&routes);
            for &route in routes.iter() {
                self.routes[route as usize].streams.retain(|stream| *stream != place.stream);
            }
            return;
        }
        if let Some(moved) = stream.slots.get(place.slot as usize) {
            self.conns[moved.conn as usize].place = Some(place);
            // The sweep may have passed its new place already.
            if !moved.lags && moved.position < stream.ring.head() {
                self.streams.mark_dirty(place.stream);
                return;
            }
        }
        stream.forget_what_all_have();
    }

    /// Writes to some of the sockets that are not up to date, a few of each stream; how many bytes.
    pub(super) fn sweep_streams(&mut self, mut budget: usize) -> usize {
        let now = self.now();
        let mut written = 0;
        while budget > 0
            && let Some(number) = self.streams.dirty.pop_front()
        {
            let Some(stream) = self.streams.all.get_mut(number as usize).filter(|stream| stream.dirty) else {
                continue;
            };
            let mut turn = TURN.min(budget);
            budget -= turn;
            while turn > 0
                && let Some(next) = stream.round.next(stream.slots.len())
            {
                let slot = &mut stream.slots[next];
                let place = Place { stream: number, slot: next as u32 };
                if slot.lags || slot.position == stream.ring.head() {
                    continue;
                }
                turn -= 1;
                let before = slot.position;
                let flushed = slot.write(&stream.ring);
                let count = (slot.position - before) as usize;
                written += count;
                if flushed != Flushed::All {
                    stream.set_lagging(place);
                    let index = stream.slots[place.slot as usize].conn;
                    let conn = &mut self.conns[index as usize];
                    conn.took(flushed, count, now);
                    conn.set_full();
                }
            }
            stream.dirty = !stream.round.is_over();
            if stream.dirty {
                self.streams.dirty.push_back(number);
            } else {
                stream.settled = stream.ring.head();
                stream.forget_what_all_have();
            }
        }
        written
    }
}

impl Stream {
    fn of(routes: Rc<[u32]>) -> Self {
        Self {
            routes,
            ring: Ring::default(),
            slots: Vec::new(),
            hits: Vec::new(),
            round: Round::default(),
            settled: 0,
            lagging: 0,
            dirty: false,
        }
    }
}

impl Slot {
    /// Writes up to the head, or until the socket is full.
    fn write(&mut self, ring: &Ring) -> Flushed {
        while self.position < ring.head() {
            match socket::write_at_once(self.socket, ring.two_from(self.position)) {
                Ok(0) => return Flushed::Dead,
                Ok(count) => self.position += count as u64,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Flushed::Full,
                Err(_) => return Flushed::Dead,
            }
        }
        Flushed::All
    }
}
