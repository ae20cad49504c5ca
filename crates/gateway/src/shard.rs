//! A shard: one thread with its own accept queue, its own connections and its own hub.

use std::{
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::Router;
use service::systemd::Pulse;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::{JoinSet, LocalSet},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    changes::Poll,
    connection,
    feed::FeedEvent,
    hub::{Hub, HubHandle},
    limits::Limits,
    realtime::Broadcast,
    session::{Newcomer, Sessions},
    sse::Follower,
};

/// Sockets that are written to before new events are taken in.
const WRITES: usize = 64;

/// How often these before the thread does something else: about a millisecond. Connects and messages
/// wait no longer for a fan-out, and a herd of them has no more than half of the time then: each turn
/// of theirs may be sixty tasks, some 1.5 ms. With a turn every 64 writes 10,000 connects added 33 ms
/// to the p99 of a fan-out to 1,000.
const WRITES_AT_ONCE: usize = 4;

/// Events that are taken in at once: however fast they come, sockets get their turn.
const EVENTS: usize = 64;

/// Connections that are taken from the accept queue when the gateway stops.
const LAST_ACCEPTS: usize = 4096;

/// What a shard is given when it starts.
pub struct Shard {
    /// Its accept queue.
    pub listener: std::net::TcpListener,
    /// What it serves.
    pub router: Router,
    /// What the feeds have to say.
    pub events: mpsc::Receiver<FeedEvent>,
    /// Messages between clients.
    pub broadcasts: mpsc::Receiver<Arc<Broadcast>>,
    /// Who was let in.
    pub arrivals: mpsc::UnboundedReceiver<Arrival>,
    /// How many sockets there may be.
    pub sockets: Sockets,
    /// Beats as long as the shard moves.
    pub pulse: Pulse,
    /// Over how long clients are sent away at the end.
    pub drain: Duration,
    /// Stop accepting, send everybody away.
    pub shutdown: CancellationToken,
}

/// Who was let in.
pub enum Arrival {
    /// With a socket of its own.
    Socket(Newcomer),
    /// For events.
    Events(Follower),
    /// For what there is.
    Poll(Poll),
    /// To look into it.
    Look(Look),
}

/// One piece of a look at a hub; whether there is more. Between two pieces the shard does its work.
pub type Look = Box<dyn FnMut(&Hub) -> bool + Send>;

/// The count of all shards' sockets, so that the process never runs out of files. Cheap to clone.
#[derive(Clone)]
pub struct Sockets {
    /// Those that are no WebSockets, or not yet; and second files of event streams.
    plain: Arc<AtomicUsize>,
    /// Knows those that are.
    limits: Limits,
    most: usize,
}

/// A socket that counts until this is dropped.
pub struct Counted(Arc<AtomicUsize>);

impl Sockets {
    /// At most this many, besides the WebSockets that `limits` counts and together with them.
    pub fn new(limits: Limits, most: usize) -> Self {
        Self { plain: Arc::default(), limits, most }
    }

    /// Room for one more, or rather a file.
    pub fn take(&self) -> Option<Counted> {
        let counted = Counted(Arc::clone(&self.plain));
        let plain = self.plain.fetch_add(1, Ordering::Relaxed);
        (plain + self.limits.count() < self.most).then_some(counted)
    }

    fn plain(&self) -> usize {
        self.plain.load(Ordering::Relaxed)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shard {
    /// Runs the shard on this thread until it has drained. `sessions` is made on the thread.
    pub fn run(self, sessions: impl FnOnce() -> Sessions) -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        LocalSet::new().block_on(&runtime, self.serve(sessions()))
    }

    async fn serve(self, sessions: Sessions) -> std::io::Result<()> {
        let hub = sessions.hub.clone();
        let listener = TcpListener::from_std(self.listener)?;
        let accept = accept(listener, self.router, self.sockets.clone(), self.shutdown.clone());
        let mut accepting = tokio::task::spawn_local(accept);
        let mut tasks = JoinSet::new();
        let reception = Reception { arrivals: self.arrivals, sessions: Rc::new(sessions) };
        tasks.spawn_local(sweep(hub.clone(), self.events, reception));
        tasks.spawn_local(tick(hub.clone(), self.pulse));
        tasks.spawn_local(broadcast(hub.clone(), self.broadcasts));
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => {}
            // None of them ends before that. A shard without one of them is deaf or dumb, and looks
            // alive: the process must end, so that it is started again.
            ended = &mut accepting => return Err(std::io::Error::other(format!("accepting ended: {ended:?}"))),
            Some(ended) = tasks.join_next() => return Err(std::io::Error::other(format!("a task ended: {ended:?}"))),
        }
        accepting.await?;
        drain(&hub, self.drain, &self.sockets).await;
        Ok(())
    }
}

async fn accept(listener: TcpListener, router: Router, sockets: Sockets, shutdown: CancellationToken) {
    while let Some(accepted) = shutdown.run_until_cancelled(listener.accept()).await {
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of files, or a client that left again: neither may stop the loop.
                warn!(%error, "cannot accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        take_in(socket, peer, &router, &sockets, &shutdown);
    }
    // Those in the queue have a connection, as far as they know, and may have sent their request.
    let Ok(queue) = listener.into_std() else { return };
    for _ in 0..LAST_ACCEPTS {
        let Ok((socket, peer)) = queue.accept() else { return };
        match socket.set_nonblocking(true).and_then(|()| TcpStream::from_std(socket)) {
            Ok(socket) => take_in(socket, peer, &router, &sockets, &shutdown),
            Err(error) => debug!(%error, "cannot serve who came last"),
        }
    }
}

fn take_in(socket: TcpStream, peer: SocketAddr, router: &Router, sockets: &Sockets, shutdown: &CancellationToken) {
    let Some(counted) = sockets.take() else { return };
    let (router, shutdown) = (router.clone(), shutdown.clone());
    tokio::task::spawn_local(async move {
        connection::serve(socket, peer, router, shutdown).await;
        drop(counted);
    });
}

/// Starts a session for everybody who was let in.
struct Reception {
    arrivals: mpsc::UnboundedReceiver<Arrival>,
    sessions: Rc<Sessions>,
}

impl Reception {
    /// Those who are there.
    fn take_in(&mut self) {
        while let Ok(arrival) = self.arrivals.try_recv() {
            self.begin(arrival);
        }
    }

    fn begin(&mut self, arrival: Arrival) {
        let sessions = Rc::clone(&self.sessions);
        // It ends with its connection, or with the thread.
        drop(match arrival {
            Arrival::Socket(newcomer) => {
                let since = sessions.hub.with(|hub| hub.positions());
                tokio::task::spawn_local(sessions.serve(newcomer, since))
            }
            Arrival::Events(follower) => tokio::task::spawn_local(sessions.follow(follower)),
            Arrival::Poll(poll) => tokio::task::spawn_local(sessions.poll(poll)),
            Arrival::Look(look) => tokio::task::spawn_local(look_in_pieces(sessions.hub.clone(), look)),
        });
    }

    /// The next one.
    async fn serve(&mut self) {
        match self.arrivals.recv().await {
            Some(arrival) => self.begin(arrival),
            None => std::future::pending().await,
        }
    }
}

async fn look_in_pieces(hub: HubHandle, mut look: Look) {
    while hub.with(|hub| look(hub)) {
        tokio::task::yield_now().await;
    }
}

/// Takes in what the feeds say and writes it out. A continuous sweep: whatever has arrived is
/// taken in every few writes, so that each socket gets everything up to the newest at the moment
/// it is written, in one write; and the thread yields now and then, so that others get their turn.
///
/// Who was let in is taken in before any event that came later: from when a client can know that it
/// is connected, it misses nothing.
async fn sweep(hub: HubHandle, mut events: mpsc::Receiver<FeedEvent>, mut reception: Reception) {
    let dirty = Rc::clone(&hub.dirty);
    let mut written = 0;
    loop {
        for _ in 0..EVENTS {
            if hub.with(|hub| hub.is_pressed()) {
                break;
            }
            // Both on this thread, so nobody comes in between.
            reception.take_in();
            let Ok(event) = events.try_recv() else { break };
            hub.apply(event);
        }
        if hub.with(|hub| hub.flush_some(WRITES)) {
            written += 1;
            if written == WRITES_AT_ONCE {
                written = 0;
                tokio::task::yield_now().await;
            }
            continue;
        }
        written = 0;
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => {
                    reception.take_in();
                    hub.apply(event);
                }
                // The feeds end before the drain; what is queued still goes out.
                None => loop {
                    tokio::select! {
                        () = reception.serve() => {}
                        () = dirty.notified() => {}
                    }
                    while hub.with(|hub| hub.flush_some(WRITES)) {
                        tokio::task::yield_now().await;
                    }
                },
            },
            () = reception.serve() => {}
            () = dirty.notified() => {}
        }
    }
}

/// Hands on messages between clients, one at a turn, so that a flood of them leaves changes theirs.
async fn broadcast(hub: HubHandle, mut broadcasts: mpsc::Receiver<Arc<Broadcast>>) {
    while let Some(message) = broadcasts.recv().await {
        hub.with(|hub| hub.broadcast(&message));
        tokio::task::yield_now().await;
    }
    // The gateway stops, and the shard drains.
    std::future::pending().await
}

async fn tick(hub: HubHandle, pulse: Pulse) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        pulse.beat();
        hub.with(|hub| hub.tick());
    }
}

/// Sends everybody away, spread over the window so that the other gateways get them one by one.
/// The goodbye tells each client how long to wait.
async fn drain(hub: &HubHandle, window: Duration, sockets: &Sockets) {
    let keys = hub.with(|hub| hub.keys());
    let started = tokio::time::Instant::now();
    for (index, key) in keys.iter().enumerate() {
        let share = window.mul_f64(index as f64 / keys.len() as f64);
        // A timer has a resolution of a millisecond; within one they go together.
        if started.elapsed() + Duration::from_millis(1) < share {
            tokio::time::sleep_until(started + share).await;
        }
        hub.with(|hub| hub.restart(*key, wait_ms()));
    }
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    let left = || !hub.with(|hub| hub.is_empty()) || sockets.plain() > 0;
    while left() && tokio::time::Instant::now() < deadline {
        // Who was being let in when the drain began.
        hub.with(|hub| hub.keys().into_iter().for_each(|key| hub.restart(key, wait_ms())));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// When to come back.
fn wait_ms() -> u64 {
    rand::random_range(50..=500)
}
