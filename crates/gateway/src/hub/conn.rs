use std::{rc::Rc, time::Instant};

use bytes::Bytes;
use protocol::{Close, FeedId, Offset, Source};
use slab::Slab;
use tokio::{
    net::TcpStream,
    sync::{Notify, Semaphore},
};

use crate::{hit::OpenTx, outbox::Outbox, ws};

/// A connection of this shard. The generation tells it from an earlier one in the same place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnKey {
    pub(super) index: u32,
    pub(super) generation: u32,
}

/// A subscription. The generation tells it from an earlier one in the same place: what was read for
/// that one is not for this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SubKey {
    pub conn: ConnKey,
    pub index: u32,
    pub generation: u32,
}

/// What the hub knows of a connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub generation: u32,
    pub socket: Rc<TcpStream>,
    pub outbox: Outbox,
    pub subs: Slab<Sub>,
    /// Whether it stands in the queue of those to write to.
    pub dirty: bool,
    /// Whether its socket is full, and a task waits until it takes more.
    pub full: bool,
    /// Since when it has not taken a byte of what waits.
    pub stuck_since: Option<Instant>,
    /// Who waits until there is room again.
    pub room: Option<Rc<Notify>>,
    /// Lets one of its subscriptions at a time read the history; made when the first one wants to.
    pub reading: Option<Rc<Semaphore>>,
    /// Since when it is being closed; nothing more is sent then.
    pub closing: Option<Instant>,
    /// Whether the client's close frame has come. The server hangs up first (RFC 6455, 7.1.1).
    pub said_goodbye: bool,
    /// When it was last heard of.
    pub heard: Instant,
    /// When it was last pinged.
    pub pinged: Instant,
    /// When it must be gone, unless a fresh token comes.
    pub expires: Option<(Instant, &'static str)>,
    /// Watermarks: how often, and when the next is due. Plain endpoints get none.
    pub watermark: Option<(std::time::Duration, Instant)>,
    /// Routes that the batch in hand has changes for; empty between batches.
    pub hits: Vec<u32>,
}

/// One subscription of a connection.
#[derive(Debug)]
pub(super) struct Sub {
    pub generation: u32,
    pub id: Box<str>,
    pub route: u32,
    /// Whether `subscribed` is still owed.
    pub unanswered: bool,
    pub state: SubState,
}

/// Where a subscription gets its changes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SubState {
    /// From its route, as they come; its place among the members.
    Live { member: u32 },
    /// From nowhere, for a moment: it is about to become one of the others.
    Held,
    /// From memory or the history, until it has caught up.
    Behind(Behind),
}

/// How far a subscription that catches up has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Behind {
    pub source: Source,
    pub feed: FeedId,
    pub after: Offset,
    /// The transaction that its last change was of, if that goes on.
    pub open: Option<OpenTx>,
}

impl Conn {
    pub fn new(socket: Rc<TcpStream>, generation: u32) -> Self {
        Self {
            generation,
            socket,
            outbox: Outbox::default(),
            subs: Slab::new(),
            dirty: false,
            full: false,
            stuck_since: None,
            room: None,
            reading: None,
            closing: None,
            said_goodbye: false,
            heard: Instant::now(),
            pinged: Instant::now(),
            expires: None,
            watermark: None,
            hits: Vec::new(),
        }
    }

    /// Queues whole frames; a connection that is being closed takes none.
    pub fn push(&mut self, frames: Bytes) {
        if self.closing.is_none() {
            self.outbox.push(frames);
        }
    }

    /// Queues a close frame as the last thing that is sent.
    pub fn close(&mut self, close: Close, reason: &str) {
        self.push(ws::close(close, reason));
        self.closing.get_or_insert_with(Instant::now);
    }

    /// Ends the connection under the session that reads from it.
    pub fn cut(&self) {
        // An error says that the peer has done it already.
        drop(socket2::SockRef::from(&*self.socket).shutdown(std::net::Shutdown::Both));
    }
}
