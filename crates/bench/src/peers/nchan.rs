use std::process::Command;

use crate::{
    connect::Hello,
    peers::{
        peer::{Peer, Post, Way},
        place::Place,
    },
};

/// A module of nginx.
pub struct Nchan;

impl Peer for Nchan {
    fn folder(&self) -> &'static str {
        "nchan"
    }

    fn name(&self) -> &'static str {
        "Nchan"
    }

    fn commands(&self, place: &Place) -> anyhow::Result<Vec<Command>> {
        let mut nginx = Command::new("nginx");
        nginx.arg("-p").arg(place.folder()).arg("-c").arg(place.write("nginx.conf")?);
        // Its worker would otherwise be somebody who may not enter the folder.
        nginx.args(["-e", "stderr", "-g", "user root;"]);
        Ok(vec![nginx])
    }

    fn hello(&self) -> Hello {
        Hello::plain("/ws")
    }

    fn way(&self) -> Way {
        Way::Post(|payload| Post { path: "/publish".into(), body: payload.into() })
    }
}
