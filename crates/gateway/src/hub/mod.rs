//! The part of the gateway that knows which connection wants which topic. One a shard, owned by
//! the shard's thread: no locks.
//!
//! A batch is encoded once per route, and goes once into the ring of each [`stream`]: connections
//! with equal routes, each of which is a position in it. What the ring keeps is bounded: who is not
//! that far falls behind, and is brought back by the same steps that serve a client that resumes
//! ([`catch_up`]): from memory, then from the history, then by a `reset`.

mod broadcast;
mod build;
mod carried;
mod catch_up;
mod channels;
mod conflate;
mod conn;
mod deliver;
mod encoded;
mod let_in;
mod looks;
mod moment;
mod poll;
mod recall;
mod register;
mod round;
mod route;
mod speech;
mod standing;
mod stream;
mod subscribe;
mod testimony;
#[cfg(test)]
mod tests;
mod tick;
mod view;
mod write;

use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use protocol::{Close, Offset, Source, Topic};
use slab::Slab;
use tokio::{net::TcpStream, sync::Notify};

use crate::{
    encode::Encoder,
    feed::FeedEvent,
    historian::{Historian, Subject},
    metrics::Metrics,
    ws,
};
use broadcast::Listening;
use catch_up::Step;
use conflate::Timed;
use conn::{Behind, Conn, SubKey};
use encoded::EncodedBatches;
use moment::Moment;
use register::Register;
use route::{Route, RouteKey};
use stream::Streams;
use view::View;

pub use carried::Carried;
pub(crate) use carried::{is_too_early, names};
pub use channels::Joining;
pub use conn::ConnKey;
pub use looks::{
    ConnectionLook, FeedLook, Order, Rank, ResetLook, RouteLook, Scan, SubscriptionLook, Survey, Surveyed, TopicLook,
    Totals, Uncarried, look_at_some,
};
pub use poll::{Found, Stretch};
pub use recall::{Recall, Remembered, Whereabouts, change_at};
pub use register::Caller;
pub use speech::Speech;
pub use standing::Standing;
pub use subscribe::Refusal;
pub use testimony::{Fact, Hearing, SubscriptionName, Testimony};
pub use tick::{Expiry, WATERMARK};

/// The sources in the order in which they are asked for a topic: where both carry it, the one that
/// loses nothing.
const PREFERRED: [Source; 2] = [Source::Log, Source::Notify];

/// Limits and habits of a hub.
#[derive(Debug, Clone)]
pub struct HubSettings {
    /// Bytes that a stream keeps for those of its connections that are slower than the others, and
    /// of answers to one connection; past that its subscriptions fall behind.
    pub queue_bytes: usize,
    /// Bytes of recent changes kept in memory, per source.
    pub recent_bytes: usize,
    /// Subscriptions that a connection may have.
    pub max_subscriptions: usize,
    /// How often an idle connection is pinged; one that stays silent for two of them is cut.
    pub ping: Duration,
    /// How long a socket may take nothing of what waits for it.
    pub stall: Duration,
    /// Whether somebody may look into it.
    pub inspect: bool,
}

/// A shard's hub, as its tasks share it. Every use is one short closure; none is held across an
/// await.
#[derive(Clone)]
pub struct HubHandle {
    hub: Rc<RefCell<Hub>>,
    historian: Historian,
    /// Wakes the task that writes.
    pub(crate) dirty: Rc<Notify>,
    /// Wakes who waits for a feed to move.
    moved: Rc<Notify>,
}

/// The state of a shard.
pub struct Hub {
    settings: HubSettings,
    started: Instant,
    metrics: Metrics,
    conns: Slab<Conn>,
    /// That of the newest connection or subscription.
    generation: u32,
    routes: Slab<Route>,
    streams: Streams,
    route_keys: HashMap<RouteKey, u32>,
    by_topic: HashMap<Topic, Vec<u32>>,
    /// Routes that have an open transaction.
    open: Vec<u32>,
    feeds: HashMap<Source, View>,
    /// Which source a topic is taken from: what the catalogues say together.
    carriers: HashMap<Topic, Source>,
    /// Who has something to be written that is not its stream's.
    sweep: VecDeque<ConnKey>,
    encoder: Encoder,
    listening: Listening,
    /// Frames of those who catch up.
    encoded: EncodedBatches,
    tasks: Vec<Task>,
    /// Distinguishes this shard's route ids from those of the others.
    next_route: u64,
    /// What only the inspector needs; nothing without one.
    register: Option<Box<Register>>,
}

/// Work that needs a task of its own.
#[derive(Debug)]
enum Task {
    /// Bring a subscription up to date.
    CatchUp(SubKey),
    /// Go on with what a plain one has missed of several feeds.
    CatchUpOnSeveral(SubKey, Vec<Behind>),
    /// Hand on what waits for a route, when it is time.
    HandOn(Timed),
}

impl HubHandle {
    /// A hub of its own for this thread.
    pub fn new(settings: HubSettings, historian: Historian, metrics: Metrics, shard: usize) -> Self {
        let register = settings.inspect.then(Box::default);
        let hub = Hub {
            settings,
            started: Instant::now(),
            metrics,
            conns: Slab::new(),
            generation: 0,
            routes: Slab::new(),
            streams: Streams::default(),
            route_keys: HashMap::new(),
            by_topic: HashMap::new(),
            open: Vec::new(),
            feeds: HashMap::new(),
            carriers: HashMap::new(),
            sweep: VecDeque::new(),
            encoder: Encoder::default(),
            listening: Listening::default(),
            encoded: EncodedBatches::default(),
            tasks: Vec::new(),
            next_route: 1 + ((shard as u64) << 32),
            register,
        };
        Self { hub: Rc::new(RefCell::new(hub)), historian, dirty: Rc::default(), moved: Rc::default() }
    }

    /// Runs a closure on the hub, then starts what it asked for.
    pub fn with<T>(&self, act: impl FnOnce(&mut Hub) -> T) -> T {
        let mut hub = self.hub.borrow_mut();
        let result = act(&mut hub);
        for task in hub.tasks.drain(..) {
            match task {
                Task::CatchUp(sub) => drop(tokio::task::spawn_local(self.clone().bring_up_to_date(sub))),
                Task::CatchUpOnSeveral(sub, missed) => {
                    drop(tokio::task::spawn_local(self.clone().go_on_letting_in(sub, missed)));
                }
                Task::HandOn(route) => drop(tokio::task::spawn_local(self.clone().hand_on_in_time(route))),
            }
        }
        if hub.has_to_write() {
            self.dirty.notify_one();
        }
        result
    }

    /// Waits until a feed moves, from when it is called.
    pub fn moves(&self) -> impl Future<Output = ()> {
        self.moved.notified()
    }

    /// What comes after an offset, from the histories.
    pub async fn read(&self, subject: Subject, after: Offset) -> crate::historian::Stretch {
        self.historian.read(subject, after).await
    }

    /// Takes in what a feed has to say.
    pub fn apply(&self, event: FeedEvent) {
        self.with(|hub| hub.apply(event));
        self.moved.notify_waiters();
    }
}

impl Hub {
    /// Takes a connection in.
    pub fn join(&mut self, socket: Rc<TcpStream>, speech: Speech) -> ConnKey {
        let generation = self.next_generation();
        let index = self.conns.insert(Conn::new(socket, speech, generation, self.now())) as u32;
        ConnKey { index, generation }
    }

    fn now(&self) -> Moment {
        Moment::FIRST.after(self.started.elapsed())
    }

    fn next_generation(&mut self) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        self.generation
    }

    /// Forgets a connection, and ends it: a task that waits for its socket would keep it open.
    pub fn leave(&mut self, key: ConnKey) {
        if self.conn(key).is_none() {
            return;
        }
        self.note_left(key);
        let now = self.now();
        self.leave_stream(key.index);
        // So that it joins no other stream on the way.
        self.conns[key.index as usize].closing.get_or_insert(now);
        let subs: Vec<u32> = self.conns[key.index as usize].subs.iter().map(|(sub, _)| sub as u32).collect();
        for sub in subs {
            self.remove_sub(key.index, sub);
        }
        let conn = self.conns.remove(key.index as usize);
        conn.channels.iter().for_each(|channel| self.listening.remove(&channel.topic, key));
        conn.cut();
        if let Some(room) = conn.room {
            room.notify_waiters();
        }
    }

    /// Notes that a connection is alive.
    pub fn heard(&mut self, key: ConnKey) {
        let now = self.now();
        if let Some(conn) = self.conn_mut(key) {
            conn.heard = now;
        }
    }

    /// Sends a text frame.
    pub fn send_text(&mut self, key: ConnKey, text: &str) {
        self.send(key, ws::text(text));
    }

    /// Sends whole frames.
    pub fn send(&mut self, key: ConnKey, frames: Bytes) {
        if self.conn(key).is_some() {
            self.push(key.index, frames);
        }
    }

    /// Queues whole frames behind everything that waits for the connection; one that is being closed
    /// takes none.
    fn push(&mut self, index: u32, frames: Bytes) {
        let conn = &mut self.conns[index as usize];
        if conn.closing.is_some() {
            return;
        }
        let at = match conn.place {
            None => 0,
            Some(place) => {
                let stream = self.streams.get_mut(place.stream);
                stream.set_lagging(place);
                stream.ring.head()
            }
        };
        conn.outbox.push(at, frames);
        self.mark_dirty(index);
    }

    /// Says goodbye. The connection is cut when the client has answered, or after a while.
    pub fn close(&mut self, key: ConnKey, close: Close, reason: &str) {
        let Some(conn) = self.conn(key) else { return };
        let goodbye = conn.speech.close(close, reason);
        self.end(key, close, goodbye);
    }

    /// Says goodbye for a gateway that stops.
    pub fn restart(&mut self, key: ConnKey, wait_ms: u64) {
        let Some(conn) = self.conn(key) else { return };
        let goodbye = conn.speech.restart(wait_ms);
        self.end(key, Close::Restart, goodbye);
    }

    fn end(&mut self, key: ConnKey, close: Close, goodbye: Bytes) {
        if self.conn(key).is_none_or(|conn| conn.closing.is_some()) {
            return;
        }
        self.push(key.index, goodbye);
        self.note_closing(key);
        let now = self.now();
        let conn = &mut self.conns[key.index as usize];
        conn.closing = Some(now);
        // Of events there is no answer to wait for.
        conn.hangs_up |= conn.speech == Speech::Events;
        // What is to be sent before the goodbye goes along.
        self.restream(key.index);
        self.metrics.closed(close);
    }

    /// The client has said goodbye: answer it if it was the first to do so, then hang up.
    pub fn said_goodbye(&mut self, key: ConnKey) {
        self.close(key, Close::Normal, "");
        if let Some(conn) = self.conn_mut(key) {
            conn.said_goodbye = true;
            self.mark_dirty(key.index);
        }
    }

    /// The client is not listened to any more: it has all that it is sent, and then the end.
    pub fn hang_up(&mut self, key: ConnKey) {
        if let Some(conn) = self.conn_mut(key) {
            conn.hangs_up = true;
            self.mark_dirty(key.index);
        }
    }

    /// After how long the connection must be gone, and why.
    pub fn expire_in(&mut self, key: ConnKey, expires: Option<(Duration, Expiry)>) {
        let now = self.now();
        if let Some(conn) = self.conn_mut(key) {
            conn.expires = expires.map(|(left, why)| (now.after(left), why));
        }
    }

    /// All connections, for the drain.
    pub fn keys(&self) -> Vec<ConnKey> {
        self.conns.iter().map(|(index, conn)| ConnKey { index: index as u32, generation: conn.generation }).collect()
    }

    /// How many connections there are.
    pub fn len(&self) -> usize {
        self.conns.len()
    }

    /// Whether there is no connection.
    pub fn is_empty(&self) -> bool {
        self.conns.is_empty()
    }

    fn conn(&self, key: ConnKey) -> Option<&Conn> {
        self.conns.get(key.index as usize).filter(|conn| conn.generation == key.generation)
    }

    fn conn_mut(&mut self, key: ConnKey) -> Option<&mut Conn> {
        self.conns.get_mut(key.index as usize).filter(|conn| conn.generation == key.generation)
    }
}
