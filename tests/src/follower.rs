//! Receives what a listener publishes, as a gateway does.

use std::time::Duration;

use bus::{Event, Head, History, Position, Reader, RedisBus, Subscription};
use protocol::{Batch, Change, FeedId, Offset, Slice, Source, Topic};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

/// Receives as a gateway does, and repairs what it missed from the histories. It stops with the
/// handle.
#[derive(Debug)]
pub struct Follower {
    seen: watch::Receiver<Seen>,
    task: JoinHandle<()>,
}

/// What a follower has received.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Each feed that was current, in order: more than one means that clients were told `reset`.
    pub feeds: Vec<FeedId>,
    /// Each term that batches came from, and when its first one came.
    pub terms: Vec<(u64, Instant)>,
    /// Every change, in order.
    pub changes: Vec<Got>,
    /// How many watermarks came.
    pub watermarks: u64,
    /// How often a history no longer had what was missed.
    pub trimmed: u64,
}

/// One change.
#[derive(Debug, Clone)]
pub struct Got {
    /// The numbering.
    pub feed: FeedId,
    /// The term in which it came.
    pub epoch: u64,
    /// What it is about.
    pub topic: Topic,
    /// What was published.
    pub change: Change,
    /// When it came.
    pub received: Instant,
}

impl Follower {
    /// Follows one source from where its histories begin.
    pub fn of(bus: &RedisBus, source: Source) -> Self {
        let (sender, seen) = watch::channel(Seen::default());
        let follow =
            Follow { subscription: bus.subscribe(source), reader: bus.reader(source), position: None, seen: sender };
        Self { seen, task: tokio::spawn(follow.run()) }
    }

    /// What it has received so far.
    pub fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// Looks at what it has received so far, which may be much.
    pub fn look<T>(&self, with: impl FnOnce(&Seen) -> T) -> T {
        with(&self.seen.borrow())
    }

    /// Waits until it has seen what is asked for.
    pub async fn until(&self, what: &str, within: Duration, mut done: impl FnMut(&Seen) -> bool) -> Seen {
        let mut seen = self.seen.clone();
        let found = timeout(within, seen.wait_for(|seen| done(seen))).await;
        match found {
            Ok(Ok(seen)) => return seen.clone(),
            // Its task has failed, and said why.
            Ok(Err(_)) => panic!("the follower has ended"),
            Err(_) => {}
        }
        let Seen { feeds, changes, watermarks, trimmed, .. } = self.seen();
        let last = changes.last().map(|got| (got.change.offset, got.payload()));
        panic!(
            "not within {within:?}: {what}; {feeds:?}, {} changes to {last:?}, {watermarks} watermarks, {trimmed} trimmed",
            changes.len()
        )
    }

    /// Waits until a change with this payload has come.
    pub async fn got(&self, payload: &str, within: Duration) -> Seen {
        self.until(payload, within, |seen| seen.changes.iter().any(|got| got.payload() == payload)).await
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Seen {
    /// What was notified, in order.
    pub fn payloads(&self) -> Vec<&str> {
        self.changes.iter().map(Got::payload).collect()
    }

    /// The offset of the last change of the current feed.
    pub fn last(&self) -> Offset {
        self.changes.last().filter(|got| self.feeds.last() == Some(&got.feed)).map_or(0, |got| got.change.offset)
    }

    /// The changes of one feed.
    pub fn of_feed(&self, feed: &FeedId) -> impl Iterator<Item = &Got> {
        self.changes.iter().filter(move |got| got.feed == *feed)
    }

    /// That each feed's offsets are 1, 2, 3 …, without a hole.
    pub fn assert_dense(&self) {
        assert_eq!(self.trimmed, 0, "what was missed could not be repaired");
        for feed in &self.feeds {
            for (expected, got) in (1..).zip(self.of_feed(feed)) {
                assert_eq!(got.change.offset, expected, "feed {feed}");
            }
        }
    }
}

impl Got {
    /// What was notified; of a change of the log, nothing that can be read.
    pub fn payload(&self) -> &str {
        str::from_utf8(&self.change.payload).unwrap_or("(not a text)")
    }
}

struct Follow {
    subscription: Subscription,
    reader: Reader,
    position: Option<Position>,
    seen: watch::Sender<Seen>,
}

impl Follow {
    async fn run(mut self) {
        loop {
            match self.subscription.next().await {
                Event::Lost => {}
                Event::Gap => self.repair().await,
                Event::Batch(batch) => self.take(&batch),
            }
        }
    }

    fn take(&mut self, batch: &Batch) {
        let Some(position) = &mut self.position else { return };
        let slices = batch.slices.iter().map(|(topic, slice)| (topic, slice));
        let changes = changes(slices, &batch.feed, batch.epoch, position.last);
        position.last = batch.last;
        self.seen.send_modify(|seen| {
            seen.in_term(batch.epoch);
            seen.watermarks += u64::from(batch.is_watermark());
            seen.changes.extend(changes);
        });
    }

    async fn repair(&mut self) {
        loop {
            match self.reader.head().await {
                // There is nothing yet: the first batch will say so.
                Ok(None) if self.position.is_none() => return,
                Ok(Some(head)) => {
                    if self.catch_up(&head).await {
                        return;
                    }
                }
                Ok(None) | Err(_) => {}
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn catch_up(&mut self, head: &Head) -> bool {
        let known = self.position.as_ref().filter(|position| position.feed == head.feed).map(|position| position.last);
        // A bus that is being refilled: who went back to it would see changes twice.
        if known.is_some_and(|known| head.last < known) {
            return false;
        }
        let after = known.unwrap_or(head.base);
        let mut slices = Vec::new();
        let (mut through, mut trimmed) = (head.last, false);
        for info in &head.catalogue.topics {
            match self.reader.history(&head.feed, &info.topic, after).await {
                Ok(History::Complete { through: to, slices: some }) => {
                    through = through.min(to);
                    slices.extend(some.into_iter().map(|slice| (info.topic.clone(), slice)));
                }
                Ok(History::Trimmed) => trimmed = true,
                _ => return false,
            }
        }
        let mut changes = changes(slices.iter().map(|(topic, slice)| (topic, slice)), &head.feed, head.epoch, after);
        changes.retain(|got| got.change.offset <= through && !trimmed);
        let position = Position { feed: head.feed.clone(), epoch: head.epoch, last: through };
        self.position = Some(position.clone());
        self.subscription.set_position(position);
        self.seen.send_modify(|seen| {
            if known.is_none() {
                seen.feeds.push(head.feed.clone());
            }
            seen.in_term(head.epoch);
            seen.trimmed += u64::from(trimmed);
            seen.changes.extend(changes);
        });
        true
    }
}

impl Seen {
    fn in_term(&mut self, epoch: u64) {
        if self.terms.last().is_none_or(|(known, _)| *known != epoch) {
            self.terms.push((epoch, Instant::now()));
        }
    }
}

/// The changes after an offset, in order.
///
/// # Panics
///
/// On a slice that is not well-formed.
pub fn changes<'a>(
    slices: impl Iterator<Item = (&'a Topic, &'a Slice)>,
    feed: &FeedId,
    epoch: u64,
    after: Offset,
) -> Vec<Got> {
    let received = Instant::now();
    let mut all: Vec<_> = slices
        .flat_map(|(topic, slice)| {
            let changes = slice.changes_after(after).expect("a listener publishes what can be read");
            let got = |change| Got { feed: feed.clone(), epoch, topic: topic.clone(), change, received };
            changes.into_iter().map(got)
        })
        .collect();
    all.sort_by_key(|got| got.change.offset);
    all
}
