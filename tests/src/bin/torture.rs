//! `make torture`: see `e2e::torture`.

// Results go to standard output, progress to standard error: it is a program for the terminal.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

use std::{process::ExitCode, sync::Arc, time::Duration};

use clap::Parser;
use e2e::torture::{Options, run};

/// Strikes every part of rowcast again and again while random transactions are written, and holds
/// what each client got against the log, and its state against the tables.
///
/// Starts its own PostgreSQL, Redis, two listeners and three gateways (the builds beside this
/// program), each behind a proxy that can be stalled or cut. What chance decides, the seed decides:
/// the schedule of faults, what each writer does, how each client behaves, and how the parts are set
/// up. Ends with 1 at the first violation, and says where the logs of all processes are.
#[derive(Debug, Parser)]
#[command(name = "torture", version)]
struct Args {
    /// How long writers write and faults come.
    #[arg(long, default_value_t = 20.0)]
    minutes: f64,

    /// Decides everything that chance decides [default: another one each time].
    #[arg(long)]
    seed: Option<u64>,

    /// Clients; eleven that build tables and time recoveries come on top. One in eight reads /sse.
    #[arg(long, default_value_t = 300)]
    clients: usize,

    /// Writers.
    #[arg(long, default_value_t = 12)]
    writers: usize,

    /// Transactions a second, of all writers together.
    #[arg(long, default_value_t = 120, value_name = "N")]
    rate: u64,

    /// Only faults with this in their name, such as "leader" or "flush redis"; may be repeated.
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,

    /// No faults with this in their name; may be repeated.
    #[arg(long, value_name = "TEXT")]
    except: Vec<String>,

    /// No faults: what the parts do without.
    #[arg(long)]
    no_faults: bool,

    /// Only print how the parts are set up and when what is struck.
    #[arg(long)]
    plan: bool,

    /// Nothing but the result.
    #[arg(long)]
    quiet: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let any = || std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(1, |time| time.as_millis() as u64 % 1_000_000);
    let seed = args.seed.unwrap_or_else(any);
    println!("seed {seed}");
    let mut options = Options::of(seed, Duration::from_secs_f64(args.minutes.max(0.1) * 60.0));
    options.clients = args.clients;
    options.writers = args.writers.max(1);
    options.rate = args.rate;
    options.only = args.only;
    options.except = args.except;
    options.faults = !args.no_faults;
    if args.plan {
        println!("{}", options.plan());
        return ExitCode::SUCCESS;
    }
    if !args.quiet {
        options.say = Arc::new(|line| eprintln!("{line}"));
    }
    match run(options).await {
        Ok(report) => {
            println!("{}", report.markdown());
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("VIOLATION\n{failure}");
            println!(
                "again: torture --seed {seed} --minutes {} --clients {} --writers {} --rate {}",
                args.minutes, args.clients, args.writers, args.rate
            );
            ExitCode::FAILURE
        }
    }
}
