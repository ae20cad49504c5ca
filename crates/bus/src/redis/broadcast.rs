use bytes::Bytes;

use super::{link::Link, queue::Item, subscriber::Subscriber};
use crate::{BusError, Heard};

/// See [`crate::Broadcaster`].
#[derive(Debug, Clone)]
pub struct RedisBroadcaster {
    pub(super) link: Link,
    pub(super) channel: String,
}

/// See [`crate::Broadcasts`].
#[derive(Debug)]
pub struct RedisBroadcasts {
    pub(super) subscriber: Subscriber,
}

impl RedisBroadcaster {
    pub(crate) async fn send(&self, messages: &[Bytes]) -> Result<(), BusError> {
        if messages.is_empty() {
            return Ok(());
        }
        let mut pipe = redis::pipe();
        for message in messages {
            pipe.cmd("PUBLISH").arg(&self.channel).arg(&message[..]).ignore();
        }
        self.link.run(async |redis| pipe.query_async(redis).await).await
    }
}

impl RedisBroadcasts {
    pub(crate) async fn next(&mut self) -> Heard {
        loop {
            match self.subscriber.next().await {
                Item::Message(message) => return Heard::Message(message),
                Item::Gap => return Heard::Missed,
                // It is heard when it is back.
                Item::Lost => {}
            }
        }
    }
}
