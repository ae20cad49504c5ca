//! The part of the gateway that knows which connection wants which topic. One a shard, owned by
//! the shard's thread: no locks.
//!
//! A batch is encoded once per route; its members get references to the same memory. What waits
//! for a socket is bounded: a subscription whose connection has too much waiting leaves its route
//! and falls behind, and is brought back by the same steps that serve a client that resumes
//! ([`catch_up`]): from memory, then from the history, then by a `reset`.

mod catch_up;
mod conn;
mod route;
mod subscribe;
mod tick;

use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use protocol::{Batch, Catalogue, Change, Close, FeedId, Micros, Offset, ResetReason, Source, Topic, message};
use slab::Slab;
use tokio::{net::TcpStream, sync::Notify};
use tracing::error;

use crate::{
    encode::{Encoder, Form},
    feed::{FeedEvent, Start},
    historian::Historian,
    metrics::Metrics,
    outbox::{Flushed, Outbox},
    recent::Recent,
    ws,
};
use catch_up::Step;
use conn::{Behind, Conn, SubKey, SubState};
use route::{Frames, Route, RouteForm, RouteKey};

pub use conn::ConnKey;
pub use subscribe::{Carried, Refusal};
pub use tick::WATERMARK;

/// Limits and habits of a hub.
#[derive(Debug, Clone)]
pub struct HubSettings {
    /// Bytes that may wait for one socket before its subscriptions fall behind.
    pub queue_bytes: usize,
    /// Bytes of recent changes kept in memory, per source.
    pub recent_bytes: usize,
    /// Subscriptions that a connection may have.
    pub max_subscriptions: usize,
    /// How often an idle connection is pinged; one that stays silent for two of them is cut.
    pub ping: std::time::Duration,
    /// How long a socket may take nothing of what waits for it.
    pub stall: std::time::Duration,
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
    metrics: Metrics,
    conns: Slab<Conn>,
    /// That of the newest connection or subscription.
    generation: u32,
    routes: Slab<Route>,
    route_keys: HashMap<RouteKey, u32>,
    by_topic: HashMap<Topic, Vec<u32>>,
    feeds: HashMap<Source, View>,
    /// Who has something to be written.
    sweep: VecDeque<ConnKey>,
    encoder: Encoder,
    tasks: Vec<Task>,
    /// Distinguishes this shard's route ids from those of the others.
    next_route: u64,
}

/// A feed, as far as this shard has passed it on.
struct View {
    feed: FeedId,
    last: Offset,
    at: Micros,
    catalogue: Arc<Catalogue>,
    recent: Recent,
}

/// Work that needs a task of its own.
#[derive(Debug)]
enum Task {
    /// Write when the socket takes more.
    Flush(ConnKey),
    /// Bring a subscription up to date.
    CatchUp(SubKey),
}

impl HubHandle {
    /// A hub of its own for this thread.
    pub fn new(settings: HubSettings, historian: Historian, metrics: Metrics, shard: usize) -> Self {
        let hub = Hub {
            settings,
            metrics,
            conns: Slab::new(),
            generation: 0,
            routes: Slab::new(),
            route_keys: HashMap::new(),
            by_topic: HashMap::new(),
            feeds: HashMap::new(),
            sweep: VecDeque::new(),
            encoder: Encoder::default(),
            tasks: Vec::new(),
            next_route: 1 + ((shard as u64) << 32),
        };
        Self { hub: Rc::new(RefCell::new(hub)), historian, dirty: Rc::default(), moved: Rc::default() }
    }

    /// Runs a closure on the hub, then starts what it asked for.
    pub fn with<T>(&self, act: impl FnOnce(&mut Hub) -> T) -> T {
        let mut hub = self.hub.borrow_mut();
        let result = act(&mut hub);
        for task in hub.tasks.drain(..) {
            match task {
                Task::Flush(key) => drop(tokio::task::spawn_local(self.clone().flush_when_writable(key))),
                Task::CatchUp(sub) => drop(tokio::task::spawn_local(self.clone().bring_up_to_date(sub))),
            }
        }
        if !hub.sweep.is_empty() {
            self.dirty.notify_one();
        }
        result
    }

    /// Takes in what a feed has to say.
    pub fn apply(&self, event: FeedEvent) {
        self.with(|hub| hub.apply(event));
        self.moved.notify_waiters();
    }

    /// Waits while a client does not read what waits for it. Who is asked without end and cannot
    /// answer stops listening.
    pub(crate) async fn until_it_reads(&self, key: ConnKey) {
        while let Some(room) = self.with(|hub| hub.wait_while_full(key)) {
            room.notified().await;
        }
    }

    async fn flush_when_writable(self, key: ConnKey) {
        loop {
            let Some(socket) = self.with(|hub| hub.conn(key).map(|conn| Rc::clone(&conn.socket))) else { return };
            // An error shows again in the write.
            drop(socket.writable().await);
            if !self.with(|hub| hub.flush_full(key)) {
                return;
            }
        }
    }
}

impl Hub {
    /// Takes a connection in.
    pub fn join(&mut self, socket: Rc<TcpStream>) -> ConnKey {
        let generation = self.next_generation();
        let index = self.conns.insert(Conn::new(socket, generation)) as u32;
        ConnKey { index, generation }
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
        let subs: Vec<u32> = self.conns[key.index as usize].subs.iter().map(|(sub, _)| sub as u32).collect();
        for sub in subs {
            self.remove_sub(key.index, sub);
        }
        let conn = self.conns.remove(key.index as usize);
        conn.cut();
        if let Some(room) = conn.room {
            room.notify_waiters();
        }
    }

    /// Notes that a connection is alive.
    pub fn heard(&mut self, key: ConnKey) {
        if let Some(conn) = self.conn_mut(key) {
            conn.heard = Instant::now();
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

    fn push(&mut self, index: u32, frames: Bytes) {
        self.conns[index as usize].push(frames);
        self.mark_dirty(index);
    }

    /// Says goodbye. The connection is cut when the client has answered, or after a while.
    pub fn close(&mut self, key: ConnKey, close: Close, reason: &str) {
        let Some(conn) = self.conn_mut(key).filter(|conn| conn.closing.is_none()) else { return };
        conn.close(close, reason);
        self.metrics.closed(close);
        self.mark_dirty(key.index);
    }

    /// The client has said goodbye: answer it if it was the first to do so, then hang up.
    pub fn said_goodbye(&mut self, key: ConnKey) {
        self.close(key, Close::Normal, "");
        if let Some(conn) = self.conn_mut(key) {
            conn.said_goodbye = true;
            self.mark_dirty(key.index);
        }
    }

    /// When the connection must be gone, and why.
    pub fn expire_at(&mut self, key: ConnKey, expires: Option<(Instant, &'static str)>) {
        if let Some(conn) = self.conn_mut(key) {
            conn.expires = expires;
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

    fn wait_while_full(&mut self, key: ConnKey) -> Option<Rc<Notify>> {
        let most = self.settings.queue_bytes;
        let conn = self.conn_mut(key)?;
        (conn.outbox.bytes() > most).then(|| Rc::clone(conn.room.get_or_insert_default()))
    }

    fn mark_dirty(&mut self, index: u32) {
        let conn = &mut self.conns[index as usize];
        if !conn.dirty && !conn.full {
            conn.dirty = true;
            self.sweep.push_back(ConnKey { index, generation: conn.generation });
        }
    }

    /// Writes to the next few connections that have something waiting, each everything it has.
    /// Whether more wait.
    pub fn flush_some(&mut self, count: usize) -> bool {
        let mut total = 0;
        for _ in 0..count {
            let Some(key) = self.sweep.pop_front() else { break };
            let Some(conn) = self.conn_mut(key) else { continue };
            conn.dirty = false;
            let Some((flushed, written)) = self.flush(key) else { continue };
            total += written;
            if flushed == Flushed::Full
                && let Some(conn) = self.conn_mut(key)
            {
                conn.full = true;
                self.tasks.push(Task::Flush(key));
            }
        }
        // Once for all of them: the counter is shared between the shards.
        self.metrics.written(total);
        !self.sweep.is_empty()
    }

    /// Goes on writing to a socket that was full. Whether it still is.
    fn flush_full(&mut self, key: ConnKey) -> bool {
        let Some((flushed, written)) = self.flush(key) else { return false };
        self.metrics.written(written);
        let full = flushed == Flushed::Full;
        if !full && let Some(conn) = self.conn_mut(key) {
            conn.full = false;
        }
        full
    }

    fn flush(&mut self, key: ConnKey) -> Option<(Flushed, usize)> {
        let low = self.settings.queue_bytes / 2;
        let conn = self.conns.get_mut(key.index as usize).filter(|conn| conn.generation == key.generation)?;
        let (flushed, written) = conn.outbox.flush(&conn.socket);
        if conn.full && written > 0 {
            // It reads, however slowly; its pong may have to wait behind all that.
            conn.heard = Instant::now();
        }
        if flushed == Flushed::Dead {
            conn.outbox = Outbox::default();
        }
        conn.stuck_since = match flushed {
            Flushed::Full if written == 0 => conn.stuck_since.or_else(|| Some(Instant::now())),
            Flushed::Full => Some(Instant::now()),
            Flushed::All | Flushed::Dead => None,
        };
        if conn.outbox.bytes() <= low
            && let Some(room) = conn.room.take()
        {
            room.notify_waiters();
        }
        if flushed == Flushed::Dead || (flushed == Flushed::All && conn.said_goodbye) {
            conn.cut();
        }
        Some((flushed, written))
    }

    fn apply(&mut self, event: FeedEvent) {
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
