//! The key of a row, read from its JSON: the values of the key's columns as they are written there.

use std::fmt;

use protocol::{Op, Row, Topic};
use serde::{
    Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// Reads keys; keeps its scratch space between them.
#[derive(Debug, Default)]
pub(super) struct KeyReader {
    key: Vec<u8>,
    other: Vec<u8>,
}

impl KeyReader {
    /// Topic and key of the row that a change is of. `None` if that is not one row: it has another key
    /// now, or none that can be read.
    pub fn read(&mut self, topic: &Topic, row: &Row) -> Option<&[u8]> {
        let names: Vec<String> = serde_json::from_slice(&row.key).ok().filter(|names: &Vec<_>| !names.is_empty())?;
        let of = |part: &[u8], key: &mut Vec<u8>| {
            key.clear();
            key.extend_from_slice(topic.as_str().as_bytes());
            append(&names, part, key)
        };
        match row.op {
            Op::Truncate => return None,
            Op::Insert => of(&row.data, &mut self.key)?,
            Op::Delete => of(&row.old, &mut self.key)?,
            Op::Update => {
                of(&row.data, &mut self.key)?;
                // Where only the key is kept, it is kept only if it has changed.
                if !row.old.is_empty() {
                    of(&row.old, &mut self.other)?;
                    if self.other != self.key {
                        return None;
                    }
                }
            }
        }
        Some(&self.key)
    }
}

/// Appends the values of these columns. `None` if one is missing.
fn append(names: &[String], row: &[u8], key: &mut Vec<u8>) -> Option<()> {
    let mut values = vec![None; names.len()];
    let mut json = serde_json::Deserializer::from_slice(row);
    json.deserialize_map(Values { names, values: &mut values }).ok()?;
    for value in values {
        // No JSON text has a control character in it.
        key.push(0);
        key.extend_from_slice(value?.get().as_bytes());
    }
    Some(())
}

/// Finds the values of columns in an object.
struct Values<'v, 'de> {
    names: &'v [String],
    values: &'v mut [Option<&'de RawValue>],
}

impl<'de> Visitor<'de> for Values<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a row")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut row: A) -> Result<(), A::Error> {
        while let Some(place) = row.next_key_seed(PlaceIn(self.names))? {
            match place {
                Some(place) => self.values[place] = Some(row.next_value()?),
                None => drop(row.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// The place of a column's name, without a copy of each name.
struct PlaceIn<'n>(&'n [String]);

impl<'de> DeserializeSeed<'de> for PlaceIn<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, name: D) -> Result<Self::Value, D::Error> {
        name.deserialize_str(self)
    }
}

impl Visitor<'_> for PlaceIn<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a column's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|it| it == name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(names: &[&str], row: &str) -> Option<String> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut key = Vec::new();
        append(&names, row.as_bytes(), &mut key)?;
        Some(String::from_utf8(key).unwrap())
    }

    #[test]
    fn a_key_is_its_values_in_the_order_of_its_columns() {
        let row = r#"{"b" : "x,1","n":{"a":7,"b":8},"a":1.10,"größe \"":null}"#;
        assert_eq!(key(&["a", "b"], row).as_deref(), Some("\0".to_owned() + "1.10\0\"x,1\"").as_deref());
        assert_eq!(key(&["größe \""], row).as_deref(), Some("\0null"));
        assert_eq!(key(&["n"], row).as_deref(), Some("\0{\"a\":7,\"b\":8}"));
        assert_eq!(key(&["c"], row), None);
        assert_eq!(key(&["a"], "[1]"), None);
        assert_eq!(key(&["a"], ""), None);
    }
}
