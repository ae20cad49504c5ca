//! The promises of the bus, kept by the one in memory.

#![allow(clippy::unwrap_used, reason = "a test that panics says where")]

use bus::{Bus, MemoryBus, Retention};

mod contract;

struct Memory(MemoryBus);

impl contract::Harness for Memory {
    async fn start(retention: Retention) -> Self {
        Self(MemoryBus::new(retention))
    }

    fn bus(&self) -> Bus {
        Bus::Memory(self.0.clone())
    }

    async fn clear(&self) {
        self.0.clear();
    }
}

contract!(Memory);
