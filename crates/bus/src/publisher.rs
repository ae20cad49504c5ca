use protocol::{Batch, Catalogue, FeedId, Micros, Offset};

use crate::{BusError, memory, redis};

/// The listener's end of the bus, for one source.
#[derive(Debug)]
pub enum Publisher {
    /// In this process.
    Memory(memory::MemoryPublisher),
    /// Over Redis.
    Redis(redis::RedisPublisher),
}

/// A listener's claim to a source: the feed that it goes on with, and under which epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// The numbering.
    pub feed: FeedId,
    /// Taken from the database after the leader's lock: higher than that of any listener before.
    pub epoch: u64,
    /// What the feed begins after, as far as this bus is concerned: the next batch has
    /// `first == after + 1`.
    pub after: Offset,
    /// The database's time up to which the feed is complete.
    pub at: Micros,
    /// What the feed carries.
    pub catalogue: Catalogue,
}

/// How a feed is begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    /// [`Publisher::begin`]
    Anyhow,
    /// [`Publisher::begin_further_on`]
    FurtherOn,
    /// [`Publisher::go_on`]
    GoOn,
}

/// What became of a `begin` or a `publish`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Done: stored, and sent to all that subscribe.
    Applied,
    /// The bus held it already: a repeat, and nothing was done.
    Already,
    /// The bus ends earlier than the batch begins (it lost data, or lags): publish again from
    /// there. `None`: it holds no feed at all, [`Publisher::begin`] first.
    Behind {
        /// The last offset that it holds.
        held: Option<Offset>,
    },
    /// The bus holds another history. If its epoch is the lower one, [`Publisher::begin`] replaces
    /// it; else another listener has taken over.
    Conflict {
        /// The feed that it holds.
        feed: FeedId,
        /// Its epoch.
        epoch: u64,
        /// Its last offset.
        held: Offset,
    },
}

impl Publisher {
    /// Makes a feed the source's current one, and tells all that subscribe (with a watermark).
    ///
    /// - The bus holds nothing, or another feed with a lower epoch: Applied. The histories begin
    ///   after `term.after`; what was there before counts as trimmed.
    /// - It holds this feed, its epoch is not higher and its last offset is `term.after`: Applied;
    ///   epoch and catalogue are replaced, histories stay.
    /// - It holds this feed, its epoch is not higher, and it ends elsewhere: `Behind`, with where.
    /// - Its epoch is higher, or the same under another feed: `Conflict`.
    pub async fn begin(&mut self, term: &Term) -> Result<Answer, BusError> {
        match self {
            Self::Memory(memory) => Ok(memory.begin(term, Begin::Anyhow)),
            Self::Redis(redis) => redis.begin(term, Begin::Anyhow).await,
        }
    }

    /// As [`Publisher::begin`], except where the bus holds this feed and ends before `term.after`:
    /// then its histories begin anew after `term.after`, and what was there counts as trimmed. For a
    /// bus that came back older than anything the publisher can still bring.
    pub async fn begin_further_on(&mut self, term: &Term) -> Result<Answer, BusError> {
        match self {
            Self::Memory(memory) => Ok(memory.begin(term, Begin::FurtherOn)),
            Self::Redis(redis) => redis.begin(term, Begin::FurtherOn).await,
        }
    }

    /// As [`Publisher::begin`], except where the bus holds nothing, or another feed with a lower epoch:
    /// then nothing is begun, and the answer is `Behind` with nothing. For who has seen that the bus
    /// holds the feed, and would not have its histories begin so late if it has lost them since.
    pub async fn go_on(&mut self, term: &Term) -> Result<Answer, BusError> {
        match self {
            Self::Memory(memory) => Ok(memory.begin(term, Begin::GoOn)),
            Self::Redis(redis) => redis.begin(term, Begin::GoOn).await,
        }
    }

    /// Appends a batch to the histories and sends it to all that subscribe, or does neither. All
    /// checks come before the first write.
    ///
    /// - The bus ends at `first - 1` under the same feed and epoch: Applied.
    /// - It ends at `last` or later: Already.
    /// - It ends anywhere else below `last`: `Behind`. A watermark counts only if the bus ends
    ///   exactly there.
    /// - It is on another feed or epoch: `Conflict`.
    ///
    /// After an error it is unknown whether the batch was applied; the same call again tells.
    pub async fn publish(&mut self, batch: &Batch) -> Result<Answer, BusError> {
        match self {
            Self::Memory(memory) => Ok(memory.publish(batch)),
            Self::Redis(redis) => redis.publish(batch).await,
        }
    }
}
