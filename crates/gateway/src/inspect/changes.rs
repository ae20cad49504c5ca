//! The last changes of a topic, or of one of its rows: from memory, else from the history.

use axum::http::Uri;
use protocol::{
    ErrorCode, FeedId, Offset, Source, Topic,
    message::{Addressee, OfTx},
    time::rfc3339,
};
use serde::Serialize;
use serde_json::{json, value::RawValue};

use super::{Answer, Inspector, Refused, elsewhere, json};
use crate::{
    encode::write_change,
    historian::{Stretch, Subject},
    hit::Hit,
    hub::{Hub, Recall, Refusal, Remembered},
    query::Query,
    row_key::RowKey,
};

/// Changes in an answer if nothing is said, and at most.
const LIMIT: (u64, u64) = (20, 200);

/// Bytes of changes in an answer, about.
const MOST_BYTES: usize = 256 * 1024;

/// A change of more bytes is told of, and not shown.
const SHOWN_BYTES: usize = 16 * 1024;

/// How far back the history is looked through, one after the other, in changes of all topics.
const FURTHER: [Offset; 5] = [1, 100, 10_000, 1_000_000, Offset::MAX];

/// Reads of the history for one question, of about a MiB each. They are held until a part is complete.
const MOST_READS: usize = 32;

const REFILLED: Refused = Refused::Busy("the history is being refilled; ask again in a moment");

/// The last changes of a topic that were found, the last one first.
pub struct Last {
    pub source: Source,
    pub feed: FeedId,
    pub hits: Vec<Hit>,
    /// Whether it had to be read from the history.
    pub from_history: bool,
}

/// The answer.
#[derive(Serialize)]
struct Page {
    topic: Topic,
    source: Source,
    /// Where they were found.
    from: &'static str,
    /// The last one last.
    changes: Vec<Option<Box<RawValue>>>,
}

/// `GET /inspect/api/changes`
pub async fn serve(inspector: Inspector, uri: Uri) -> Answer {
    let query = Query::of(&uri, &["topic", "key", "limit"])?;
    let topic = topic_of(&query)?;
    let key = query.text("key")?.map(RowKey::parse);
    let (usual, most) = LIMIT;
    let limit = query.number("limit", 1..=most)?.unwrap_or(usual) as usize;
    let last = last(&inspector, &topic, key, limit).await?;
    json(move || Page {
        source: last.source,
        from: if last.from_history { "history" } else { "memory" },
        changes: last.hits.iter().rev().map(|hit| shown(&last.feed, hit)).collect(),
        topic,
    })
    .await
}

/// The topic that is asked for.
pub fn topic_of(query: &Query) -> Result<Topic, Refusal> {
    let mut topics = query.topics()?;
    match topics.len() {
        1 => Ok(topics.remove(0)),
        _ => Err(Refusal(ErrorCode::BadMessage, "'topic' comes more than once; give it once".into())),
    }
}

/// A change as a client gets it, and as the database wrote it: no number is read and written again. Of a
/// large one that it is there.
pub fn shown(feed: &FeedId, hit: &Hit) -> Option<Box<RawValue>> {
    let bytes = hit.change.payload.len();
    let text = if bytes <= SHOWN_BYTES {
        let mut out = Vec::new();
        write_change(&mut out, Addressee::Reader, feed, hit, OfTx::GoesOn);
        String::from_utf8(out).ok()?
    } else {
        let told = json!({
            "type": "change",
            "cursor": format!("{feed}.{}", hit.offset()),
            "topic": hit.topic,
            "op": hit.row.as_ref().map(|row| row.op.as_str()),
            "at": rfc3339(hit.change.at),
            "not_shown_bytes": bytes,
        });
        told.to_string()
    };
    RawValue::from_string(text).ok()
}

/// Looks for the last changes of a topic.
pub async fn last(inspector: &Inspector, topic: &Topic, key: Option<RowKey>, most: usize) -> Result<Last, Refused> {
    let catalogues = inspector.0.readiness.catalogues();
    let carries =
        |of: Source| catalogues.iter().any(|(source, known)| *source == of && known.get(topic.as_str()).is_some());
    // Where both carry it, the one that loses nothing.
    let Some(source) = [Source::Log, Source::Notify].into_iter().find(|source| carries(*source)) else {
        let topics = inspector.0.readiness.topics(|_| true);
        let message = format!("no listener carries the topic '{topic}'; there are: {topics}");
        return Err(Refused::Unknown(ErrorCode::UnknownTopic.as_str(), message));
    };
    if key.is_some() && source == Source::Notify {
        let message = format!("'{topic}' is a NOTIFY channel, whose payloads have no key; ask with a cursor");
        return Err(Refusal(ErrorCode::NoKey, message).into());
    }
    let recall = Recall::new(topic.clone(), key.clone(), most, MOST_BYTES);
    let (feed, recall) = from_memory(inspector, source, topic, recall).await?;
    if !recall.found.is_empty() {
        return Ok(Last { source, feed, hits: recall.found, from_history: false });
    }
    let hits = from_history(inspector, source, &feed, topic, key, most).await?;
    Ok(Last { source, feed, hits, from_history: true })
}

/// Looks through the memory of one shard, for they have the same, or nearly; and which feed that is.
async fn from_memory(
    inspector: &Inspector,
    source: Source,
    topic: &Topic,
    mut recall: Recall,
) -> Result<(FeedId, Recall), Refused> {
    let mut remembered = Remembered::new(source, topic.clone());
    loop {
        let mut asked = Some(remembered);
        let look = move |hub: &Hub| {
            let more = asked.as_mut().is_some_and(|remembered| hub.remember(remembered));
            if more { None } else { asked.take() }
        };
        let gone = Refused::Busy("the feed has just gone");
        remembered = inspector.0.shards.ask_one(0, look).await?.ok_or(gone)?;
        let feed = remembered.feed().cloned().ok_or(Refused::Busy("the feed has just gone"))?;
        let batches = remembered.take();
        if batches.is_empty() {
            return Ok((feed, recall));
        }
        recall = elsewhere(move || {
            batches.iter().for_each(|batch| recall.take_batch(batch));
            recall
        })
        .await?;
        if recall.is_enough() {
            return Ok((feed, recall));
        }
    }
}

/// Looks ever further back, until there is enough: a topic's last change is known, and not the one before.
/// The last one first. Complete as far as it looks: a part that is further back comes when all nearer ones
/// have been read to their end.
async fn from_history(
    inspector: &Inspector,
    source: Source,
    feed: &FeedId,
    topic: &Topic,
    key: Option<RowKey>,
    most: usize,
) -> Result<Vec<Hit>, Refused> {
    let Some(reader) = inspector.reader(source) else { return Ok(Vec::new()) };
    let head =
        reader.head().await.map_err(|_| Refused::Busy("Redis cannot be reached, and memory has nothing of it"))?;
    let Some(head) = head.filter(|head| head.feed == *feed) else { return Ok(Vec::new()) };
    let Some(tail) = head.tails.get(topic).copied() else { return Ok(Vec::new()) };
    let subject = Subject { source, feed: feed.clone(), topics: vec![topic.clone()] };
    let mut recall = Recall::new(topic.clone(), key, most, MOST_BYTES);
    // Everything behind this offset has been looked at.
    let (mut done, mut reads) = (tail, 0);
    for back in FURTHER {
        let start = tail.saturating_sub(back).max(head.base);
        let mut parts = Vec::new();
        let mut after = start;
        let mut is_all = start <= head.base;
        while after < done {
            reads += 1;
            if reads > MOST_READS {
                return too_long(recall.found);
            }
            match inspector.0.historian.read(subject.clone(), after).await {
                Stretch::Complete { through, hits } if through > after => {
                    parts.push((after, through.min(done), hits));
                    after = through;
                }
                Stretch::Complete { .. } | Stretch::OtherFeed => return Ok(recall.found),
                Stretch::NotReady => return Err(REFILLED),
                Stretch::Trimmed => {
                    after = first_kept(inspector, &subject, after, done).await?;
                    is_all = true;
                }
            }
        }
        // To look for a key is to read the JSON of a MiB.
        let looking = elsewhere(move || {
            for (after, through, hits) in parts.into_iter().rev() {
                let is_of_it = |hit: &&Hit| after < hit.offset() && hit.offset() <= through;
                recall.take(hits.iter().filter(is_of_it).cloned());
            }
            recall
        });
        recall = looking.await?;
        done = start.min(done);
        if recall.is_enough() || is_all {
            break;
        }
    }
    Ok(recall.found)
}

/// The history has nothing right after `lost`, and has what comes after `kept`: where it begins.
async fn first_kept(
    inspector: &Inspector,
    subject: &Subject,
    mut lost: Offset,
    mut kept: Offset,
) -> Result<Offset, Refused> {
    while kept - lost > 1 {
        let middle = lost + (kept - lost) / 2;
        match inspector.0.historian.read(subject.clone(), middle).await {
            Stretch::Trimmed => lost = middle,
            Stretch::NotReady => return Err(REFILLED),
            Stretch::Complete { .. } | Stretch::OtherFeed => kept = middle,
        }
    }
    Ok(kept)
}

/// What was found is the last; that there is nothing before cannot be said.
fn too_long(found: Vec<Hit>) -> Result<Vec<Hit>, Refused> {
    match found.is_empty() {
        true => Err(Refused::Busy(
            "none of the newest changes is of this row, and what is kept before them is too long to be looked through: \
             ask with a cursor",
        )),
        false => Ok(found),
    }
}
