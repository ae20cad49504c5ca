//! The proof, each second, that the whole way from a commit to here works.

use std::time::Duration;

use tokio::time::sleep;

use crate::{
    metrics::Metrics,
    session::{Lost, Session},
};

const EVERY: Duration = Duration::from_secs(1);

/// Notifies ourselves and waits for it to come back: then everything that was committed before has
/// been received, and stands before its mark in the backlog.
pub(crate) struct Heartbeat<'a> {
    session: &'a Session,
    metrics: Metrics,
    backend: Option<String>,
    stalled: bool,
}

impl<'a> Heartbeat<'a> {
    pub(crate) fn new(session: &'a Session, metrics: Metrics) -> Self {
        Self { session, metrics, backend: None, stalled: false }
    }

    /// Beats until the session is of no use any more.
    pub(crate) async fn run(&mut self) -> Lost {
        loop {
            if let Err(lost) = self.beat().await {
                return lost;
            }
            tokio::select! {
                () = sleep(EVERY) => {}
                lost = self.session.ended() => return lost,
            }
        }
    }

    /// One heartbeat.
    pub(crate) async fn beat(&mut self) -> Result<(), Lost> {
        let mut heard = self.session.heard();
        heard.mark_unchanged();
        let Some(answer) = self.session.notify_self().await? else {
            self.stall();
            return Ok(());
        };
        if std::mem::take(&mut self.stalled) {
            tracing::info!("notifications go through again");
        }
        if *self.backend.get_or_insert_with(|| answer.backend.clone()) != answer.backend {
            return Err(Lost::Pooled);
        }
        self.metrics.queue_usage.set(answer.queue_usage);
        match self.session.patiently(heard.changed()).await {
            Some(Ok(())) => Ok(()),
            Some(Err(_)) => Err(self.session.ended().await),
            None => Err(Lost::Deaf),
        }
    }

    // Nobody's notifications get through then, and none are lost: no reason for a new feed.
    fn stall(&mut self) {
        if !std::mem::replace(&mut self.stalled, true) {
            tracing::warn!(
                "NOTIFY waits on the server for more than 2 s: some commit with a NOTIFY in it does not finish (does \
                 it wait for a synchronous standby?). Until then no changes come, and no watermark"
            );
        }
    }
}
