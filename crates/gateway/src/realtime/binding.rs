//! What a channel wants of the database: its bindings, each with the id that its frames carry.

use protocol::{Op, Topic};
use serde_json::{Map, Value};
use sha1::{Digest, Sha1};

/// A number in JSON is whole up to here, and a binding's id is a number.
const ID_BITS: u32 = 52;

/// One binding: which changes of which tables.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Binding {
    /// Its name in frames: the same after a rejoin, and at every gateway.
    pub id: u64,
    /// `None`: every operation.
    op: Option<Op>,
    /// `None`: every schema.
    schema: Option<Box<str>>,
    /// `None`: every table.
    table: Option<Box<str>>,
}

impl Binding {
    /// Reads one of the bindings of a join of a channel. It has the id of the first of its kind.
    pub fn of(channel: &str, keys: &Map<String, Value>) -> Result<Self, String> {
        for (key, value) in keys {
            match key.as_str() {
                "event" | "schema" | "table" => {}
                "filter" | "select" if is_nothing(value) => {}
                "filter" | "select" => {
                    return Err(format!(
                        "Unsupported: '{key}' of a binding is not served by this gateway; leave it out to get every change"
                    ));
                }
                _ if value.is_null() => {}
                _ => return Err(format!("UnknownKey: '{}' is not a key of a binding", shorten(key))),
            }
        }
        let text = |name: &str| match keys.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(other) => Err(format!(
                "BadMessage: '{name}' of a binding is {}; it must be a string",
                shorten(&other.to_string())
            )),
        };
        let op = match text("event")? {
            Some("*") => None,
            Some(name) => Some(
                [Op::Insert, Op::Update, Op::Delete]
                    .into_iter()
                    .find(|op| op.as_str().eq_ignore_ascii_case(name))
                    .ok_or_else(|| bad_event(name))?,
            ),
            None => return Err(bad_event("")),
        };
        let (schema, table) = match (text("schema")?, text("table")?) {
            (None, None) => return Err("BadMessage: a binding needs a 'schema', a 'table', or both".into()),
            (schema, table) => (schema.unwrap_or("public"), table.unwrap_or("*")),
        };
        let some = |name: &str| (name != "*").then(|| name.into());
        let mut binding = Self { id: 0, op, schema: some(schema), table: some(table) };
        binding.set_place(channel, 0);
        Ok(binding)
    }

    /// Gives it its id, if so many equal ones come before it.
    pub fn set_place(&mut self, channel: &str, place: usize) {
        let or_all = |name: &'_ Option<Box<str>>| name.as_deref().unwrap_or("*").to_owned();
        let (schema, table) = (or_all(&self.schema), or_all(&self.table));
        self.id = id([channel, self.op.map_or("*", Op::as_str), &schema, &table, &place.to_string()]);
    }

    /// Whether it wants the same as another one.
    pub fn is_like(&self, other: &Self) -> bool {
        (self.op, &self.schema, &self.table) == (other.op, &other.schema, &other.table)
    }

    /// Whether tables that are watched later may be of it.
    pub fn is_open(&self) -> bool {
        self.schema.is_none() || self.table.is_none()
    }

    /// The schema and the table that it names; `None`: it is of all.
    pub fn names(&self) -> (Option<&str>, Option<&str>) {
        (self.schema.as_deref(), self.table.as_deref())
    }

    /// Its table, if it is of one.
    pub fn topic(&self) -> Option<Result<Topic, String>> {
        let (schema, table) = (self.schema.as_ref()?, self.table.as_ref()?);
        Some(Topic::new(&format!("{schema}.{table}")).map_err(|e| format!("BadTopic: {e}")))
    }

    /// How it is shown in words.
    pub fn shown(&self) -> String {
        format!("{}.{}", self.schema.as_deref().unwrap_or("*"), self.table.as_deref().unwrap_or("*"))
    }

    /// Whether the table is of it.
    pub fn is_of(&self, topic: &Topic) -> bool {
        let Some((schema, table)) = self.split(topic) else { return false };
        let is = |of: &Option<Box<str>>, name: &str| of.as_deref().is_none_or(|of| of == name);
        is(&self.schema, schema) && is(&self.table, table)
    }

    /// Whether it wants this of the table.
    pub fn wants(&self, topic: &Topic, op: Op) -> bool {
        self.op.is_none_or(|own| own == op) && self.is_of(topic)
    }

    /// Schema and table of a topic. A schema that has a dot in its name is known where it is named.
    pub fn split<'a>(&self, topic: &'a Topic) -> Option<(&'a str, &'a str)> {
        match &self.schema {
            Some(schema) => {
                let table = topic.as_str().strip_prefix(&**schema)?.strip_prefix('.')?;
                Some(topic.as_str().split_at(schema.len())).map(|(schema, _)| (schema, table))
            }
            None => topic.as_str().split_once('.'),
        }
    }
}

fn bad_event(name: &str) -> String {
    format!("BadMessage: 'event' of a binding is '{}'; it must be INSERT, UPDATE, DELETE or *", shorten(name))
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

/// A hash of these, not 0, for that is no id to the client.
fn id(parts: [&str; 5]) -> u64 {
    let mut hash = Sha1::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digest = hash.finalize();
    let first = digest.iter().take(8).fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
    (first >> (u64::BITS - ID_BITS)).max(1)
}

/// The start of a text of the client, to show it.
pub fn shorten(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(json: &str, place: usize) -> Result<Binding, String> {
        let mut it = Binding::of("realtime:floor", serde_json::from_str::<Value>(json).unwrap().as_object().unwrap())?;
        it.set_place("realtime:floor", place);
        Ok(it)
    }

    fn topic(name: &str) -> Topic {
        Topic::new(name).unwrap()
    }

    #[test]
    fn a_binding_wants_what_it_names() {
        let one = binding(r#"{"event":"UPDATE","schema":"public","table":"orders","filter":null}"#, 0).unwrap();
        assert!(one.wants(&topic("public.orders"), Op::Update) && !one.wants(&topic("public.orders"), Op::Insert));
        assert!(!one.wants(&topic("public.orders2"), Op::Update) && !one.wants(&topic("private.orders"), Op::Update));
        let schema = binding(r#"{"event":"*","schema":"public"}"#, 0).unwrap();
        assert!(schema.wants(&topic("public.a"), Op::Truncate) && !schema.wants(&topic("publicity.a"), Op::Insert));
        let all = binding(r#"{"event":"*","schema":"*"}"#, 0).unwrap();
        assert!(all.wants(&topic("x.y"), Op::Delete) && !all.is_of(&topic("a_channel")));
        let named = binding(r#"{"event":"insert","table":"orders"}"#, 0).unwrap();
        assert!(named.wants(&topic("public.orders"), Op::Insert) && !named.is_open());
        assert_eq!(schema.split(&topic("public.a.b")), Some(("public", "a.b")));
    }

    #[test]
    fn an_id_is_the_same_every_time_and_another_for_another() {
        let json = r#"{"event":"*","schema":"public","table":"orders"}"#;
        let id = binding(json, 0).unwrap().id;
        // Of a gateway of another version too.
        assert_eq!(id, binding(json, 0).unwrap().id);
        let others =
            [binding(json, 1), binding(&json.replace('*', "INSERT"), 0), binding(&json.replace("orders", "x"), 0)];
        assert!(others.into_iter().all(|other| other.unwrap().id != id));
        assert!(id > 0 && id < 1 << 53);
    }

    #[test]
    fn what_is_not_served_is_refused_by_name() {
        for (json, named) in [
            (r#"{"event":"*","schema":"public","filter":"id=eq.1"}"#, "Unsupported: 'filter'"),
            (r#"{"event":"*","schema":"public","select":["id"]}"#, "Unsupported: 'select'"),
            (r#"{"event":"*","schema":"public","where":"x"}"#, "UnknownKey: 'where'"),
            (r#"{"event":"*"}"#, "needs a 'schema'"),
            (r#"{"event":"TRUNCATE","schema":"public"}"#, "'TRUNCATE'"),
            (r#"{"schema":"public"}"#, "'event'"),
            (r#"{"event":"*","schema":7}"#, "'schema' of a binding is 7"),
        ] {
            let why = binding(json, 0).unwrap_err();
            assert!(why.contains(named), "{json}: {why}");
        }
    }
}
