use std::collections::HashMap;

use protocol::{Catalogue, FeedId, Micros, Offset, Slice, Topic};

use crate::{BusError, memory, redis};

/// What a source's feed is at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The current feed.
    pub feed: FeedId,
    /// The epoch of its publisher.
    pub epoch: u64,
    /// The histories begin after this offset.
    pub base: Offset,
    /// The last change that the bus holds.
    pub last: Offset,
    /// The database's time up to which the feed is complete.
    pub at: Micros,
    /// What the feed carries.
    pub catalogue: Catalogue,
    /// Each topic's last offset. A topic that is not here has no change after `base`.
    pub tails: HashMap<Topic, Offset>,
}

/// A topic's changes after an offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum History {
    /// Every change of the topic with an offset above the one asked for, up to `through`. The
    /// first slice may begin earlier: use [`Slice::changes_after`].
    Complete {
        /// How far the feed went when it was read, or the piece; the topic has nothing else up to
        /// here.
        through: Offset,
        /// The changes, in order.
        slices: Vec<Slice>,
    },
    /// Some of them are no longer kept.
    Trimmed,
    /// The bus ends before the offset asked for, or holds no feed: it lost data and waits for the
    /// listener to bring it back. Ask again, do not reset.
    NotReady,
    /// Another feed has taken this one's place.
    OtherFeed,
}

/// The gateway's commands to the bus, for one source. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Reader {
    /// In this process.
    Memory(memory::MemoryReader),
    /// Over Redis.
    Redis(redis::RedisReader),
}

impl Reader {
    /// The current feed; `None` where no listener has begun one, or the bus lost it.
    pub async fn head(&self) -> Result<Option<Head>, BusError> {
        match self {
            Self::Memory(memory) => Ok(memory.head()),
            Self::Redis(redis) => redis.head().await,
        }
    }

    /// How many subscriptions listen to this source's channel at the moment; a gateway has one.
    pub async fn subscribers(&self) -> Result<u64, BusError> {
        match self {
            Self::Memory(memory) => Ok(memory.subscribers()),
            Self::Redis(redis) => redis.subscribers().await,
        }
    }

    /// Every change of a topic after an offset, or why not. That it is complete is proved by the
    /// chain: each entry says where its topic was before, so an entry that was trimmed or evicted
    /// shows.
    ///
    /// A history may be large: [`Reader::history_up_to`] reads it in pieces.
    pub async fn history(&self, feed: &FeedId, topic: &Topic, after: Offset) -> Result<History, BusError> {
        self.history_up_to(feed, topic, after, u64::MAX).await
    }

    /// The same, about as many bytes of it: entries are whole, so it is one at least, and the last
    /// one may go over. `through` says how far it is complete; the next piece begins after that.
    /// What the history has lost behind a piece, the next piece tells.
    pub async fn history_up_to(
        &self,
        feed: &FeedId,
        topic: &Topic,
        after: Offset,
        most_bytes: u64,
    ) -> Result<History, BusError> {
        match self {
            Self::Memory(memory) => Ok(memory.history(feed, topic, after, most_bytes)),
            Self::Redis(redis) => redis.history(feed, topic, after, most_bytes).await,
        }
    }
}
