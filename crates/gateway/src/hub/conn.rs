use std::{rc::Rc, task::Waker};

use protocol::{FeedId, Offset, Source};
use slab::Slab;
use tokio::{
    net::TcpStream,
    sync::{Notify, Semaphore},
};

use super::{
    Speech,
    moment::Moment,
    stream::Place,
    tick::{Expiry, Watermark},
};
use crate::{
    hit::OpenTx,
    outbox::{Flushed, Outbox},
    realtime::Channel,
};

/// A connection of this shard. The generation tells it from an earlier one in the same place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    pub speech: Speech,
    /// Where it is in the stream of its live routes, if it has any.
    pub place: Option<Place>,
    /// What waits for it alone.
    pub outbox: Outbox,
    pub subs: Slab<Sub>,
    /// Those that a client of Supabase has joined.
    pub channels: Vec<Channel>,
    /// Whether it stands in the queue of those for which something waits alone.
    pub dirty: bool,
    /// Whether its socket is full, and its task waits until it takes more.
    pub full: bool,
    /// Wakes its task, which began after it.
    pub task: Option<Waker>,
    /// Since when it has not taken a byte of what waits.
    pub stuck_since: Option<Moment>,
    /// Who waits until there is room again.
    pub room: Option<Rc<Notify>>,
    /// Lets one of its subscriptions at a time read the history; made when the first one wants to.
    pub reading: Option<Rc<Semaphore>>,
    /// Since when it is being closed, or has last taken something of what comes before that; nothing more is
    /// sent then.
    pub closing: Option<Moment>,
    /// Whether the client's close frame has come. The server hangs up first (RFC 6455, 7.1.1).
    pub said_goodbye: bool,
    /// Whether nothing that it says counts any more: it is told by the end of the stream.
    pub hangs_up: bool,
    /// When it was last heard of.
    pub heard: Moment,
    /// When it was last pinged.
    pub pinged: Moment,
    /// When it must be gone, unless a fresh token comes.
    pub expires: Option<(Moment, Expiry)>,
    /// How many steps it may be without a channel; of Supabase's clients alone.
    pub unjoined: Option<(u32, Expiry)>,
    /// Plain endpoints get none.
    pub watermark: Option<Watermark>,
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
    /// From its route, as they come.
    Live,
    /// From nowhere, for a moment: it is about to become one of the others.
    Held,
    /// From memory or the history, until it has caught up.
    /// In a box: it is rare, and would be half of every subscription.
    Behind(Box<Behind>),
}

/// How far a subscription that catches up has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Behind {
    pub source: Source,
    pub feed: FeedId,
    pub after: Offset,
    /// The transaction that its last change was of, if that goes on.
    pub open: Option<OpenTx>,
    /// Whether too much waits for its socket, so that no task brings it up to date.
    pub waits_for_room: bool,
}

impl Sub {
    pub fn is_live(&self) -> bool {
        matches!(self.state, SubState::Live)
    }
}

impl Conn {
    pub fn new(socket: Rc<TcpStream>, speech: Speech, generation: u32, now: Moment) -> Self {
        Self {
            generation,
            socket,
            speech,
            place: None,
            outbox: Outbox::default(),
            subs: Slab::new(),
            channels: Vec::new(),
            dirty: false,
            full: false,
            task: None,
            stuck_since: None,
            room: None,
            reading: None,
            closing: None,
            said_goodbye: false,
            hangs_up: false,
            heard: now,
            pinged: now,
            expires: None,
            unjoined: None,
            watermark: None,
        }
    }

    /// Notes what a write came to, and how many bytes it took.
    pub fn took(&mut self, flushed: Flushed, bytes: usize, now: Moment) {
        self.stuck_since = match flushed {
            Flushed::Full if bytes == 0 => self.stuck_since.or(Some(now)),
            Flushed::Full => Some(now),
            Flushed::All | Flushed::Dead => None,
        };
    }

    /// Its socket takes no more: its task is to see when it does.
    pub fn set_full(&mut self) {
        self.full = true;
        if let Some(task) = &self.task {
            task.wake_by_ref();
        }
    }

    /// Tells the client that nothing more comes. What it has sent is still read, for to close with
    /// something unread would take from it what it has not read yet.
    pub fn finish(&self) {
        drop(socket2::SockRef::from(&*self.socket).shutdown(std::net::Shutdown::Write));
    }

    /// Ends the connection under the session that reads from it.
    pub fn cut(&self) {
        // An error says that the peer has done it already.
        drop(socket2::SockRef::from(&*self.socket).shutdown(std::net::Shutdown::Both));
    }
}
