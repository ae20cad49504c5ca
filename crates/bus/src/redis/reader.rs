use std::{
    collections::HashMap,
    fmt::Display,
    str::{self, FromStr},
    sync::Arc,
};

use bytes::Bytes;
use protocol::{FeedId, Offset, Slice, Topic};

use super::{keys::Keys, link::Link, publisher::Scripts};
use crate::{BusError, Head, History};

/// Bytes that are read at once, so that Redis is not busy for long with one of us; about, because
/// entries are whole.
const PAGE_BYTES: u64 = 1024 * 1024;

/// How often the reading of a history begins anew because the feed changed hands meanwhile.
const MOST_ATTEMPTS: usize = 5;

/// See [`crate::Reader`].
#[derive(Debug, Clone)]
pub struct RedisReader {
    pub(super) link: Link,
    pub(super) keys: Keys,
    pub(super) scripts: Arc<Scripts>,
}

/// What the head says about one topic, with a page of its history, from one moment.
struct Page {
    identity: Identity,
    last: Offset,
    tail: Offset,
    entries: Vec<Entry>,
    is_last: bool,
}

/// While this stays the same, the entries of a page continue those of the page before.
#[derive(PartialEq, Eq)]
struct Identity {
    feed: FeedId,
    epoch: u64,
    base: Offset,
}

struct Entry {
    previous: Offset,
    slice: Slice,
}

type RawEntry = (String, HashMap<String, Bytes>);

impl RedisReader {
    pub(crate) async fn head(&self) -> Result<Option<Head>, BusError> {
        let key = self.keys.head();
        let fields: HashMap<Bytes, Bytes> =
            self.link.run(async |redis| redis::cmd("HGETALL").arg(key).query_async(redis).await).await?;
        if fields.is_empty() {
            return Ok(None);
        }
        let field = |name: &str| fields.get(name.as_bytes());
        let mut tails = HashMap::new();
        for (name, value) in &fields {
            if let Some(topic) = name.strip_prefix(b"t:") {
                let topic = str::from_utf8(topic).ok().and_then(|t| Topic::new(t).ok());
                let topic = topic.ok_or_else(|| malformed("t:"))?;
                tails.insert(topic, text("t:", Some(value))?);
            }
        }
        let catalogue = field("catalogue").ok_or_else(|| malformed("catalogue"))?;
        Ok(Some(Head {
            feed: text("feed", field("feed"))?,
            epoch: text("epoch", field("epoch"))?,
            base: text("base", field("base"))?,
            last: text("last", field("last"))?,
            at: text("at", field("at"))?,
            catalogue: serde_json::from_slice(catalogue).map_err(|_| malformed("catalogue"))?,
            tails,
        }))
    }

    pub(crate) async fn subscribers(&self) -> Result<u64, BusError> {
        let channel = self.keys.channel();
        let counted: (String, u64) = self
            .link
            .run(async |redis| redis::cmd("PUBSUB").arg("NUMSUB").arg(channel).query_async(redis).await)
            .await?;
        Ok(counted.1)
    }

    pub(crate) async fn history(
        &self,
        feed: &FeedId,
        topic: &Topic,
        after: Offset,
        most_bytes: u64,
    ) -> Result<History, BusError> {
        for _ in 0..MOST_ATTEMPTS {
            if let Some(history) = self.history_once(feed, topic, after, most_bytes).await? {
                return Ok(history);
            }
        }
        Err(BusError::Unavailable("the feed keeps changing hands".into()))
    }

    /// `None`: the feed changed hands between two pages.
    async fn history_once(
        &self,
        feed: &FeedId,
        topic: &Topic,
        after: Offset,
        most_bytes: u64,
    ) -> Result<Option<History>, BusError> {
        let mut known = after;
        let mut left = most_bytes;
        let mut slices = Vec::new();
        let mut identity = None;
        loop {
            let Some(page) = self.page(feed, topic, known, left.clamp(1, PAGE_BYTES)).await? else {
                return Ok(Some(History::NotReady));
            };
            if page.identity.feed != *feed {
                return Ok(Some(History::OtherFeed));
            }
            if page.last < known {
                return Ok(Some(History::NotReady));
            }
            if identity.as_ref().is_some_and(|before| *before != page.identity) {
                return Ok(None);
            }
            identity = Some(page.identity);
            for entry in page.entries {
                if entry.previous > known {
                    return Ok(Some(History::Trimmed));
                }
                known = entry.slice.last;
                left = left.saturating_sub(entry.slice.bytes.len() as u64);
                slices.push(entry.slice);
            }
            if page.is_last {
                return Ok(Some(match page.tail > known {
                    true => History::Trimmed,
                    false => History::Complete { through: page.last, slices },
                }));
            }
            if left == 0 {
                return Ok(Some(History::Complete { through: known, slices }));
            }
        }
    }

    async fn page(
        &self,
        feed: &FeedId,
        topic: &Topic,
        after: Offset,
        most_bytes: u64,
    ) -> Result<Option<Page>, BusError> {
        let mut call = self.scripts.history.key(self.keys.head());
        call.key(self.keys.history(feed, topic)).arg(topic.as_str()).arg(after.saturating_add(1)).arg(most_bytes);
        let (head, entries, is_last): (Vec<Option<Bytes>>, Vec<RawEntry>, u8) =
            self.link.run(async |redis| call.invoke_async(redis).await).await?;
        let [feed, epoch, base, last, tail] = &head[..] else { return Err(malformed("head")) };
        if feed.is_none() {
            return Ok(None);
        }
        let (base, last) = (text("base", base.as_ref())?, text("last", last.as_ref())?);
        let entries = entries.into_iter().map(entry).collect::<Result<Vec<_>, _>>()?;
        let (tail, entries, is_last) = match tail {
            Some(tail) => (text("t:", Some(tail))?, entries, is_last == 1),
            // Nothing since the feed began here, so the stream, if there is one, is of before.
            // Unless it has something that the feed has reached: then the head lost the tail.
            None => {
                let lost = entries.first().is_some_and(|entry| entry.slice.last <= last);
                (if lost { Offset::MAX } else { base }, Vec::new(), true)
            }
        };
        let identity = Identity { feed: text("feed", feed.as_ref())?, epoch: text("epoch", epoch.as_ref())?, base };
        Ok(Some(Page { identity, last, tail, entries, is_last }))
    }
}

fn entry((id, mut fields): RawEntry) -> Result<Entry, BusError> {
    let last = id.strip_suffix("-0").and_then(|n| n.parse().ok()).ok_or_else(|| malformed(&id))?;
    let previous = text(&id, fields.get("p"))?;
    let bytes = fields.remove("s").ok_or_else(|| malformed(&id))?;
    Ok(Entry { previous, slice: Slice { last, bytes } })
}

fn text<T: FromStr>(name: &str, value: Option<&Bytes>) -> Result<T, BusError> {
    value.and_then(|v| str::from_utf8(v).ok()).and_then(|v| v.parse().ok()).ok_or_else(|| malformed(name))
}

fn malformed(what: impl Display) -> BusError {
    BusError::Malformed(format!("field {what}"))
}
