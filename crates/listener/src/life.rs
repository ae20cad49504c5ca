//! A listener's life: connect, stand by, lead, and again.

use std::time::Duration;

use bus::Publisher;
use protocol::{Backoff, Catalogue};
use service::systemd::Pulse;
use tokio::{
    sync::watch,
    time::{interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Config,
    backlog::Outlet,
    condition::{Condition, Role},
    heartbeat::Heartbeat,
    lock::LeaderLock,
    metrics::Metrics,
    outage::Outage,
    publishing::Publishing,
    session::{Lost, Session},
    wait::Wait,
    writer::Writer,
};

/// How often a standby asks for the lock, before jitter: what a failover takes longer than the end
/// of the leader's session.
const POLL: Duration = Duration::from_millis(300);
/// How long the end of a process may take: everything received is published.
const FINISH: Duration = Duration::from_secs(5);
/// The same at the end of a session, where the next one waits for it.
const FINISH_SESSION: Duration = Duration::from_secs(1);

pub(crate) struct Life {
    pub(crate) config: Config,
    pub(crate) publisher: Publisher,
    pub(crate) metrics: Metrics,
    pub(crate) condition: watch::Sender<Condition>,
    pub(crate) pulse: Pulse,
    pub(crate) shutdown: CancellationToken,
}

impl Life {
    /// Until the shutdown.
    pub(crate) async fn run(mut self) {
        let mut outage = Outage::new("PostgreSQL");
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        loop {
            match self.session(&mut outage, &mut backoff).await {
                Ok(()) => return,
                Err(lost) => {
                    let failed = matches!(lost, Lost::Connect(_));
                    (if failed { &self.metrics.postgres_failed } else { &self.metrics.postgres_lost }).inc();
                    let reason = lost.to_string();
                    outage.failed(&reason);
                    self.condition.send_replace(Condition { role: Role::Away(reason), bus: None, marked: None });
                }
            }
            tokio::select! {
                () = sleep(backoff.delay()) => {}
                () = self.shutdown.cancelled() => return,
            }
        }
    }

    /// One connection, from its beginning to its end. `Ok`: shut down.
    async fn session(&mut self, outage: &mut Outage, backoff: &mut Backoff) -> Result<(), Lost> {
        let Some((session, outlet)) = self.connect().await? else { return Ok(()) };
        let lock = LeaderLock::of(&self.config.namespace);
        let mut works = || {
            outage.mended();
            backoff.reset();
        };
        let mut result = self.stand_by(&session, lock, &mut works).await;
        if let Ok(true) = result {
            result = self.lead(&session, outlet, lock, &mut works).await.map(|()| false);
        }
        session.close().await;
        result.map(drop)
    }

    async fn connect(&self) -> Result<Option<(Session, Outlet)>, Lost> {
        let Config { postgres, channels, buffer_bytes, .. } = &self.config;
        let open = Session::open(postgres, channels, *buffer_bytes, &self.metrics);
        tokio::pin!(open);
        // The limit on a connect is the user's, and may be longer than the watchdog's patience.
        let mut ticks = interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                session = &mut open => return session.map(Some),
                () = self.shutdown.cancelled() => return Ok(None),
                _ = ticks.tick() => self.pulse.beat(),
            }
        }
    }

    /// Asks for the leader's lock until it is ours; `false`: shut down. Neither inside a
    /// transaction, which would hold up the clean-up of the whole database, nor with LISTEN, which
    /// would hold up that of the notification queue.
    async fn stand_by(&self, session: &Session, lock: LeaderLock, works: &mut impl FnMut()) -> Result<bool, Lost> {
        let mut wait = Wait::default();
        loop {
            self.pulse.beat();
            if session.try_lock(lock).await? {
                return Ok(true);
            }
            works();
            if wait.is_to_look() {
                let role = wait.role(session.stranger(lock).await?);
                self.condition.send_replace(Condition { role, bus: None, marked: None });
            }
            tokio::select! {
                () = sleep(POLL.mul_f64(rand::random_range(0.7..1.3))) => {}
                lost = session.ended() => return Err(lost),
                () = self.shutdown.cancelled() => return Ok(false),
            }
        }
    }

    /// Leads until the session ends (an error), or the shutdown.
    async fn lead(
        &mut self,
        session: &Session,
        outlet: Outlet,
        lock: LeaderLock,
        works: &mut impl FnMut(),
    ) -> Result<(), Lost> {
        let ascend = async {
            // After the lock: so it is higher than that of any leader before, whatever this
            // machine's clock says. LISTEN comes last: what is notified from then on belongs to the
            // new feed.
            let epoch = session.clock().await?;
            session.listen().await?;
            session.prove(&self.config.postgres).await?;
            Ok::<_, Lost>(epoch)
        };
        let epoch = tokio::select! {
            epoch = ascend => epoch?,
            () = self.shutdown.cancelled() => return session.release(lock).await.or(Ok(())),
        };
        works();
        self.condition.send_replace(Condition { role: Role::Leader(None), bus: None, marked: None });
        let catalogue = Catalogue::of_channels(self.config.channels.iter().cloned());
        let writer = Writer::new(&mut self.publisher, catalogue, epoch, self.metrics.clone());
        tracing::info!(feed = %writer.feed(), epoch, channels = self.config.channels.len(), "active");

        let (condition, metrics, pulse) = (self.condition.clone(), self.metrics.clone(), self.pulse.clone());
        let mut publishing = Publishing::new(writer, outlet, lock, condition, metrics, pulse);
        let mut heartbeat = Heartbeat::new(session, self.metrics.clone());
        let finish = CancellationToken::new();
        let publish = publishing.run(session, &finish);
        tokio::pin!(publish);
        let lost = tokio::select! {
            ended = &mut publish => {
                return Err(match ended {
                    Err(lost) => lost,
                    Ok(()) => session.ended().await,
                });
            }
            lost = heartbeat.run() => lost,
            () = self.shutdown.cancelled() => {
                // What was committed before this moment still goes out.
                let all_received = async {
                    let received = heartbeat.beat().await;
                    finish.cancel();
                    received
                };
                let rest = async { tokio::join!(all_received, publish).1 };
                if timeout(FINISH, rest).await.is_err() {
                    tracing::warn!("stopping with changes that the bus did not take");
                }
                return session.release(lock).await.or(Ok(()));
            }
        };
        finish.cancel();
        // The bus may well work: what was received goes out before the feed ends. If another
        // listener leads by now, its epoch keeps ours out.
        drop(timeout(FINISH_SESSION, publish).await);
        Err(lost)
    }
}
