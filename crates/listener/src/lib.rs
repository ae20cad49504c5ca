//! The listener: from PostgreSQL to the bus.
//!
//! Of all listeners with one database and one namespace, the one that holds the leader's lock is
//! active (`life`). Over the one connection that holds the lock it LISTENs (`session`), into a
//! backlog bounded by bytes (`backlog`); what has arrived goes out at once, one publish in flight
//! (`publishing`), as batches of one feed that is kept whole on a bus that forgets (`writer`).
//! Whenever notifications may have been missed, a new feed begins, and clients are told.

#![warn(missing_docs)]

mod backlog;
mod condition;
mod config;
mod error;
mod heartbeat;
mod life;
mod lock;
mod metrics;
mod options;
mod outage;
mod publishing;
mod session;
mod status;
mod tail;
mod writer;

use std::time::Duration;

use bus::Bus;
use protocol::Source;
use service::{
    SettingsError,
    systemd::{self, Pulse},
};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

pub use config::Config;
pub use error::Error;
pub use options::Options;

use condition::Condition;
use life::Life;
use metrics::Metrics;

/// The main loop moves at least this often, whatever is away.
const ALIVE: Duration = Duration::from_secs(10);

/// Runs a listener until `shutdown` is cancelled; then everything that has been received is
/// published (at most 5 s are spent on that) and the leader's lock given back.
///
/// A database or a bus that is away is waited for, for as long as it takes. The only error is a
/// setting that cannot be used.
pub async fn run(config: Config, bus: &Bus, shutdown: CancellationToken) -> Result<(), Error> {
    let metrics = Metrics::default();
    let (condition, seen) = watch::channel(Condition::default());
    let status = match config.status_bind {
        Some(address) => {
            let bind = |problem| SettingsError::Bind {
                setting: options::STATUS_BIND.into(),
                address: address.to_string(),
                problem,
            };
            let listener = TcpListener::bind(address).await.map_err(bind)?;
            let address = listener.local_addr().map_err(bind)?;
            tracing::info!("status on http://{address}/readyz");
            Some(tokio::spawn(status::serve(listener, seen.clone(), metrics.clone())))
        }
        None => None,
    };
    let channels: Vec<_> = config.channels.iter().map(protocol::Topic::as_str).collect();
    tracing::info!(database = %config.postgres, namespace = config.namespace, ?channels, "listener starts");

    let pulse = Pulse::default();
    let watched = pulse.clone();
    let watchdog = systemd::watchdog(move || watched.beat_within(ALIVE));
    let reporter = tokio::spawn(report(seen));
    // Up, though perhaps not ready: a database that is away is no reason to be restarted.
    systemd::ready();
    let publisher = bus.publisher(Source::Notify);
    let stopping = shutdown.clone();
    let life = Life { config, publisher, metrics, condition, pulse, shutdown };
    let told = async {
        stopping.cancelled().await;
        systemd::stopping();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = Box::pin(life.run()) => {}
        () = told => {}
    }
    for task in [status, watchdog, Some(reporter)].into_iter().flatten() {
        task.abort();
    }
    tracing::info!("listener ends");
    Ok(())
}

/// Tells systemd how things are, once a change.
async fn report(mut seen: watch::Receiver<Condition>) {
    let mut said = String::new();
    loop {
        let line = seen.borrow_and_update().line();
        if line != said {
            systemd::status(&line);
            said = line;
        }
        if seen.changed().await.is_err() {
            return;
        }
    }
}
