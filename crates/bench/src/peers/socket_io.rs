use std::process::Command;

use crate::{
    connect::Hello,
    peers::{
        node_ws::node,
        peer::{Peer, Way},
        place::Place,
    },
};

/// Node's `socket.io`: Engine.IO's fourth protocol, over WebSocket from the start.
pub struct SocketIo;

impl Peer for SocketIo {
    fn folder(&self) -> &'static str {
        "socket-io"
    }

    fn name(&self) -> &'static str {
        "socket.io"
    }

    fn commands(&self, place: &Place) -> anyhow::Result<Vec<Command>> {
        Ok(vec![node(place)])
    }

    fn hello(&self) -> Hello {
        Hello::other("/socket.io/?EIO=4&transport=websocket", "40", b"40{")
    }

    fn way(&self) -> Way {
        Way::Redis
    }
}
