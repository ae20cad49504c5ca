//! Which row somebody means: by the values of its key.

use serde_json::{Map, Value};

use crate::hit::Hit;

/// The key of a row, as a person writes it: `7`, `abc`, `[7,"a"]` in the order of the key's columns, or
/// `{"id":7}`.
#[derive(Debug, Clone, PartialEq)]
pub struct RowKey(Wanted);

#[derive(Debug, Clone, PartialEq)]
enum Wanted {
    /// By position.
    Values(Vec<Value>),
    /// By name.
    Columns(Map<String, Value>),
}

impl RowKey {
    /// Every text is one.
    pub fn parse(text: &str) -> Self {
        Self(match serde_json::from_str(text) {
            Ok(Value::Object(columns)) => Wanted::Columns(columns),
            Ok(Value::Array(values)) => Wanted::Values(values),
            Ok(value) => Wanted::Values(vec![value]),
            Err(_) => Wanted::Values(vec![Value::String(text.to_owned())]),
        })
    }

    /// Whether a change is of this row, before it or after it.
    pub fn is_of(&self, hit: &Hit) -> bool {
        let Some(row) = &hit.row else { return false };
        let Ok(names) = serde_json::from_slice::<Vec<String>>(&row.key) else { return false };
        [&row.data, &row.old].into_iter().any(|part| {
            let columns = serde_json::from_slice::<Map<String, Value>>(part);
            columns.is_ok_and(|columns| self.is_key(&names, &columns))
        })
    }

    fn is_key(&self, names: &[String], row: &Map<String, Value>) -> bool {
        let has = |name: &String, value: &Value| row.get(name).is_some_and(|own| is_same(own, value));
        match &self.0 {
            Wanted::Values(values) => {
                !names.is_empty() && values.len() == names.len() && names.iter().zip(values).all(|(n, v)| has(n, v))
            }
            Wanted::Columns(columns) => !columns.is_empty() && columns.iter().all(|(name, value)| has(name, value)),
        }
    }
}

/// A person need not know whether the database writes a value with quotes.
fn is_same(own: &Value, wanted: &Value) -> bool {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    own == wanted || text(own) == text(wanted)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use protocol::{Change, Kind, Op, Row, Topic};

    use super::*;

    fn hit(key: &str, data: &str, old: &str) -> Hit {
        let part = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let row = Row {
            op: Op::Update,
            tx: 1,
            tx_last: 1,
            key: part(key),
            cut: Bytes::new(),
            data: part(data),
            old: part(old),
        };
        let change = Change { offset: 1, at: 0, kind: Kind::Row, payload: Bytes::new() };
        Hit { topic: Topic::new("t").unwrap(), change, row: Some(Box::new(row)) }
    }

    #[test]
    fn a_row_is_found_by_its_key_however_that_is_written() {
        let row = hit(r#"["id"]"#, r#"{"name":"x","id":7}"#, "");
        let is = |text: &str, row: &Hit| RowKey::parse(text).is_of(row);
        assert!(is("7", &row) && is("\"7\"", &row) && is("[7]", &row) && is(r#"{"id":7}"#, &row));
        for not in ["8", "x", "[7,7]", "[]", "{}", r#"{"id":8}"#, r#"{"no":7}"#, "", "null"] {
            assert!(!is(not, &row), "{not}");
        }
        let uuid = hit(r#"["id"]"#, r#"{"id":"0b1c"}"#, "");
        assert!(is("0b1c", &uuid) && is("\"0b1c\"", &uuid));
        let two = hit(r#"["b","a"]"#, r#"{"a":1,"b":"x"}"#, "");
        assert!(is(r#"["x",1]"#, &two) && is(r#"{"a":1}"#, &two) && !is("1", &two) && !is(r#"[1,"x"]"#, &two));
        let moved = hit(r#"["id"]"#, r#"{"id":8}"#, r#"{"id":7}"#);
        assert!(is("7", &moved) && is("8", &moved));
        assert!(!is("7", &hit("[]", r#"{"id":7}"#, "")), "a table without a key");
        assert!(!is("7", &hit("", "", "")));
    }
}
