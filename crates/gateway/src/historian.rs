//! Reads histories for all shards: one task, so that a crowd that resumes from the same place
//! costs one read and not one each, and Redis sees a bounded number of them at a time.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use bus::{Bus, History, Reader};
use protocol::{FeedId, Offset, Source, Topic};
use tokio::sync::{mpsc, oneshot};
use tracing::debug;

use crate::hit::Hit;

/// Reads that are under way at a time.
const READS: usize = 8;

/// Payload bytes in one answer, about. A client that reads slowly holds its answer in memory.
const STRETCH_BYTES: usize = 1024 * 1024;

/// What to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Which source.
    pub source: Source,
    /// Its feed.
    pub feed: FeedId,
    /// The topics, sorted.
    pub topics: Vec<Topic>,
    /// The last change that the reader has.
    pub after: Offset,
}

/// What was read.
#[derive(Debug, Clone)]
pub enum Stretch {
    /// All changes of the topics in `after+1 ..= through`, in order. There may be more.
    Complete {
        /// How far it goes.
        through: Offset,
        /// The changes.
        hits: Arc<Vec<Hit>>,
    },
    /// Some are no longer kept.
    Trimmed,
    /// The bus is away, or being refilled. Ask again.
    NotReady,
    /// Another feed has begun.
    OtherFeed,
}

type Asked = (Request, oneshot::Sender<Stretch>);

/// Where to ask. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Historian {
    asked: mpsc::Sender<Asked>,
}

impl Historian {
    /// Starts the task; it ends when nobody can ask any more.
    pub fn start(bus: &Bus) -> Self {
        let readers = Source::ALL.into_iter().map(|source| (source, bus.reader(source))).collect();
        let (asked, inbox) = mpsc::channel(1024);
        tokio::spawn(answer(readers, inbox));
        Self { asked }
    }

    /// Reads, or shares a read of the same stretch that has not begun yet.
    pub async fn read(&self, request: Request) -> Stretch {
        let (answer, answered) = oneshot::channel();
        if self.asked.send((request, answer)).await.is_err() {
            return Stretch::NotReady;
        }
        answered.await.unwrap_or(Stretch::NotReady)
    }
}

async fn answer(readers: HashMap<Source, Reader>, mut inbox: mpsc::Receiver<Asked>) {
    // In the order in which they came, so that none waits for ever.
    let mut waiting: VecDeque<(Request, Vec<oneshot::Sender<Stretch>>)> = VecDeque::new();
    let mut reads = tokio::task::JoinSet::new();
    loop {
        while reads.len() < READS
            && let Some((request, who)) = waiting.pop_front()
        {
            let reader = readers[&request.source].clone();
            reads.spawn(async move {
                let stretch = read(&reader, request).await;
                for answer in who {
                    // Who has left needs no answer.
                    drop(answer.send(stretch.clone()));
                }
            });
        }
        tokio::select! {
            asked = inbox.recv(), if waiting.len() < 1024 => match asked {
                Some((request, answer)) => match waiting.iter_mut().find(|(same, _)| *same == request) {
                    Some((_, who)) => who.push(answer),
                    None => waiting.push_back((request, vec![answer])),
                },
                None => return,
            },
            Some(_) = reads.join_next() => {}
        }
    }
}

async fn read(reader: &Reader, request: Request) -> Stretch {
    let mut through = Offset::MAX;
    let mut hits = Vec::new();
    for topic in &request.topics {
        let slices = match reader.history(&request.feed, topic, request.after).await {
            Ok(History::Complete { through: to, slices }) => {
                through = through.min(to);
                slices
            }
            Ok(History::Trimmed) => return Stretch::Trimmed,
            Ok(History::NotReady) => return Stretch::NotReady,
            Ok(History::OtherFeed) => return Stretch::OtherFeed,
            Err(e) => {
                debug!(%topic, error = %e, "cannot read a history");
                return Stretch::NotReady;
            }
        };
        for slice in slices {
            match Hit::read(topic, &slice, request.after) {
                Ok(read) => hits.extend(read),
                Err(_) => return Stretch::Trimmed,
            }
        }
    }
    // The topics were read one after the other: what came in between is complete for some only.
    hits.retain(|hit| hit.offset() <= through);
    hits.sort_by_key(Hit::offset);
    let mut bytes = 0;
    let full = hits.iter().position(|hit| {
        bytes += hit.change.payload.len();
        bytes > STRETCH_BYTES
    });
    if let Some(last) = full {
        hits.truncate(last + 1);
        hits.shrink_to_fit();
        through = hits[last].offset();
    }
    Stretch::Complete { through, hits: Arc::new(hits) }
}
