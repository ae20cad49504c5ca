//! "Why did I not get it?": one change, one connection, and for each of its subscriptions what became of
//! the change, in a sentence. What the hub cannot know is not said: that something was written to a socket is
//! not that it has arrived.

use std::time::Duration;

use axum::http::Uri;
use protocol::{Cursor, ErrorCode, ResetReason, Source, Topic, time::rfc3339};
use serde_json::{Value, json};

use super::{
    Answer, Inspector, Refused,
    changes::{last, shown, topic_of},
    connections::{gone, parse},
    json,
    kernel::Kernel,
    words,
};
use crate::{
    historian::{Stretch, Subject},
    hit::Hit,
    hub::{ConnKey, Fact, Hub, Refusal, Standing, SubscriptionName, Testimony, Whereabouts},
    query::Query,
    row_key::RowKey,
};

/// The change that is asked for.
enum Sought {
    Found(Source, Cursor, Box<Hit>),
    /// It is not known: the state, and why.
    Not(&'static str, String),
}

/// What is said of one subscription.
struct Said {
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
            let known = inspector.0.shards.ask_one(shard, move |hub: &Hub| Some(is_known(hub, shard, key)));
            if !known.await?.unwrap_or(false) {
                return Err(gone(name));
            }
            return json(
                json!({ "connection": name, "change": null, "state": state, "text": text, "subscriptions": [] }),
            );
        }
    };
    let (topic, of) = (hit.topic.clone(), cursor.clone());
    let asked = inspector.0.shards.ask_one(shard, move |hub| Some(hub.testify(shard, key, source, &topic, &of)));
    let testimony = asked.await?.flatten().ok_or_else(|| gone(name))?;
    let kernel = kernel_bytes(&testimony);
    let said: Vec<(SubscriptionName, Said)> =
        testimony.subscriptions.iter().map(|(sub, fact)| (sub.clone(), say(sub, fact, kernel))).collect();
    let all = overall(&testimony, &hit.topic, &said);
    let subscriptions: Vec<Value> = said
        .iter()
        .map(|(sub, said)| {
            json!({ "id": sub.id, "topics": sub.topics, "conflate_ms": sub.conflate_ms, "state": said.state, "text": said.text })
        })
        .collect();
    let mut connection = testimony.connection;
    connection.kernel_bytes = kernel;
    connection.subscriptions.clear();
    json(json!({
        "connection": name,
        "change": shown(&cursor.feed, &hit),
        "state": all.state,
        "text": all.text,
        "subscriptions": subscriptions,
        "client": connection,
    }))
}

fn bad(message: &str) -> Refused {
    Refusal(ErrorCode::BadMessage, message.into()).into()
}

fn is_known(hub: &Hub, shard: usize, key: ConnKey) -> bool {
    hub.look_at_connection(shard, key).or_else(|| hub.look_at_one_that_left(shard, key)).is_some()
}

/// Looks for a change in memory, then in the histories of what the connection wants.
async fn at_cursor(inspector: &Inspector, cursor: Cursor, shard: usize, key: ConnKey) -> Result<Sought, Refused> {
    let of = cursor.clone();
    let look = move |hub: &Hub| Some((hub.whereabouts(&of), hub.topics_of_connection(key)));
    let Some((whereabouts, topics)) = inspector.0.shards.ask_one(shard, look).await? else {
        return Ok(Sought::Not("unknown", "This gateway has no such connection.".into()));
    };
    let source = match whereabouts {
        Whereabouts::Here(source, hit) => return Ok(Sought::Found(source, cursor, hit)),
        Whereabouts::Earlier(source) => source,
        Whereabouts::Nowhere => {
            let text = format!(
                "{cursor} is the cursor of no change: it stands for having nothing yet, or for a place between changes."
            );
            return Ok(Sought::Not("unknown", text));
        }
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
                 taken its place, and each client that resumes or was connected was told reset (new_feed)."
            );
            return Ok(Sought::Not("other_feed", text));
        }
    };
    if topics.is_empty() {
        let text =
            "It is no longer in memory, and to look it up in the history it takes its topic: give topic and key.";
        return Ok(Sought::Not("unknown", text.into()));
    }
    let subject = Subject { source, feed: cursor.feed.clone(), topics };
    let (after, mut trimmed) = (cursor.offset - 1, false);
    match inspector.0.historian.read(subject, after).await {
        Stretch::Complete { through, hits } => {
            if let Some(hit) = hits.iter().find(|hit| hit.offset() == cursor.offset) {
                return Ok(Sought::Found(source, cursor, Box::new(hit.clone())));
            }
            if through >= cursor.offset {
                let text = format!(
                    "The change at {cursor} is of a topic that no subscription of this connection is to (the histories \
                     of all its topics are complete there, and do not have it)."
                );
                return Ok(Sought::Not("not_subscribed", text));
            }
        }
        Stretch::Trimmed => trimmed = true,
        Stretch::NotReady | Stretch::OtherFeed => {}
    }
    if trimmed {
        let text = format!(
            "{cursor} is no longer kept, neither in memory nor in the history: nothing can be said of it. Who resumes from before it is told reset (history_trimmed)."
        );
        return Ok(Sought::Not("trimmed", text));
    }
    Err(Refused::Busy(
        "it is no longer in memory, and the history cannot be read now: Redis is away, or being refilled",
    ))
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

/// Bytes in the kernel, of one that is connected.
fn kernel_bytes(testimony: &Testimony) -> Option<u32> {
    let (local, peer) = testimony.connection.local.zip(testimony.connection.peer)?;
    Kernel::open()?.unacknowledged(local, peer)
}

/// The state that says most, and what it comes to.
fn overall(testimony: &Testimony, topic: &Topic, said: &[(SubscriptionName, Said)]) -> Said {
    let wanted: Vec<&Said> = said.iter().map(|(_, said)| said).filter(|said| said.state != "other_topic").collect();
    if let [one] = wanted[..] {
        return Said { state: one.state, text: one.text.clone() };
    }
    if let Some(first) = wanted.first() {
        let alike = wanted.iter().all(|said| said.state == first.state);
        let text = format!("{} subscriptions of this connection want {topic}: see each of them.", wanted.len());
        return Said { state: if alike { first.state } else { "several" }, text };
    }
    match testimony.may_see {
        Some(false) => Said {
            state: "denied",
            text: format!(
                "It may not have it: the token's claim 'topics' does not cover {topic}, so it cannot subscribe to it."
            ),
        },
        None => Said {
            state: "denied",
            text: "It has shown no token yet, and cannot subscribe to anything before it has.".into(),
        },
        Some(true) if said.is_empty() => Said {
            state: "not_subscribed",
            text: "It has no subscription: it has not asked for anything, or its subscribe was refused.".into(),
        },
        Some(true) => Said {
            state: "not_subscribed",
            text: format!("It is subscribed, but not to {topic}: it may, and has not asked for it."),
        },
    }
}

fn say(sub: &SubscriptionName, fact: &Fact, kernel: Option<u32>) -> Said {
    let said = |state, text: String| Said { state, text };
    match fact {
        Fact::OtherTopic => said("other_topic", "This subscription is to other topics.".into()),
        Fact::Later(cursor, true, at) => said(
            "before_it_began",
            format!(
                "The client said that it has it: it resumed{} from {cursor}, which is not before this change. If it never \
                 applied it, its cursor was kept too early.",
                since(*at)
            ),
        ),
        Fact::Later(cursor, false, at) => said(
            "before_it_began",
            format!(
                "It came before this subscription: that began{} at {cursor}, without a cursor to resume from. What was \
                 before, the page has to load by itself.",
                since(*at)
            ),
        ),
        Fact::Skipped(reason, cursor, at) => said(
            "reset",
            format!(
                "It was not sent: at {} this client was told reset ({}), {}, and that it goes on from {cursor}. It has to \
                 load everything anew.",
                rfc3339(*at),
                reason.as_str(),
                because(*reason)
            ),
        ),
        Fact::EndedBefore(at, offset) => said(
            "ended",
            format!(
                "It came after this subscription had ended, at {}; that got everything up to offset {offset}.",
                rfc3339(*at)
            ),
        ),
        Fact::EndedWithUnsent(at, waits) => said(
            "not_sent",
            format!(
                "Probably not sent: {} still waited for the client when this ended, at {}, and it was among them or \
                 before them.",
                words::bytes(*waits as u64),
                rfc3339(*at)
            ),
        ),
        Fact::EndedAfter(at) => said(
            "sent",
            format!(
                "It was written to the client's socket before this ended, at {}. Whether it arrived, nobody knows here; a \
                 client that resumes with its last cursor gets what did not.",
                rfc3339(*at)
            ),
        ),
        Fact::Ended(at) => said(
            "ended",
            format!(
                "This ended at {}, while it caught up or its feed changed: how far it was then is not known.",
                rfc3339(*at)
            ),
        ),
        Fact::Standing(standing) => say_where(sub, standing, kernel),
    }
}

fn say_where(sub: &SubscriptionName, standing: &Standing, kernel: Option<u32>) -> Said {
    let said = |state, text: String| Said { state, text };
    match standing {
        Standing::Written => {
            let arrived = match kernel {
                Some(0) => {
                    " and the client's machine has acknowledged all that was. If the page does not show it, look there."
                        .to_owned()
                }
                Some(bytes) => format!(
                    ", of which {} are in the kernel and not acknowledged yet: it may be among them, if the client or the \
                     network is slow.",
                    words::bytes(bytes.into())
                ),
                None => "; whether it arrived is not known here.".to_owned(),
            };
            match sub.conflate_ms {
                Some(ms) => said(
                    "coalesced",
                    format!(
                        "It was handed on conflated: this subscription asked for at most one frame a row in {ms} ms, so it \
                         went out as itself or within a later state of the same row. All of that is written{arrived}"
                    ),
                ),
                None => said("sent", format!("Sent: it matched, and is written to the client's socket{arrived}")),
            }
        }
        Standing::InRing(bytes) => said(
            "not_sent_yet",
            format!(
                "Not sent yet: it matched, and waits for the client's socket to take it, behind {} of others. The client \
                 reads too slowly, or the network is.",
                words::bytes(*bytes)
            ),
        ),
        Standing::Queued(bytes) => said(
            "not_sent_yet",
            format!(
                "Perhaps not sent yet: it matched, and was put into this connection's own queue, where {} still wait. It \
                 is among them, or was sent before them.",
                words::bytes(*bytes as u64)
            ),
        ),
        Standing::HeldBack(span) => said(
            "not_sent_yet",
            format!(
                "Not sent yet: it matched, and is held back to be joined with later changes of its row, as this \
                 subscription asked ({} ms). It goes out within {}.",
                sub.conflate_ms.unwrap_or_default(),
                words::span(*span + Duration::from_millis(1))
            ),
        ),
        Standing::CatchingUp(offset) => said(
            "not_sent_yet",
            format!(
                "Not sent yet: this subscription catches up, and has come to offset {offset}. It gets this change too, or \
                 is told reset if the history loses it before."
            ),
        ),
        Standing::NotTaken(offset) => said(
            "not_sent_yet",
            format!(
                "Not sent yet: the thread of this connection is busy, and has come to offset {offset} of the feed."
            ),
        ),
        Standing::Closing => said(
            "not_sent",
            "This connection is being closed: what came before the goodbye is sent, and nothing that came later."
                .into(),
        ),
    }
}

fn since(at: Option<i64>) -> String {
    at.map(|at| format!(" at {}", rfc3339(at))).unwrap_or_default()
}

fn because(reason: ResetReason) -> &'static str {
    match reason {
        ResetReason::NewFeed => "because a new feed had begun",
        ResetReason::UnknownCursor => "because its cursor was ahead of everything",
        ResetReason::HistoryTrimmed => "because what it had missed was no longer kept",
        ResetReason::TooSlow => "because it read so slowly that what it had not got was no longer kept",
    }
}
