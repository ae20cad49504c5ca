use std::time::Duration;

use bus::{Event, Head, History, Position, Reader, RedisBus, Subscription};
use protocol::{Batch, FeedId, Kind, Offset, Source, Topic};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

/// Receives as a gateway does, and repairs what it missed from the histories.
pub struct Follower {
    seen: watch::Receiver<Seen>,
    task: JoinHandle<()>,
}

/// What a follower has received.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Each feed that was current, in order: more than one means that clients were told `reset`.
    pub feeds: Vec<FeedId>,
    /// Every change, in order.
    pub changes: Vec<Got>,
    /// How many watermarks came.
    pub watermarks: u64,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Got {
    pub feed: FeedId,
    pub offset: Offset,
    pub topic: Topic,
    pub kind: Kind,
    pub payload: String,
}

impl Follower {
    pub fn of(bus: &RedisBus) -> Self {
        let (sender, seen) = watch::channel(Seen::default());
        let follow = Follow {
            subscription: bus.subscribe(Source::Notify),
            reader: bus.reader(Source::Notify),
            position: None,
            seen: sender,
        };
        Self { seen, task: tokio::spawn(follow.run()) }
    }

    pub fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// Waits until it has seen what is asked for.
    pub async fn until(&self, what: &str, within: Duration, mut done: impl FnMut(&Seen) -> bool) -> Seen {
        let mut seen = self.seen.clone();
        let found = timeout(within, seen.wait_for(|seen| done(seen))).await.map(|seen| seen.unwrap().clone());
        found.unwrap_or_else(|_| {
            let Seen { feeds, changes, watermarks } = self.seen();
            let last = changes.last().map(|got| (got.offset, &*got.payload));
            panic!(
                "not within {within:?}: {what}; {feeds:?}, {} changes to {last:?}, {watermarks} watermarks",
                changes.len()
            )
        })
    }

    /// Waits until a change with this payload has come.
    pub async fn got(&self, payload: &str, within: Duration) -> Seen {
        self.until(payload, within, |seen| seen.changes.iter().any(|got| got.payload == payload)).await
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Seen {
    pub fn payloads(&self) -> Vec<&str> {
        self.changes.iter().map(|got| &*got.payload).collect()
    }

    /// That each feed's offsets are 1, 2, 3 …, without a hole.
    pub fn assert_dense(&self) {
        for feed in &self.feeds {
            let offsets = self.changes.iter().filter(|got| got.feed == *feed).map(|got| got.offset);
            for (expected, offset) in (1..).zip(offsets) {
                assert_eq!(offset, expected, "feed {feed}");
            }
        }
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
        let changes = changes(batch.slices.iter().map(|(topic, slice)| (topic, slice)), &batch.feed, position.last);
        position.last = batch.last;
        self.seen.send_modify(|seen| {
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
        let after = known.unwrap_or(head.base);
        let mut slices = Vec::new();
        let mut through = Offset::MAX;
        for info in &head.catalogue.topics {
            match self.reader.history(&head.feed, &info.topic, after).await {
                Ok(History::Complete { through: to, slices: some }) => {
                    through = through.min(to);
                    slices.extend(some.into_iter().map(|slice| (info.topic.clone(), slice)));
                }
                Ok(History::Trimmed) => panic!("{} of {} is trimmed after {after}", info.topic, head.feed),
                _ => return false,
            }
        }
        let mut changes = changes(slices.iter().map(|(topic, slice)| (topic, slice)), &head.feed, after);
        changes.retain(|got| got.offset <= through);
        let position = Position { feed: head.feed.clone(), epoch: head.epoch, last: through };
        self.position = Some(position.clone());
        self.subscription.set_position(position);
        self.seen.send_modify(|seen| {
            if known.is_none() {
                seen.feeds.push(head.feed.clone());
            }
            seen.changes.extend(changes);
        });
        true
    }
}

fn changes<'a>(
    slices: impl Iterator<Item = (&'a Topic, &'a protocol::Slice)>,
    feed: &FeedId,
    after: Offset,
) -> Vec<Got> {
    let mut all: Vec<_> = slices
        .flat_map(|(topic, slice)| {
            let changes = slice.changes_after(after).unwrap();
            changes.into_iter().map(|change| Got {
                feed: feed.clone(),
                offset: change.offset,
                topic: topic.clone(),
                kind: change.kind,
                payload: String::from_utf8(change.payload.to_vec()).unwrap(),
            })
        })
        .collect();
    all.sort_by_key(|got| got.offset);
    all
}
