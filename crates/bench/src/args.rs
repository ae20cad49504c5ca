use std::{path::PathBuf, str::FromStr, time::Duration};

use crate::{
    connects::Connects, crowd::Crowd, crowd_clients::CrowdClients, fanout::Fanout, herd::Herd, idle::Idle,
    light::Light, origin::Origin, overload::Overload, peers::Peers, relay, stuck::Stuck, topics::Topics,
};

/// Measures rowcast on this machine; the table goes to standard output.
///
/// Starts its own PostgreSQL, Redis, listener and gateways (the release builds beside this program)
/// and ends them. Servers run on all cores but the last, the load client on the last one. Where one
/// gateway is measured it has the first core alone, as the floor has, and its changes come straight
/// from the bus: Redis and who publishes are then on the cores between, or on the load client's if
/// there are only two. Without a command, all is measured but what says otherwise; that takes more
/// than half an hour.
#[derive(Debug, clap::Parser)]
#[command(name = "bench", version)]
pub struct Args {
    /// What to measure.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Runs of each measurement; the table has their median and range.
    #[arg(long, global = true, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub runs: u32,

    /// Seconds that a run measures, after its warm-up.
    #[arg(long, global = true, default_value = "10", value_parser = seconds, value_name = "S")]
    pub seconds: Duration,

    /// Also write every run's figures to this file.
    #[arg(long, global = true, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Let the system place servers and load client, instead of pinning them.
    #[arg(long, global = true)]
    pub no_pin: bool,
}

/// What to measure.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// From a writer's INSERT to each client's socket, at a fixed rate
    Latency(Latency),
    /// Deliveries a second from a writer's INSERT on, and what they cost
    Throughput(Throughput),
    /// Deliveries a second of one gateway on a core of its own, changes straight from the bus
    Fanout(Fanout),
    /// More changes than can be written one by one: how late they are
    Overload(Overload),
    /// A few changes a second, straight from the bus: how late they are
    Light(Light),
    /// Many topics with few clients each, beside one topic with all
    Topics(Topics),
    /// Connects a second, and what they do to a fan-out
    Connects(Connects),
    /// Clients that come back all at once
    Herd(Herd),
    /// Clients that never read: what they cost, and what the others notice
    Stuck(Stuck),
    /// Memory of connections that wait
    Idle(Idle),
    /// As many connections as this machine holds, over many gateways (only if asked for)
    Crowd(Crowd),
    /// What a listener carries from the log to Redis after it was away
    Listener(Listener),
    /// A listener that was down while writers went on: all arrives (only if asked for: ten minutes a run)
    Away(Away),
    /// The same loads on what people use today (only if asked for: see `make bench-peers`)
    Peers(Peers),
    /// What the triggers cost those who write (only if asked for: a quarter of an hour)
    Writers(Writers),
    /// The floor: a bare loop of writes (started by the others)
    #[command(hide = true)]
    Floor(Floor),
    /// A bare loop of writes behind a bare PUBLISH (started by `light`)
    #[command(hide = true)]
    Relay(relay::Settings),
    /// Some of the clients of a crowd (started by it)
    #[command(hide = true)]
    CrowdClients(CrowdClients),
}

/// Clients and rates of `bench latency`.
#[derive(Debug, Clone, clap::Args)]
pub struct Latency {
    /// Clients, over two gateways.
    #[arg(long, default_value_t = 500, value_parser = clients())]
    pub clients: u32,
    /// Changes a second, one run after the other.
    #[arg(long, default_value = "2,10", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rates: Vec<u32>,
    /// Where the changes come from, one run after the other.
    #[arg(long, default_value = "notify,log", value_delimiter = ',', value_enum)]
    pub origins: Vec<Origin>,
}

/// Clients and loads of `bench throughput`.
#[derive(Debug, Clone, clap::Args)]
pub struct Throughput {
    /// Clients, over all gateways.
    #[arg(long, default_value_t = 1000, value_parser = clients())]
    pub clients: u32,
    /// Gateways, one run after the other.
    #[arg(long, default_value = "2,1", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=16))]
    pub gateways: Vec<u32>,
    /// Rows a statement, and changes that may be under way before the writer waits.
    #[arg(long, default_value = "1:2,32:512", value_delimiter = ',', value_name = "ROWS:AHEAD")]
    pub loads: Vec<Offered>,
}

/// Changes of `bench listener`.
#[derive(Debug, Clone, clap::Args)]
pub struct Listener {
    /// Changes that wait in the log when it starts.
    #[arg(long, default_value_t = 300_000, value_parser = clap::value_parser!(u32).range(1000..=20_000_000))]
    pub changes: u32,
    /// Rows of a transaction, one run after the other.
    #[arg(long, default_value = "1,100", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rows: Vec<u32>,
}

/// An outage of `bench away`.
#[derive(Debug, Clone, clap::Args)]
pub struct Away {
    /// Seconds without a listener.
    #[arg(long, default_value = "600", value_parser = outage, value_name = "S")]
    pub seconds_away: Duration,
    /// Rows a second that are written meanwhile, one a transaction.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(8..=20_000))]
    pub rate: u32,
}

/// Writers of `bench writers`.
#[derive(Debug, Clone, clap::Args)]
pub struct Writers {
    /// How often all variants are run one after the other; each for the time that --seconds says.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// synchronous_commit: off shows what the triggers cost; with on the disk hides some of it.
    #[arg(long, default_value = "off", value_parser = ["on", "off"])]
    pub synchronous_commit: String,
    /// What the listener is told about when to poll (its --log-poll-above), to find the best value.
    #[arg(long)]
    pub poll_above: Option<u64>,
    /// No listener: what the triggers cost alone, as where everything else is on other machines.
    #[arg(long)]
    pub without_listener: bool,
}

/// The loop of writes.
#[derive(Debug, Clone, clap::Args)]
pub struct Floor {
    /// Port on 127.0.0.1.
    #[arg(long, default_value_t = 0)]
    pub port: u16,
    /// Sockets to wait for.
    #[arg(long)]
    pub clients: u32,
    /// Bytes of a payload.
    #[arg(long)]
    pub bytes: usize,
    /// Frames in a write.
    #[arg(long)]
    pub joined: u32,
    /// Passes a second; 0 is as fast as sockets take it.
    #[arg(long)]
    pub rate: u32,
    /// Seconds after which it ends by itself.
    #[arg(long)]
    pub at_most: u64,
}

/// How a writer loads the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offered {
    /// Rows of a statement, which are one transaction.
    pub rows: u32,
    /// Changes that may be under way.
    pub ahead: u32,
}

impl FromStr for Offered {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once(':').and_then(|(rows, ahead)| Some((rows.parse().ok()?, ahead.parse().ok()?)));
        match parsed {
            Some((rows @ 1..=1000, ahead @ 1..=100_000)) if ahead >= rows => Ok(Self { rows, ahead }),
            _ => Err("ROWS:AHEAD is 1 to 1000 rows, and at least as many changes ahead, as in 32:512".into()),
        }
    }
}

/// The defaults of a command, for when none is given.
pub fn defaults<T: clap::Args>() -> T {
    let command = T::augment_args(clap::Command::new("bench"));
    let matches = command.get_matches_from(["bench"]);
    T::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

fn clients() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=19_000)
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<u64>() {
        Ok(seconds @ 1..=600) => Ok(Duration::from_secs(seconds)),
        _ => Err("1 to 600 seconds".into()),
    }
}

fn outage(text: &str) -> Result<Duration, String> {
    match text.parse::<u64>() {
        Ok(seconds @ 1..=3600) => Ok(Duration::from_secs(seconds)),
        _ => Err("1 to 3600 seconds".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};

    #[test]
    fn the_flags_are_sound_and_a_command_is_not_needed() {
        Args::command().debug_assert();
        assert!(Args::parse_from(["bench"]).command.is_none());
        assert_eq!(defaults::<Latency>().rates, [2, 10]);
        assert!("8:4".parse::<Offered>().is_err());
    }
}
