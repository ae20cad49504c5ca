//! One connection to the database: its notifications, its lock, its heartbeat.

use std::{
    collections::HashMap,
    future::poll_fn,
    sync::Arc,
    time::{Duration, Instant},
};

use prometheus_client::metrics::counter::Counter;
use protocol::{Micros, Topic, time};
use service::postgres::{ConnectError, Connection, PostgresSettings, describe};
use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tokio_postgres::{AsyncMessage, Client, Notification, SimpleQueryMessage, error::SqlState};

use crate::{
    backlog::{Intake, Item, Outlet, backlog},
    lock::LeaderLock,
    metrics::Metrics,
};

/// After this long without an answer a session is given up. The server gives up on us after as
/// long, so that a leader nobody can reach does not keep the lock.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

/// Less than [`PATIENCE`]: a NOTIFY that waits for the server's lock (a commit before it waits for
/// its WAL or for a standby) then fails as such, and is not taken for a dead connection.
/// Nothing of ours needs to be durable, so our own commits wait for nothing.
const SETTINGS: &str = "set lock_timeout = '2s'; set synchronous_commit = off; \
    set tcp_keepalives_idle = 1; set tcp_keepalives_interval = 1; set tcp_keepalives_count = 2; \
    set tcp_user_timeout = 3000";
/// PostgreSQL 14 and later. Standbys poll and leaders beat more often than this.
const IDLE_SETTING: &str = "set idle_session_timeout = '3s'";

const ABOUT: &str = "select pg_catalog.current_setting('server_version_num'), pg_catalog.pg_is_in_recovery()";
const CLOCK: &str = "select (extract(epoch from pg_catalog.clock_timestamp()) * 1000000)::bigint";

/// Why a session is of no use any more.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Lost {
    #[error("{0}")]
    Connect(#[from] ConnectError),
    #[error("the connection ended: {0}")]
    Ended(String),
    #[error("{0}")]
    Failed(String),
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Silent,
    #[error(
        "it is a standby, where LISTEN does not work: name the primary, or all hosts with \
         target_session_attrs=read-write"
    )]
    InRecovery,
    #[error(
        "a notification to ourselves did not arrive within {} s: is this a direct connection? PgBouncer in \
         transaction mode loses LISTEN",
        PATIENCE.as_secs()
    )]
    Deaf,
    #[error(
        "another server process answers than before: PgBouncer in transaction mode, which loses LISTEN and locks; \
         the listener needs a direct connection"
    )]
    Pooled,
    #[error("it gave a strange answer: {0}")]
    Strange(&'static str),
    #[error("the leader's lock is no longer ours")]
    NotLeader,
    #[error("the schema rowcast is not installed")]
    NotInstalled,
    #[error(
        "the schema rowcast has version {installed}, and this listener knows {wanted}: run rowcast install of its version"
    )]
    OtherVersion { installed: i32, wanted: i32 },
}

/// What the server says when we notify ourselves.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SelfNotify {
    /// How full its notification queue is.
    pub(crate) queue_usage: f64,
    /// The process that answered: always the same one, if the connection is a direct one.
    pub(crate) backend: String,
}

#[derive(Debug)]
pub(crate) struct Session {
    client: Client,
    pump: JoinHandle<()>,
    /// Why the pump ended, once it has.
    ended: watch::Receiver<Option<String>>,
    /// The last mark that came back.
    heard: watch::Receiver<Micros>,
    /// Counts notifications as they come.
    received: Counter,
    beat_sql: String,
    listen_sql: String,
}

impl Session {
    /// Connects, and starts the pump; what it receives comes out of the [`Outlet`].
    pub(crate) async fn open(
        postgres: &PostgresSettings,
        channels: &[Topic],
        buffer_bytes: usize,
        metrics: &Metrics,
    ) -> Result<(Self, Outlet), Lost> {
        let (client, connection) = postgres.connect().await?;
        let own: Arc<str> = format!("rowcast_{:016x}", rand::random::<u64>()).into();
        let (intake, outlet) = backlog(buffer_bytes, metrics.backlog_bytes.clone());
        let (heard_sender, heard) = watch::channel(0);
        let (ended_sender, ended) = watch::channel(None);
        let listen_sql = channels.iter().map(Topic::as_str).chain([&*own]).map(listen).collect();
        let beat_sql = format!(
            "select pg_catalog.pg_notify('{own}', ((extract(epoch from pg_catalog.clock_timestamp()) * 1000000)\
             ::bigint)::text), pg_catalog.pg_notification_queue_usage(), pg_catalog.pg_backend_pid()"
        );
        let topics = channels.iter().map(|topic| (topic.to_string(), topic.clone())).collect();
        let sorter = Sorter { topics, own, intake, heard: heard_sender, metrics: metrics.clone() };
        let pump = tokio::spawn(async move {
            let reason = pump(connection, sorter).await;
            // Nobody to hear it: the session has been given up already.
            drop(ended_sender.send(Some(reason)));
        });
        let session = Self { client, pump, ended, heard, received: metrics.received.clone(), beat_sql, listen_sql };
        session.prepare().await?;
        Ok((session, outlet))
    }

    async fn prepare(&self) -> Result<(), Lost> {
        let about = self.row(ABOUT).await?;
        let version: u32 = about.first().and_then(|v| v.parse().ok()).ok_or(Lost::Strange("its version"))?;
        if about.get(1).is_some_and(|recovering| recovering == "t") {
            return Err(Lost::InRecovery);
        }
        self.run(SETTINGS).await?;
        if version >= 140_000 {
            self.run(IDLE_SETTING).await?;
        } else {
            tracing::warn!(
                version,
                "before PostgreSQL 14 the server cannot be told to give up on a silent leader: a standby then \
                 waits for its TCP keepalive"
            );
        }
        Ok(())
    }

    /// Takes the leader's lock if it is free.
    pub(crate) async fn try_lock(&self, lock: LeaderLock) -> Result<bool, Lost> {
        Ok(self.row(&lock.try_sql()).await?.first().is_some_and(|got| got == "t"))
    }

    /// Who keeps the leader's lock from all listeners, in words.
    pub(crate) async fn stranger(&self, lock: LeaderLock) -> Result<Option<String>, Lost> {
        Ok(self.row(&lock.stranger_sql()).await?.into_iter().next().filter(|who| !who.is_empty()))
    }

    /// Whether this session still holds the leader's lock, by a round trip.
    pub(crate) async fn holds(&self, lock: LeaderLock) -> Result<bool, Lost> {
        Ok(self.row(&lock.held_sql()).await?.first().is_some_and(|held| held == "t"))
    }

    /// Gives the leader's lock back.
    pub(crate) async fn release(&self, lock: LeaderLock) -> Result<(), Lost> {
        self.run(&lock.release_sql()).await
    }

    /// The database's clock, in microseconds: the epoch of whoever has just taken the lock.
    pub(crate) async fn clock(&self) -> Result<u64, Lost> {
        self.row(CLOCK).await?.first().and_then(|at| at.parse().ok()).ok_or(Lost::Strange("its clock"))
    }

    /// Subscribes to all channels, and to our own.
    pub(crate) async fn listen(&self) -> Result<(), Lost> {
        self.run(&self.listen_sql).await
    }

    /// Sends a notification to ourselves, with the database's clock. Answers `None` where the
    /// session lives but the server's NOTIFY waits for somebody's commit.
    pub(crate) async fn notify_self(&self) -> Result<Option<SelfNotify>, Lost> {
        match self.patiently(self.client.simple_query(&self.beat_sql)).await {
            None => Err(Lost::Silent),
            Some(Err(error)) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => Ok(None),
            Some(result) => {
                let row = first_row(result.map_err(|e| self.why(&e))?)?;
                let [_, usage, backend] = &row[..] else { return Err(Lost::Strange("its heartbeat")) };
                let queue_usage = usage.parse().map_err(|_| Lost::Strange("its queue's usage"))?;
                Ok(Some(SelfNotify { queue_usage, backend: backend.clone() }))
            }
        }
    }

    /// Makes sure that notifications of others reach us too. A pooler that gives the server's
    /// connection to others between our statements (PgBouncer in transaction mode) hands us what we
    /// notify ourselves, with the answer to that statement, and loses all the rest. So this one
    /// comes from a connection of its own, while ours is idle.
    pub(crate) async fn prove(&self, postgres: &PostgresSettings) -> Result<(), Lost> {
        let mut heard = self.heard();
        heard.mark_unchanged();
        let (other, connection) = match postgres.connect().await {
            Ok(connected) => connected,
            Err(error) => {
                tracing::warn!(%error, "no second connection to prove that notifications of others come through");
                return Ok(());
            }
        };
        let connection = tokio::spawn(connection);
        let notified = timeout(PATIENCE, other.batch_execute(&self.beat_sql)).await;
        drop(other);
        if !matches!(notified, Ok(Ok(()))) {
            tracing::warn!(?notified, "could not prove that notifications of others come through");
            connection.abort();
            return Ok(());
        }
        match self.patiently(heard.changed()).await {
            Some(Ok(())) => Ok(()),
            Some(Err(_)) => Err(self.ended().await),
            None => Err(Lost::Deaf),
        }
    }

    /// The last of our own notifications that came back.
    pub(crate) fn heard(&self) -> watch::Receiver<Micros> {
        self.heard.clone()
    }

    /// Waits until the connection ends; why.
    pub(crate) async fn ended(&self) -> Lost {
        let mut ended = self.ended.clone();
        let reason = match ended.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone(),
            Err(_) => None,
        };
        Lost::Ended(reason.unwrap_or_else(|| "its task is gone".into()))
    }

    /// Ends the session: politely if the server still reads, else at once.
    pub(crate) async fn close(self) {
        drop(self.client);
        let mut pump = self.pump;
        if timeout(Duration::from_millis(500), &mut pump).await.is_err() {
            pump.abort();
        }
    }

    /// What a future comes to; `None` if neither it nor any notification came for [`PATIENCE`]. An
    /// answer comes behind all notifications that wait on the server, and a million take a while.
    pub(crate) async fn patiently<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(future);
        let mut quiet_since = Instant::now();
        let mut received = self.received.get();
        loop {
            if let Ok(answer) = timeout(PATIENCE / 12, &mut future).await {
                return Some(answer);
            }
            let now = self.received.get();
            if std::mem::replace(&mut received, now) != now {
                quiet_since = Instant::now();
            } else if quiet_since.elapsed() >= PATIENCE {
                return None;
            }
        }
    }

    async fn run(&self, sql: &str) -> Result<(), Lost> {
        match self.patiently(self.client.batch_execute(sql)).await {
            None => Err(Lost::Silent),
            Some(result) => result.map_err(|e| self.why(&e)),
        }
    }

    // Simple queries: one round trip, and nothing prepared.
    async fn row(&self, sql: &str) -> Result<Vec<String>, Lost> {
        match self.patiently(self.client.simple_query(sql)).await {
            None => Err(Lost::Silent),
            Some(result) => first_row(result.map_err(|e| self.why(&e))?),
        }
    }

    /// If the connection ended, the pump knows why; the query only knows that it did.
    fn why(&self, error: &tokio_postgres::Error) -> Lost {
        match &*self.ended.borrow() {
            Some(reason) if error.is_closed() => Lost::Ended(reason.clone()),
            _ => Lost::Failed(describe(error)),
        }
    }
}

fn first_row(messages: Vec<SimpleQueryMessage>) -> Result<Vec<String>, Lost> {
    let row = messages.into_iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let row = row.ok_or(Lost::Strange("no row"))?;
    Ok((0..row.len()).map(|column| row.get(column).unwrap_or_default().to_owned()).collect())
}

/// Quoted, so that a channel is listened to by its exact name.
fn listen(channel: &str) -> String {
    format!("listen \"{}\";", channel.replace('"', "\"\""))
}

/// Sorts what comes in: notifications of channels to the backlog, our own to whoever waits for it.
struct Sorter {
    topics: HashMap<String, Topic>,
    own: Arc<str>,
    intake: Intake,
    heard: watch::Sender<Micros>,
    metrics: Metrics,
}

impl Sorter {
    async fn take(&mut self, notification: &Notification) {
        self.metrics.received.inc();
        let payload = notification.payload();
        if let Some(topic) = self.topics.get(notification.channel()) {
            let item = Item::Change { topic: topic.clone(), at: time::now(), payload: payload.to_owned() };
            if !self.intake.add(item).await {
                self.metrics.dropped.inc();
            }
        } else if notification.channel() == &*self.own
            && let Ok(at) = payload.parse()
        {
            // In this order: who has heard the mark finds it in the backlog.
            self.intake.add(Item::Mark(at)).await;
            self.heard.send_replace(at);
        }
    }
}

/// Drives the connection. It never waits for a bus that is away: a listener that does not read makes
/// the server's notification queue grow, and when that is full, everybody's commits fail. Returns
/// why the connection ended.
async fn pump(mut connection: Connection, mut sorter: Sorter) -> String {
    loop {
        match poll_fn(|cx| connection.poll_message(cx)).await {
            Some(Ok(AsyncMessage::Notification(notification))) => sorter.take(&notification).await,
            Some(Ok(AsyncMessage::Notice(notice))) => tracing::debug!("PostgreSQL: {}", notice.message()),
            Some(Ok(_)) => {}
            Some(Err(error)) => return describe(&error),
            None => return "closed".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_listened_to_by_its_exact_name() {
        assert_eq!(listen("Größe \"x\""), "listen \"Größe \"\"x\"\"\";");
    }
}
