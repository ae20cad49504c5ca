//! How a change becomes a frame: once per form, whoever gets it.

use std::{borrow::Borrow, collections::HashMap};

use protocol::{
    Catalogue, FeedId, Kind, Topic,
    config::Wrap,
    message::{self, Addressee, OfTx},
};

use crate::{
    hit::{Hit, OpenTx},
    realtime::{self, Bindings},
    sse, ws,
};

/// The form in which a subscription wants its changes.
#[derive(Debug, Clone, Copy)]
pub enum Form<'a> {
    /// The payload, for a front end that knows nothing of rowcast.
    Plain(Wrap),
    /// A `change` message.
    Native(Addressee<'a>),
    /// The same as an event.
    Events,
    /// As Supabase's client gets it.
    Realtime(&'a Bindings),
}

/// Scratch space that is kept: one large row is no reason to hold its size for ever.
const KEPT_BYTES: usize = 64 * 1024;

/// Appends whole frames to `out`; keeps its scratch space between calls.
#[derive(Debug, Default)]
pub struct Encoder {
    scratch: Vec<u8>,
    /// The columns of each table that has any, with their types, as JSON.
    columns: HashMap<Topic, Box<str>>,
    /// How many changes it has framed.
    #[cfg(test)]
    pub framed: usize,
}

impl Encoder {
    /// Takes notice of the columns of tables.
    pub fn set_columns(&mut self, catalogue: &Catalogue) {
        let columns = catalogue.topics.iter().filter(|info| !info.columns.is_empty());
        self.columns = columns.map(|info| (info.topic.clone(), realtime::columns(info).into())).collect();
    }

    /// Appends the frame of a change. `of_tx`: what a native client is told of its transaction.
    pub fn frame<T: Borrow<Topic>>(
        &mut self,
        out: &mut Vec<u8>,
        form: Form<'_>,
        feed: &FeedId,
        hit: &Hit<T>,
        of_tx: OfTx,
    ) {
        #[cfg(test)]
        {
            self.framed += 1;
        }
        let (topic, change) = (hit.topic.borrow(), &hit.change);
        self.scratch.clear();
        match (form, &hit.row) {
            (Form::Plain(Wrap::None), None) => return ws::write_text(out, &change.payload),
            (Form::Plain(Wrap::None), Some(row)) => message::plain_row(&mut self.scratch, topic, row),
            (Form::Plain(Wrap::Data), row) => {
                self.scratch.extend_from_slice(br#"{"data":"#);
                match (change.kind, row) {
                    (_, Some(row)) => message::plain_row(&mut self.scratch, topic, row),
                    (Kind::Json, None) => self.scratch.extend_from_slice(&change.payload),
                    (Kind::Text | Kind::Row, None) => {
                        let text = message::json(&String::from_utf8_lossy(&change.payload));
                        self.scratch.extend_from_slice(text.as_bytes());
                    }
                }
                self.scratch.push(b'}');
            }
            (Form::Native(to), _) => write_change(&mut self.scratch, to, feed, hit, of_tx),
            (Form::Events, _) => write_change(&mut self.scratch, Addressee::Reader, feed, hit, of_tx),
            (Form::Realtime(bindings), row) => {
                let columns = self.columns.get(topic).map(|columns| &**columns);
                if let Some(row) = row {
                    bindings.write(out, feed, topic, change, row, columns);
                }
                return;
            }
        }
        match form {
            Form::Events => sse::write_event(out, None, Some((feed, change.offset)), &self.scratch),
            Form::Plain(_) | Form::Native(_) | Form::Realtime(_) => ws::write_text(out, &self.scratch),
        }
        self.scratch.shrink_to(KEPT_BYTES);
    }

    /// Appends the frame that ends a transaction whose last change was sent before that was known.
    pub fn tx_end(&mut self, out: &mut Vec<u8>, form: Form<'_>, feed: &FeedId, open: OpenTx) {
        self.scratch.clear();
        match form {
            // They know of no transactions.
            Form::Plain(_) | Form::Realtime(_) => {}
            Form::Native(to) => {
                message::tx_end(&mut self.scratch, to, feed, open.last, open.tx);
                ws::write_text(out, &self.scratch);
            }
            Form::Events => {
                message::tx_end(&mut self.scratch, Addressee::Reader, feed, open.last, open.tx);
                sse::write_event(out, Some("tx_end"), Some((feed, open.last)), &self.scratch);
            }
        }
    }
}

/// Appends a `change` as JSON.
pub fn write_change<T: Borrow<Topic>>(out: &mut Vec<u8>, to: Addressee<'_>, feed: &FeedId, hit: &Hit<T>, of_tx: OfTx) {
    let topic = hit.topic.borrow();
    match &hit.row {
        None => message::change(out, to, feed, topic, &hit.change),
        Some(row) => message::row_change(out, to, feed, topic, &hit.change, row, of_tx),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::{Bytes, BytesMut};
    use protocol::{Change, Op, Row};

    fn encode(form: Form<'_>, kind: Kind, payload: &[u8]) -> Vec<u8> {
        let change = Change { offset: 1, at: 0, kind, payload: Bytes::copy_from_slice(payload) };
        let row = change.row().map(Box::new);
        let mut out = Vec::new();
        let feed = "f".parse().unwrap();
        let hit = Hit { topic: Topic::new("t").unwrap(), change, row };
        Encoder::default().frame(&mut out, form, &feed, &hit, OfTx::Ends);
        out
    }

    #[test]
    fn a_plain_endpoint_gets_the_payload_byte_for_byte() {
        assert_eq!(encode(Form::Plain(Wrap::None), Kind::Json, b"{ }"), b"\x81\x03{ }");
        assert_eq!(encode(Form::Plain(Wrap::None), Kind::Text, b"hi"), b"\x81\x02hi");
        assert_eq!(encode(Form::Plain(Wrap::Data), Kind::Json, b"{ }"), b"\x81\x0c{\"data\":{ }}");
        assert_eq!(encode(Form::Plain(Wrap::Data), Kind::Text, b"hi"), b"\x81\x0d{\"data\":\"hi\"}");
    }

    #[test]
    fn a_plain_endpoint_gets_a_row_with_its_table_and_nothing_of_rowcast() {
        let part = |text: &'static str| Bytes::from_static(text.as_bytes());
        let row = Row {
            op: Op::Delete,
            tx: 7,
            tx_last: 1,
            key: part(r#"["id"]"#),
            cut: Bytes::new(),
            data: Bytes::new(),
            old: part(r#"{"id":1}"#),
        };
        let mut payload = BytesMut::new();
        row.encode(&mut payload);
        let plain = br#"{"table":"t","op":"DELETE","data":null,"old":{"id":1}}"#;
        let expected = [&[0x81, plain.len() as u8][..], plain].concat();
        assert_eq!(encode(Form::Plain(Wrap::None), Kind::Row, &payload), expected);
        let wrapped = [&br#"{"data":"#[..], plain, b"}"].concat();
        let expected = [&[0x81, wrapped.len() as u8][..], &wrapped].concat();
        assert_eq!(encode(Form::Plain(Wrap::Data), Kind::Row, &payload), expected);
    }
}
