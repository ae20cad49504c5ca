use std::rc::Rc;

use bytes::Bytes;
use protocol::{Offset, Topic, config::Wrap};

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
    /// Frames of the batch in hand.
    pub frames: Frames,
}

/// What makes a subscription distinct.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct RouteKey {
    pub topics: Rc<[Topic]>,
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
    pub joined: Bytes,
}

impl Frames {
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
        self.joined = Bytes::new();
    }
}
