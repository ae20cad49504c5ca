//! What is wrong comes first; then feeds, and connections in numbers.

use std::{collections::BTreeSet, time::Duration};

use axum::http::Uri;
use protocol::{
    Source, Topic,
    time::{now, rfc3339},
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Answer, Inspector, Refused, connections::totals, elsewhere, json, words};
use crate::{
    feed::FeedState,
    hub::{FeedLook, Hub, Totals, Uncarried, names},
    query::Query,
};

/// A leading listener is heard of every second.
const SILENT: Duration = Duration::from_secs(5);

/// What is read again after a gap is there within this time.
const REPAIRED: Duration = Duration::from_secs(2);

/// The database's time of what comes is not older.
const LATE: Duration = Duration::from_secs(10);

/// Changes that one shard may be ahead of another.
const APART: u64 = 1000;

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Problem {
    /// `error`: clients get nothing, or not all; `warning`: some of them, or it is about to.
    level: &'static str,
    /// What.
    text: String,
    /// What it means, and where to look.
    hint: &'static str,
}

/// What is known of one source.
struct Feed {
    source: Source,
    state: FeedState,
    since: Duration,
    /// As each shard sees it.
    looks: Vec<FeedLook>,
}

/// `GET /inspect/api/overview`
pub async fn serve(inspector: Inspector, uri: Uri) -> Answer {
    Query::of(&uri, &[])?;
    let inner = &inspector.0;
    let looks = inner.shards.ask(|_| |hub: &Hub| Some(hub.look_at_feeds())).await?;
    let totals = totals(&inspector).await?;
    let uncarried = uncarried(&inspector).await?;
    let looks: Vec<FeedLook> = looks.into_iter().flatten().collect();
    let of = |source| looks.iter().filter(|look| look.source == source).cloned().collect();
    let states = inner.readiness.states().into_iter();
    let feeds: Vec<Feed> =
        states.map(|(source, state, since)| Feed { source, state, since, looks: of(source) }).collect();
    let mut problems = Vec::new();
    if inner.readiness.is_draining() {
        problems.push(Problem {
            level: "error",
            text: "This gateway is stopping".into(),
            hint: "It sends its clients away, one by one; they come back at the others.",
        });
    }
    let lost = feeds.iter().filter(|feed| feed.state == FeedState::Lost);
    if let Some(since) = lost.map(|feed| feed.since).max() {
        problems.push(Problem {
            level: "error",
            text: format!("Redis is lost, for {}: no changes arrive", words::span(since)),
            hint: "Clients stay connected, and get what they miss when it is back. New ones are sent to other \
                   gateways. Is Redis running, and does this machine reach it?",
        });
    }
    feeds.iter().for_each(|feed| feed.problems(&mut problems));
    if feeds.iter().all(|feed| feed.looks.is_empty()) {
        problems.push(Problem {
            level: "error",
            text: "No listener has ever announced anything".into(),
            hint: "Nobody can subscribe. Is a listener running, on the same Redis and with the same --namespace?",
        });
    }
    of_connections(&totals, inner.limits.count(), inner.limits.most(), &mut problems);
    // A gateway that has just begun may not have heard of all of them.
    if let Some(topics) = uncarried.filter(|_| inner.readiness.started().elapsed() > SILENT) {
        problems.push(Problem {
            level: "warning",
            text: format!("Clients wait for topics that no listener carries: {topics}"),
            hint: "They get nothing. Is the table watched (rowcast status), or the channel in rowcast.toml?",
        });
    }
    problems.sort_by_key(|problem| problem.level);
    let overview = json!({
        "gateway": &*inner.name,
        "version": env!("CARGO_PKG_VERSION"),
        "now": rfc3339(now()),
        "uptime_s": inner.readiness.started().elapsed().as_secs(),
        "ready": inner.readiness.is_ready(),
        "problems": problems,
        "feeds": feeds.iter().map(|feed| feed.json(inspector.0.metrics.gaps(feed.source))).collect::<Vec<_>>(),
        "connections": totals,
        "connections_most": inner.limits.most(),
    });
    json(move || overview).await
}

/// The names of topics that clients wait for and nobody carries, if there are any.
async fn uncarried(inspector: &Inspector) -> Result<Option<String>, Refused> {
    let question = |_| {
        let mut uncarried = Uncarried::default();
        move |hub: &Hub| (!hub.look_for_uncarried(&mut uncarried)).then(|| std::mem::take(&mut uncarried.topics))
    };
    let found = inspector.0.shards.ask(question).await?;
    elsewhere(move || {
        let topics: BTreeSet<&str> = found.iter().flatten().map(Topic::as_str).collect();
        (!topics.is_empty()).then(|| names(topics.into_iter()))
    })
    .await
}

impl Feed {
    fn problems(&self, problems: &mut Vec<Problem>) {
        let (source, since) = (self.source, words::span(self.since));
        if self.state == FeedState::Repairing && self.since > REPAIRED {
            problems.push(Problem {
                level: "error",
                text: format!("The {source} feed is behind Redis, for {since}: what was missed cannot be read yet"),
                hint: "Redis may have lost its data: the listener brings it back. If it does not, see its log.",
            });
        }
        let Some(newest) = self.looks.iter().max_by_key(|look| (look.at, look.offset)) else { return };
        let silent = self.looks.iter().map(|look| look.silent_ms).min().unwrap_or(0);
        let silent = Duration::from_millis(silent);
        let late = Duration::from_micros(u64::try_from(now() - newest.at).unwrap_or(0));
        if self.state == FeedState::Live && silent > SILENT {
            problems.push(Problem {
                level: "error",
                text: format!("The {source} feed is silent, for {}: no listener publishes", words::span(silent)),
                hint: "Changes of watched tables wait in the database, those of NOTIFY are lost. Does a listener run, \
                       and has it its database? Its /readyz and log say so, and rowcast status.",
            });
        } else if self.state == FeedState::Live && late > LATE + silent && newest.at > 0 {
            problems.push(Problem {
                level: "warning",
                text: format!("The {source} feed is {} behind the database's clock", words::span(late)),
                hint: "The listener is behind with reading, or the clocks of the two machines differ.",
            });
        }
        let of_newest = self.looks.iter().filter(|look| look.feed == newest.feed);
        let slowest = of_newest.map(|look| look.offset).min().unwrap_or(newest.offset);
        if newest.offset - slowest.min(newest.offset) > APART {
            problems.push(Problem {
                level: "warning",
                text: format!("One thread of this gateway is {} changes behind another", newest.offset - slowest),
                hint: "It has more to write than it can. More gateways, or more cores, share the load.",
            });
        }
    }

    fn json(&self, (gaps, repairs): (u64, u64)) -> Value {
        let newest = self.looks.iter().max_by_key(|look| (look.at, look.offset));
        json!({
            "source": self.source,
            "state": match self.state {
                FeedState::Lost => "lost",
                FeedState::Repairing => "repairing",
                FeedState::Live if newest.is_none() => "waiting for a listener",
                FeedState::Live => "live",
            },
            "state_for_ms": self.since.as_millis() as u64,
            "feed": newest.map(|look| &look.feed),
            "offset": newest.map(|look| look.offset),
            "at": newest.map(|look| rfc3339(look.at)),
            "age_ms": newest.map(|look| (now() - look.at) / 1000),
            "silent_ms": self.looks.iter().map(|look| look.silent_ms).min(),
            "gaps": gaps,
            "repairs": repairs,
            "memory_after": self.looks.iter().map(|look| look.memory_after).max(),
            "shards": self.looks,
        })
    }
}

fn of_connections(totals: &Totals, open: usize, most: usize, problems: &mut Vec<Problem>) {
    if totals.stuck > 0 {
        let longest = words::span(Duration::from_millis(totals.longest_stuck_ms));
        let who = words::count(totals.stuck, "connection takes", "connections take");
        problems.push(Problem {
            level: "warning",
            text: format!("{who} nothing ({}{longest})", if totals.stuck == 1 { "" } else { "up to " }),
            hint: "Those clients, or the network to them, are the reason: others do not wait for them. They are cut \
                   off after --stall-ms.",
        });
    }
    let slow = totals.catching_up + totals.lagging;
    if slow > 0 {
        problems.push(Problem {
            level: "warning",
            text: format!(
                "{} behind, the furthest by {}",
                words::count(slow, "connection is", "connections are"),
                words::count(totals.furthest_behind as usize, "change", "changes")
            ),
            hint: "They read slowly, or have just come back. They catch up from memory and the history, else they are \
                   told reset.",
        });
    }
    if open * 10 >= most * 9 {
        problems.push(Problem {
            level: if open >= most { "error" } else { "warning" },
            text: format!("{open} of {most} connections are open"),
            hint: "Past that clients are refused. Start another gateway, or raise --max-connections and the limit on \
                   open files.",
        });
    }
}
