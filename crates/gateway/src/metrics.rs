//! What the gateway counts. The help text of a metric is its doc comment.

use std::sync::Arc;

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use protocol::{Batch, Close, ErrorCode, ResetReason, Source};

/// All metrics of a gateway. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BySource {
    source: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByCode {
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByStatus {
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByDoor {
    door: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByFrom {
    from: &'static str,
}

macro_rules! metrics {
    ($($(#[doc = $help:literal])+ $field:ident: $kind:ty = $name:literal $(, $unit:expr)?;)*) => {
        #[derive(Debug)]
        struct Inner {
            $($(#[doc = $help])+ $field: $kind,)*
            registry: Registry,
        }

        impl Default for Metrics {
            fn default() -> Self {
                let mut registry = Registry::with_prefix("rowcast_gateway");
                $(
                    let $field = <$kind>::default();
                    let help = concat!($($help),+).trim().trim_end_matches('.');
                    metrics!(@register registry, $name, help, $field $(, $unit)?);
                )*
                Self { inner: Arc::new(Inner { $($field,)* registry }) }
            }
        }
    };
    (@register $registry:ident, $name:literal, $help:ident, $field:ident) => {
        $registry.register($name, $help, $field.clone());
    };
    (@register $registry:ident, $name:literal, $help:ident, $field:ident, $unit:expr) => {
        $registry.register_with_unit($name, $help, $unit, $field.clone());
    };
}

metrics! {
    /// Clients that are served now: connections, streams of events, and who asks for changes.
    connections: Family<ByDoor, Gauge> = "connections";
    /// Clients that were let in.
    opened: Family<ByDoor, Counter> = "connections_opened";
    /// Requests that were not let in.
    denied: Family<ByCode, Counter> = "denied";
    /// Connections that the gateway closed.
    closes: Family<ByCode, Counter> = "closes";
    /// POSTs to ingest paths, by the status of the answer.
    ingests: Family<ByStatus, Counter> = "ingests";
    /// Requests to the inspector, by the status of the answer.
    inspections: Family<ByStatus, Counter> = "inspections";
    /// Client messages that were refused.
    errors: Family<ByCode, Counter> = "errors";
    /// Changes that arrived from the bus.
    changes: Family<BySource, Counter> = "changes";
    /// Changes that were handed to a connection.
    deliveries: Counter = "deliveries";
    /// Changes of a row that were joined with a later one, as a subscription asked for.
    conflated: Counter = "conflated_changes";
    /// Messages between clients that arrived from the bus.
    broadcasts: Counter = "broadcasts";
    /// Messages between clients that were dropped, where there was no room, or the bus was away.
    broadcasts_dropped: Counter = "broadcasts_dropped";
    /// Bytes that sockets took.
    written: Counter = "written", Unit::Bytes;
    /// Times that something may have been missed between the bus and this gateway.
    gaps: Family<BySource, Counter> = "gaps";
    /// Gaps that were repaired from the histories.
    repairs: Family<BySource, Counter> = "repairs";
    /// Times that a client was told that it may have missed something.
    resets: Family<ByReason, Counter> = "resets";
    /// Subscriptions whose connection read too slowly and that fell behind.
    fell_behind: Counter = "subscriptions_fell_behind";
    /// Changes that were sent again to subscriptions that caught up.
    resumed: Family<ByFrom, Counter> = "resumed_changes";
    /// Reads of the histories for subscriptions that catch up. Those who resume from the same
    /// stretch share them.
    history_reads: Counter = "history_reads";
    /// The last offset of the feed.
    offset: Family<BySource, Gauge> = "feed_offset";
    /// The database's time up to which the feed is complete, in milliseconds since 1970.
    complete_at: Family<BySource, Gauge> = "feed_complete_at_ms";
    /// Whether this gateway has the bus and is up to date with it.
    ready: Gauge = "ready";
}

impl Metrics {
    /// The text that Prometheus reads.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String does not fail.
        text::encode(&mut out, &self.inner.registry).unwrap_or_default();
        out
    }

    pub(crate) fn opened(&self, door: &'static str) {
        self.inner.opened.get_or_create(&ByDoor { door }).inc();
        self.inner.connections.get_or_create(&ByDoor { door }).inc();
    }

    pub(crate) fn left(&self, door: &'static str) {
        self.inner.connections.get_or_create(&ByDoor { door }).dec();
    }

    pub(crate) fn denied(&self, code: &'static str) {
        self.inner.denied.get_or_create(&ByCode { code }).inc();
    }

    pub(crate) fn ingested(&self, status: u16) {
        self.inner.ingests.get_or_create(&ByStatus { status }).inc();
    }

    pub(crate) fn inspected(&self, status: u16) {
        self.inner.inspections.get_or_create(&ByStatus { status }).inc();
    }

    pub(crate) fn closed(&self, close: Close) {
        self.inner.closes.get_or_create(&ByCode { code: close.name() }).inc();
    }

    pub(crate) fn error(&self, code: ErrorCode) {
        self.inner.errors.get_or_create(&ByCode { code: code.as_str() }).inc();
    }

    pub(crate) fn batch(&self, source: Source, batch: &Batch) {
        let by = BySource { source: source.as_str() };
        self.inner.changes.get_or_create(&by).inc_by(batch.len());
        self.inner.offset.get_or_create(&by).set(batch.last as i64);
        self.inner.complete_at.get_or_create(&by).set(batch.at / 1000);
    }

    pub(crate) fn delivered(&self, changes: u64) {
        self.inner.deliveries.inc_by(changes);
    }

    pub(crate) fn broadcast(&self) {
        self.inner.broadcasts.inc();
    }

    pub(crate) fn broadcasts_dropped(&self, count: u64) {
        self.inner.broadcasts_dropped.inc_by(count);
    }

    pub(crate) fn conflated(&self, changes: u64) {
        self.inner.conflated.inc_by(changes);
    }

    pub(crate) fn written(&self, bytes: usize) {
        self.inner.written.inc_by(bytes as u64);
    }

    pub(crate) fn gap(&self, source: Source) {
        self.inner.gaps.get_or_create(&BySource { source: source.as_str() }).inc();
    }

    pub(crate) fn repaired(&self, source: Source) {
        self.inner.repairs.get_or_create(&BySource { source: source.as_str() }).inc();
    }

    pub(crate) fn reset(&self, reason: ResetReason) {
        self.inner.resets.get_or_create(&ByReason { reason: reason.as_str() }).inc();
    }

    pub(crate) fn fell_behind(&self) {
        self.inner.fell_behind.inc();
    }

    pub(crate) fn resumed_from_memory(&self, changes: usize) {
        self.inner.resumed.get_or_create(&ByFrom { from: "memory" }).inc_by(changes as u64);
    }

    pub(crate) fn resumed_from_history(&self, changes: usize) {
        self.inner.resumed.get_or_create(&ByFrom { from: "history" }).inc_by(changes as u64);
    }

    pub(crate) fn history_read(&self) {
        self.inner.history_reads.inc();
    }

    /// How many gaps there were, and how many were repaired.
    pub(crate) fn gaps(&self, source: Source) -> (u64, u64) {
        let by = BySource { source: source.as_str() };
        (self.inner.gaps.get_or_create(&by).get(), self.inner.repairs.get_or_create(&by).get())
    }

    pub(crate) fn set_ready(&self, ready: bool) {
        self.inner.ready.set(i64::from(ready));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_a_name_and_a_help_text() {
        let metrics = Metrics::default();
        metrics.closed(Close::Restart);
        metrics.delivered(3);
        let text = metrics.text();
        assert!(text.contains("rowcast_gateway_closes_total{code=\"restart\"} 1"), "{text}");
        assert!(text.contains("# HELP rowcast_gateway_deliveries Changes that were handed to a connection."), "{text}");
        assert!(text.contains("rowcast_gateway_deliveries_total 3"), "{text}");
    }
}
