//! A change as people read it: one line, with the JSON as the database wrote it.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// The parts of a change that are shown.
#[derive(Deserialize)]
pub struct Shown<'a> {
    at: Option<&'a str>,
    cursor: Option<&'a str>,
    op: Option<&'a str>,
    #[serde(default)]
    key: Vec<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    old: Option<&'a RawValue>,
    #[serde(default)]
    cut: Vec<String>,
}

/// A row: its columns in the order of the table, each as it is written.
#[derive(Default)]
struct Columns<'a>(Vec<(String, &'a str)>);

impl<'a> Shown<'a> {
    /// Reads a `change`.
    pub fn of(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// The line.
    pub fn line(&self) -> String {
        let time = self.at.and_then(|at| at.get(11..23)).unwrap_or_default();
        let mut parts = vec![time.to_owned(), self.cursor.unwrap_or_default().to_owned()];
        match self.op {
            Some(op) => self.row(op, &mut parts),
            None => parts.push(self.data.map_or_else(|| "null".into(), |data| payload(data.get()))),
        }
        parts.join("  ")
    }

    fn row(&self, op: &str, parts: &mut Vec<String>) {
        let (new, old) = (Columns::of(self.data), Columns::of(self.old));
        parts.push(op.to_owned());
        let keys = self.key.iter().filter_map(|name| Some(format!("{name}={}", new.get(name).or(old.get(name))?)));
        let keys: Vec<String> = keys.collect();
        if !keys.is_empty() {
            parts.push(keys.join(" "));
        }
        parts.extend(self.data.map(|data| data.get().to_owned()));
        if let Some(text) = self.old.map(RawValue::get) {
            // Of an update, what was different. Of a delete all there is.
            let differs = |(name, value): &&(String, &str)| new.get(name) != Some(*value);
            let was = match (new.0.is_empty(), old.0.iter().filter(differs).collect::<Vec<_>>()) {
                (true, _) => text.to_owned(),
                (false, columns) => {
                    columns.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
                }
            };
            if !was.is_empty() {
                parts.push(format!("was {was}"));
            }
        }
        if !self.cut.is_empty() {
            parts.push(format!("without {} (too large)", self.cut.join(", ")));
        }
    }
}

/// A payload of NOTIFY: JSON as it is, other text without its quotes.
fn payload(data: &str) -> String {
    serde_json::from_str::<String>(data).unwrap_or_else(|_| data.to_owned())
}

impl<'a> Columns<'a> {
    /// None, if it is no row.
    fn of(row: Option<&'a RawValue>) -> Self {
        row.and_then(|row| serde_json::from_str(row.get()).ok()).unwrap_or_default()
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(column, _)| column == name).map(|(_, value)| *value)
    }
}

impl<'de> Deserialize<'de> for Columns<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Columns<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a row")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut columns = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    columns.push((name, value.get()));
                }
                Ok(Columns(columns))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(rest: &str) -> String {
        let text = format!(r#"{{"type":"change","route":1,"cursor":"f.7","at":"2026-11-20T08:15:30.123456Z",{rest}}}"#);
        Shown::of(&text).unwrap().line()
    }

    #[test]
    fn a_row_shows_its_op_its_key_the_row_and_what_was_different() {
        let row = r#""topic":"public.orders","key":["id"],"tx":"9","tx_end":true"#;
        assert_eq!(
            line(&format!(r#"{row},"op":"INSERT","data":{{"z":1.50,"id":7}}"#)),
            r#"08:15:30.123  f.7  INSERT  id=7  {"z":1.50,"id":7}"#
        );
        assert_eq!(
            line(&format!(
                r#"{row},"op":"UPDATE","data":{{"id":8,"s":"b","n":null}},"old":{{"id":7,"s":"a","n":null}},"cut":["photo"]"#
            )),
            r#"08:15:30.123  f.7  UPDATE  id=8  {"id":8,"s":"b","n":null}  was id=7 s="a"  without photo (too large)"#
        );
        assert_eq!(
            line(&format!(r#"{row},"op":"UPDATE","data":{{"id":7}},"old":{{"id":7}}"#)),
            r#"08:15:30.123  f.7  UPDATE  id=7  {"id":7}"#
        );
        assert_eq!(
            line(&format!(r#"{row},"op":"DELETE","data":null,"old":{{"id":7,"s":"a"}}"#)),
            r#"08:15:30.123  f.7  DELETE  id=7  was {"id":7,"s":"a"}"#
        );
        assert_eq!(line(r#""op":"TRUNCATE","data":null"#), "08:15:30.123  f.7  TRUNCATE");
        assert_eq!(
            line(r#""op":"TRUNCATE","data":{"partition":"public.p1"}"#),
            r#"08:15:30.123  f.7  TRUNCATE  {"partition":"public.p1"}"#
        );
    }

    #[test]
    fn a_payload_is_shown_as_it_was_sent() {
        assert_eq!(line(r#""data":{"b": 1,"a":[]}"#), r#"08:15:30.123  f.7  {"b": 1,"a":[]}"#);
        assert_eq!(line(r#""data":"say \"hi\"""#), r#"08:15:30.123  f.7  say "hi""#);
        assert_eq!(line(r#""data":null"#), "08:15:30.123  f.7  null");
    }
}
