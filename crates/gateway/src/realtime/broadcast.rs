//! Messages between clients: from one to the bus, and from the bus to those here who have joined its channel.
//!
//! They are at most once, and have their own way: through a queue to one task that sends, from one task that hears to a
//! queue for each shard, and to a connection as long as little waits for it. Where there is no room a message is
//! dropped and counted. No change waits for one of them.

use std::sync::Arc;

use bus::{Broadcaster, Broadcasts, Bus, Heard};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::message::Content;
use crate::metrics::Metrics;

/// Messages that may wait to be sent.
const OUTGOING: usize = 256;

/// Messages that are sent to the bus at once.
const AT_ONCE: usize = 64;

/// Messages that may wait for a shard.
pub const SHARD_BROADCASTS: usize = 256;

/// Of what is on the bus.
const VERSION: u8 = 1;

/// A connection, among those of all gateways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sender {
    /// Its shard, by a random number.
    pub shard: u64,
    /// Which of its connections.
    pub conn: u64,
}

/// A message between clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broadcast {
    /// Who has sent it and is not to get it.
    pub except: Option<Sender>,
    /// The channel, as on the wire.
    pub topic: Box<str>,
    /// The event that its sender chose.
    pub event: Box<str>,
    /// What it carries.
    pub content: Content,
}

impl Broadcast {
    /// As it is on the bus. Its names are at most 255 bytes long.
    fn encode(&self) -> Bytes {
        let (encoding, payload) = match &self.content {
            Content::Binary(payload) => (0, payload),
            Content::Json(payload) => (1, payload),
        };
        let Sender { shard, conn } = self.except.unwrap_or(Sender { shard: 0, conn: 0 });
        let mut out = BytesMut::with_capacity(32 + self.topic.len() + self.event.len() + payload.len());
        out.put_slice(&[VERSION, encoding, u8::from(self.except.is_some())]);
        out.put_u64_le(shard);
        out.put_u64_le(conn);
        out.put_slice(&[self.topic.len() as u8, self.event.len() as u8]);
        out.put_slice(self.topic.as_bytes());
        out.put_slice(self.event.as_bytes());
        out.put_slice(payload);
        out.freeze()
    }

    /// `None`: it is not one, or of another version.
    fn decode(mut bytes: Bytes) -> Option<Self> {
        if bytes.len() < 21 || bytes.get_u8() != VERSION {
            return None;
        }
        let (encoding, has_sender) = (bytes.get_u8(), bytes.get_u8());
        let sender = Sender { shard: bytes.get_u64_le(), conn: bytes.get_u64_le() };
        let lengths = [bytes.get_u8(), bytes.get_u8()].map(usize::from);
        if bytes.len() < lengths[0] + lengths[1] {
            return None;
        }
        let [topic, event] = lengths.map(|length| bytes.split_to(length));
        let text = |bytes: &Bytes| std::str::from_utf8(bytes).ok().map(Into::into);
        let content = match encoding {
            0 => Content::Binary(bytes),
            1 => Content::Json(bytes),
            _ => return None,
        };
        Some(Self { except: (has_sender == 1).then_some(sender), topic: text(&topic)?, event: text(&event)?, content })
    }
}

/// What waits to be sent, and who is told when it is.
struct Outgoing {
    messages: Vec<Bytes>,
    sent: Option<oneshot::Sender<()>>,
}

/// Where clients' messages go. Cheap to clone.
#[derive(Clone)]
pub struct Outbound {
    queue: mpsc::Sender<Outgoing>,
    metrics: Metrics,
}

impl Outbound {
    /// Sends these to the bus in a task, until the shutdown.
    pub fn start(bus: &Bus, metrics: Metrics, shutdown: CancellationToken) -> Self {
        let (queue, outgoing) = mpsc::channel(OUTGOING);
        let sending = send(bus.broadcaster(), outgoing, metrics.clone());
        tokio::spawn(async move { shutdown.run_until_cancelled(sending).await });
        Self { queue, metrics }
    }

    /// Sends a message, or drops it where there is no room.
    pub fn send(&self, broadcast: &Broadcast) {
        if self.queue.try_send(Outgoing { messages: vec![broadcast.encode()], sent: None }).is_err() {
            self.metrics.broadcasts_dropped(1);
        }
    }

    /// Sends messages, from when it is called; whether the bus has taken them.
    pub fn send_all(&self, broadcasts: &[Broadcast]) -> impl Future<Output = bool> + use<> {
        let (sent, is_sent) = oneshot::channel();
        let messages = broadcasts.iter().map(Broadcast::encode).collect();
        // Where there is no room, it is dropped with its end of the channel.
        if self.queue.try_send(Outgoing { messages, sent: Some(sent) }).is_err() {
            self.metrics.broadcasts_dropped(broadcasts.len() as u64);
        }
        async { is_sent.await.is_ok() }
    }
}

async fn send(bus: Broadcaster, mut outgoing: mpsc::Receiver<Outgoing>, metrics: Metrics) {
    let mut some = Vec::with_capacity(AT_ONCE);
    while outgoing.recv_many(&mut some, AT_ONCE).await > 0 {
        let messages: Vec<Bytes> = some.iter().flat_map(|it| it.messages.iter().cloned()).collect();
        match bus.send(&messages).await {
            // Who has left meanwhile does not wait for it.
            Ok(()) => some.drain(..).filter_map(|it| it.sent).for_each(|sent| sent.send(()).unwrap_or_default()),
            Err(error) => {
                debug!(%error, "broadcasts that the bus did not take");
                metrics.broadcasts_dropped(messages.len() as u64);
                some.clear();
            }
        }
    }
}

/// Hands what the bus has to say to the shards, until the shutdown.
pub async fn hear(mut bus: Broadcasts, shards: Vec<mpsc::Sender<Arc<Broadcast>>>, metrics: Metrics) {
    // The first thing that is heard is that it is there.
    let mut begun = false;
    loop {
        let message = match bus.next().await {
            Heard::Message(message) => message,
            Heard::Missed => {
                if std::mem::replace(&mut begun, true) {
                    metrics.broadcasts_dropped(1);
                }
                continue;
            }
        };
        let Some(broadcast) = Broadcast::decode(message).map(Arc::new) else { continue };
        metrics.broadcast();
        for shard in &shards {
            if shard.try_send(Arc::clone(&broadcast)).is_err() {
                metrics.broadcasts_dropped(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_broadcast_survives_its_wire_form(
            topic in "\\PC{0,60}",
            event in "\\PC{0,60}",
            payload in prop::collection::vec(any::<u8>(), 0..50),
            json in any::<bool>(),
            except in prop::option::of((any::<u64>(), any::<u64>())),
            cut in any::<prop::sample::Index>(),
        ) {
            let payload = Bytes::from(payload);
            let content = if json { Content::Json(payload) } else { Content::Binary(payload) };
            let except = except.map(|(shard, conn)| Sender { shard, conn });
            let broadcast = Broadcast { except, topic: topic.into(), event: event.into(), content };
            let wire = broadcast.encode();
            drop(Broadcast::decode(wire.slice(..cut.index(wire.len()))));
            prop_assert_eq!(Broadcast::decode(wire), Some(broadcast));
        }
    }
}
