//! What a client wants stored.

use std::{collections::HashSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};

use super::{
    refusal::{Kind, Refusal},
    statement::Target,
};

/// A JSON object whose keys are columns of the target, each once. The text goes to PostgreSQL as
/// the client wrote it: parsed and printed again, 9007199254740993 would be another number.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) json: String,
    /// Which of the target's columns it names, in the target's order.
    pub(super) columns: Vec<usize>,
}

impl Row {
    pub(super) fn parse(body: Vec<u8>, target: &Target) -> Result<Self, Refusal> {
        let bad = |message: String| Refusal::new(Kind::BadJson, message);
        let json = String::from_utf8(body).map_err(|_| bad("the body is not UTF-8".into()))?;
        let Keys(keys) = serde_json::from_str(&json).map_err(|e| match e.classify() {
            serde_json::error::Category::Data => bad("the body must be a JSON object: {\"column\": value, …}".into()),
            _ => bad(format!("the body is not JSON: {e}")),
        })?;
        let mut seen = HashSet::new();
        for key in &keys {
            let Some(column) = target.columns.iter().position(|column| column == key) else {
                let message = format!(
                    "{} takes no column '{}'; it takes: {}",
                    target.path,
                    key.chars().take(64).collect::<String>().escape_debug(),
                    target.columns.join(", ")
                );
                return Err(Refusal::new(Kind::UnknownColumn, message));
            };
            if !seen.insert(column) {
                return Err(bad(format!("the key '{key}' comes twice")));
            }
        }
        let mut columns: Vec<usize> = seen.into_iter().collect();
        columns.sort_unstable();
        Ok(Self { json, columns })
    }
}

/// The keys of a JSON object, in its order, repeated ones too.
pub(super) struct Keys(pub(super) Vec<String>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfObject;

        impl<'de> Visitor<'de> for OfObject {
            type Value = Keys;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                let mut keys = Vec::new();
                while let Some((key, IgnoredAny)) = map.next_entry()? {
                    keys.push(key);
                }
                Ok(Keys(keys))
            }
        }

        deserializer.deserialize_map(OfObject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::config::Ingest;

    fn parse(body: &[u8]) -> Result<Row, (Kind, String)> {
        let target = Target::new(&Ingest {
            path: "/api/sensors/".into(),
            table: "sensor_readings".into(),
            columns: ["sensor_id", "value", "metadata"].map(String::from).to_vec(),
            message: None,
        });
        Row::parse(body.to_vec(), &target).map_err(|refusal| match refusal {
            Refusal::Because { kind, message } => (kind, message),
            Refusal::Denied(denied) => panic!("{denied}"),
        })
    }

    #[test]
    fn a_row_keeps_the_text_and_knows_its_columns() {
        let text = br#" {"value" : 9007199254740993.000, "sensor_id":null} "#;
        let row = parse(text).unwrap();
        assert_eq!((row.json.as_bytes(), &row.columns[..]), (&text[..], &[0, 1][..]));
        assert!(parse(b"{}").unwrap().columns.is_empty());
        assert_eq!(parse(br#"{"v\u0061lue":1}"#).unwrap().columns, [1], "an escaped key is the same key");
    }

    #[test]
    fn what_is_not_a_json_object_is_refused() {
        for body in [
            &b""[..],
            b"{",
            b"{\"value\":1}x",
            b"{\"value\":}",
            b"{'value':1}",
            b"{\"value\":01}",
            b"{\"value\":NaN}",
            b"[]",
            b"1",
            b"null",
            b"\"x\"",
            b"[{\"value\":1}]",
            b"\xef\xbb\xbf{}",
            b"{\"value\":\"\xff\"}",
            b"{\"value\":\"\0\"}",
            b"value=1",
            b"{\"value\":1,}",
        ] {
            assert_eq!(parse(body).map(drop).unwrap_err().0, Kind::BadJson, "{:?}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn an_unknown_column_is_named_with_those_that_there_are() {
        let (kind, message) = parse(br#"{"value":1,"id":7}"#).unwrap_err();
        assert_eq!(kind, Kind::UnknownColumn);
        assert_eq!(message, "/api/sensors/ takes no column 'id'; it takes: sensor_id, value, metadata");
        let (_, message) = parse(format!("{{\"{}\\n\":1}}", "x".repeat(1000)).as_bytes()).unwrap_err();
        assert!(message.len() < 200 && !message.contains('\n'), "{message}");
    }

    #[test]
    fn a_repeated_key_is_refused() {
        for body in [&br#"{"value":1,"value":2}"#[..], br#"{"value":1,"v\u0061lue":2}"#] {
            let (kind, message) = parse(body).unwrap_err();
            assert!(kind == Kind::BadJson && message.contains("'value' comes twice"), "{message}");
        }
    }

    #[test]
    fn deep_nesting_breaks_nothing() {
        let deep = format!("{{\"metadata\":{}{}}}", "[".repeat(400_000), "]".repeat(400_000));
        drop(parse(deep.as_bytes()));
    }
}
