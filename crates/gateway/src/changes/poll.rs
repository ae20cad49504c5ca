//! One who asks for changes: they are looked for in memory, then in the history, and waited for.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use protocol::{Backoff, Cursor, ErrorCode, Offset, ResetReason, Topic, message::Addressee};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::{
    access::Claims,
    encode::write_change,
    historian,
    hit::Hit,
    hub::{Found, Refusal, Stretch},
    session::{Sessions, expiry},
};

/// Payload bytes in one answer, about: an answer is not to fill the memory while it is not read. One
/// change is there however large it is.
const MOST_BYTES: usize = 256 * 1024;

/// How long it may take to find out what there is: a bus that comes back, another gateway that was
/// quicker. A cursor that nobody has given out shows after 5 s.
const UNSURE: Duration = Duration::from_secs(8);

/// While other topics move all the time, it is looked at this often.
const PAUSE: Duration = Duration::from_millis(20);

/// What is asked for.
pub struct Wanted {
    pub topics: Vec<Topic>,
    pub since: Option<Cursor>,
    pub limit: usize,
    /// How long to wait for something.
    pub wait: Duration,
}

/// Somebody who asks.
pub struct Poll {
    pub(super) wanted: Wanted,
    pub(super) claims: Claims,
    pub(super) stopping: CancellationToken,
    /// Over how long those who wait are answered when the gateway stops.
    pub(super) drain: Duration,
    pub(super) answer: oneshot::Sender<Result<Answer, Refusal>>,
}

/// What there is.
pub enum Answer {
    /// As JSON.
    Page(Vec<u8>),
    /// Nothing that would be complete; where to begin anew.
    Reset(ResetReason, Cursor),
}

/// What a look has shown.
enum Look {
    Answer(Answer),
    /// Nothing up to here, which is all that there is.
    Nothing(Offset),
    /// Nothing up to here, and there is more.
    More(Offset),
    /// It cannot be said yet.
    Unsure,
}

impl Sessions {
    /// Answers somebody, unless it leaves before.
    pub async fn poll(self: Rc<Self>, poll: Poll) {
        let Poll { wanted, claims, stopping, drain, mut answer } = poll;
        self.metrics.opened("changes");
        let stop = async {
            stopping.cancelled().await;
            tokio::time::sleep(drain.mul_f64(rand::random())).await;
        };
        let found = tokio::select! {
            found = self.find(&wanted, &claims, stop) => Some(found),
            () = answer.closed() => None,
        };
        self.metrics.left("changes");
        if let Some(found) = found {
            // It may have left just now.
            drop(answer.send(found));
        }
    }

    async fn find(&self, wanted: &Wanted, claims: &Claims, stop: impl Future<Output = ()>) -> Result<Answer, Refusal> {
        let Wanted { topics, since, limit, wait } = wanted;
        let place = || self.hub.with(|hub| hub.place_of(topics, since.as_ref(), |topic| claims.may_subscribe(topic)));
        let (source, here) = place()?;
        let Some(mut at) = since.clone() else { return Ok(Answer::Page(page(&here, &[], true))) };
        let asked = Instant::now();
        // What comes when its token has expired is not for it.
        let left = expiry(claims).map_or(Duration::MAX, |(left, _)| left);
        let (enough, unsure) = (tokio::time::sleep(left.min(*wait)), tokio::time::sleep(left.min(UNSURE.max(*wait))));
        tokio::pin!(enough, unsure, stop);
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        let mut woken = false;
        loop {
            let moves = self.hub.moves();
            let found = self.hub.with(|hub| hub.changes_after(source, topics, &at, asked, *limit));
            match self.look(found, &at, *limit).await {
                Look::Answer(answer) => return Ok(answer),
                Look::More(through) => {
                    at.offset = through;
                    tokio::task::yield_now().await;
                }
                Look::Nothing(through) => {
                    at.offset = through;
                    if std::mem::replace(&mut woken, true) {
                        tokio::time::sleep(PAUSE).await;
                    }
                    tokio::select! {
                        biased;
                        () = &mut enough => {}
                        () = &mut stop => {}
                        () = moves => continue,
                    }
                    // The topics may have gone meanwhile.
                    place()?;
                    return Ok(Answer::Page(page(&at, &[], true)));
                }
                Look::Unsure => tokio::select! {
                    () = tokio::time::sleep(backoff.delay()) => {}
                    () = &mut unsure => return Err(unknown(&at)),
                    () = &mut stop => return Err(unknown(&at)),
                },
            }
        }
    }

    /// What has been found in memory; or in the history, where that says so.
    async fn look(&self, found: Found, at: &Cursor, limit: usize) -> Look {
        let subject = match found {
            Found::Changes(stretch) if stretch.hits.is_empty() && stretch.is_all => {
                return Look::Nothing(stretch.through);
            }
            Found::Changes(stretch) if stretch.hits.is_empty() => return Look::More(stretch.through),
            Found::Changes(stretch) => return Look::Answer(Answer::Page(self.page_of(at, stretch, limit))),
            Found::Reset(reason, cursor) => return self.reset(reason, cursor),
            Found::Ahead | Found::NotReady => return Look::Unsure,
            Found::History(subject) => subject,
        };
        let source = subject.source;
        let read = self.hub.read(subject, at.offset).await;
        let Some(here) = self.hub.with(|hub| hub.cursor_of(source)) else { return Look::Unsure };
        match read {
            historian::Stretch::Complete { through, hits } if through > at.offset && here.feed == at.feed => {
                // Not what the bus has and this gateway does not yet.
                let through = through.min(here.offset);
                let is_new = |hit: &&Hit| hit.offset() > at.offset && hit.offset() <= through;
                let hits: Vec<Hit> = hits.iter().filter(is_new).take(limit + 1).cloned().collect();
                if hits.is_empty() {
                    return Look::More(through);
                }
                let stretch = Stretch { hits, through, is_all: false };
                Look::Answer(Answer::Page(self.page_of(at, stretch, limit)))
            }
            historian::Stretch::Trimmed => self.reset(ResetReason::HistoryTrimmed, here),
            _ => Look::Unsure,
        }
    }

    fn page_of(&self, after: &Cursor, stretch: Stretch, limit: usize) -> Vec<u8> {
        let Stretch { hits, through, is_all } = stretch;
        let (mut changes, mut bytes) = (Vec::new(), 0);
        for (place, hit) in hits.iter().enumerate().take(limit) {
            bytes += hit.change.payload.len();
            if bytes > MOST_BYTES && place > 0 {
                break;
            }
            let mut change = Vec::new();
            let of_tx = hit.of_tx(hits.get(place + 1), through);
            write_change(&mut change, Addressee::Reader, &after.feed, hit, of_tx);
            changes.push(change);
        }
        self.metrics.delivered(changes.len() as u64);
        let has_all = changes.len() == hits.len();
        let until = if has_all { through } else { hits[changes.len() - 1].offset() };
        page(&Cursor::new(after.feed.clone(), until), &changes, is_all && has_all)
    }

    fn reset(&self, reason: ResetReason, cursor: Cursor) -> Look {
        self.metrics.reset(reason);
        Look::Answer(Answer::Reset(reason, cursor))
    }
}

fn page(cursor: &Cursor, changes: &[Vec<u8>], complete: bool) -> Vec<u8> {
    let end = format!(r#"],"cursor":"{cursor}","complete":{complete}}}"#);
    [&br#"{"changes":["#[..], &changes.join(&b","[..]), end.as_bytes(), b"\n"].concat()
}

fn unknown(since: &Cursor) -> Refusal {
    let message = format!("what comes after {since} is not known here yet; ask again in a moment");
    Refusal(ErrorCode::NotReady, message)
}
