//! Changes as clients get them.

use super::json;
use crate::{Change, FeedId, Kind, Micros, Offset, Row, Topic, time::rfc3339};

/// Whom a `change` is for: everybody on a route, one subscription that catches up, or whoever reads.
#[derive(Debug, Clone, Copy)]
pub enum Addressee<'a> {
    /// All subscriptions of this route.
    Route(u64),
    /// The subscription with this id.
    Subscription(&'a str),
    /// Who reads it, and has asked for nothing else.
    Reader,
}

impl Addressee<'_> {
    /// The beginning of a message of this type, up to the cursor.
    fn open(self, out: &mut Vec<u8>, kind: &str, feed: &FeedId, offset: Offset) {
        use std::io::Write;
        let written = match self {
            Self::Route(route) => write!(out, r#"{{"type":"{kind}","route":{route},"cursor":"{feed}.{offset}","#),
            Self::Subscription(id) => {
                write!(out, r#"{{"type":"{kind}","id":{},"cursor":"{feed}.{offset}","#, json(id))
            }
            Self::Reader => write!(out, r#"{{"type":"{kind}","cursor":"{feed}.{offset}","#),
        };
        // Writing to a Vec cannot fail.
        debug_assert!(written.is_ok());
    }
}

/// `change`, with a NOTIFY payload as the database sent it.
pub fn change(out: &mut Vec<u8>, to: Addressee<'_>, feed: &FeedId, topic: &Topic, change: &Change) {
    to.open(out, "change", feed, change.offset);
    put(out, "topic", json(topic.as_str()).as_bytes());
    match change.kind {
        Kind::Json => put(out, "data", &change.payload),
        Kind::Text | Kind::Row => put(out, "data", json(&String::from_utf8_lossy(&change.payload)).as_bytes()),
    }
    put_at(out, change.at);
    close(out);
}

/// What a row's `change` tells of its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfTx {
    /// For who gets this, more of it may come.
    GoesOn,
    /// For who gets this, it is the last of it.
    Ends,
    /// Nothing: changes of several may have been conflated.
    Untold,
}

/// `change`, with a row as the database wrote it.
pub fn row_change(
    out: &mut Vec<u8>,
    to: Addressee<'_>,
    feed: &FeedId,
    topic: &Topic,
    change: &Change,
    row: &Row,
    of_tx: OfTx,
) {
    to.open(out, "change", feed, change.offset);
    put(out, "topic", json(topic.as_str()).as_bytes());
    put_name(out, "op", row.op.as_str());
    put_part(out, "key", &row.key);
    put_rows(out, row);
    put_at(out, change.at);
    if of_tx != OfTx::Untold {
        put_name(out, "tx", &row.tx.to_string());
    }
    if of_tx == OfTx::Ends {
        put(out, "tx_end", b"true");
    }
    put_part(out, "cut", &row.cut);
    close(out);
}

/// `tx_end`: the transaction has no more changes for who gets this, which was not known when it got
/// the last one. The cursor is that of the transaction's last change.
pub fn tx_end(out: &mut Vec<u8>, to: Addressee<'_>, feed: &FeedId, last: Offset, tx: u64) {
    to.open(out, "tx_end", feed, last);
    put_name(out, "tx", &tx.to_string());
    close(out);
}

/// A row's change for a front end that knows nothing of rowcast: table, op, data, old.
pub fn plain_row(out: &mut Vec<u8>, topic: &Topic, row: &Row) {
    out.push(b'{');
    put(out, "table", json(topic.as_str()).as_bytes());
    put_name(out, "op", row.op.as_str());
    put_rows(out, row);
    close(out);
}

/// `data`, which always stands there, and `old`.
fn put_rows(out: &mut Vec<u8>, row: &Row) {
    put(out, "data", if row.data.is_empty() { b"null" } else { &row.data });
    put_part(out, "old", &row.old);
}

fn put_part(out: &mut Vec<u8>, name: &str, part: &[u8]) {
    if !part.is_empty() {
        put(out, name, part);
    }
}

fn put_at(out: &mut Vec<u8>, at: Micros) {
    put_name(out, "at", &rfc3339(at));
}

/// A text in which nothing needs to be escaped.
fn put_name(out: &mut Vec<u8>, name: &str, value: &str) {
    for part in ["\"", name, "\":\"", value, "\","] {
        out.extend_from_slice(part.as_bytes());
    }
}

fn put(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    out.extend_from_slice(value);
    out.push(b',');
}

/// Ends an object, in place of the last comma.
fn close(out: &mut Vec<u8>) {
    out.pop();
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Op;
    use bytes::Bytes;

    #[test]
    fn a_change_carries_json_as_it_is_and_text_as_a_string() {
        let feed: FeedId = "k3f9".parse().unwrap();
        let write = |kind, payload: &'static str, to| {
            let mut out = Vec::new();
            let it = Change { offset: 5, at: 0, kind, payload: Bytes::from_static(payload.as_bytes()) };
            change(&mut out, to, &feed, &Topic::new("t").unwrap(), &it);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            write(Kind::Json, "{\"a\" : 1}", Addressee::Route(3)),
            r#"{"type":"change","route":3,"cursor":"k3f9.5","topic":"t","data":{"a" : 1},"at":"1970-01-01T00:00:00.000000Z"}"#
        );
        assert_eq!(
            write(Kind::Text, "say \"hi\"", Addressee::Subscription("x")),
            r#"{"type":"change","id":"x","cursor":"k3f9.5","topic":"t","data":"say \"hi\"","at":"1970-01-01T00:00:00.000000Z"}"#
        );
    }

    fn row(op: Op, key: &'static str, data: &'static str, old: &'static str, cut: &'static str) -> Row {
        let part = |text: &'static str| Bytes::from_static(text.as_bytes());
        Row { op, tx: 7431, tx_last: 9, key: part(key), cut: part(cut), data: part(data), old: part(old) }
    }

    #[test]
    fn a_row_has_the_members_that_apply_and_its_json_as_it_is() {
        let (feed, topic): (FeedId, _) = ("k3f9".parse().unwrap(), Topic::new("public.orders").unwrap());
        let write = |row: &Row, of_tx| {
            let it = Change { offset: 5, at: 0, kind: Kind::Row, payload: Bytes::new() };
            let (mut native, mut plain) = (Vec::new(), Vec::new());
            row_change(&mut native, Addressee::Route(17), &feed, &topic, &it, row, of_tx);
            plain_row(&mut plain, &topic, row);
            [native, plain].map(|json| String::from_utf8(json).unwrap())
        };
        assert_eq!(
            write(&row(Op::Update, r#"["id"]"#, r#"{"id":1.10, "s":"ä"}"#, r#"{"id":1}"#, r#"["photo"]"#), OfTx::Ends),
            [
                r#"{"type":"change","route":17,"cursor":"k3f9.5","topic":"public.orders","op":"UPDATE","key":["id"],"data":{"id":1.10, "s":"ä"},"old":{"id":1},"at":"1970-01-01T00:00:00.000000Z","tx":"7431","tx_end":true,"cut":["photo"]}"#,
                r#"{"table":"public.orders","op":"UPDATE","data":{"id":1.10, "s":"ä"},"old":{"id":1}}"#,
            ]
        );
        assert_eq!(
            write(&row(Op::Truncate, "", "", "", ""), OfTx::GoesOn),
            [
                r#"{"type":"change","route":17,"cursor":"k3f9.5","topic":"public.orders","op":"TRUNCATE","data":null,"at":"1970-01-01T00:00:00.000000Z","tx":"7431"}"#,
                r#"{"table":"public.orders","op":"TRUNCATE","data":null}"#,
            ]
        );
        let [conflated, _] = write(&row(Op::Delete, r#"["id"]"#, "", r#"{"id":1}"#, ""), OfTx::Untold);
        assert!(!conflated.contains(r#""tx""#), "{conflated}");
        let mut end = Vec::new();
        tx_end(&mut end, Addressee::Subscription("x"), &feed, 9, 7431);
        assert_eq!(end, br#"{"type":"tx_end","id":"x","cursor":"k3f9.9","tx":"7431"}"#);
        end.clear();
        tx_end(&mut end, Addressee::Reader, &feed, 9, 7431);
        assert_eq!(end, br#"{"type":"tx_end","cursor":"k3f9.9","tx":"7431"}"#);
    }
}
