//! One change, as it lies in a batch.

use bytes::Bytes;

use crate::{Micros, Offset, Row};

/// What a change's payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A NOTIFY payload that is valid JSON.
    Json,
    /// A NOTIFY payload that is any other text.
    Text,
    /// A row of a watched table: the payload is a [`Row`].
    Row,
}

impl Kind {
    pub(crate) fn to_byte(self) -> u8 {
        match self {
            Self::Json => 0,
            Self::Text => 1,
            Self::Row => 2,
        }
    }

    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Json),
            1 => Some(Self::Text),
            2 => Some(Self::Row),
            _ => None,
        }
    }

    /// Looks at a payload once, so that nobody after the listener has to: [`Kind::Json`] if it
    /// can stand unquoted in a JSON message.
    pub fn of(payload: &str) -> Self {
        match serde_json::from_str::<serde::de::IgnoredAny>(payload) {
            Ok(_) => Self::Json,
            Err(_) => Self::Text,
        }
    }
}

/// One row change, or one raw NOTIFY payload. The payload shares its batch's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its position in the feed.
    pub offset: Offset,
    /// When it happened, as exactly as the source knows: for NOTIFY, when the listener got it.
    pub at: Micros,
    /// What the payload is.
    pub kind: Kind,
    /// The payload: UTF-8, byte for byte as the database sent it, or an encoded [`Row`].
    pub payload: Bytes,
}

impl Change {
    /// The row, if it is a well-formed one.
    pub fn row(&self) -> Option<Row> {
        if self.kind == Kind::Row { Row::decode(&self.payload) } else { None }
    }

    /// Appends its wire form, as it lies in a slice.
    pub fn encode(&self, out: &mut bytes::BytesMut) {
        crate::batch::put_change(out, self.offset, self.at, self.kind, &self.payload);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_json_only_if_it_can_stand_in_json() {
        for json in ["{}", " [1, 2] ", "null", "\"x\"", "1e3"] {
            assert_eq!(Kind::of(json), Kind::Json, "{json}");
        }
        for text in ["", "hello", "{", "{}{}", "NaN", "'x'"] {
            assert_eq!(Kind::of(text), Kind::Text, "{text}");
        }
    }
}
