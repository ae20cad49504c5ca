//! How a change becomes a frame: once per form, whoever gets it.

use protocol::{
    Change, FeedId, Kind, Topic,
    config::Wrap,
    message::{self, Addressee},
};

use crate::ws;

/// The form in which a subscription wants its changes.
#[derive(Debug, Clone, Copy)]
pub enum Form<'a> {
    /// The payload, for a front end that knows nothing of rowcast.
    Plain(Wrap),
    /// A `change` message.
    Native(Addressee<'a>),
}

/// Appends whole frames to `out`; keeps its scratch space between calls.
#[derive(Debug, Default)]
pub struct Encoder {
    scratch: Vec<u8>,
}

impl Encoder {
    /// Appends the frame of a change.
    pub fn frame(&mut self, out: &mut Vec<u8>, form: Form<'_>, feed: &FeedId, topic: &Topic, change: &Change) {
        match form {
            Form::Plain(Wrap::None) if change.kind == Kind::Row => {
                self.scratch.clear();
                message::plain_row(&mut self.scratch, topic, change);
                ws::write_text(out, &self.scratch);
            }
            Form::Plain(Wrap::None) => ws::write_text(out, &change.payload),
            Form::Plain(Wrap::Data) => {
                self.scratch.clear();
                self.scratch.extend_from_slice(br#"{"data":"#);
                match change.kind {
                    Kind::Json => self.scratch.extend_from_slice(&change.payload),
                    Kind::Row => message::plain_row(&mut self.scratch, topic, change),
                    Kind::Text => {
                        let text = message::json(&String::from_utf8_lossy(&change.payload));
                        self.scratch.extend_from_slice(text.as_bytes());
                    }
                }
                self.scratch.push(b'}');
                ws::write_text(out, &self.scratch);
            }
            Form::Native(to) => {
                self.scratch.clear();
                message::change(&mut self.scratch, to, feed, topic, change);
                ws::write_text(out, &self.scratch);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn encode(form: Form<'_>, kind: Kind, payload: &'static str) -> Vec<u8> {
        let change = Change { offset: 1, at: 0, kind, payload: Bytes::from_static(payload.as_bytes()) };
        let mut out = Vec::new();
        let feed = "f".parse().unwrap();
        Encoder::default().frame(&mut out, form, &feed, &Topic::new("t").unwrap(), &change);
        out
    }

    #[test]
    fn a_plain_endpoint_gets_the_payload_byte_for_byte() {
        assert_eq!(encode(Form::Plain(Wrap::None), Kind::Json, "{ }"), b"\x81\x03{ }");
        assert_eq!(encode(Form::Plain(Wrap::None), Kind::Text, "hi"), b"\x81\x02hi");
        assert_eq!(encode(Form::Plain(Wrap::Data), Kind::Json, "{ }"), b"\x81\x0c{\"data\":{ }}");
        assert_eq!(encode(Form::Plain(Wrap::Data), Kind::Text, "hi"), b"\x81\x0d{\"data\":\"hi\"}");
    }
}
