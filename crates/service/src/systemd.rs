//! What systemd is told (`Type=notify`, `WatchdogSec=`). Without systemd, nothing happens.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use sd_notify::NotifyState;
use tokio::task::JoinHandle;

/// The service is up: it serves, or stands by.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// One line for `systemctl status`.
pub fn status(line: &str) {
    tell(&[NotifyState::Status(line)]);
}

/// The service has begun to stop.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "systemd could not be told");
    }
}

/// Keeps systemd's watchdog quiet as long as `alive` says so, asked twice per `WatchdogSec`. A main
/// loop that hangs makes `alive` false (see [`Pulse`]), the pings stop, and systemd restarts the
/// service. `None` where no watchdog is set.
pub fn watchdog(alive: impl Fn() -> bool + Send + 'static) -> Option<JoinHandle<()>> {
    let every = sd_notify::watchdog_enabled()? / 2;
    Some(tokio::spawn(async move {
        let mut ticks = tokio::time::interval(every);
        loop {
            ticks.tick().await;
            if alive() {
                tell(&[NotifyState::Watchdog]);
            } else {
                tracing::error!("the main loop does not move: systemd is not pinged");
            }
        }
    }))
}

/// A main loop's sign of life: it beats, and others see how long ago that was. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pulse {
    started: Instant,
    last_ms: Arc<AtomicU64>,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { started: Instant::now(), last_ms: Arc::default() }
    }
}

impl Pulse {
    /// A sign of life, now.
    pub fn beat(&self) {
        self.last_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// Whether the last beat (or the start) was at most this long ago.
    pub fn beat_within(&self, limit: Duration) -> bool {
        u128::from(self.now_ms() - self.last_ms.load(Ordering::Relaxed).min(self.now_ms())) <= limit.as_millis()
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pulse_that_stopped_shows() {
        let pulse = Pulse::default();
        pulse.beat();
        assert!(pulse.beat_within(Duration::from_secs(5)));
        std::thread::sleep(Duration::from_millis(20));
        assert!(!pulse.beat_within(Duration::from_millis(10)));
    }
}
