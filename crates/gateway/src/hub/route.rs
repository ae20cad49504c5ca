use std::{borrow::Borrow, rc::Rc};

use protocol::{Offset, Source, Topic, config::Wrap, message::Addressee};

use super::conflate::Conflating;
use crate::{
    encode::Form,
    hit::{Hit, OpenTx},
    realtime::Bindings,
};

/// Of the scratch space of each route.
const KEPT_BYTES: usize = 4 * 1024;

/// One distinct subscription. Connections with equal ones share it, and its frames.
#[derive(Debug)]
pub(super) struct Route {
    /// Its number on the wire.
    pub id: u64,
    pub key: RouteKey,
    /// Subscriptions that hold it, live or behind.
    pub subs: usize,
    /// Streams that have it.
    pub streams: Vec<u32>,
    /// The transaction that its last change was of, if that goes on.
    pub open: Option<OpenTx>,
    /// Frames of the batch in hand.
    pub frames: Frames,
    /// What it has if its changes are conflated.
    pub conflating: Option<Box<Conflating>>,
    pub rate: Rate,
}

/// How many changes a route wants.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Rate {
    /// Since it is there.
    pub all: u64,
    /// At the last tick.
    before: u64,
    /// A second, over the last few.
    pub per_s: f32,
}

impl Rate {
    /// To be called once a second.
    pub fn tick(&mut self) {
        let new = (self.all - self.before) as f32;
        self.before = self.all;
        self.per_s += (new - self.per_s) * 0.3;
        if self.per_s < 0.01 {
            self.per_s = 0.0;
        }
    }
}

/// What makes a subscription distinct.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct RouteKey {
    pub topics: Rc<[Topic]>,
    /// One that has cursors belongs to one source, for they count in one feed. A plain one takes each
    /// topic from the source that carries it, now or later.
    pub source: Option<Source>,
    pub form: RouteForm,
    /// Over how long changes are conflated.
    pub conflate_ms: Option<u64>,
    /// Tells equal subscriptions of one connection apart. If they shared a route, a client could not
    /// know for which of them a frame counts while one is live and another catches up.
    pub twin: u32,
}

/// In which form its members want changes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum RouteForm {
    Plain(Wrap),
    Native,
    Events,
    Realtime(Rc<Bindings>),
}

impl RouteForm {
    /// The form of what all members of a route get.
    pub fn for_route(&self, route: u64) -> Form<'_> {
        self.for_addressee(Addressee::Route(route))
    }

    /// The form of what one subscription gets while it catches up.
    pub fn for_subscription<'a>(&'a self, id: &'a str) -> Form<'a> {
        self.for_addressee(Addressee::Subscription(id))
    }

    fn for_addressee<'a>(&'a self, to: Addressee<'a>) -> Form<'a> {
        match self {
            Self::Plain(wrap) => Form::Plain(*wrap),
            Self::Native => Form::Native(to),
            Self::Events => Form::Events,
            Self::Realtime(bindings) => Form::Realtime(bindings),
        }
    }

    /// Whether its members want a change to one of their topics.
    pub fn wants<T: Borrow<Topic>>(&self, hit: &Hit<T>) -> bool {
        match self {
            Self::Plain(_) | Self::Native | Self::Events => true,
            Self::Realtime(bindings) => hit.row.as_ref().is_some_and(|row| bindings.wants(hit.topic.borrow(), row.op)),
        }
    }

    /// Whether its members know the words of the native protocol, such as where transactions end.
    pub fn is_native(&self) -> bool {
        matches!(self, Self::Native | Self::Events)
    }

    /// Whether its members are told where they are: they can resume, and be told what they miss.
    pub fn has_cursors(&self) -> bool {
        !matches!(self, Self::Plain(_))
    }
}

/// The frames that a batch has for a route, on their way to the rings of its streams.
#[derive(Debug, Default)]
pub(super) struct Frames {
    pub building: Vec<u8>,
    /// The frame of each change: where it ends.
    pub built: Vec<Built>,
    /// The change of the batch, by its place in it, that is encoded once it is known whether it is
    /// the last of its transaction.
    pub pending: Option<usize>,
    /// The route's open transaction after what is built.
    pub open: Option<OpenTx>,
}

/// A frame that was built.
#[derive(Debug, Clone, Copy)]
pub(super) struct Built {
    pub offset: Offset,
    pub end: usize,
    /// The open transaction before it.
    pub open: Option<OpenTx>,
}

impl Frames {
    /// Whether the batch has something for the route.
    pub fn is_hit(&self) -> bool {
        !self.built.is_empty() || self.pending.is_some()
    }

    /// The frames one by one.
    pub fn each(&self) -> impl Iterator<Item = (Built, &[u8])> {
        let mut start = 0;
        self.built.iter().map(move |built| {
            let frame = &self.building[start..built.end];
            start = built.end;
            (*built, frame)
        })
    }

    /// Forgets them; one large batch is no reason to hold its size for ever.
    pub fn clear(&mut self) {
        self.built.clear();
        self.building.clear();
        self.building.shrink_to(KEPT_BYTES);
        self.open = None;
    }
}
