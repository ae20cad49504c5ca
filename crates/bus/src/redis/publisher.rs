use std::sync::Arc;

use protocol::{Batch, Offset};
use redis::Script;

use super::{keys::Keys, link::Link};
use crate::{Answer, BusError, Retention, Term, publisher::Begin};

/// Lua's numbers are exact up to here. Epochs are microseconds (2^53 of them are reached in 2255),
/// and a million changes a second need 285 years.
const MOST: u64 = 1 << 53;

/// See [`crate::Publisher`].
#[derive(Debug)]
pub struct RedisPublisher {
    pub(super) link: Link,
    pub(super) keys: Keys,
    pub(super) retention: Retention,
    pub(super) scripts: Arc<Scripts>,
}

#[derive(Debug)]
pub(super) struct Scripts {
    begin: Script,
    publish: Script,
    pub(super) history: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            begin: Script::new(include_str!("begin.lua")),
            publish: Script::new(include_str!("publish.lua")),
            history: Script::new(include_str!("history.lua")),
        }
    }
}

impl RedisPublisher {
    pub(crate) async fn begin(&mut self, term: &Term, how: Begin) -> Result<Answer, BusError> {
        exact(term.epoch, term.after)?;
        let catalogue =
            serde_json::to_string(&term.catalogue).map_err(|e| BusError::Refused(format!("the catalogue: {e}")))?;
        let watermark = Batch::watermark(term.feed.clone(), term.epoch, term.after, term.at);
        let mut call = self.scripts.begin.key(self.keys.head());
        call.arg(self.keys.channel())
            .arg(term.feed.as_str())
            .arg(term.epoch)
            .arg(term.after)
            .arg(term.at)
            .arg(catalogue)
            .arg(&watermark.encode()[..])
            .arg(self.keys.histories())
            .arg(match how {
                Begin::Anyhow => 0,
                Begin::FurtherOn => 1,
                Begin::GoOn => 2,
            });
        // Sent again after NOSCRIPT, and only then: nothing ran the first time.
        answer(self.link.run(async |redis| call.invoke_async(redis).await).await?)
    }

    pub(crate) async fn publish(&mut self, batch: &Batch) -> Result<Answer, BusError> {
        exact(batch.epoch, batch.last)?;
        let mut call = self.scripts.publish.key(self.keys.head());
        for (topic, _) in &batch.slices {
            call.key(self.keys.history(&batch.feed, topic));
        }
        call.arg(self.keys.channel())
            .arg(batch.feed.as_str())
            .arg(batch.epoch)
            .arg(batch.first)
            .arg(batch.last)
            .arg(batch.at)
            .arg(protocol::time::now() / 1000)
            .arg(self.retention.bytes)
            .arg(self.retention.ms)
            .arg(&batch.head()[..]);
        for (topic, slice) in &batch.slices {
            call.arg(topic.as_str()).arg(slice.last).arg(&slice.bytes[..]);
        }
        answer(self.link.run(async |redis| call.invoke_async(redis).await).await?)
    }
}

fn exact(epoch: u64, offset: Offset) -> Result<(), BusError> {
    if epoch < MOST && offset < MOST {
        return Ok(());
    }
    Err(BusError::Refused(format!("epoch {epoch} or offset {offset} is 2^53 or more")))
}

fn answer(reply: Vec<String>) -> Result<Answer, BusError> {
    let malformed = || BusError::Malformed(format!("the script answered {reply:?}"));
    let words: Vec<&str> = reply.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse().map_err(|_| malformed());
    match words[..] {
        ["applied"] => Ok(Answer::Applied),
        ["already"] => Ok(Answer::Already),
        ["none"] => Ok(Answer::Behind { held: None }),
        ["behind", held] => Ok(Answer::Behind { held: Some(number(held)?) }),
        ["conflict", feed, epoch, held] => Ok(Answer::Conflict {
            feed: feed.parse().map_err(|_| malformed())?,
            epoch: number(epoch)?,
            held: number(held)?,
        }),
        _ => Err(malformed()),
    }
}
