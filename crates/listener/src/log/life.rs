//! The life of the log source: connect, stand by, lead, and again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bus::{Publisher, Reader, Retention};
use protocol::{Backoff, FeedId, Offset};
use service::systemd::Pulse;
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    capture::{self, Capture},
    doorbell,
    out::line,
    publishing::{self, Publishing},
    ring::{LogRetention, Ring},
    session::LogSession,
    start::Log,
};
use crate::{
    condition::{Condition, Role},
    lock::LeaderLock,
    metrics::Metrics,
    outage::Outage,
    session::Lost,
    wait::Wait,
};
use service::postgres::PostgresSettings;

/// How often a standby asks for the lock, before jitter.
const POLL: Duration = Duration::from_millis(250);
/// How often it is looked whether the schema has been installed, or the capture goes on.
const SELDOM: Duration = Duration::from_secs(2);
/// A session that lasted this long was not in vain: the next one may follow at once.
const LASTING: Duration = Duration::from_secs(5);
/// How long giving the lock back may take.
const FINISH: Duration = Duration::from_secs(1);

pub(crate) struct LogLife {
    pub(crate) postgres: PostgresSettings,
    pub(crate) history: Retention,
    pub(crate) retention: LogRetention,
    pub(crate) poll_above: u64,
    /// How far the bus was when it last said so: who is connected to it has seen that much.
    pub(crate) held: Option<(FeedId, Offset)>,
    pub(crate) publisher: Publisher,
    pub(crate) reader: Reader,
    pub(crate) metrics: Metrics,
    pub(crate) condition: watch::Sender<Condition>,
    pub(crate) pulse: Pulse,
    pub(crate) shutdown: CancellationToken,
}

impl LogLife {
    /// Until the shutdown.
    pub(crate) async fn run(mut self) {
        let mut outage = Outage::new("PostgreSQL's log");
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let shutdown = self.shutdown.clone();
        loop {
            let begun = Instant::now();
            let ended = shutdown.run_until_cancelled(Box::pin(self.session(&mut outage, &mut backoff))).await;
            let Some(lost) = ended else { return };
            if begun.elapsed() > LASTING {
                backoff.reset();
            }
            let mut pause = backoff.delay();
            match lost {
                Lost::NotInstalled => {
                    self.be(Role::Off("no log: the schema rowcast is not installed (rowcast install)"));
                    pause = SELDOM;
                }
                lost => {
                    let failed = matches!(lost, Lost::Connect(_));
                    (if failed { &self.metrics.postgres_failed } else { &self.metrics.postgres_lost }).inc();
                    outage.failed(&lost.to_string());
                    self.be(Role::Away(lost.to_string()));
                }
            }
            self.pulse.beat();
            if shutdown.run_until_cancelled(sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    fn be(&self, role: Role) {
        let condition = Condition { role, bus: None, marked: None };
        self.condition.send_if_modified(|known| {
            let changed = *known != condition;
            *known = condition;
            changed
        });
    }

    /// One connection, from its beginning to its end.
    async fn session(&mut self, outage: &mut Outage, backoff: &mut Backoff) -> Lost {
        let session = match LogSession::open(&self.postgres, &self.pulse).await {
            Ok(session) => session,
            Err(lost) => return lost,
        };
        outage.mended();
        let lost = match self.stand_by(&session, backoff).await {
            Ok(()) => {
                let lost = Box::pin(self.lead(&session)).await;
                // What is known of the log is the next leader's to say.
                self.metrics.forget_the_log();
                lost
            }
            Err(lost) => lost,
        };
        // Dropped at a shutdown: the server gives the lock back with the connection.
        drop(timeout(FINISH, session.close()).await);
        lost
    }

    /// Asks for the lock until it is ours.
    async fn stand_by(&mut self, session: &LogSession, backoff: &mut Backoff) -> Result<(), Lost> {
        let sql = LeaderLock::of_log().try_sql();
        let (mut wait, stranger) = (Wait::default(), LeaderLock::of_log().stranger_sql());
        loop {
            self.pulse.beat();
            if session.query_one(&sql, &[]).await?.get(0) {
                return Ok(());
            }
            backoff.reset();
            if wait.is_to_look() {
                let stranger: String = session.query_one(&stranger, &[]).await?.get(0);
                self.be(wait.role(Some(stranger).filter(|who| !who.is_empty())));
                // Who leads meanwhile knows better.
                self.held = None;
            }
            tokio::select! {
                () = sleep(POLL.mul_f64(rand::random_range(0.7..1.3))) => {}
                lost = session.ended() => return Err(lost),
            }
        }
    }

    /// Leads until the session is lost.
    async fn lead(&mut self, session: &LogSession) -> Lost {
        self.be(Role::Leader(None));
        let ascend = async {
            if !session.prepares {
                session.execute(&format!("listen {}", doorbell::CHANNEL)).await?;
            }
            let clock = "select (extract(epoch from clock_timestamp()) * 1000000)::bigint";
            Ok::<_, Lost>(session.query_one(clock, &[]).await?.get::<_, i64>(0).cast_unsigned())
        };
        let mut epoch = match ascend.await {
            Ok(epoch) => epoch,
            Err(lost) => return lost,
        };
        let mut outage = Outage::new("the bus");
        loop {
            tokio::select! {
                again = Box::pin(self.term(session, &mut epoch, &mut outage)) => match again {
                    Ok(()) => {}
                    Err(lost) => return lost,
                },
                lost = session.ended() => return lost,
            }
        }
    }

    /// Carries one feed until something has to be looked at anew.
    async fn term(&mut self, session: &LogSession, epoch: &mut u64, outage: &mut Outage) -> Result<(), Lost> {
        session.execute(&doorbell::let_go_sql()).await?;
        let log = Log::load(session).await?;
        self.metrics.log_paused.set(i64::from(log.state.paused));
        self.metrics.log_last.set(log.position.offset.cast_signed());
        if log.state.paused {
            self.be(Role::Off("paused: nothing is captured until rowcast resume"));
            self.pulse.beat();
            sleep(SELDOM / 4).await;
            return Ok(());
        }
        tracing::info!(feed = %log.feed, last = log.position.offset, "reading the log");
        let (out, line) = line(capture::catalogue(session).await?, self.metrics.log_waiting.clone());
        let (start, started) = watch::channel(None);
        let published = watch::Sender::new(0);
        let changed = Arc::new(Notify::new());
        let capture = Capture::new(
            session,
            log.feed.clone(),
            log.first_tick,
            log.state.clone(),
            log.position.clone(),
            out,
            self.poll_above,
            Arc::clone(&changed),
            self.metrics.clone(),
            self.pulse.clone(),
        )
        .await?;
        let ring = Ring {
            session,
            first_tick: log.first_tick,
            retention: self.retention,
            published: published.subscribe(),
            metrics: self.metrics.clone(),
            blocked: None,
            dropped: None,
            changed: Arc::clone(&changed),
        };
        let feed = log.feed.clone();
        let publishing = Publishing {
            session,
            log,
            reader: self.reader.clone(),
            publisher: &mut self.publisher,
            epoch,
            history: self.history,
            line,
            start,
            held: &mut self.held,
            published,
            outage,
            condition: self.condition.clone(),
            metrics: self.metrics.clone(),
            pulse: self.pulse.clone(),
        };
        tokio::select! {
            ended = capture.run(started) => match ended? {
                capture::Ended::Changed => tracing::info!(%feed, "the log has a new feed, or was paused"),
                capture::Ended::Trimmed => {
                    tracing::error!(%feed, "what the bus lacks is no longer in the log: a new feed begins, and all clients are told");
                    session.query_one("select rowcast.begin_feed('trimmed')", &[]).await?;
                }
            },
            ended = publishing.run() => match ended? {
                publishing::Ended::BusChanged | publishing::Ended::NewFeed => {}
            },
            ended = ring.run() => ended?,
        }
        Ok(())
    }
}
