use std::process::Command;

use crate::{
    connect::Hello,
    payload::Reader,
    peers::{
        peer::{Peer, Post, Way},
        place::Place,
    },
};

/// Centrifugo with its memory engine, as it starts by itself.
pub struct Centrifugo;

impl Peer for Centrifugo {
    fn folder(&self) -> &'static str {
        "centrifugo"
    }

    fn name(&self) -> &'static str {
        "Centrifugo"
    }

    fn commands(&self, place: &Place) -> anyhow::Result<Vec<Command>> {
        let mut centrifugo = Command::new(place.installed("centrifugo"));
        centrifugo.arg("--config").arg(place.write("config.json")?);
        Ok(vec![centrifugo])
    }

    /// Both commands at once, a line each; the answer to the second may stand behind that to the first.
    fn hello(&self) -> Hello {
        let first = "{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"bench\"}}";
        Hello::other("/connection/websocket", first, br#""id":2,"subscribe":"#)
    }

    fn reader(&self) -> Reader {
        Reader::of_lines()
    }

    fn way(&self) -> Way {
        Way::Post(|payload| Post {
            path: "/api/publish".into(),
            body: format!(r#"{{"channel":"bench","data":{payload}}}"#),
        })
    }
}
