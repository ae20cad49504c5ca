//! Sources, and the catalogue of what each carries.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::Topic;

/// Where the listener takes changes from. At any time a source has at most one current feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// NOTIFY channels: nothing to install, nothing kept while nobody listens.
    Notify,
    /// The durable log that `rowcast.watch` writes.
    Log,
}

impl Source {
    /// Every source.
    pub const ALL: [Self; 2] = [Self::Notify, Self::Log];

    /// Its name in keys, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Notify => "notify",
            Self::Log => "log",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Source {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|s| s.as_str() == name)
            .ok_or_else(|| format!("'{name}' is not a source; there are: notify, log"))
    }
}

/// What a feed's listener says about the topics that it carries: what a gateway must know to
/// answer a subscribe.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Catalogue {
    /// The topics, by name.
    pub topics: Vec<TopicInfo>,
}

impl Catalogue {
    /// A catalogue of NOTIFY channels, which have a name and nothing else.
    pub fn of_channels(channels: impl IntoIterator<Item = Topic>) -> Self {
        let mut topics: Vec<_> = channels
            .into_iter()
            .map(|topic| TopicInfo { topic, columns: Vec::new(), types: Vec::new(), key: Vec::new() })
            .collect();
        topics.sort_by(|a, b| a.topic.cmp(&b.topic));
        topics.dedup_by(|a, b| a.topic == b.topic);
        Self { topics }
    }

    /// The entry of a topic.
    pub fn get(&self, topic: &str) -> Option<&TopicInfo> {
        self.topics.iter().find(|info| info.topic.as_str() == topic)
    }
}

/// One topic of a [`Catalogue`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicInfo {
    /// Its name.
    pub topic: Topic,
    /// The columns of a watched table; empty for a NOTIFY channel.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// The type of each of `columns`, as PostgreSQL names it (`int8`, `_text`); empty if the listener does not tell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<String>,
    /// The key columns of a watched table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key: Vec<String>,
}
