use std::rc::Rc;

use bytes::Bytes;
use protocol::{Offset, Source, Topic, config::Wrap};

use crate::hit::OpenTx;

/// One distinct subscription. Connections with equal ones share it, and its frames.
#[derive(Debug)]
pub(super) struct Route {
    /// Its number on the wire.
    pub id: u64,
    pub key: RouteKey,
    /// Subscriptions that hold it, live or behind.
    pub subs: usize,
    /// Those that are live.
    pub members: Vec<Member>,
    /// The transaction that its last change was of, if that goes on.
    pub open: Option<OpenTx>,
    /// Frames of the batch in hand.
    pub frames: Frames,
}

/// What makes a subscription distinct.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct RouteKey {
    pub topics: Rc<[Topic]>,
    /// A native one belongs to one source, for its cursors count in one feed. A plain one takes each
    /// topic from the source that carries it, now or later.
    pub source: Option<Source>,
    pub form: RouteForm,
    /// Tells equal subscriptions of one connection apart. If they shared a route, a client could not
    /// know for which of them a frame counts while one is live and another catches up.
    pub twin: u32,
}

/// In which form its members want changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum RouteForm {
    Plain(Wrap),
    Native,
}

/// A subscription on a route.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    pub conn: u32,
    pub sub: u32,
}

/// The frames that a batch has for a route: one piece of memory for everybody on it.
#[derive(Debug, Default)]
pub(super) struct Frames {
    pub building: Vec<u8>,
    /// Where the frame of each change ends.
    pub marks: Vec<(Offset, usize)>,
    /// The change of the batch, by its place in it, that is encoded once it is known whether it is
    /// the last of its transaction.
    pub pending: Option<usize>,
    /// The route's open transaction before the batch.
    pub open_before: Option<OpenTx>,
    pub joined: Bytes,
}

impl Frames {
    /// Whether the batch has something for the route.
    pub fn is_hit(&self) -> bool {
        !self.marks.is_empty() || self.pending.is_some()
    }

    /// Makes what was built shareable.
    pub fn finish(&mut self) {
        self.joined = std::mem::take(&mut self.building).into();
    }

    /// The frames one by one.
    pub fn each(&self) -> impl Iterator<Item = (Offset, Bytes)> {
        let mut start = 0;
        self.marks.iter().map(move |&(offset, end)| {
            let frame = self.joined.slice(start..end);
            start = end;
            (offset, frame)
        })
    }

    /// Lets go of the memory.
    pub fn clear(&mut self) {
        self.marks.clear();
        self.open_before = None;
        self.joined = Bytes::new();
    }
}
