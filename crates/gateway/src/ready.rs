//! Whether this gateway delivers: `/readyz`, and whether an upgrade is accepted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use protocol::{Catalogue, Source, Topic};
use tokio::sync::watch;

use crate::{
    feed::{FeedState, FeedStatus},
    hub::{is_too_early, names},
    metrics::Metrics,
};

/// Readiness means delivery: red while this gateway has lost the bus or lags behind it, and once
/// it drains. That a listener is silent is no reason: all gateways share that. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Readiness {
    feeds: Arc<Vec<(Source, watch::Receiver<FeedStatus>)>>,
    draining: Arc<AtomicBool>,
    started: Instant,
    metrics: Metrics,
}

impl Readiness {
    /// The readiness of a gateway with these feeds.
    pub fn new(feeds: Vec<(Source, watch::Receiver<FeedStatus>)>, metrics: Metrics) -> Self {
        Self { feeds: Arc::new(feeds), draining: Arc::default(), started: Instant::now(), metrics }
    }

    /// From now on, never ready again.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Why it is not ready; nothing if it is.
    pub fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.draining.load(Ordering::Relaxed) {
            reasons.push("draining: this gateway is stopping".into());
        }
        for (source, status) in self.feeds.iter() {
            match status.borrow().state {
                FeedState::Lost => reasons.push(format!("{source}: the bus cannot be reached")),
                FeedState::Repairing => reasons.push(format!("{source}: behind the bus, catching up")),
                FeedState::Live => {}
            }
        }
        self.metrics.set_ready(reasons.is_empty());
        reasons
    }

    /// How each feed is doing, and since when.
    pub fn states(&self) -> Vec<(Source, FeedState, Duration)> {
        let state = |(source, status): &(Source, watch::Receiver<FeedStatus>)| {
            let status = status.borrow();
            (*source, status.state, status.since.elapsed())
        };
        self.feeds.iter().map(state).collect()
    }

    /// What each feed carries, once a listener has told.
    pub fn catalogues(&self) -> Vec<(Source, Arc<Catalogue>)> {
        let known = |(source, status): &(Source, watch::Receiver<FeedStatus>)| {
            Some((*source, status.borrow().catalogue.clone()?))
        };
        self.feeds.iter().filter_map(known).collect()
    }

    /// Since when this gateway is there.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Whether it is stopping.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Whether it delivers.
    pub fn is_ready(&self) -> bool {
        self.reasons().is_empty()
    }

    /// Whether a listener carries the topic; `None` where no listener has told yet.
    pub fn carries(&self, topic: &str) -> Option<bool> {
        let catalogues: Vec<Arc<Catalogue>> =
            self.feeds.iter().filter_map(|(_, status)| status.borrow().catalogue.clone()).collect();
        if catalogues.iter().any(|catalogue| catalogue.get(topic).is_some()) {
            return Some(true);
        }
        let has_log = self.feeds.iter().any(|(of, status)| *of == Source::Log && status.borrow().catalogue.is_some());
        let unknown = catalogues.is_empty() || is_too_early(topic, has_log, self.started.elapsed());
        (!unknown).then_some(false)
    }

    /// The topics of which this is true, in words.
    pub fn topics(&self, may_see: impl Fn(&str) -> bool) -> String {
        let catalogues = self.feeds.iter().filter_map(|(_, status)| status.borrow().catalogue.clone());
        let topics: Vec<Topic> =
            catalogues.flat_map(|catalogue| catalogue.topics.clone()).map(|info| info.topic).collect();
        names(topics.iter().map(Topic::as_str).filter(|name| may_see(name)))
    }
}
