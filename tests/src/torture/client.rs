use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use serde::Deserialize;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    change::{ChangeFrame, cursor},
    dice::Dice,
    line::{Line, events_of},
    manner::Manner,
    recovery::Recovery,
    replica::Replica,
    sightings::Sightings,
    table::{TABLES, Tables},
    witness::{Noted, Witness},
};
use crate::socket::{Frame, Refusal, Socket};

/// A connection that takes longer is given up.
const CONNECTS_WITHIN: Duration = Duration::from_secs(2);

/// What all clients share.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Where the gateways are.
    pub gateways: Arc<[SocketAddr]>,
    /// What others have seen.
    pub sightings: Sightings,
    /// True from when everybody is to come, to stay and to read on until told to stop.
    pub finish: watch::Receiver<bool>,
    /// Whom watchers tell of probes.
    pub recovery: Arc<Recovery>,
    /// For the report.
    pub tally: Arc<Tally>,
}

/// What clients count together.
#[derive(Debug, Default)]
pub struct Tally {
    /// Connections with a subscription.
    pub connections: AtomicU64,
    /// Subscriptions that went on from a cursor.
    pub resumed: AtomicU64,
    /// Upgrades and subscribes that were refused for now.
    pub refused: AtomicU64,
    /// Connections that were given up because nothing came any more.
    pub silent: AtomicU64,
    /// Resets by reason.
    pub resets: Mutex<HashMap<String, u64>>,
}

/// A client that goes on until it is dropped.
#[derive(Debug)]
pub struct Client {
    /// What it has been told, by subscription.
    pub witnesses: Vec<Arc<Witness>>,
    /// The tables as it has built them, if it does.
    pub replica: Option<Arc<Mutex<Replica>>>,
    task: JoinHandle<()>,
}

impl Client {
    /// Starts one.
    pub fn start(number: usize, seed: u64, manner: Manner, around: Surroundings) -> Self {
        let name = |index: usize| format!("client {number} ({}) subscription {index}", manner.name);
        let witness =
            |(index, &tables): (usize, &Tables)| Arc::new(Witness::new(name(index), tables, manner.pauses.is_some()));
        let witnesses: Vec<_> = manner.subscriptions.iter().enumerate().map(witness).collect();
        let replica = manner.builds.then(Arc::default);
        let life = Life {
            number,
            dice: Dice::of(seed, "client", number),
            subscriptions: witnesses.iter().map(|it| Subscription::of(Arc::clone(it), manner.conflates)).collect(),
            replica: replica.clone(),
            gateway: number,
            manner,
            around,
        };
        Self { witnesses, replica, task: tokio::spawn(life.live()) }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Subscription {
    witness: Arc<Witness>,
    /// `subscribe` without its `since`.
    request: String,
    /// The same, as the path of a stream of events.
    path: String,
    conflates: bool,
    /// Where it is.
    cursor: Option<(String, u64)>,
    route: Option<u64>,
}

impl Subscription {
    fn of(witness: Arc<Witness>, conflates: Option<u64>) -> Self {
        let topics = TABLES.iter().enumerate().filter(|(id, _)| witness.tables & (1 << id) != 0);
        let topics: Vec<&str> = topics.map(|(_, table)| table.topic).collect();
        let path = events_of(&topics);
        let topics: Vec<String> = topics.into_iter().map(|topic| serde_json::Value::from(topic).to_string()).collect();
        let mut request = format!(r#""topics":[{}],"watermark":{{"every_ms":5000}}"#, topics.join(","));
        if let Some(ms) = conflates {
            request += &format!(r#","conflate":{{"every_ms":{ms}}}"#);
        }
        Self { witness, request, path, conflates: conflates.is_some(), cursor: None, route: None }
    }

    fn move_to(&mut self, feed: &str, offset: u64) {
        match &mut self.cursor {
            Some((its, position)) if its == feed => *position = offset,
            cursor => *cursor = Some((feed.to_owned(), offset)),
        }
    }
}

/// Any frame but a `change`.
#[derive(Debug, Deserialize)]
struct Other {
    #[serde(rename = "type")]
    kind: String,
    id: Option<String>,
    route: Option<u64>,
    cursor: Option<String>,
    #[serde(default)]
    resumed: bool,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    code: String,
    #[serde(default)]
    tx: String,
}

struct Life {
    number: usize,
    dice: Dice,
    manner: Manner,
    around: Surroundings,
    subscriptions: Vec<Subscription>,
    replica: Option<Arc<Mutex<Replica>>>,
    gateway: usize,
}

/// Why a session ended.
enum End {
    /// It leaves of its own accord.
    Leaves,
    /// The connection is over, or silent.
    Lost,
    /// The gateway cannot serve it now.
    NotNow,
}

impl Life {
    async fn live(mut self) {
        // A herd at the start is another test.
        sleep(self.dice.millis(0..=500)).await;
        loop {
            let end = match timeout(CONNECTS_WITHIN, self.connect()).await {
                Ok(Ok(mut line)) => {
                    let end = self.session(&mut line).await;
                    if self.dice.percent(50) {
                        // The others are gone without a word.
                        drop(timeout(CONNECTS_WITHIN, line.leave()).await);
                    }
                    end
                }
                Ok(Err(Refusal::Http(..))) => End::NotNow,
                Ok(Err(Refusal::Io(_))) | Err(_) => End::Lost,
            };
            self.gateway += 1;
            match end {
                End::Leaves => self.nap().await,
                End::Lost => sleep(self.dice.millis(10..=100)).await,
                End::NotNow => {
                    self.around.tally.refused.fetch_add(1, Ordering::Relaxed);
                    sleep(self.dice.millis(50..=200)).await;
                }
            }
        }
    }

    async fn connect(&mut self) -> Result<Line, Refusal> {
        let gateways = &self.around.gateways;
        let gateway = gateways[self.gateway % gateways.len()];
        if self.manner.reads_events {
            let subscription = &self.subscriptions[0];
            let last = subscription.cursor.as_ref().map(|(feed, offset)| format!("{feed}.{offset}"));
            return Line::events(gateway, &subscription.path, last).await;
        }
        let mut socket = Socket::open(gateway, "/rowcast").await?;
        for (index, subscription) in self.subscriptions.iter_mut().enumerate() {
            subscription.route = None;
            let since = match &subscription.cursor {
                Some((feed, offset)) => format!(r#","since":"{feed}.{offset}""#),
                None => String::new(),
            };
            let request = format!(r#"{{"type":"subscribe","id":"{index}",{}{since}}}"#, subscription.request);
            socket.send(&request).await?;
        }
        Ok(Line::Socket(socket))
    }

    async fn nap(&mut self) {
        let until = Instant::now() + self.dice.millis(self.manner.naps.clone());
        tokio::select! {
            () = sleep_until(until) => {}
            () = finished(&mut self.around.finish) => {}
        }
        if self.dice.percent(self.manner.forgets) {
            for subscription in &mut self.subscriptions {
                subscription.cursor = None;
                subscription.witness.note(Noted::Forgot);
            }
        }
    }

    async fn session(&mut self, line: &mut Line) -> End {
        self.around.tally.connections.fetch_add(1, Ordering::Relaxed);
        let stays = self.manner.stays.clone().map(|range| self.dice.millis(range));
        let leaves = stays.map(|stays| Instant::now() + stays);
        let (mut changes, mut asked) = (0, false);
        loop {
            let finish = *self.around.finish.borrow();
            if !finish && leaves.is_some_and(|leaves| Instant::now() >= leaves) {
                return End::Leaves;
            }
            if let Some((after, pause)) = self.manner.pauses.clone()
                && changes >= after
                && !finish
            {
                changes = 0;
                sleep(self.dice.millis(pause)).await;
            }
            let patience = match leaves {
                Some(leaves) if !finish => self.manner.patience.min(leaves.saturating_duration_since(Instant::now())),
                _ => self.manner.patience,
            };
            match timeout(patience, line.next()).await {
                Ok(Ok(Frame::Text(text))) => {
                    asked = false;
                    if text.starts_with(r#"{"type":"change","#) {
                        changes += 1;
                        let taken = self.take(text);
                        self.blame(taken);
                        if self.manner.name == "watcher" {
                            self.around.recovery.reached(self.number, text);
                        }
                    } else if let Some(end) = self.other(text) {
                        return end;
                    }
                }
                Ok(Ok(Frame::Close(1012 | 1013 | 1001, _))) => return End::NotNow,
                Ok(Ok(Frame::Close(code, reason))) => {
                    self.blame(Err(format!("closed with {code} {reason}")));
                    return End::Lost;
                }
                Ok(Ok(Frame::Ping | Frame::Pong)) => {}
                Ok(Err(_)) => return End::Lost,
                Err(_) if leaves.is_some_and(|leaves| Instant::now() >= leaves) && !finish => return End::Leaves,
                Err(_) if asked => {
                    self.around.tally.silent.fetch_add(1, Ordering::Relaxed);
                    return End::Lost;
                }
                Err(_) => {
                    asked = true;
                    if !matches!(timeout(patience, line.ping()).await, Ok(Ok(()))) {
                        self.around.tally.silent.fetch_add(u64::from(self.manner.reads_events), Ordering::Relaxed);
                        return End::Lost;
                    }
                }
            }
        }
    }

    /// A `change`: `{"type":"change","route":17,"cursor":"k3f9.1042",…`.
    fn take(&mut self, text: &str) -> Result<(), String> {
        let Self { subscriptions, around, replica, manner, .. } = self;
        let replica = replica.as_deref();
        let unreadable = || format!("unreadable: {text}");
        let to = &text[r#"{"type":"change","#.len()..];
        let start = to.find(r#""cursor":""#).ok_or_else(unreadable)?;
        let (to, rest) = to.split_at(start);
        let at = &rest[r#""cursor":""#.len()..];
        let end = at.find('"').ok_or_else(unreadable)?;
        let (feed, offset) = cursor(&at[..end]).ok_or_else(unreadable)?;
        let number = |name: &str, end: &str| to.strip_prefix(name)?.strip_suffix(end)?.parse::<u64>().ok();
        let subscription = match (number(r#""route":"#, ","), number(r#""id":""#, r#"","#)) {
            (Some(route), _) => subscriptions.iter_mut().find(|one| one.route == Some(route)),
            (_, Some(index)) => subscriptions.get_mut(index as usize),
            _ if to.is_empty() && manner.reads_events => subscriptions.first_mut(),
            _ => None,
        };
        let subscription = subscription.ok_or_else(|| format!("for nobody here: {text}"))?;
        if subscription.conflates {
            subscription.move_to(feed, offset);
            subscription.witness.note(Noted::Conflated { offset });
            let frame = ChangeFrame::parse(text)?;
            let replica = replica.ok_or("it builds nothing")?;
            return replica.lock().unwrap_or_else(PoisonError::into_inner).put(&frame.change());
        }
        let seen = around.sightings.see(offset, text, rest)?;
        subscription.move_to(feed, offset);
        subscription.witness.note(Noted::Change { offset, digest: seen.digest, tx_end: seen.tx_end });
        // The judge knows better what is wrong with a change that does not fit here.
        if let Some(replica) = replica {
            let frame = ChangeFrame::parse(text)?;
            replica.lock().unwrap_or_else(PoisonError::into_inner).apply(&frame.change())?;
        }
        Ok(())
    }

    /// A frame that is no change. `Some`: the session is over.
    fn other(&mut self, text: &str) -> Option<End> {
        let Ok(frame) = serde_json::from_str::<Other>(text) else {
            self.blame(Err(format!("not a frame: {text}")));
            return Some(End::Lost);
        };
        let at = frame.cursor.as_deref().and_then(cursor).map(|(feed, offset)| (feed.to_owned(), offset));
        let by_route = || self.subscriptions.iter().position(|one| one.route.is_some() && one.route == frame.route);
        // A stream of events has one, which needs no name.
        let index = match frame.id.as_deref() {
            None if self.manner.reads_events => Some(0),
            id => id.map_or_else(by_route, |id| id.parse::<usize>().ok()),
        };
        let subscription = index.and_then(|index| self.subscriptions.get_mut(index));
        match (&*frame.kind, subscription, at) {
            ("hello" | "pong", _, _) => {}
            ("subscribed", Some(subscription), Some((feed, offset))) => {
                subscription.route = frame.route;
                let (asked, resumed) = (subscription.cursor.is_some(), frame.resumed);
                subscription.witness.note(Noted::Subscribed { feed: feed.clone(), offset, resumed });
                // Else a reset follows, which says where it goes on.
                if resumed || !asked {
                    subscription.move_to(&feed, offset);
                }
                if resumed {
                    self.around.tally.resumed.fetch_add(1, Ordering::Relaxed);
                }
            }
            ("reset", Some(subscription), Some((feed, offset))) => {
                let mut resets = self.around.tally.resets.lock().unwrap_or_else(PoisonError::into_inner);
                *resets.entry(frame.reason.clone()).or_default() += 1;
                let at_ms = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_millis() as u64);
                subscription.move_to(&feed, offset);
                subscription.witness.note(Noted::Reset { reason: frame.reason, feed, offset, at_ms });
            }
            ("tx_end", Some(subscription), Some((feed, offset))) => {
                subscription.move_to(&feed, offset);
                subscription.witness.note(Noted::TxEnd { offset, tx: frame.tx.parse().unwrap_or_default() });
            }
            // For this one it says what a watermark says for all.
            ("caught_up", Some(subscription), Some((feed, offset))) => {
                subscription.move_to(&feed, offset);
                subscription.witness.note(Noted::Watermark { offset });
            }
            ("watermark", subscription, Some((feed, offset))) if subscription.is_none() || self.manner.reads_events => {
                for subscription in &mut self.subscriptions {
                    subscription.move_to(&feed, offset);
                    subscription.witness.note(Noted::Watermark { offset });
                }
            }
            ("error", _, _) if frame.code == "not_ready" => return Some(End::NotNow),
            _ => self.blame(Err(format!("unexpected: {text}"))),
        }
        None
    }

    fn blame(&self, result: Result<(), String>) {
        if let (Err(what), Some(first)) = (result, self.subscriptions.first()) {
            first.witness.note(Noted::Odd(what));
        }
    }
}

async fn finished(finish: &mut watch::Receiver<bool>) {
    // An error says that the run is over.
    drop(finish.wait_for(|finish| *finish).await);
}
