//! Which row somebody means: by the values of its key.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::hit::Hit;

/// The key of a row, as a person writes it: `7`, `abc`, `[7,"a"]` in the order of the key's columns, or
/// `{"id":7}`.
#[derive(Debug, Clone)]
pub struct RowKey(Wanted);

/// Values are JSON as it was written: as numbers of this machine, those of PostgreSQL lose digits.
#[derive(Debug, Clone)]
enum Wanted {
    /// By position.
    Values(Vec<String>),
    /// By name.
    Columns(BTreeMap<String, String>),
}

/// The members of an object, as they are written.
type Members<'a> = BTreeMap<String, &'a RawValue>;

impl RowKey {
    /// Every text is one.
    pub fn parse(text: &str) -> Self {
        let own = |value: &RawValue| value.get().to_owned();
        if let Ok(columns) = serde_json::from_str::<Members<'_>>(text) {
            return Self(Wanted::Columns(columns.into_iter().map(|(name, value)| (name, own(value))).collect()));
        }
        if let Ok(values) = serde_json::from_str::<Vec<&RawValue>>(text) {
            return Self(Wanted::Values(values.into_iter().map(own).collect()));
        }
        Self(Wanted::Values(vec![match serde_json::from_str::<&RawValue>(text) {
            Ok(value) => own(value),
            Err(_) => protocol::message::json(text).to_string(),
        }]))
    }

    /// Whether a change is of this row, before it or after it.
    pub fn is_of(&self, hit: &Hit) -> bool {
        let Some(row) = &hit.row else { return false };
        let Ok(names) = serde_json::from_slice::<Vec<String>>(&row.key) else { return false };
        [&row.data, &row.old].into_iter().any(|part| {
            let columns = serde_json::from_slice::<Members<'_>>(part);
            columns.is_ok_and(|columns| self.is_key(&names, &columns))
        })
    }

    fn is_key(&self, names: &[String], row: &Members<'_>) -> bool {
        let has = |name: &String, value: &String| row.get(name).is_some_and(|own| is_same(own.get(), value));
        match &self.0 {
            Wanted::Values(values) => {
                !names.is_empty() && values.len() == names.len() && names.iter().zip(values).all(|(n, v)| has(n, v))
            }
            Wanted::Columns(columns) => !columns.is_empty() && columns.iter().all(|(name, value)| has(name, value)),
        }
    }
}

/// Whether two values are the same to PostgreSQL. A person need not know whether it writes one with quotes.
fn is_same(own: &str, wanted: &str) -> bool {
    let all = |own: &str, wanted: &str| {
        let lists = serde_json::from_str::<Vec<&RawValue>>(own).ok().zip(serde_json::from_str(wanted).ok());
        lists.is_some_and(|(own, wanted): (_, Vec<&RawValue>)| {
            own.len() == wanted.len() && own.iter().zip(wanted).all(|(a, b)| is_same(a.get(), b.get()))
        })
    };
    let each = |own: &str, wanted: &str| {
        let objects = serde_json::from_str::<Members<'_>>(own).ok().zip(serde_json::from_str(wanted).ok());
        objects.is_some_and(|(own, wanted): (_, Members<'_>)| {
            let is_in = |(name, value): (&String, &&RawValue)| {
                wanted.get(name).is_some_and(|other| is_same(value.get(), other.get()))
            };
            own.len() == wanted.len() && own.iter().all(is_in)
        })
    };
    match own.as_bytes().first() {
        Some(b'[') => all(own, wanted),
        Some(b'{') => each(own, wanted),
        Some(b'"') => text(own) == text(wanted),
        _ => own == text(wanted) || decimal(own).is_some_and(|number| decimal(&text(wanted)) == Some(number)),
    }
}

/// A value without its quotes, if it has some.
fn text(value: &str) -> String {
    serde_json::from_str(value).unwrap_or_else(|_| value.to_owned())
}

/// A number: whether it is negative, its digits without zeros at both ends, and the power of ten of the
/// last of them. So 1.50, 15e-1 and 1.5 are one, and no digit of any is lost.
fn decimal(text: &str) -> Option<(bool, String, i64)> {
    let (is_negative, rest) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (mantissa, power) = match rest.split_once(['e', 'E']) {
        Some((mantissa, power)) => (mantissa, power.parse::<i64>().ok()?),
        None => (rest, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = [whole, fraction].concat();
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let power = power.checked_sub(i64::try_from(fraction.len()).ok()?)?;
    let shown = digits.trim_end_matches('0');
    if shown.is_empty() {
        return Some((false, String::new(), 0));
    }
    let power = power.checked_add(i64::try_from(digits.len() - shown.len()).ok()?)?;
    Some((is_negative, shown.trim_start_matches('0').to_owned(), power))
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

    #[test]
    fn numbers_are_compared_digit_by_digit() {
        let is =
            |text: &str, own: &str| RowKey::parse(text).is_of(&hit(r#"["id"]"#, &format!(r#"{{"id":{own}}}"#), ""));
        // As numbers of 64 bits these are all the same.
        let large = "123456789012345678901234567890";
        assert!(is(large, large) && is(&format!("\"{large}\""), large) && is(&format!("{large}.0"), large));
        assert!(!is("123456789012345678901234567891", large) && !is(&large.replace("90", "91"), large));
        assert!(!is("9007199254740993", "9007199254740992") && !is("18446744073709551617", "18446744073709551616"));
        for same in ["1.50", "1.5", "15e-1", "0.15E1", "0.15e+1", "\"1.5\""] {
            assert!(is(same, "1.50"), "{same}");
        }
        for other in ["1.51", "-1.5", "15", "1.5x", "", "e1", ".", "1e99999999999999999999"] {
            assert!(!is(other, "1.50"), "{other}");
        }
        assert!(is("0", "-0.00") && is("-2", "-2") && !is("2", "-2"));
        assert!(is("NaN", "\"NaN\"") && is("true", "true") && is("007", "\"007\"") && !is("7", "\"007\""));
    }

    #[test]
    fn arrays_and_objects_are_compared_value_by_value() {
        let is =
            |text: &str, own: &str| RowKey::parse(text).is_of(&hit(r#"["id"]"#, &format!(r#"{{"id":{own}}}"#), ""));
        assert!(is("[[1, 2.0]]", "[1,2]") && !is("[[1]]", "[1,2]") && !is("[[1,3]]", "[1,2]"));
        assert!(is(r#"[{"b":1,"a":"x"}]"#, r#"{"a": "x", "b": 1}"#) && !is(r#"[{"a":"x"}]"#, r#"{"a":"x","b":1}"#));
    }
}
