//! `make bench`: how late and how many, at what cost, beside a bare loop of writes on the same
//! machine and the figures of the Django recipe.
//!
//! Real parts all the way: PostgreSQL with the recipe's trigger, a listener, Redis, gateways. The
//! load client and the writer are in this process; each part is measured from outside, by /proc.

// Results go to standard output, progress to standard error: it is a program for the terminal.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod args;
mod away;
mod bare;
mod bus_stage;
mod bus_writer;
mod connect;
mod connects;
mod crowd;
mod crowd_clients;
mod fanout;
mod figure;
mod floor;
mod gateways;
mod herd;
mod idle;
mod kernel;
mod latency;
mod light;
mod listener;
mod load;
mod machine;
mod order;
mod origin;
mod ours;
mod overload;
mod payload;
mod peers;
mod pin;
mod process;
mod progress;
mod recipe;
mod relay;
mod report;
mod stage;
mod stuck;
mod suite;
mod throughput;
mod topics;
mod usage;
mod window;
mod wire;
mod writer;
mod writers;

use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use args::{Args, Command};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether nothing was missing, repeated, out of order or cut off.
async fn run(args: Args) -> anyhow::Result<bool> {
    if let Some(Command::Floor(floor)) = &args.command {
        return floor::serve(floor).map(|()| true);
    }
    if let Some(Command::Relay(settings)) = &args.command {
        return relay::serve(settings).map(|()| true);
    }
    if let Some(Command::CrowdClients(clients)) = &args.command {
        return crowd_clients::serve(clients).await.map(|()| true);
    }
    if let Some(Command::Peers(what)) = &args.command {
        let asked = peers::Asked { runs: args.runs, time: args.seconds, pin: !args.no_pin, json: args.json.clone() };
        return peers::run(what, &asked).await;
    }
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let report = tokio::select! {
        report = tokio::time::timeout(suite::AT_MOST, suite::run(&args)) => report??,
        // Dropping the suite ends what it has started.
        _ = interrupt.recv() => anyhow::bail!("interrupted"),
        _ = terminate.recv() => anyhow::bail!("terminated"),
    };
    println!("{}", report.markdown());
    if let Some(path) = &args.json {
        std::fs::write(path, format!("{:#}\n", report.json()))?;
    }
    Ok(report.is_faultless())
}
