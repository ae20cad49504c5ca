use std::time::Duration;

use bus::{Bus, Event, History, Position, Reader, Subscription};
use protocol::{Batch, Offset, Source, Topic};
use tokio::time::{sleep, timeout};

/// Does what a gateway does: follows the channel, and repairs each gap from the histories.
pub struct Follower {
    pub subscription: Subscription,
    pub reader: Reader,
    pub topics: Vec<Topic>,
    pub position: Option<Position>,
    /// The offsets of all changes, as they came. Begins anew with each reset.
    pub seen: Vec<Offset>,
    pub gaps: usize,
    pub losses: usize,
    /// How often it could not repair.
    pub resets: usize,
}

impl Follower {
    pub fn new(bus: &Bus, topics: &[&str]) -> Self {
        Self {
            subscription: bus.subscribe(Source::Notify),
            reader: bus.reader(Source::Notify),
            topics: topics.iter().map(|name| Topic::new(name).unwrap()).collect(),
            position: None,
            seen: Vec::new(),
            gaps: 0,
            losses: 0,
            resets: 0,
        }
    }

    pub fn last(&self) -> Option<Offset> {
        self.position.as_ref().map(|position| position.last)
    }

    /// Follows until it is at an offset (or, without one, at any), or panics after 60 s.
    pub async fn until(&mut self, last: Offset) {
        let arrive = async {
            while self.last().is_none_or(|at| at < last) {
                self.step().await;
            }
        };
        let arrived = timeout(Duration::from_secs(60), arrive).await.is_ok();
        assert!(arrived, "at {:?}, not at {last}; {} gaps, {} losses", self.position, self.gaps, self.losses);
    }

    /// One event.
    pub async fn step(&mut self) {
        match self.subscription.next().await {
            Event::Lost => self.losses += 1,
            Event::Gap => {
                self.gaps += 1;
                self.repair().await;
            }
            Event::Batch(batch) => self.take(&batch),
        }
    }

    fn take(&mut self, batch: &Batch) {
        let mut position = self.position.clone().expect("batches come only after a position is set");
        let mut offsets: Vec<_> = (batch.slices.iter())
            .flat_map(|(_, slice)| slice.changes_after(position.last).unwrap())
            .map(|change| change.offset)
            .collect();
        offsets.sort_unstable();
        self.seen.extend(offsets);
        position.advance(batch);
        self.position = Some(position);
    }

    async fn repair(&mut self) {
        loop {
            // An error or NotReady: it will be there again.
            match self.try_repair().await {
                Some(()) => break,
                None => sleep(Duration::from_millis(10)).await,
            }
        }
        if let Some(position) = &self.position {
            self.subscription.set_position(position.clone());
        }
    }

    async fn try_repair(&mut self) -> Option<()> {
        let Some(head) = self.reader.head().await.ok()? else {
            // No feed yet, or one that will come back; the next batch says so.
            return if self.position.is_none() { Some(()) } else { None };
        };
        let end = Position { feed: head.feed.clone(), epoch: head.epoch, last: head.last };
        let from = match &self.position {
            // It lost data and is being refilled: going back would show changes twice.
            Some(from) if from.feed == head.feed && head.last < from.last => return None,
            Some(from) if from.feed == head.feed => from.last,
            Some(_) => {
                self.resets += 1;
                return self.restart(end);
            }
            None => return self.restart(end),
        };
        let mut offsets = Vec::new();
        for topic in &self.topics {
            match self.reader.history(&head.feed, topic, from).await.ok()? {
                History::Complete { through, slices } => {
                    assert!(through >= head.last, "{through} is before {}", head.last);
                    let changes = slices.iter().flat_map(|slice| slice.changes_after(from).unwrap());
                    offsets.extend(changes.map(|change| change.offset).filter(|offset| *offset <= head.last));
                }
                History::Trimmed => {
                    self.resets += 1;
                    return self.restart(end);
                }
                History::NotReady | History::OtherFeed => return None,
            }
        }
        offsets.sort_unstable();
        self.seen.extend(offsets);
        self.position = Some(end);
        Some(())
    }

    fn restart(&mut self, at: Position) -> Option<()> {
        self.seen.clear();
        self.position = Some(at);
        Some(())
    }
}
