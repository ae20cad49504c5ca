use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Deserialize;
use serde_json::value::RawValue;

/// What a change says, whether a client got it or the judge read it from the log. JSON is text as
/// it came: what PostgreSQL wrote must reach clients byte for byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Change<'a> {
    /// The table.
    pub topic: &'a str,
    /// `INSERT`, `UPDATE`, `DELETE` or `TRUNCATE`.
    pub op: &'a str,
    /// Array of the key columns' names.
    pub key: Option<&'a str>,
    /// The new row.
    pub data: Option<&'a str>,
    /// The old row, or its key.
    pub old: Option<&'a str>,
    /// Array of the columns that were left out.
    pub cut: Option<&'a str>,
    /// The transaction.
    pub tx: u64,
    /// When it was written.
    pub at: &'a str,
}

impl Change<'_> {
    /// All of it in 64 bits.
    pub fn digest(&self) -> u64 {
        digest(self)
    }
}

/// Anything in 64 bits, the same in every run.
pub fn digest(what: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// A `change` frame of the native protocol.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeFrame<'a> {
    /// `change`.
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// The route that it is for.
    pub route: Option<u64>,
    /// Or the subscription.
    pub id: Option<&'a str>,
    /// Where it is in the feed.
    pub cursor: &'a str,
    topic: String,
    op: &'a str,
    #[serde(borrow)]
    key: Option<&'a RawValue>,
    #[serde(borrow)]
    cut: Option<&'a RawValue>,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(borrow)]
    old: Option<&'a RawValue>,
    at: &'a str,
    /// A conflated one has none.
    #[serde(default)]
    tx: &'a str,
    /// Whether it is the last one of its transaction.
    #[serde(default)]
    pub tx_end: bool,
}

impl<'a> ChangeFrame<'a> {
    /// Reads a frame; `Err` says what is wrong with it.
    pub fn parse(text: &'a str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| format!("{error}: {text}"))
    }

    /// What it says of the row.
    pub fn change(&self) -> Change<'_> {
        Change {
            topic: &self.topic,
            op: self.op,
            key: self.key.map(RawValue::get),
            data: Some(self.data.get()).filter(|&data| data != "null"),
            old: self.old.map(RawValue::get),
            cut: self.cut.map(RawValue::get),
            tx: self.tx.parse().unwrap_or_default(),
            at: self.at,
        }
    }
}

/// `k3f9.1042`: the feed and the offset.
pub fn cursor(text: &str) -> Option<(&str, u64)> {
    let (feed, offset) = text.split_once('.')?;
    Some((feed, offset.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: &str = r#"{"type":"change","route":1,"cursor":"f.7","topic":"public.a","op":"UPDATE","key":["id"],"data":{"id":1,"n":2},"old":{"id":1,"n":1},"tx":"9","tx_end":true,"at":"2026-01-01T00:00:00.000000Z"}"#;

    #[test]
    fn every_part_of_a_change_is_in_its_digest() {
        let digest = |text: &str| ChangeFrame::parse(text).unwrap().change().digest();
        for (from, to) in [
            ("public.a", "public.b"),
            ("UPDATE", "INSERT"),
            (r#"["id"]"#, r#"["di"]"#),
            (r#""n":2"#, r#""n":3"#),
            (r#""n":2"#, r#""n": 2"#),
            (r#""n":1"#, r#""n":0"#),
            (r#""tx":"9""#, r#""tx":"8""#),
            ("00.000000Z", "00.000001Z"),
            (r#""old":"#, r#""cut":["x"],"old":"#),
        ] {
            assert!(FRAME.contains(from), "{from}");
            assert_ne!(digest(FRAME), digest(&FRAME.replacen(from, to, 1)), "{from} → {to}");
        }
        // Where it is, and for whom, is no part of it.
        assert_eq!(digest(FRAME), digest(&FRAME.replace(r#""route":1"#, r#""id":"a""#).replace("f.7", "f.8")));
    }

    #[test]
    fn what_the_protocol_does_not_know_is_refused() {
        assert!(ChangeFrame::parse(&FRAME.replace("tx_end", "tx_and")).is_err());
        assert!(ChangeFrame::parse("{}").is_err());
    }
}
