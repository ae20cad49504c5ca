//! The listener: from PostgreSQL to the bus.
//!
//! Of all listeners with one database and one namespace, the one that holds the leader's lock is
//! active (`life`). Over the one connection that holds the lock it LISTENs (`session`), into a
//! backlog bounded by bytes (`backlog`); what has arrived goes out at once, one publish in flight
//! (`publishing`), as batches of one feed that is kept whole on a bus that forgets (`writer`).
//! Whenever notifications may have been missed, a new feed begins, and clients are told.
//!
//! That is the `notify` source. The durable one, over a connection and a lock of its own, is `log`.

#![warn(missing_docs)]

mod backlog;
mod condition;
mod config;
mod error;
mod heartbeat;
mod life;
mod lock;
mod log;
mod metrics;
mod options;
mod outage;
mod publishing;
mod session;
mod status;
mod tail;
mod wait;
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
pub use log::LogRetention;
pub use options::Options;

use condition::{Condition, Conditions};
use life::Life;
use log::LogLife;
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
    let (log_condition, log_seen) = watch::channel(Condition::default());
    let notify = !config.channels.is_empty();
    let mut sources = vec![(Source::Log, log_seen)];
    if notify {
        sources.insert(0, (Source::Notify, seen));
    }
    let seen = Conditions::new(sources);
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

    let (pulse, log_pulse) = (Pulse::default(), Pulse::default());
    let watched = (pulse.clone(), log_pulse.clone());
    let watchdog = systemd::watchdog(move || (!notify || watched.0.beat_within(ALIVE)) && watched.1.beat_within(ALIVE));
    let reporter = tokio::spawn(report(seen));
    // Up, though perhaps not ready: a database that is away is no reason to be restarted.
    systemd::ready();
    let stopping = shutdown.clone();
    let log = LogLife {
        postgres: config.postgres.clone(),
        history: config.history,
        retention: config.log_retention,
        poll_above: config.log_poll_above,
        held: None,
        publisher: bus.publisher(Source::Log),
        reader: bus.reader(Source::Log),
        metrics: metrics.clone(),
        condition: log_condition,
        pulse: log_pulse,
        shutdown: shutdown.clone(),
    };
    let publisher = bus.publisher(Source::Notify);
    let life = Life { config, publisher, metrics, condition, pulse, shutdown };
    // A task of its own: neither source is to wait for the other.
    let log = tokio::spawn(log.run());
    let told = async {
        stopping.cancelled().await;
        systemd::stopping();
        std::future::pending::<()>().await;
    };
    let notify_life = async {
        if notify {
            Box::pin(life.run()).await;
        }
    };
    let log_life = async {
        match log.await {
            // As if it had happened here: the process is not to go on with half of itself.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Ok(()) | Err(_) => {}
        }
    };
    let lives = async {
        tokio::join!(notify_life, log_life);
    };
    tokio::select! {
        () = lives => {}
        () = told => {}
    }
    for task in [status, watchdog, Some(reporter)].into_iter().flatten() {
        task.abort();
    }
    tracing::info!("listener ends");
    Ok(())
}

/// Tells systemd how things are, once a change.
async fn report(mut seen: Conditions) {
    let mut said = String::new();
    loop {
        let line = seen.line();
        if line != said {
            systemd::status(&line);
            said = line;
        }
        if !seen.changed().await {
            return;
        }
    }
}
