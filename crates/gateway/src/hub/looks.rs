//! What a shard shows of itself: copies, for the inspector.

mod connection;
mod piece;
mod scan;
mod survey;

use protocol::{Micros, Offset, Source, Topic, config::Wrap, time::rfc3339};
use serde::{Serialize, Serializer};

use super::{Hub, route::RouteForm};

pub use connection::{ConnectionLook, ResetLook, SubscriptionLook};
pub use piece::{Piece, look_at_some};
pub use scan::{Order, Rank, Scan, Totals};
pub use survey::{Survey, Surveyed, Uncarried};

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
    /// Its last change of this feed since the gateway began, and when that was, by the database.
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
}
