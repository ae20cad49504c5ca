//! Topics: the names that changes are published under, and the patterns that grant access to them.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// Longest topic name in bytes: `schema.table`, two PostgreSQL identifiers of 63 bytes and a dot.
pub const MAX_TOPIC_BYTES: usize = 127;

/// What a client subscribes to: a NOTIFY channel (`sensor_updates`) or a watched table
/// (`public.orders`). Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Topic(Arc<str>);

impl Topic {
    /// Checks a name: 1 to [`MAX_TOPIC_BYTES`] bytes, no control characters.
    pub fn new(name: &str) -> Result<Self, TopicError> {
        if name.is_empty() {
            return Err(TopicError::Empty);
        }
        if name.len() > MAX_TOPIC_BYTES {
            return Err(TopicError::TooLong(name.chars().take(40).collect(), name.len()));
        }
        if name.chars().any(char::is_control) {
            return Err(TopicError::Control(name.escape_debug().to_string()));
        }
        Ok(Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl Borrow<str> for Topic {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for Topic {
    type Err = TopicError;
    fn from_str(name: &str) -> Result<Self, TopicError> {
        Self::new(name)
    }
}

impl TryFrom<String> for Topic {
    type Error = TopicError;
    fn try_from(name: String) -> Result<Self, TopicError> {
        Self::new(&name)
    }
}

impl From<Topic> for String {
    fn from(topic: Topic) -> Self {
        topic.0.as_ref().into()
    }
}

/// Why a name is not a topic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// The name has no characters.
    #[error("a topic needs a name")]
    Empty,
    /// The name (its start, and its length in bytes) is longer than [`MAX_TOPIC_BYTES`].
    #[error("the topic '{0}…' has {1} bytes; at most {MAX_TOPIC_BYTES} are allowed")]
    TooLong(String, usize),
    /// The name holds a control character.
    #[error("the topic '{0}' holds a control character")]
    Control(String),
}

/// A topic name in which `*` stands for any run of characters, as in a claim: `public.*`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TopicPattern(String);

impl TopicPattern {
    /// A pattern; every string is one.
    pub fn new(pattern: impl Into<String>) -> Self {
        Self(pattern.into())
    }

    /// Whether the pattern covers the name. Linear in the length of both (greedy with one
    /// backtracking point), so that a hostile claim costs nothing.
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut p, mut n) = (0, 0);
        let mut retry: Option<(usize, usize)> = None;
        while n < name.len() {
            if p < pattern.len() && pattern[p] == b'*' {
                retry = Some((p, n));
                p += 1;
            } else if p < pattern.len() && pattern[p] == name[n] {
                p += 1;
                n += 1;
            } else if let Some((star, from)) = retry {
                retry = Some((star, from + 1));
                p = star + 1;
                n = from + 1;
            } else {
                return false;
            }
        }
        pattern[p..].iter().all(|&b| b == b'*')
    }
}

impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_a_short_printable_name() {
        assert_eq!(Topic::new("public.orders").map(|t| t.to_string()), Ok("public.orders".into()));
        assert!(Topic::new("Größe, \"quoted\"").is_ok());
        assert_eq!(Topic::new(""), Err(TopicError::Empty));
        assert!(matches!(Topic::new("a\nb"), Err(TopicError::Control(_))));
        assert!(matches!(Topic::new(&"x".repeat(128)), Err(TopicError::TooLong(_, 128))));
    }

    #[test]
    fn a_pattern_covers_what_its_stars_allow() {
        let matches = |pattern: &str, name: &str| TopicPattern::new(pattern).matches(name);
        assert!(matches("*", "anything"));
        assert!(matches("public.*", "public.orders"));
        assert!(matches("*_channel", "violations_channel"));
        assert!(matches("a*b*c", "aXXbYYbc"));
        assert!(matches("orders", "orders"));
        assert!(!matches("orders", "orders2"));
        assert!(!matches("public.*", "private.orders"));
        assert!(!matches("a*b*c", "aXXbYY"));
        assert!(!matches("", "x"));
    }
}
