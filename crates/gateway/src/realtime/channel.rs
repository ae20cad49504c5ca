//! The channels of a connection.

use std::rc::Rc;

use super::{
    bindings::Bindings,
    message::{Ref, Vsn},
};
use crate::access::Claims;

/// What the name of every channel begins with on the wire.
const PREFIX: &str = "realtime:";

/// The name of a channel, without what stands before it on the wire.
pub fn name_of(topic: &str) -> &str {
    topic.strip_prefix(PREFIX).unwrap_or(topic)
}

/// Whether a topic is one of a channel.
pub fn is_channel(topic: &str) -> bool {
    topic.len() > PREFIX.len() && topic.starts_with(PREFIX)
}

/// A channel that is joined.
#[derive(Debug)]
pub struct Channel {
    /// Its name on the wire.
    pub topic: Box<str>,
    /// The join that it belongs to.
    pub join_ref: Ref,
    /// What it wants of the database; nothing, for one that is for broadcasts alone.
    pub bindings: Option<Rc<Bindings>>,
    /// Whether it was told that it is subscribed.
    pub told: bool,
    /// What its client may do, and until when.
    pub claims: Claims,
    /// Whether its client gets its own broadcasts too.
    pub own: bool,
    /// Whether its client is told that a broadcast was sent.
    pub ack: bool,
}

impl Channel {
    /// Whether its client may send broadcasts, and gets those of others.
    pub fn may_broadcast(&self) -> bool {
        self.claims.may_broadcast(name_of(&self.topic))
    }

    /// `system` for it.
    pub fn system(&self, vsn: Vsn, ok: bool, message: &str, more: &[(&str, &str)]) -> String {
        super::bindings::system(vsn, &self.topic, &self.join_ref, ok, message, more)
    }

    /// `phx_close`: it has ended, and its client does not come back by itself.
    pub fn closed(&self, vsn: Vsn) -> String {
        vsn.write(&self.join_ref, &self.join_ref, &self.topic, "phx_close", "{}")
    }

    /// `phx_error`: it has ended, and its client joins again.
    pub fn failed(&self, vsn: Vsn, reason: &str) -> String {
        let payload = format!(r#"{{"reason":{}}}"#, protocol::message::json(reason));
        vsn.write(&self.join_ref, &self.join_ref, &self.topic, "phx_error", &payload)
    }
}
