//! Reads histories for all shards: one task, so that a crowd that resumes from the same stretch
//! costs one read and not one each, and Redis sees a bounded number of them at a time.
//!
//! Who waits for the same topics is served together: from the smallest offset that is asked for,
//! and everybody whose offset lies in what was read takes what is behind its own. What was read
//! last is kept for a moment, for those who come a little later, and for those who read slowly: they
//! hold nothing while they wait for their socket, and ask again.

mod shelf;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bus::{Bus, BusError, History, Reader};
use protocol::{FeedId, Offset, Source, Topic};
use tokio::sync::{mpsc, oneshot};
use tracing::debug;

use crate::{hit::Hit, metrics::Metrics};
use shelf::Shelf;

/// Reads that are under way at a time.
const READS: usize = 8;

/// Payload bytes in one answer, about.
const STRETCH_BYTES: u64 = 1024 * 1024;

/// The least that is read of one of several topics.
const LEAST_BYTES: u64 = 64 * 1024;

/// How often what nobody asks for any more is thrown away.
const SWEEP: Duration = Duration::from_secs(1);

/// Whose histories, from which feed. What is read for equal ones is shared.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Subject {
    /// Which source.
    pub source: Source,
    /// Its feed.
    pub feed: FeedId,
    /// The topics, sorted.
    pub topics: Vec<Topic>,
}

/// What was read.
#[derive(Debug, Clone)]
pub enum Stretch {
    /// All changes of the topics after the offset that was asked for, up to `through`, in order.
    /// They may begin earlier. There may be more.
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

/// Somebody who waits: with what it has, and where to answer.
struct Waiting {
    after: Offset,
    answer: oneshot::Sender<Stretch>,
}

/// Where to ask. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Historian {
    asked: mpsc::Sender<(Subject, Waiting)>,
}

impl Historian {
    /// Starts the task; it ends when nobody can ask any more.
    pub fn start(bus: &Bus, metrics: Metrics) -> Self {
        let readers = Source::ALL.into_iter().map(|source| (source, bus.reader(source))).collect();
        let (asked, inbox) = mpsc::channel(1024);
        let desk = Arc::new(Desk { readers, metrics, shelf: Mutex::default() });
        tokio::spawn(answer(desk, inbox));
        Self { asked }
    }

    /// What comes after an offset: about as much as can be sent in one go, and more when it is asked
    /// for again.
    pub async fn read(&self, subject: Subject, after: Offset) -> Stretch {
        let (answer, answered) = oneshot::channel();
        if self.asked.send((subject, Waiting { after, answer })).await.is_err() {
            return Stretch::NotReady;
        }
        answered.await.unwrap_or(Stretch::NotReady)
    }
}

/// What the reads share.
struct Desk {
    readers: HashMap<Source, Reader>,
    metrics: Metrics,
    shelf: Mutex<Shelf>,
}

async fn answer(desk: Arc<Desk>, mut inbox: mpsc::Receiver<(Subject, Waiting)>) {
    let mut waiting: HashMap<Subject, Vec<Waiting>> = HashMap::new();
    // In the order in which they were asked for first, so that none waits for ever.
    let mut turns: VecDeque<Subject> = VecDeque::new();
    let mut being_read: Vec<Subject> = Vec::new();
    let mut rounds = tokio::task::JoinSet::new();
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        // One round a subject at a time: who comes meanwhile takes part in the next.
        while rounds.len() < READS
            && let Some(turn) = turns.iter().position(|subject| !being_read.contains(subject))
            && let Some(subject) = turns.remove(turn)
        {
            let crowd = waiting.remove(&subject).unwrap_or_default();
            being_read.push(subject.clone());
            let desk = Arc::clone(&desk);
            rounds.spawn(async move {
                desk.serve(&subject, crowd).await;
                subject
            });
        }
        tokio::select! {
            asked = inbox.recv() => match asked {
                Some((subject, who)) => {
                    if let Some(who) = desk.serve_from_shelf(&subject, who) {
                        if !waiting.contains_key(&subject) {
                            turns.push_back(subject.clone());
                        }
                        waiting.entry(subject).or_default().push(who);
                    }
                }
                None => return,
            },
            Some(done) = rounds.join_next() => {
                // A round that panicked answers nobody; who waited asks again.
                match done {
                    Ok(subject) => being_read.retain(|other| *other != subject),
                    Err(_) => being_read.clear(),
                }
            }
            _ = sweep.tick() => desk.shelf().sweep(),
        }
    }
}

impl Desk {
    // Nothing that runs under the lock can panic half-way through a change.
    fn shelf(&self) -> std::sync::MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers from what was read for others; who is still to be answered.
    fn serve_from_shelf(&self, subject: &Subject, who: Waiting) -> Option<Waiting> {
        let mut shelf = self.shelf();
        if shelf.is_refused(subject, who.after) {
            who.tell(Stretch::Trimmed);
        } else if let Some((through, hits)) = shelf.get(subject, who.after) {
            who.tell(Stretch::Complete { through, hits });
        } else {
            return Some(who);
        }
        None
    }

    /// Answers everybody of a crowd, in as few reads as there are stretches.
    async fn serve(&self, subject: &Subject, mut crowd: Vec<Waiting>) {
        crowd.sort_by_key(|who| who.after);
        let mut crowd = VecDeque::from(crowd);
        while let Some(first) = crowd.front() {
            let after = first.after;
            match self.read(subject, after, STRETCH_BYTES).await {
                Stretch::Complete { through, hits } => {
                    self.shelf().put(subject, after, through, Arc::clone(&hits));
                    // Who has no more than the first is answered in any case, with nothing if need be.
                    let covered = crowd.partition_point(|who| who.after == after || who.after < through);
                    for who in crowd.drain(..covered) {
                        who.tell(Stretch::Complete { through, hits: Arc::clone(&hits) });
                    }
                }
                Stretch::Trimmed => {
                    let trimmed = self.trimmed(subject, &crowd).await;
                    self.shelf().refuse(subject, crowd[trimmed - 1].after);
                    crowd.drain(..trimmed).for_each(|who| who.tell(Stretch::Trimmed));
                }
                // It is the same for all of them.
                other => crowd.drain(..).for_each(|who| who.tell(other.clone())),
            }
        }
    }

    /// How many of a sorted crowd, whose first has been refused, have something that is no longer
    /// kept after what they have. Looks at few of them: the last one, then ever halves.
    async fn trimmed(&self, subject: &Subject, crowd: &VecDeque<Waiting>) -> usize {
        let (mut refused, mut known) = (1, crowd.len());
        let mut look = crowd.len() - 1;
        while refused < known {
            let after = crowd[look].after;
            let is_trimmed = matches!(self.read(subject, after, 1).await, Stretch::Trimmed);
            if is_trimmed {
                refused = crowd.iter().filter(|who| who.after <= after).count();
            } else {
                known = look;
            }
            look = refused + known.saturating_sub(refused) / 2;
        }
        refused
    }

    async fn read(&self, subject: &Subject, after: Offset, most_bytes: u64) -> Stretch {
        self.metrics.history_read();
        let reader = &self.readers[&subject.source];
        match read(reader, subject, after, most_bytes).await {
            Ok(stretch) => stretch,
            Err(error) => {
                debug!(topics = ?subject.topics, %error, "cannot read a history");
                Stretch::NotReady
            }
        }
    }
}

impl Waiting {
    fn tell(self, stretch: Stretch) {
        // Who has left needs no answer.
        drop(self.answer.send(stretch));
    }
}

async fn read(reader: &Reader, subject: &Subject, after: Offset, most_bytes: u64) -> Result<Stretch, BusError> {
    let Subject { feed, topics, .. } = subject;
    let (mut topics, mut through) = (topics.clone(), Offset::MAX);
    if topics.len() > 1 {
        // Of many topics few have changed: the head tells which.
        match reader.head().await? {
            Some(head) if head.feed == *feed && head.base <= after && after <= head.last => {
                topics.retain(|topic| head.tails.get(topic).is_some_and(|tail| *tail > after));
                through = head.last;
            }
            // The histories say what is the matter. All of them: it may be mended by now.
            _ => {}
        }
    }
    let share = (most_bytes / topics.len().max(1) as u64).max(LEAST_BYTES.min(most_bytes));
    let mut hits = Vec::new();
    for topic in &topics {
        let slices = match reader.history_up_to(feed, topic, after, share).await? {
            History::Complete { through: to, slices } => {
                through = through.min(to);
                slices
            }
            History::Trimmed => return Ok(Stretch::Trimmed),
            History::NotReady => return Ok(Stretch::NotReady),
            History::OtherFeed => return Ok(Stretch::OtherFeed),
        };
        for slice in slices {
            match Hit::read(topic, &slice, after) {
                Ok(read) => hits.extend(read),
                Err(_) => return Ok(Stretch::Trimmed),
            }
        }
    }
    // The topics were read one after the other, each as far as its share went.
    hits.retain(|hit| hit.offset() <= through);
    hits.sort_by_key(Hit::offset);
    Ok(Stretch::Complete { through, hits: Arc::new(hits) })
}
