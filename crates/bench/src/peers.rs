//! `bench peers`: the same loads on what people use today, beside rowcast and the floor.
//!
//! Each peer has one core to itself, as rowcast's gateway has; what it needs beside it (Redis, the
//! recipe's listener) is on the core of who publishes. What cannot be installed, or does not hold a
//! load, is said in the table and ends nothing.

mod cases;
mod centrifugo;
mod django;
mod nchan;
mod node_ws;
mod peer;
mod pipe;
mod place;
mod server;
mod socket_io;
mod sockudo;
mod stand;
mod table;
mod writer;

use std::{path::PathBuf, time::Duration};

use anyhow::ensure;
use tokio::signal::unix::{SignalKind, signal};

use crate::{bus_stage::BusStage, machine, order::Faults, pin::Cores};

use cases::Cases;
use peer::Peer;
use table::{FLOOR, Table};

/// Loads of `bench peers`.
#[derive(Debug, Clone, clap::Args)]
pub struct Peers {
    /// Which, in this order.
    #[arg(long, default_value = "rowcast,nchan,node-ws,socket-io,centrifugo,sockudo,django", value_delimiter = ',',
        value_parser = ["rowcast", "nchan", "node-ws", "socket-io", "centrifugo", "sockudo", "django"])]
    pub only: Vec<String>,
    /// Clients that get one change after the other, as fast as it goes; one run after the other. The
    /// most of them also say what a connection costs.
    #[arg(long, default_value = "1000,10000", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=19_000))]
    pub clients: Vec<u32>,
    /// Clients that get a few changes a second.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=9_000))]
    pub light_clients: u32,
    /// Changes a second to them.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rate: u32,
}

/// How `bench` was asked for it.
pub struct Asked {
    pub runs: u32,
    pub time: Duration,
    pub pin: bool,
    pub json: Option<PathBuf>,
}

/// Open files that are no clients.
const OWN_FILES: u64 = 200;

/// Those that `crates/bench/peers/install.sh` installs; rowcast is not one of them.
const ALL: [&dyn Peer; 6] = [
    &nchan::Nchan,
    &node_ws::NodeWs,
    &socket_io::SocketIo,
    &centrifugo::Centrifugo,
    &sockudo::Sockudo,
    &django::Django,
];

/// Measures what was asked for and prints the table; whether rowcast's clients saw no fault.
pub async fn run(peers: &Peers, asked: &Asked) -> anyhow::Result<bool> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let table = tokio::select! {
        table = measure(peers, asked) => table?,
        // Dropping it ends what it has started.
        _ = interrupt.recv() => anyhow::bail!("interrupted"),
        _ = terminate.recv() => anyhow::bail!("terminated"),
    };
    println!("{}", table.markdown());
    if let Some(path) = &asked.json {
        std::fs::write(path, format!("{:#}\n", table.json()))?;
    }
    Ok(table.faults("rowcast") == Faults::default())
}

async fn measure(peers: &Peers, asked: &Asked) -> anyhow::Result<Table> {
    let most = peers.clients.iter().copied().chain([2 * peers.light_clients]).max().unwrap_or(0);
    let (needed, files) = (u64::from(most) + OWN_FILES, machine::open_files());
    ensure!(needed <= files, "{needed} files are needed, and a process may open {files}: take fewer clients");
    let cores = Cores::split(asked.pin)?;
    let mut table = Table::new(machine::describe(), cores.describe(), asked.runs, asked.time);
    table.row(FLOOR, "a bare loop of writes");
    let stage = BusStage::set(cores).await?;
    for run in 1..=asked.runs {
        for name in &peers.only {
            let peer = ALL.into_iter().find(|peer| peer.folder() == name);
            let row = table.row(name, &peer.map_or_else(|| "rowcast".into(), peer::title));
            if let Some(peer) = peer
                && !peer::is_installed(peer)
            {
                eprintln!("bench: {name} is not installed: crates/bench/peers/install.sh {name}");
                row.note("not installed");
                continue;
            }
            eprintln!("bench: run {run} of {}: {name}", asked.runs);
            Cases { stage: &stage, peers, time: asked.time }.run(name, peer, &mut table).await;
        }
    }
    Ok(table)
}
