use protocol::Batch;

use crate::{Position, Step, memory, redis};

/// What happens to a subscriber.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The next batch: it continues the position, which has moved on to its end.
    Batch(Batch),
    /// Something may have been missed: at the start, after a reconnect, after a lag, or because a
    /// batch does not continue the position. Read the head, repair from the histories, then say
    /// where you are with [`Subscription::set_position`]. What arrives meanwhile waits. A head that
    /// ends before where you are is that of a bus that lost data and is being refilled: stay where
    /// you are, for going back would show changes twice.
    Gap,
    /// The connection is lost. It is being renewed for ever; a [`Event::Gap`] follows when it is
    /// there.
    Lost,
}

/// What an implementation hands up: batches as they come, and notice of what it knows it lost.
#[derive(Debug)]
pub(crate) enum Raw {
    Batch(Batch),
    Gap,
    Lost,
}

/// A subscriber's end of a source's channel. The first event is a [`Event::Gap`] (or
/// [`Event::Lost`], if the bus cannot be reached).
#[derive(Debug)]
pub struct Subscription {
    inner: Inner,
    position: Option<Position>,
}

#[derive(Debug)]
pub(crate) enum Inner {
    Memory(memory::MemorySubscription),
    Redis(redis::RedisSubscription),
}

impl Subscription {
    pub(crate) fn new(inner: Inner) -> Self {
        Self { inner, position: None }
    }

    /// The next event. Safe to drop while it waits.
    pub async fn next(&mut self) -> Event {
        loop {
            let raw = match &mut self.inner {
                Inner::Memory(memory) => memory.next().await,
                Inner::Redis(redis) => redis.next().await,
            };
            let batch = match raw {
                Raw::Lost => return Event::Lost,
                Raw::Gap => {
                    self.position = None;
                    return Event::Gap;
                }
                Raw::Batch(batch) => batch,
            };
            // Without a position the last gap could not be repaired (there was no feed yet): this
            // batch says that it is time to try again, and the histories hold it.
            let Some(position) = &mut self.position else { return Event::Gap };
            match position.step(&batch) {
                Step::Old => {}
                Step::Next => {
                    position.advance(&batch);
                    return Event::Batch(batch);
                }
                Step::Gap => {
                    self.position = None;
                    return Event::Gap;
                }
            }
        }
    }

    /// Where the subscriber is, after it has repaired a gap.
    pub fn set_position(&mut self, position: Position) {
        self.position = Some(position);
    }
}
