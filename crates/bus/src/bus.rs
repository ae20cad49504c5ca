use protocol::Source;

use crate::{Broadcaster, Broadcasts, MemoryBus, Publisher, Reader, RedisBus, Subscription};

/// A bus of either kind. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Bus {
    /// In this process.
    Memory(MemoryBus),
    /// Over Redis.
    Redis(RedisBus),
}

impl Bus {
    /// A listener's end.
    pub fn publisher(&self, source: Source) -> Publisher {
        match self {
            Self::Memory(bus) => bus.publisher(source),
            Self::Redis(bus) => bus.publisher(source),
        }
    }

    /// A gateway's commands.
    pub fn reader(&self, source: Source) -> Reader {
        match self {
            Self::Memory(bus) => bus.reader(source),
            Self::Redis(bus) => bus.reader(source),
        }
    }

    /// A gateway's end of the channel.
    pub fn subscribe(&self, source: Source) -> Subscription {
        match self {
            Self::Memory(bus) => bus.subscribe(source),
            Self::Redis(bus) => bus.subscribe(source),
        }
    }

    /// Where messages between clients are sent.
    pub fn broadcaster(&self) -> Broadcaster {
        match self {
            Self::Memory(bus) => bus.broadcaster(),
            Self::Redis(bus) => bus.broadcaster(),
        }
    }

    /// Where they arrive. Of Redis: to be called within a tokio runtime.
    pub fn broadcasts(&self) -> Broadcasts {
        match self {
            Self::Memory(bus) => bus.broadcasts(),
            Self::Redis(bus) => bus.broadcasts(),
        }
    }
}
