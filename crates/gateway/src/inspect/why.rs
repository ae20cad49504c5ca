//! "Why did I not get it?": one change, one connection, and for each of its subscriptions what became of
//! the change, in a sentence. What the hub cannot know is not said: that something was written to a socket is
//! not that it has arrived.

mod say;

use axum::http::Uri;
use protocol::{Cursor, ErrorCode, Source, Topic};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    Answer, Inspector, Refused,
    changes::{last, shown, topic_of},
    connections::{gone, parse, with_kernel},
    elsewhere, json,
};
use crate::{
    historian::{Stretch, Subject},
    hit::Hit,
    hub::{ConnKey, ConnectionLook, Hearing, Hub, Refusal, SubscriptionName, Testimony, Whereabouts, change_at},
    query::Query,
    row_key::RowKey,
};
use say::{Said, Unacknowledged, overall, say};

/// The change that is asked for.
enum Sought {
    Found(Source, Cursor, Box<Hit>),
    /// It is not known: the state, and why.
    Not(&'static str, String),
}

/// The answer.
#[derive(Serialize)]
struct WhyAnswer {
    connection: String,
    change: Option<Box<RawValue>>,
    /// In a word.
    state: &'static str,
    /// In a sentence.
    text: String,
    subscriptions: Vec<SubscriptionAnswer>,
    client: Option<ConnectionLook>,
}

/// The same of one subscription.
#[derive(Serialize)]
struct SubscriptionAnswer {
    id: String,
    topics: Vec<Topic>,
    conflate_ms: Option<u64>,
    state: &'static str,
    text: String,
}

/// `GET /inspect/api/why`
pub async fn serve(inspector: Inspector, uri: Uri) -> Answer {
    let query = Query::of(&uri, &["connection", "cursor", "topic", "key"])?;
    let Some(name) = query.text("connection")? else {
        return Err(bad("'connection' is missing: the id of a connection, as in the lists"));
    };
    let (shard, key) = parse("connection", name)?;
    let sought = match (query.text("cursor")?, query.text("key")?) {
        (Some(_), Some(_)) => return Err(bad("give 'cursor', or 'topic' and 'key', and not both")),
        (Some(text), None) => at_cursor(&inspector, crate::query::cursor("cursor", text)?, shard, key).await?,
        (None, Some(text)) => of_row(&inspector, topic_of(&query)?, text).await?,
        (None, None) => {
            return Err(bad("'cursor' is missing: that of the change; or give 'topic' and 'key' of its row"));
        }
    };
    let (source, cursor, hit) = match sought {
        Sought::Found(source, cursor, hit) => (source, cursor, hit),
        Sought::Not(state, text) => {
            let known = inspector.0.shards.ask_one(shard, move |hub: &Hub| Some(hub.knows(key)));
            if !known.await?.unwrap_or(false) {
                return Err(gone(name));
            }
            let (connection, subscriptions) = (name.to_owned(), Vec::new());
            let answer = WhyAnswer { connection, change: None, state, text, subscriptions, client: None };
            return json(move || answer).await;
        }
    };
    let mut hearing = Hearing::new(key, source, (*hit).clone(), cursor.clone());
    let testimony = inspector.0.shards.ask_one(shard, move |hub: &Hub| hub.testify(shard, &mut hearing));
    let testimony = testimony.await?.flatten().ok_or_else(|| gone(name))?;
    let name = name.to_owned();
    json(move || answer(name, &cursor, &hit, testimony)).await
}

fn answer(connection: String, cursor: &Cursor, hit: &Hit, mut testimony: Testimony) -> WhyAnswer {
    if let Some(look) = with_kernel(vec![testimony.connection.clone()]).pop() {
        testimony.connection = look;
    }
    let kernel = Unacknowledged { bytes: testimony.connection.kernel_bytes, proxy: testimony.connection.proxy() };
    let said: Vec<(SubscriptionName, Said)> =
        testimony.subscriptions.iter().map(|(sub, fact)| (sub.clone(), say(sub, fact, kernel))).collect();
    let all = overall(&testimony, &hit.topic, &said);
    let of_sub = |(sub, said): (SubscriptionName, Said)| SubscriptionAnswer {
        id: sub.id,
        topics: sub.topics,
        conflate_ms: sub.conflate_ms,
        state: said.state,
        text: said.text,
    };
    WhyAnswer {
        connection,
        change: shown(&cursor.feed, hit),
        state: all.state,
        text: all.text,
        subscriptions: said.into_iter().map(of_sub).collect(),
        client: Some(testimony.connection),
    }
}

fn bad(message: &str) -> Refused {
    Refusal(ErrorCode::BadMessage, message.into()).into()
}

/// Looks for a change in memory, then in the histories of what the connection wants.
async fn at_cursor(inspector: &Inspector, cursor: Cursor, shard: usize, key: ConnKey) -> Result<Sought, Refused> {
    let of = cursor.clone();
    let look = move |hub: &Hub| Some((hub.whereabouts(&of), hub.topics_of_connection(key)));
    let Some((whereabouts, topics)) = inspector.0.shards.ask_one(shard, look).await? else {
        return Ok(Sought::Not("unknown", "This gateway has no such connection.".into()));
    };
    let source = match whereabouts {
        Whereabouts::Here(source, batch) => {
            let offset = cursor.offset;
            return Ok(match elsewhere(move || change_at(&batch, offset)).await? {
                Some(hit) => Sought::Found(source, cursor, Box::new(hit)),
                None => of_no_change(&cursor),
            });
        }
        Whereabouts::Earlier(source) => source,
        Whereabouts::Nowhere => return Ok(of_no_change(&cursor)),
        Whereabouts::Ahead(source, here) => {
            let text = format!(
                "This gateway has not got it yet: its {source} feed is at {here}. Either the change is on its way, or \
                 Redis or the listener is behind; the feeds say which."
            );
            return Ok(Sought::Not("not_here_yet", text));
        }
        Whereabouts::OtherFeed => {
            let text = format!(
                "{cursor} is of a feed that this gateway does not have now. If that feed was here before, a new one has \
                 taken its place, and each client that resumes or was connected was told reset (new_feed), but for plain \
                 endpoints, which have no word for it."
            );
            return Ok(Sought::Not("other_feed", text));
        }
    };
    if topics.is_empty() {
        let text =
            "It is no longer in memory, and to look it up in the history it takes its topic: give topic and key.";
        return Ok(Sought::Not("unknown", text.into()));
    }
    let (after, mut trimmed, mut unread) = (cursor.offset - 1, false, false);
    // Topic by topic: one that has lost it says nothing of the others.
    for topic in topics {
        let subject = Subject { source, feed: cursor.feed.clone(), topics: vec![topic] };
        match inspector.0.historian.read(subject, after).await {
            Stretch::Complete { hits, .. } => {
                if let Some(hit) = hits.iter().find(|hit| hit.offset() == cursor.offset) {
                    return Ok(Sought::Found(source, cursor, Box::new(hit.clone())));
                }
            }
            Stretch::Trimmed => trimmed = true,
            Stretch::NotReady | Stretch::OtherFeed => unread = true,
        }
    }
    if unread {
        let message = "it is no longer in memory, and the history cannot be read now: Redis is away, or being refilled";
        return Err(Refused::Busy(message));
    }
    Ok(if trimmed {
        let text = format!(
            "{cursor} is no longer kept, neither in memory nor in the history of the topics of this connection: nothing \
             can be said of it. Who resumes from before it is told reset (history_trimmed)."
        );
        Sought::Not("trimmed", text)
    } else {
        let text = format!(
            "The change at {cursor} is of a topic that no subscription of this connection is to: the histories of its \
             topics are complete there, and do not have it."
        );
        Sought::Not("not_subscribed", text)
    })
}

fn of_no_change(cursor: &Cursor) -> Sought {
    let text = format!(
        "{cursor} is the cursor of no change: it stands for having nothing yet, or for a place between changes."
    );
    Sought::Not("unknown", text)
}

/// Looks for the last change of a row.
async fn of_row(inspector: &Inspector, topic: Topic, key: &str) -> Result<Sought, Refused> {
    let last = last(inspector, &topic, Some(RowKey::parse(key)), 1).await?;
    Ok(match last.hits.into_iter().next() {
        Some(hit) => Sought::Found(last.source, Cursor::new(last.feed, hit.offset()), Box::new(hit)),
        None => Sought::Not(
            "unknown",
            format!(
                "No change of this row of {topic} was found, in memory nor in what is kept of the history. Was the table \
                 changed at all, in a transaction that has committed, while it was watched? \
                 The key is matched with the columns of the primary key."
            ),
        ),
    })
}
