//! Messages between clients, on their way to those of this shard.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::{
    Hub,
    conn::{Conn, ConnKey},
};
use crate::{
    realtime::{Broadcast, Sender, Vsn},
    ws,
};

/// Bytes that may wait for a connection, in the ring of its stream too; past that it gets no broadcasts until
/// it has read. One behind much of a ring would have to take a copy of all that along when it falls behind.
const MOST_WAITING: usize = 64 * 1024;

/// Who gets the broadcasts of a channel.
#[derive(Debug)]
pub(super) struct Listening {
    /// This shard, among those of all gateways.
    shard: u64,
    by_channel: HashMap<Box<str>, HashSet<ConnKey>>,
}

impl Default for Listening {
    fn default() -> Self {
        Self { shard: rand::random(), by_channel: HashMap::new() }
    }
}

impl Listening {
    pub fn add(&mut self, topic: &str, key: ConnKey) {
        match self.by_channel.get_mut(topic) {
            Some(keys) => drop(keys.insert(key)),
            None => drop(self.by_channel.insert(topic.into(), HashSet::from([key]))),
        }
    }

    pub fn remove(&mut self, topic: &str, key: ConnKey) {
        if let Some(keys) = self.by_channel.get_mut(topic) {
            keys.remove(&key);
            if keys.is_empty() {
                self.by_channel.remove(topic);
            }
        }
    }
}

impl Hub {
    /// A connection of this shard, as a sender.
    pub fn sender(&self, key: ConnKey) -> Sender {
        Sender { shard: self.listening.shard, conn: u64::from(key.generation) << 32 | u64::from(key.index) }
    }

    /// Hands a message to all here who have joined its channel, if they may have it.
    pub fn broadcast(&mut self, broadcast: &Broadcast) {
        let Some(keys) = self.listening.by_channel.get(&*broadcast.topic) else { return };
        // Built once for each version that somebody speaks.
        let mut frames: [Option<Bytes>; 2] = [None, None];
        let (mut those, mut dropped) = (Vec::with_capacity(keys.len()), 0);
        for key in keys.iter().filter(|key| broadcast.except != Some(self.sender(**key))) {
            let Some(vsn) = self.conn(*key).and_then(Conn::vsn) else { continue };
            if self.waits(key.index) > MOST_WAITING {
                dropped += 1;
                continue;
            }
            let place = usize::from(vsn == Vsn::Two);
            let frame = frames[place].get_or_insert_with(|| match vsn.broadcast(broadcast) {
                Some((text, true)) => ws::text_of(&text),
                Some((binary, false)) => ws::binary(&binary),
                None => Bytes::new(),
            });
            match frame.is_empty() {
                // What is binary cannot be told in the first version.
                true => dropped += 1,
                false => those.push((key.index, frame.clone())),
            }
        }
        those.into_iter().for_each(|(index, frame)| self.push(index, frame));
        self.metrics.broadcasts_dropped(dropped);
    }
}
