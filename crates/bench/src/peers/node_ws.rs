use std::process::Command;

use crate::{
    connect::Hello,
    peers::{
        peer::{Peer, Way},
        place::Place,
    },
};

/// Node's `ws`.
pub struct NodeWs;

impl Peer for NodeWs {
    fn folder(&self) -> &'static str {
        "node-ws"
    }

    fn name(&self) -> &'static str {
        "ws"
    }

    fn commands(&self, place: &Place) -> anyhow::Result<Vec<Command>> {
        Ok(vec![node(place)])
    }

    fn hello(&self) -> Hello {
        Hello::plain("/")
    }

    fn way(&self) -> Way {
        Way::Redis
    }
}

/// `node server.js PORT REDIS_PORT`.
pub fn node(place: &Place) -> Command {
    let mut node = Command::new("node");
    node.arg(place.installed("server.js")).args([&place.port().to_string(), place.redis_port()]);
    node.env("NODE_ENV", "production");
    node
}
