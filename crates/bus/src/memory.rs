//! The bus inside one process: for `rowcast dev` and for tests. The same promises as over Redis.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use protocol::{Batch, Catalogue, FeedId, Micros, Offset, Slice, Source, Topic};
use tokio::sync::broadcast;

use crate::{
    Answer, Broadcaster, Broadcasts, Head, Heard, History, Publisher, Reader, Retention, Subscription, Term,
    publisher::Begin,
    subscription::{Inner, Raw},
};

/// Batches that a subscriber may fall behind before it gets a gap.
const LAG_BATCHES: usize = 4096;

/// Broadcasts that a receiver may fall behind before it misses some.
const LAG_BROADCASTS: usize = 1024;

/// A bus inside one process. Cheap to clone; clones are the same bus.
#[derive(Debug, Clone)]
pub struct MemoryBus {
    retention: Retention,
    sources: Arc<HashMap<Source, Shared>>,
    broadcasts: broadcast::Sender<Bytes>,
}

#[derive(Debug)]
struct Shared {
    held: Mutex<Option<Held>>,
    channel: broadcast::Sender<Batch>,
}

impl Shared {
    // Nothing that runs under the lock can panic half-way through a change.
    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, batch: Batch) {
        // An error says that nobody subscribes.
        drop(self.channel.send(batch));
    }
}

#[derive(Debug)]
struct Held {
    feed: FeedId,
    epoch: u64,
    base: Offset,
    last: Offset,
    at: Micros,
    catalogue: Catalogue,
    topics: HashMap<Topic, Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    tail: Offset,
    bytes: u64,
    entries: VecDeque<Entry>,
}

#[derive(Debug)]
struct Entry {
    previous: Offset,
    published: Micros,
    slice: Slice,
}

impl MemoryBus {
    /// An empty bus.
    pub fn new(retention: Retention) -> Self {
        let shared = || Shared { held: Mutex::new(None), channel: broadcast::channel(LAG_BATCHES).0 };
        let sources = Arc::new(Source::ALL.into_iter().map(|source| (source, shared())).collect());
        Self { retention, sources, broadcasts: broadcast::channel(LAG_BROADCASTS).0 }
    }

    /// A listener's end.
    pub fn publisher(&self, source: Source) -> Publisher {
        Publisher::Memory(MemoryPublisher { bus: self.clone(), source })
    }

    /// A gateway's commands.
    pub fn reader(&self, source: Source) -> Reader {
        Reader::Memory(MemoryReader { bus: self.clone(), source })
    }

    /// A gateway's end of the channel.
    pub fn subscribe(&self, source: Source) -> Subscription {
        let channel = self.shared(source).channel.subscribe();
        Subscription::new(Inner::Memory(MemorySubscription { channel, started: false }))
    }

    /// Where messages between clients are sent.
    pub fn broadcaster(&self) -> Broadcaster {
        Broadcaster::Memory(MemoryBroadcaster { channel: self.broadcasts.clone() })
    }

    /// Where they arrive.
    pub fn broadcasts(&self) -> Broadcasts {
        Broadcasts::Memory(MemoryBroadcasts { channel: self.broadcasts.subscribe(), started: false })
    }

    /// Forgets everything, as a Redis that was emptied does.
    pub fn clear(&self) {
        for shared in self.sources.values() {
            *shared.held() = None;
        }
    }

    fn shared(&self, source: Source) -> &Shared {
        &self.sources[&source]
    }
}

/// See [`Publisher`].
#[derive(Debug)]
pub struct MemoryPublisher {
    bus: MemoryBus,
    source: Source,
}

impl MemoryPublisher {
    pub(crate) fn begin(&mut self, term: &Term, how: Begin) -> Answer {
        let shared = self.bus.shared(self.source);
        let mut held = shared.held();
        match &mut *held {
            Some(h) if h.epoch > term.epoch || (h.epoch == term.epoch && h.feed != term.feed) => return h.conflict(),
            Some(h)
                if h.feed == term.feed && h.last != term.after && !(how == Begin::FurtherOn && h.last < term.after) =>
            {
                return Answer::Behind { held: Some(h.last) };
            }
            Some(h) if h.feed == term.feed && h.last == term.after => {
                h.epoch = term.epoch;
                h.at = term.at;
                h.catalogue = term.catalogue.clone();
            }
            _ if how == Begin::GoOn => return Answer::Behind { held: None },
            _ => {
                *held = Some(Held {
                    feed: term.feed.clone(),
                    epoch: term.epoch,
                    base: term.after,
                    last: term.after,
                    at: term.at,
                    catalogue: term.catalogue.clone(),
                    topics: HashMap::new(),
                });
            }
        }
        shared.send(Batch::watermark(term.feed.clone(), term.epoch, term.after, term.at));
        Answer::Applied
    }

    pub(crate) fn publish(&mut self, batch: &Batch) -> Answer {
        let shared = self.bus.shared(self.source);
        let mut held = shared.held();
        let Some(h) = &mut *held else { return Answer::Behind { held: None } };
        if h.feed != batch.feed || h.epoch != batch.epoch {
            return h.conflict();
        }
        if h.last + 1 != batch.first {
            let known = h.last >= batch.last;
            return if known { Answer::Already } else { Answer::Behind { held: Some(h.last) } };
        }
        h.append(batch, self.bus.retention);
        shared.send(batch.clone());
        Answer::Applied
    }
}

impl Held {
    fn conflict(&self) -> Answer {
        Answer::Conflict { feed: self.feed.clone(), epoch: self.epoch, held: self.last }
    }

    fn append(&mut self, batch: &Batch, retention: Retention) {
        let published = protocol::time::now();
        let oldest = published - i64::try_from(retention.ms * 1000).unwrap_or(i64::MAX);
        for (topic, slice) in &batch.slices {
            let base = self.base;
            let kept = self.topics.entry(topic.clone()).or_insert_with(|| Kept { tail: base, ..Kept::default() });
            kept.bytes += slice.bytes.len() as u64;
            kept.entries.push_back(Entry { previous: kept.tail, published, slice: slice.clone() });
            kept.tail = slice.last;
            while let Some(first) = kept.entries.front() {
                if kept.bytes <= retention.bytes && first.published >= oldest {
                    break;
                }
                kept.bytes -= first.slice.bytes.len() as u64;
                kept.entries.pop_front();
            }
        }
        self.last = batch.last;
        self.at = batch.at;
    }
}

/// See [`Reader`].
#[derive(Debug, Clone)]
pub struct MemoryReader {
    bus: MemoryBus,
    source: Source,
}

impl MemoryReader {
    pub(crate) fn head(&self) -> Option<Head> {
        self.bus.shared(self.source).held().as_ref().map(|h| Head {
            feed: h.feed.clone(),
            epoch: h.epoch,
            base: h.base,
            last: h.last,
            at: h.at,
            catalogue: h.catalogue.clone(),
            tails: h.topics.iter().map(|(topic, kept)| (topic.clone(), kept.tail)).collect(),
        })
    }

    pub(crate) fn subscribers(&self) -> u64 {
        self.bus.shared(self.source).channel.receiver_count() as u64
    }

    pub(crate) fn history(&self, feed: &FeedId, topic: &Topic, after: Offset, most_bytes: u64) -> History {
        let held = self.bus.shared(self.source).held();
        let Some(h) = &*held else { return History::NotReady };
        if h.feed != *feed {
            return History::OtherFeed;
        }
        if h.last < after {
            return History::NotReady;
        }
        let tail = h.topics.get(topic).map_or(h.base, |kept| kept.tail);
        let entries = h.topics.get(topic).map(|kept| &kept.entries).into_iter().flatten();
        let (mut known, mut bytes, mut slices) = (after, 0, Vec::new());
        for entry in entries.filter(|entry| entry.slice.last > after) {
            if entry.previous > known {
                return History::Trimmed;
            }
            if bytes >= most_bytes && !slices.is_empty() {
                return History::Complete { through: known, slices };
            }
            bytes += entry.slice.bytes.len() as u64;
            known = entry.slice.last;
            slices.push(entry.slice.clone());
        }
        if tail > known {
            return History::Trimmed;
        }
        History::Complete { through: h.last, slices }
    }
}

/// See [`Broadcaster`].
#[derive(Debug, Clone)]
pub struct MemoryBroadcaster {
    channel: broadcast::Sender<Bytes>,
}

impl MemoryBroadcaster {
    pub(crate) fn send(&self, messages: &[Bytes]) {
        for message in messages {
            // An error says that nobody is there.
            drop(self.channel.send(message.clone()));
        }
    }
}

/// See [`Broadcasts`].
#[derive(Debug)]
pub struct MemoryBroadcasts {
    channel: broadcast::Receiver<Bytes>,
    started: bool,
}

impl MemoryBroadcasts {
    pub(crate) async fn next(&mut self) -> Heard {
        if !std::mem::replace(&mut self.started, true) {
            return Heard::Missed;
        }
        match self.channel.recv().await {
            Ok(message) => Heard::Message(message),
            Err(broadcast::error::RecvError::Lagged(_)) => Heard::Missed,
            // Without a bus there is nothing to wait for.
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// See [`Subscription`].
#[derive(Debug)]
pub(crate) struct MemorySubscription {
    channel: broadcast::Receiver<Batch>,
    started: bool,
}

impl MemorySubscription {
    pub(crate) async fn next(&mut self) -> Raw {
        if !std::mem::replace(&mut self.started, true) {
            return Raw::Gap;
        }
        match self.channel.recv().await {
            Ok(batch) => Raw::Batch(batch),
            Err(broadcast::error::RecvError::Lagged(_)) => Raw::Gap,
            // Every bus keeps its senders; without one there is nothing to wait for.
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}
