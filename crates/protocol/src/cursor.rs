//! Feeds, offsets and cursors: where in the stream of changes somebody is.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// Dense position of a change in its feed: 1, 2, 3 … across all topics. 0 is "before the first".
pub type Offset = u64;

const MAX_FEED_BYTES: usize = 16;

/// The id of one unbroken numbering of changes: 1 to 16 lower-case letters and digits.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FeedId(Arc<str>);

impl FeedId {
    /// A fresh id of 8 characters, 41 random bits: a client that resumes against a feed with
    /// the same id by accident is not to be expected.
    pub fn random() -> Self {
        const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
        let id: String = (0..8).map(|_| char::from(ALPHABET[rand::random_range(0..ALPHABET.len())])).collect();
        Self(id.into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for FeedId {
    type Err = CursorError;
    fn from_str(id: &str) -> Result<Self, CursorError> {
        let fits = (1..=MAX_FEED_BYTES).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if fits { Ok(Self(id.into())) } else { Err(CursorError(shorten(id))) }
    }
}

impl TryFrom<String> for FeedId {
    type Error = CursorError;
    fn try_from(id: String) -> Result<Self, CursorError> {
        id.parse()
    }
}

impl From<FeedId> for String {
    fn from(feed: FeedId) -> Self {
        feed.0.as_ref().into()
    }
}

impl fmt::Display for FeedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for FeedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// `<feed>.<offset>`: the one opaque string that a client keeps to resume.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// The numbering that the offset belongs to.
    pub feed: FeedId,
    /// The last change that its owner has.
    pub offset: Offset,
}

impl Cursor {
    /// A cursor after `offset`.
    pub fn new(feed: FeedId, offset: Offset) -> Self {
        Self { feed, offset }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.feed, self.offset)
    }
}

impl FromStr for Cursor {
    type Err = CursorError;
    fn from_str(text: &str) -> Result<Self, CursorError> {
        let wrong = || CursorError(shorten(text));
        let (feed, offset) = text.split_once('.').ok_or_else(wrong)?;
        // Only what Display writes is a cursor: no sign, no leading zeros.
        let offset_text = offset;
        let offset: Offset = offset.parse().map_err(|_| wrong())?;
        if offset.to_string() != offset_text {
            return Err(wrong());
        }
        Ok(Self { feed: feed.parse().map_err(|_| wrong())?, offset })
    }
}

/// The text (its start) is neither a cursor nor a feed id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a cursor; one looks like k3f9abcd.1042, as the gateway sent it")]
pub struct CursorError(pub String);

fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_its_own_text() {
        let cursor = Cursor::new(FeedId::random(), 1042);
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
    }

    #[test]
    fn what_is_not_a_cursor_is_refused_by_name() {
        for text in [
            "",
            "k3f9",
            ".5",
            "k3f9.",
            "k3f9.-1",
            "k3f9.+1",
            "k3f9.01",
            "K3F9.1",
            "k3f9.1.2",
            "k3f9.99999999999999999999",
        ] {
            assert_eq!(text.parse::<Cursor>(), Err(CursorError(text.into())), "{text}");
        }
    }
}
