//! What a shard shows of itself: copies, for the inspector.

mod connection;
mod scan;

use std::collections::HashMap;

use protocol::{Micros, Offset, Source, Topic, config::Wrap, time::rfc3339};
use serde::{Serialize, Serializer};

use super::{
    Hub,
    route::{Route, RouteForm},
};

pub use connection::{ConnectionLook, ResetLook, SubscriptionLook};
pub use scan::{Order, Rank, Scan, Totals};

/// Routes that are shown of a shard.
const ROUTES: usize = 500;

/// A feed, as far as a shard is with it.
#[derive(Debug, Clone, Serialize)]
pub struct FeedLook {
    /// Which source.
    pub source: Source,
    /// Its id.
    pub feed: String,
    /// The last change that the shard has taken in.
    pub offset: Offset,
    /// The database's time up to which it is complete.
    #[serde(serialize_with = "time")]
    pub at: Micros,
    /// How long ago anything of it came.
    pub silent_ms: u64,
    /// Memory has every change after this one.
    pub memory_after: Offset,
    /// Bytes of changes in memory.
    pub memory_bytes: usize,
}

/// A route, on one shard or on all.
#[derive(Debug, Clone, Serialize)]
pub struct RouteLook {
    /// Its topics.
    pub topics: Vec<Topic>,
    /// The source, unless it takes each topic from whatever carries it.
    pub source: Option<Source>,
    /// In which form its changes go out.
    pub form: &'static str,
    /// Over how long they are conflated.
    pub conflate_ms: Option<u64>,
    /// Who has it.
    pub subscriptions: usize,
    /// Changes that it wanted, since it is there.
    pub matches: u64,
    /// The same in a second, over the last few.
    pub matches_per_s: f32,
}

/// What is known of a topic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TopicLook {
    /// Subscriptions to it.
    pub subscriptions: usize,
    /// Its last change since the gateway began, and when that was, by the database.
    pub last: Option<(Offset, Micros)>,
}

fn time<S: Serializer>(at: &Micros, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&rfc3339(*at))
}

fn maybe_time<S: Serializer>(at: &Option<Micros>, to: S) -> Result<S::Ok, S::Error> {
    at.map(rfc3339).serialize(to)
}

impl RouteForm {
    fn name(&self) -> &'static str {
        match self {
            Self::Plain(Wrap::None) => "plain",
            Self::Plain(Wrap::Data) => "plain, in data",
            Self::Native => "native",
            Self::Events => "events",
            Self::Realtime(_) => "supabase",
        }
    }
}

impl Hub {
    /// The feeds.
    pub fn look_at_feeds(&self) -> Vec<FeedLook> {
        let look = |source| {
            let view = self.feeds.get(&source)?;
            Some(FeedLook {
                source,
                feed: view.feed.to_string(),
                offset: view.last,
                at: view.at,
                silent_ms: view.heard.elapsed().as_millis() as u64,
                memory_after: view.recent.floor(),
                memory_bytes: view.recent.bytes(),
            })
        };
        Source::ALL.into_iter().filter_map(look).collect()
    }

    /// Routes, those with the most changes first, and how many there are.
    pub fn look_at_routes(&self) -> (Vec<RouteLook>, usize) {
        let mut routes: Vec<_> = self.routes.iter().map(|(_, route)| route).collect();
        let count = routes.len();
        let order = |a: &&Route, b: &&Route| b.rate.per_s.total_cmp(&a.rate.per_s).then(b.subs.cmp(&a.subs));
        if count > ROUTES {
            routes.select_nth_unstable_by(ROUTES, order);
            routes.truncate(ROUTES);
        }
        routes.sort_by(order);
        let look = |route: &&Route| RouteLook {
            topics: route.key.topics.to_vec(),
            source: route.key.source,
            form: route.key.form.name(),
            conflate_ms: route.key.conflate_ms,
            subscriptions: route.subs,
            matches: route.rate.all,
            matches_per_s: route.rate.per_s,
        };
        (routes.iter().map(look).collect(), count)
    }

    /// Topics that somebody wants, or that have had a change since the gateway began.
    pub fn look_at_topics(&self) -> HashMap<(Source, Topic), TopicLook> {
        let mut topics: HashMap<(Source, Topic), TopicLook> = HashMap::new();
        for (_, route) in &self.routes {
            for topic in route.key.topics.iter() {
                let Some(source) = route.key.source.or_else(|| self.carriers.get(topic).copied()) else { continue };
                topics.entry((source, topic.clone())).or_default().subscriptions += route.subs;
            }
        }
        for (topic, seen) in self.register.iter().flat_map(|register| register.seen()) {
            topics.entry(topic.clone()).or_default().last = Some((seen.last, seen.at));
        }
        topics
    }

    /// Topics that somebody wants and nobody carries.
    pub fn uncarried_topics(&self) -> Vec<Topic> {
        self.by_topic.keys().filter(|topic| !self.carriers.contains_key(*topic)).cloned().collect()
    }
}
