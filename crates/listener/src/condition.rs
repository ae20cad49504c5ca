use std::time::Instant;

use futures_util::future::select_all;
use protocol::{FeedId, Source};
use tokio::sync::watch;

use crate::metrics::{Metrics, OfSource};

/// A watermark this old makes a leader unready: what clients see is not up to date.
const STALE_S: f64 = 5.0;

/// How a listener is, for its status server and for systemd.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Condition {
    pub(crate) role: Role,
    /// Why the bus is away, if it is.
    pub(crate) bus: Option<String>,
    /// When the last watermark was published, by a leader.
    pub(crate) marked: Option<Instant>,
}

/// What a listener is doing.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Role {
    /// It has no connection to the database; why.
    Away(String),
    /// There is nothing to do for it; why.
    Off(&'static str),
    /// Another listener is active; this one takes over when that ends.
    Standby,
    /// Nobody can be active; why.
    Blocked(String),
    /// It is the active one; the feed, once clients can see it.
    Leader(Option<FeedId>),
}

impl Default for Condition {
    fn default() -> Self {
        Self { role: Role::Away("starting".into()), bus: None, marked: None }
    }
}

impl Condition {
    /// Why it is not ready; nothing if it is.
    pub(crate) fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        match &self.role {
            Role::Away(why) => reasons.push(format!("PostgreSQL: {why}")),
            Role::Blocked(why) => reasons.push(why.clone()),
            Role::Standby | Role::Off(_) => {}
            Role::Leader(feed) => {
                reasons.extend(self.bus.iter().map(|why| format!("bus: {why}")));
                if feed.is_none() {
                    reasons.push("the feed has not begun yet".into());
                } else if self.mark_age() > STALE_S {
                    reasons.push(format!("the last watermark is {:.0} s old", self.mark_age()));
                }
            }
        }
        reasons
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        let role = match &self.role {
            Role::Away(_) => "not connected".to_owned(),
            Role::Off(why) => (*why).to_owned(),
            Role::Standby | Role::Blocked(_) => "standing by".to_owned(),
            Role::Leader(Some(feed)) => format!("active, feed {feed}"),
            Role::Leader(None) => "active, no feed yet".to_owned(),
        };
        match self.reasons()[..] {
            [] => role,
            ref reasons => format!("{role}: {}", reasons.join("; ")),
        }
    }

    /// Writes what it knows into the gauges.
    fn measure(&self, source: Source, metrics: &Metrics) {
        let of = OfSource::new(source);
        metrics.leader.get_or_create(&of).set(i64::from(matches!(self.role, Role::Leader(_))));
        metrics.watermark_age.get_or_create(&of).set(self.mark_age());
    }

    // Before the first watermark there is no age.
    fn mark_age(&self) -> f64 {
        self.marked.map_or(f64::NAN, |at| at.elapsed().as_secs_f64())
    }
}

/// How the sources of a listener are. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Conditions {
    sources: Vec<(Source, watch::Receiver<Condition>)>,
}

impl Conditions {
    pub(crate) fn new(sources: Vec<(Source, watch::Receiver<Condition>)>) -> Self {
        Self { sources }
    }

    /// Why it is not ready; nothing if it is.
    pub(crate) fn reasons(&self) -> Vec<String> {
        let of = |(source, seen): &(Source, watch::Receiver<Condition>)| {
            seen.borrow().reasons().into_iter().map(|reason| format!("{source}: {reason}")).collect::<Vec<_>>()
        };
        self.sources.iter().flat_map(of).collect()
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        let of = |(source, seen): &(Source, watch::Receiver<Condition>)| format!("{source}: {}", seen.borrow().line());
        self.sources.iter().map(of).collect::<Vec<_>>().join("; ")
    }

    /// Writes what is known into the gauges.
    pub(crate) fn measure(&self, metrics: &Metrics) {
        for (source, seen) in &self.sources {
            seen.borrow().measure(*source, metrics);
        }
    }

    /// Waits for a change; `false`: there will be none.
    pub(crate) async fn changed(&mut self) -> bool {
        let changes = self.sources.iter_mut().map(|(_, seen)| Box::pin(seen.changed()));
        select_all(changes).await.0.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_is_ready_and_a_leader_needs_both_sides() {
        let mut condition = Condition::default();
        assert!(condition.reasons()[0].starts_with("PostgreSQL"));
        condition.role = Role::Standby;
        condition.bus = Some("away".into());
        assert!(condition.reasons().is_empty());
        condition.role = Role::Leader(None);
        assert_eq!(condition.reasons(), ["bus: away", "the feed has not begun yet"]);
        condition.role = Role::Leader(Some(FeedId::random()));
        condition.bus = None;
        assert!(condition.reasons().is_empty());
    }
}
