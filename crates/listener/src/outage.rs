use std::time::{Duration, Instant};

/// How often a lasting outage is mentioned again.
const REMIND: Duration = Duration::from_secs(60);
/// The same if its reason changes: at its start and end reasons change quickly.
const REMIND_CHANGED: Duration = Duration::from_secs(5);

/// Something that is away, in the log: a line when it goes or its reason changes, one a minute
/// while it lasts, and one when it is back.
#[derive(Debug)]
pub(crate) struct Outage {
    what: &'static str,
    current: Option<Current>,
}

#[derive(Debug)]
struct Current {
    since: Instant,
    said: Instant,
    reason: String,
}

impl Outage {
    pub(crate) fn new(what: &'static str) -> Self {
        Self { what, current: None }
    }

    /// It failed, or failed again.
    pub(crate) fn failed(&mut self, reason: &str) {
        let now = Instant::now();
        match &mut self.current {
            Some(current) => {
                let quiet = if current.reason == reason { REMIND } else { REMIND_CHANGED };
                if current.said + quiet > now {
                    return;
                }
                current.said = now;
                current.reason = reason.into();
                let seconds = current.since.elapsed().as_secs();
                tracing::warn!("{} is still away after {seconds} s: {reason}", self.what);
            }
            None => {
                self.current = Some(Current { since: now, said: now, reason: reason.into() });
                tracing::warn!("{} is away: {reason}; trying again until it is back", self.what);
            }
        }
    }

    /// It works. Says whether it did not before.
    pub(crate) fn mended(&mut self) -> bool {
        let Some(current) = self.current.take() else { return false };
        tracing::info!("{} is back after {:.1} s", self.what, current.since.elapsed().as_secs_f32());
        true
    }
}
