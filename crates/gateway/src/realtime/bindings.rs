//! The bindings of a channel together: one route, whose frames are built once for all connections that have
//! joined the same channel with the same bindings. A change that several of them want is one frame with the
//! ids of them all, as Supabase has it too.

use std::collections::HashMap;

use protocol::{Change, Cursor, FeedId, Offset, Op, Row, Topic, TopicInfo, message::json, time::rfc3339};

use super::{
    binding::Binding,
    channel::name_of,
    message::{Ref, Vsn},
};
use crate::ws;

/// What the columns of a change say if a value was too large to come; their names follow.
const TOO_LARGE: &str = "Error 413: Payload Too Large";

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Bindings {
    /// The version that its members speak.
    pub vsn: Vsn,
    /// The channel, as its members name it.
    pub channel: Box<str>,
    /// Whether they are told their cursor behind each change.
    pub cursors: bool,
    /// In the order of the join.
    pub all: Vec<Binding>,
}

impl Bindings {
    /// Whether any of them wants this of the table.
    pub fn wants(&self, topic: &Topic, op: Op) -> bool {
        self.all.iter().any(|binding| binding.wants(topic, op))
    }

    /// Whether the table is of one of them.
    pub fn is_of(&self, topic: &Topic) -> bool {
        self.all.iter().any(|binding| binding.is_of(topic))
    }

    /// Appends the frames of a change: itself, and the cursor behind it where that is wanted. `columns` are
    /// those of the table, as JSON.
    pub fn write(
        &self,
        out: &mut Vec<u8>,
        feed: &FeedId,
        topic: &Topic,
        change: &Change,
        row: &Row,
        columns: Option<&str>,
    ) {
        let those = || self.all.iter().filter(|binding| binding.wants(topic, row.op));
        let Some((schema, table)) = those().find_map(|binding| binding.split(topic)) else { return };
        let ids: Vec<String> = those().map(|binding| binding.id.to_string()).collect();
        let (begin, end) = self.vsn.around(&self.channel, "postgres_changes");
        let mut text = format!(
            r#"{begin}{{"ids":[{}],"data":{{"schema":{},"table":{},"commit_timestamp":"{}","type":"{}","columns":{}"#,
            ids.join(","),
            json(schema),
            json(table),
            rfc3339(change.at),
            row.op.as_str(),
            columns.unwrap_or("[]"),
        )
        .into_bytes();
        let mut put = |name: &str, part: &[u8]| {
            text.extend_from_slice(name.as_bytes());
            text.extend_from_slice(if part.is_empty() { b"{}" } else { part });
        };
        match row.op {
            Op::Insert => put(r#","record":"#, &row.data),
            Op::Update => {
                put(r#","record":"#, &row.data);
                put(r#","old_record":"#, &row.old);
            }
            Op::Delete => put(r#","old_record":"#, &row.old),
            Op::Truncate => {}
        }
        match row.cut.strip_prefix(b"[") {
            Some(names) => {
                put(r#","errors":"#, format!(r#"["{TOO_LARGE}","#).as_bytes());
                put("", names);
            }
            None => put(r#","errors":"#, b"null"),
        }
        put("}}", end.as_bytes());
        ws::write_text(out, &text);
        if self.cursors {
            ws::write_text(out, self.cursor(feed, change.offset).as_bytes());
        }
    }

    /// What tells a member how far it is.
    pub fn cursor(&self, feed: &FeedId, offset: Offset) -> String {
        let cursor = Cursor::new(feed.clone(), offset);
        system(self.vsn, &self.channel, &Ref::default(), true, "Cursor", &[("cursor", &cursor.to_string())])
    }
}

/// The bindings of a channel that are of no one table: each by the schema and the table that it names, and whether a
/// table is of it. So each table is looked up once, however many bindings there are.
#[derive(Debug)]
pub struct OpenBindings<'a>(HashMap<(Option<&'a str>, Option<&'a str>), bool>);

impl<'a> OpenBindings<'a> {
    /// Those among these.
    pub fn of(bindings: &'a [Binding]) -> Self {
        Self(bindings.iter().filter(|binding| binding.is_open()).map(|binding| (binding.names(), false)).collect())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a table is of one of them; which are remembered to have one.
    pub fn take(&mut self, topic: &'a Topic) -> bool {
        let name = topic.as_str();
        let Some((_, table)) = name.split_once('.') else { return false };
        // A schema may have a dot in its name.
        let schemas = name.match_indices('.').map(|(at, _)| (Some(&name[..at]), None));
        let mut is_of_one = false;
        for names in [(None, None), (None, Some(table))].into_iter().chain(schemas) {
            if let Some(has_one) = self.0.get_mut(&names) {
                *has_one = true;
                is_of_one = true;
            }
        }
        is_of_one
    }

    /// Whether a binding is one of them, and no table was of it.
    pub fn lacks(&self, binding: &'a Binding) -> bool {
        self.0.get(&binding.names()) == Some(&false)
    }
}

/// The columns of a table, as they stand in each of its changes. A type that is not known is left out, and its
/// values stay to the client what they are in JSON.
pub fn columns(info: &TopicInfo) -> String {
    let column = |(name, of): (&String, &String)| format!(r#"{{"name":{},"type":{}}}"#, json(name), json(of));
    let columns: Vec<String> = info.columns.iter().zip(&info.types).map(column).collect();
    format!("[{}]", columns.join(","))
}

/// A `system` message about the changes of a channel.
pub fn system(vsn: Vsn, channel: &str, join_ref: &Ref, ok: bool, message: &str, more: &[(&str, &str)]) -> String {
    let status = if ok { "ok" } else { "error" };
    let (message, name) = (json(message), json(name_of(channel)));
    let more: String = more.iter().map(|(key, value)| format!(r#","{key}":{}"#, json(value))).collect();
    let payload =
        format!(r#"{{"extension":"postgres_changes","status":"{status}","message":{message},"channel":{name}{more}}}"#);
    vsn.write(join_ref, &Ref::default(), channel, "system", &payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use protocol::Kind;
    use serde_json::Value;

    fn bindings(vsn: Vsn, cursors: bool) -> Bindings {
        let all = [r#"{"event":"*","schema":"public","table":"orders"}"#, r#"{"event":"DELETE","schema":"public"}"#];
        let binding = |(place, text): (usize, &&str)| {
            let keys: Value = serde_json::from_str(text).unwrap();
            let mut binding = Binding::of("realtime:floor", keys.as_object().unwrap()).unwrap();
            binding.id = place as u64 + 5;
            binding
        };
        Bindings { vsn, channel: "realtime:floor".into(), cursors, all: all.iter().enumerate().map(binding).collect() }
    }

    fn written(bindings: &Bindings, op: Op, data: &'static str, old: &'static str, cut: &'static str) -> String {
        let part = |text: &'static str| Bytes::from_static(text.as_bytes());
        let row =
            Row { op, tx: 1, tx_last: 1, key: part("[\"id\"]"), cut: part(cut), data: part(data), old: part(old) };
        let change = Change { offset: 7, at: 1_795_162_530_123_456, kind: Kind::Row, payload: Bytes::new() };
        let (mut out, topic) = (Vec::new(), Topic::new("public.orders").unwrap());
        bindings.write(
            &mut out,
            &"k3f9".parse().unwrap(),
            &topic,
            &change,
            &row,
            Some(r#"[{"name":"id","type":"int8"}]"#),
        );
        let head = if out[1] == 126 { 4 } else { 2 };
        String::from_utf8_lossy(&out[head..]).into_owned()
    }

    #[test]
    fn a_change_is_as_supabase_writes_it() {
        let two = bindings(Vsn::Two, false);
        assert_eq!(
            written(&two, Op::Update, r#"{"id":1, "n":1.50}"#, r#"{"id":1}"#, ""),
            r#"[null,null,"realtime:floor","postgres_changes",{"ids":[5],"data":{"schema":"public","table":"orders","commit_timestamp":"2026-11-20T08:15:30.123456Z","type":"UPDATE","columns":[{"name":"id","type":"int8"}],"record":{"id":1, "n":1.50},"old_record":{"id":1},"errors":null}}]"#
        );
        let delete = written(&two, Op::Delete, "", r#"{"id":1}"#, "");
        assert!(delete.contains(r#""ids":[5,6]"#) && !delete.contains(r#""record""#), "{delete}");
        let insert = written(&two, Op::Insert, r#"{"id":1}"#, "", r#"["photo","scan"]"#);
        assert!(!insert.contains("old_record"), "{insert}");
        assert!(insert.contains(r#""errors":["Error 413: Payload Too Large","photo","scan"]}}]"#), "{insert}");
        let truncate = written(&two, Op::Truncate, r#"{"partition":"p"}"#, "", "");
        assert!(!truncate.contains("record") && truncate.contains(r#""type":"TRUNCATE""#), "{truncate}");
        for vsn in [Vsn::One, Vsn::Two] {
            let text = written(&bindings(vsn, false), Op::Delete, "", "", "");
            let json: Value = serde_json::from_str(&text).unwrap();
            let payload = if vsn == Vsn::One { &json["payload"] } else { &json[4] };
            assert_eq!(payload["data"]["old_record"], serde_json::json!({}), "{text}");
        }
    }

    #[test]
    fn a_table_is_of_the_open_bindings_that_it_is_of_one_by_one() {
        let binding = |text: &str| {
            let keys: Value = serde_json::from_str(text).unwrap();
            Binding::of("realtime:floor", keys.as_object().unwrap()).unwrap()
        };
        let all = [
            binding(r#"{"event":"*","schema":"*"}"#),
            binding(r#"{"event":"*","schema":"public"}"#),
            binding(r#"{"event":"*","schema":"a.b"}"#),
            binding(r#"{"event":"*","schema":"*","table":"orders"}"#),
            binding(r#"{"event":"*","schema":"*","table":"b.c"}"#),
            binding(r#"{"event":"*","schema":"public","table":"orders"}"#),
        ];
        for name in ["public.orders", "public.refunds", "publicity.orders", "a.b.c", "a.c", "a_channel", "a."] {
            let topic = Topic::new(name).unwrap();
            for of_it in &all {
                let mut open = OpenBindings::of(std::slice::from_ref(of_it));
                assert_eq!(open.is_empty(), !of_it.is_open());
                let is_of_it = of_it.is_open() && of_it.is_of(&topic);
                assert_eq!((open.take(&topic), open.lacks(of_it)), (is_of_it, of_it.is_open() && !is_of_it), "{name}");
            }
            let mut open = OpenBindings::of(&all);
            open.take(&topic);
            let lacks = |of_it: &Binding| of_it.is_open() && !of_it.is_of(&topic);
            assert!(all.iter().all(|of_it| open.lacks(of_it) == lacks(of_it)), "{name}: {open:?}");
        }
    }

    #[test]
    fn a_cursor_follows_where_it_is_wanted() {
        let text = written(&bindings(Vsn::One, true), Op::Insert, "{}", "", "");
        assert!(text.contains(r#""message":"Cursor","channel":"floor","cursor":"k3f9.7"}"#), "{text}");
    }
}
