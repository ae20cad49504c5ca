use bytes::Bytes;

use crate::{BusError, memory, redis};

/// Where messages between clients are sent.
///
/// At most once: a message reaches everybody who has a [`Broadcasts`] at that time and keeps up, once, in the order
/// in which one sender sent its own. It is kept nowhere. It has nothing to do with the feeds, and no flood of it holds
/// up a batch: channels, connections and queues are its own.
#[derive(Debug, Clone)]
pub enum Broadcaster {
    /// In this process.
    Memory(memory::MemoryBroadcaster),
    /// Over Redis.
    Redis(redis::RedisBroadcaster),
}

/// Where they arrive. What comes while nobody waits is kept up to a limit.
#[derive(Debug)]
pub enum Broadcasts {
    /// In this process.
    Memory(memory::MemoryBroadcasts),
    /// Over Redis; it connects in a task of its own that ends with it.
    Redis(redis::RedisBroadcasts),
}

/// What a receiver hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A message, byte for byte.
    Message(Bytes),
    /// It may have missed some: it came too late for them, or the connection was away. The first thing that is heard.
    Missed,
}

impl Broadcaster {
    /// Sends messages, all or none; after an error it is unknown which.
    pub async fn send(&self, messages: &[Bytes]) -> Result<(), BusError> {
        match self {
            Self::Memory(memory) => {
                memory.send(messages);
                Ok(())
            }
            Self::Redis(redis) => redis.send(messages).await,
        }
    }
}

impl Broadcasts {
    /// The next one. Safe to drop while it waits.
    pub async fn next(&mut self) -> Heard {
        match self {
            Self::Memory(memory) => memory.next().await,
            Self::Redis(redis) => redis.next().await,
        }
    }
}
