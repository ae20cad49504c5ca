use serde::Deserialize;

use super::{ConfigError, wrong};
use crate::{Topic, message::MAX_TOPICS};

/// `[[endpoint]]`: a plain WebSocket path for a front end that knows nothing of rowcast.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// The path, such as `/ws/sensors/`.
    pub path: String,
    /// The topics whose payloads are sent.
    pub topics: Vec<Topic>,
    /// How a payload is sent.
    #[serde(default)]
    pub wrap: Wrap,
}

/// How a plain endpoint sends a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wrap {
    /// As it is.
    #[default]
    None,
    /// As `{"data": <payload>}`.
    Data,
}

impl Endpoint {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.topics.is_empty() || self.topics.len() > MAX_TOPICS {
            let right = format!("a list of 1 to {MAX_TOPICS} topics");
            return Err(wrong("endpoint.topics", format!("{} topics at {}", self.topics.len(), self.path), right));
        }
        Ok(())
    }
}
