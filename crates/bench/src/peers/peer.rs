use std::{path::PathBuf, process::Command};

use crate::{connect::Hello, payload::Reader, peers::place::Place};

/// One of those that people use today.
pub trait Peer: Sync {
    /// Its folder in `crates/bench/peers` and in `target/peers`; also its name on the command line.
    fn folder(&self) -> &'static str;

    /// As the table names it.
    fn name(&self) -> &'static str;

    /// The server, which gets a core to itself, and what runs beside it. They find the peer's folder
    /// by [`Place::installed`], and start in one of their own.
    fn commands(&self, place: &Place) -> anyhow::Result<Vec<Command>>;

    /// How a client gets in.
    fn hello(&self) -> Hello;

    /// How its frames are read.
    fn reader(&self) -> Reader {
        Reader::new()
    }

    /// How a change gets to it.
    fn way(&self) -> Way;
}

/// How changes get to a peer.
#[derive(Clone, Copy)]
pub enum Way {
    /// Published on [`CHANNEL`], as the recipes do.
    Redis,
    /// A request to the server for each, on one connection.
    Post(fn(payload: &str) -> Post),
    /// The same, on a connection for each: the server closes it with its answer.
    PostOnce(fn(payload: &str) -> Post),
}

/// A request that publishes a change.
pub struct Post {
    pub path: String,
    pub body: String,
}

/// The recipe's channel.
pub const CHANNEL: &str = "sensor_updates";

/// Where `install.sh` puts a peer: beside the folder of this program.
pub fn installed(folder: &str) -> PathBuf {
    let this = std::env::current_exe().unwrap_or_default();
    this.ancestors().nth(2).map(|target| target.join("peers").join(folder)).unwrap_or_default()
}

/// Whether it is there: the version is the last that `install.sh` writes.
pub fn is_installed(peer: &dyn Peer) -> bool {
    installed(peer.folder()).join("version").exists()
}

/// Name and version.
pub fn title(peer: &dyn Peer) -> String {
    let version = std::fs::read_to_string(installed(peer.folder()).join("version")).unwrap_or_default();
    format!("{} {}", peer.name(), version.trim()).trim_end().to_owned()
}
