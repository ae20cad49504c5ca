//! What a listener counts.

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::Registry,
};
use std::sync::{Arc, atomic::AtomicU64};

/// A gauge of a fraction.
type Fraction = Gauge<f64, AtomicU64>;

/// Makes the struct and its registration; a metric's doc comment is its help text.
macro_rules! metrics {
    ($($(#[doc = $help:literal])+ $name:ident as $as:literal: $kind:ty = $new:expr;)*) => {
        /// What a listener counts. Cheap to clone; clones count together.
        #[derive(Debug, Clone)]
        pub(crate) struct Metrics {
            $($(#[doc = $help])+ pub(crate) $name: $kind,)*
            registry: Arc<Registry>,
        }

        impl Default for Metrics {
            fn default() -> Self {
                let mut registry = Registry::with_prefix("rowcast_listener");
                $(
                    let $name: $kind = $new;
                    // The registry ends it with a full stop.
                    registry.register($as, concat!($($help),+).trim().trim_end_matches('.'), $name.clone());
                )*
                registry.register("build", "Which build this is", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
                Self { $($name,)* registry: Arc::new(registry) }
            }
        }
    };
}

metrics! {
    /// Notifications received from PostgreSQL.
    received as "received_notifications": Counter = Counter::default();
    /// Changes published to the bus.
    changes as "changes": Counter = Counter::default();
    /// Batches published to the bus, without watermarks.
    batches as "batches": Counter = Counter::default();
    /// Bytes of changes published to the bus.
    bytes as "bytes": Counter = Counter::default();
    /// Watermarks published to the bus.
    watermarks as "watermarks": Counter = Counter::default();
    /// Seconds that the bus took to take a batch.
    publish_seconds as "publish_seconds": Histogram = Histogram::new(exponential_buckets(0.000_05, 2.0, 17));
    /// Calls to the bus that failed, by kind; each is repeated until it works.
    bus_errors as "bus_errors": Family<ErrorKind, Counter> = Family::default();
    /// Batches published again because the bus had lost them.
    republished as "republished_batches": Counter = Counter::default();
    /// Feeds begun, by reason. With each, every client is told that it may have missed something.
    feeds as "feeds": Family<FeedReason, Counter> = Family::default();
    /// Notifications dropped because the backlog was full while the bus was away.
    dropped as "dropped_notifications": Counter = Counter::default();
    /// Bytes of notifications received and not yet published.
    backlog_bytes as "backlog_bytes": Gauge = Gauge::default();
    /// How full PostgreSQL's notification queue is, 0 to 1. If it fills, commits that NOTIFY fail.
    queue_usage as "notification_queue_usage_ratio": Fraction = Fraction::default();
    /// Whether this listener is the active one for a source, 1 or 0.
    leader as "leader": Family<OfSource, Gauge> = Family::default();
    /// Seconds since the last watermark was published: the age of what clients see. NaN in standby.
    watermark_age as "watermark_age_seconds": Family<OfSource, Fraction> = Family::default();
    /// Connections to PostgreSQL that were lost.
    postgres_lost as "postgres_connections_lost": Counter = Counter::default();
    /// Attempts to connect to PostgreSQL that failed.
    postgres_failed as "postgres_connects_failed": Counter = Counter::default();
    /// Looks at the log.
    log_looks as "log_looks": Counter = Counter::default();
    /// Steps of the log that had changes.
    log_ticks as "log_ticks": Counter = Counter::default();
    /// Times that a writer rang the doorbell of the log.
    log_rings as "log_rings": Counter = Counter::default();
    /// Whether writers ring for the log, 1, or it is looked at by polling, 0: at low rates a ring is quicker, at high
    /// rates polling costs the writers less.
    log_asleep as "log_doorbell_armed": Gauge = Gauge::default();
    /// Offset of the last change that the log has numbered.
    log_last as "log_last_offset": Gauge = Gauge::default();
    /// Offset of the last change of the log that the bus holds.
    log_published as "log_published_offset": Gauge = Gauge::default();
    /// Changes that the log has and the bus does not.
    log_backlog as "log_backlog_changes": Gauge = Gauge::default();
    /// Seconds since the oldest of them was numbered.
    log_backlog_seconds as "log_backlog_seconds": Fraction = Fraction::default();
    /// Whether the capture is paused: nothing that is written to watched tables comes out, 1 or 0.
    log_paused as "log_paused": Gauge = Gauge::default();
    /// Bytes of changes read from the log and not yet published.
    log_waiting as "log_waiting_bytes": Gauge = Gauge::default();
    /// Bytes of the log on disk.
    log_bytes as "log_bytes": Gauge = Gauge::default();
    /// Seconds since the oldest change that the log keeps.
    log_age as "log_age_seconds": Fraction = Fraction::default();
    /// Seconds that the oldest transaction that has written is in flight, prepared ones included; those of other roles
    /// show only to a listener whose role has pg_read_all_stats.
    log_oldest_transaction as "log_oldest_transaction_seconds": Fraction = Fraction::default();
    /// Times that the bus came back after having been away.
    bus_back as "bus_reconnects": Counter = Counter::default();
}

/// What kind of error the bus gave.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ErrorKind {
    kind: &'static str,
}

/// Of which source.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OfSource {
    source: &'static str,
}

impl OfSource {
    pub(crate) fn new(source: protocol::Source) -> Self {
        Self { source: source.as_str() }
    }
}

/// Why a feed was begun.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct FeedReason {
    reason: &'static str,
}

impl Metrics {
    pub(crate) fn bus_error(&self, error: &bus::BusError) {
        let kind = match error {
            bus::BusError::Unavailable(_) => "unavailable",
            bus::BusError::Refused(_) => "refused",
            bus::BusError::Malformed(_) => "malformed",
        };
        self.bus_errors.get_or_create(&ErrorKind { kind }).inc();
    }

    /// Sets to nothing what only a leader of the log can know.
    pub(crate) fn forget_the_log(&self) {
        for gauge in [&self.log_asleep, &self.log_backlog, &self.log_paused, &self.log_waiting, &self.log_bytes] {
            gauge.set(0);
        }
        for gauge in [&self.log_backlog_seconds, &self.log_age, &self.log_oldest_transaction] {
            gauge.set(0.0);
        }
    }

    pub(crate) fn feed_begun(&self, reason: &'static str) {
        self.feeds.get_or_create(&FeedReason { reason }).inc();
    }

    /// All of them, as Prometheus reads them.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String does not fail.
        if text::encode(&mut out, &self.registry).is_err() {
            out.clear();
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_explained_by_its_doc_comment() {
        let metrics = Metrics::default();
        metrics.feed_begun("session");
        metrics.bus_error(&bus::BusError::Unavailable(String::new()));
        metrics.leader.get_or_create(&OfSource::new(protocol::Source::Log)).set(1);
        let text = metrics.text();
        for line in [
            "# HELP rowcast_listener_leader Whether this listener is the active one for a source, 1 or 0.",
            "rowcast_listener_leader{source=\"log\"} 1",
            "rowcast_listener_feeds_total{reason=\"session\"} 1",
            "rowcast_listener_bus_errors_total{kind=\"unavailable\"} 1",
            "rowcast_listener_build_info{version=\"",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
