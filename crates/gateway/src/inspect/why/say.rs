//! The words of an answer.

use std::{net::SocketAddr, time::Duration};

use protocol::{ResetReason, Topic, time::rfc3339};

use super::super::words;
use crate::hub::{Fact, Standing, SubscriptionName, Testimony};

/// What is said of one subscription.
pub struct Said {
    /// In a word.
    pub state: &'static str,
    /// In a sentence.
    pub text: String,
}

/// The state that says most, and what it comes to.
pub fn overall(testimony: &Testimony, topic: &Topic, said: &[(SubscriptionName, Said)]) -> Said {
    let wanted: Vec<&Said> = said.iter().map(|(_, said)| said).filter(|said| said.state != "other_topic").collect();
    if let [one] = wanted[..] {
        return Said { state: one.state, text: one.text.clone() };
    }
    if let Some(first) = wanted.first() {
        let count = wanted.len();
        if wanted.iter().all(|said| said.text == first.text) {
            let text = format!("{} So it is for each of its {count} subscriptions to {topic}.", first.text);
            return Said { state: first.state, text };
        }
        let alike = wanted.iter().all(|said| said.state == first.state);
        let text = format!("This connection has {count} subscriptions to {topic}: see each of them.");
        return Said { state: if alike { first.state } else { "several" }, text };
    }
    match testimony.may_see {
        Some(false) => {
            let covers = match testimony.connection.subjects.len() {
                0 | 1 => "the token's claim 'topics' does not cover",
                _ => "the claim 'topics' of none of its tokens covers",
            };
            Said {
                state: "denied",
                text: format!("It may not have it: {covers} {topic}, so it cannot subscribe to it."),
            }
        }
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

/// What the other end of a TCP connection has not acknowledged.
#[derive(Clone, Copy)]
pub struct Unacknowledged {
    /// How much, where that can be known.
    pub bytes: Option<u32>,
    /// The other end, where that is a proxy and not the client.
    pub proxy: Option<SocketAddr>,
}

/// What became of the change for one subscription.
pub fn say(sub: &SubscriptionName, fact: &Fact, kernel: Unacknowledged) -> Said {
    let said = |state, text: String| Said { state, text };
    match fact {
        Fact::OtherTopic => said("other_topic", "This subscription is to other topics.".into()),
        Fact::Filtered => said(
            "filtered",
            "It was not wanted: this subscription is to the topic, and did not ask for this kind of change.".into(),
        ),
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
            format!("It came after this subscription had ended, at {}, when it was at offset {offset}.", rfc3339(*at)),
        ),
        Fact::EndedBehind(at, offset) => said(
            "not_sent",
            format!(
                "Not sent: when this subscription ended, at {}, it was behind, at offset {offset}, and had not come to \
                 this change.",
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
                "It was written to the client's socket; this ended at {}. Whether it arrived, nobody knows here; a \
                 client that resumes with its last cursor gets what did not.",
                rfc3339(*at)
            ),
        ),
        Fact::Ended(at) => said(
            "ended",
            format!(
                "This ended at {}, and had got nothing of this feed by then: it was there before that began, or still \
                 caught up on another.",
                rfc3339(*at)
            ),
        ),
        Fact::BeforeTheFeed(cursor) => said(
            "not_sent",
            format!(
                "Not sent: this gateway took this feed up at {cursor}, behind this change, and the subscription is older \
                 than that. A plain endpoint is not told of a new feed: what its page may have missed, it has to load \
                 by itself."
            ),
        ),
        Fact::ToBeReset => said(
            "not_sent",
            "Not sent: this subscription still catches up on the feed before this one, and is about to be told reset \
             (new_feed)."
                .into(),
        ),
        Fact::Standing(standing) => say_where(sub, standing, kernel),
    }
}

fn say_where(sub: &SubscriptionName, standing: &Standing, kernel: Unacknowledged) -> Said {
    let said = |state, text: String| Said { state, text };
    match standing {
        Standing::Written => {
            let arrived = match (kernel.bytes, kernel.proxy) {
                (Some(0), Some(peer)) => {
                    format!(", and the proxy at {peer} has acknowledged it; what it did with it is not known here.")
                }
                (Some(bytes), Some(peer)) => format!(
                    ", of which {} are in the kernel and not acknowledged by the proxy at {peer} yet: it may be among \
                     them. What the proxy does with it is not known here.",
                    words::bytes(bytes.into())
                ),
                (Some(0), None) => {
                    ", and the client's machine has acknowledged everything. If the page does not show it, look there."
                        .to_owned()
                }
                (Some(bytes), None) => format!(
                    ", of which {} are in the kernel and not acknowledged yet: it may be among them, if the client or the \
                     network is slow.",
                    words::bytes(bytes.into())
                ),
                (None, _) => "; whether it arrived is not known here.".to_owned(),
            };
            match sub.conflate_ms {
                Some(ms) => said(
                    "coalesced",
                    format!(
                        "It was handed on conflated: this subscription asked for at most one frame a row in {}, so it went \
                         out as itself or within a later state of the same row. All of that is written{arrived}",
                        words::span(Duration::from_millis(ms))
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
                 subscription asked ({}). It goes out within {}.",
                words::span(Duration::from_millis(sub.conflate_ms.unwrap_or_default())),
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
