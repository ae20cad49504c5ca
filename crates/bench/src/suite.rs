use std::time::Duration;

use anyhow::ensure;

use crate::{
    args::{self, Args, Command, Idle, Latency, Listener, Throughput},
    away, idle, latency, listener, machine,
    pin::Cores,
    report::Report,
    stage::Stage,
    throughput, writers,
};

/// However many runs are asked for.
pub const AT_MOST: Duration = Duration::from_secs(4 * 3600);
/// Files that are not clients.
const OWN_FILES: u64 = 100;

/// Measures what was asked for. Runs alternate: whatever changes on the machine meanwhile hits all
/// measurements, and the floor with them.
pub async fn run(args: &Args) -> anyhow::Result<Report> {
    if let Some(Command::Writers(what)) = &args.command {
        return writers::run(what, args.seconds).await;
    }
    if let Some(Command::Away(what)) = &args.command {
        let cores = Cores::split(!args.no_pin)?;
        let mut report = Report::new(machine::describe(), cores.describe(), args.runs, what.seconds_away);
        for run in 1..=args.runs {
            say(&format!("run {run} of {}: {} s without a listener", args.runs, what.seconds_away.as_secs()));
            away::run(&cores, what, &mut report).await?;
        }
        return Ok(report);
    }
    let (latency, throughput, idle, listener) = chosen(args);
    let most = [
        latency.as_ref().map_or(0, |what| what.clients),
        throughput.as_ref().map_or(0, |what| what.clients),
        idle.as_ref().map_or(0, |what| what.connections),
    ];
    let (needed, files) = (u64::from(most.into_iter().max().unwrap_or(0)) + OWN_FILES, machine::open_files());
    ensure!(needed <= files, "{needed} files are needed, and a process may open {files}: take fewer clients");
    let cores = Cores::split(!args.no_pin)?;
    let mut report = Report::new(machine::describe(), cores.describe(), args.runs, args.seconds);
    say("starting PostgreSQL, Redis and a listener");
    let stage = Stage::set(cores).await?;
    for run in 1..=args.runs {
        let of = args.runs;
        if let Some(what) = &latency {
            for &rate in &what.rates {
                for &origin in &what.origins {
                    say(&format!(
                        "run {run} of {of}: latency at {rate} changes/s from {origin} to {} clients",
                        what.clients
                    ));
                    latency::run(&stage, what, origin, rate, args.seconds, &mut report).await?;
                }
            }
        }
        if let Some(what) = &throughput {
            for &gateways in &what.gateways {
                for &load in &what.loads {
                    say(&format!(
                        "run {run} of {of}: throughput, gateways: {gateways}, rows a statement: {}",
                        load.rows
                    ));
                    throughput::run(&stage, what, gateways, load, args.seconds, &mut report).await?;
                }
            }
        }
        if let Some(what) = &idle {
            say(&format!("run {run} of {of}: {} idle connections", what.connections));
            idle::run(&stage, what, args.seconds, &mut report).await?;
        }
        if let Some(what) = &listener {
            for &rows in &what.rows {
                say(&format!(
                    "run {run} of {of}: a listener with {} changes to catch up, {rows} a transaction",
                    what.changes
                ));
                listener::run(&stage, what.changes, rows, &mut report).await?;
            }
        }
    }
    Ok(report)
}

type Chosen = (Option<Latency>, Option<Throughput>, Option<Idle>, Option<Listener>);

fn chosen(args: &Args) -> Chosen {
    match args.command.clone() {
        None => (Some(args::defaults()), Some(args::defaults()), Some(args::defaults()), Some(args::defaults())),
        Some(Command::Latency(what)) => (Some(what), None, None, None),
        Some(Command::Throughput(what)) => (None, Some(what), None, None),
        Some(Command::Idle(what)) => (None, None, Some(what), None),
        Some(Command::Listener(what)) => (None, None, None, Some(what)),
        Some(Command::Floor(_) | Command::Writers(_) | Command::Away(_)) => (None, None, None, None),
    }
}

fn say(what: &str) {
    eprintln!("bench: {what}");
}
