//! `rowcast`: the tool for people.

mod database;
mod dev;
mod examples;
mod tail;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use service::logging::LogFormat;

/// Row changes of PostgreSQL, live in the browser.
///
/// The services are two other programs, `listener` and `gateway`.
/// Exit codes: 0 when done, or after Ctrl-C; 2 for settings that cannot be used; 1 otherwise.
#[derive(Parser)]
#[command(name = "rowcast", version)]
struct Command {
    #[command(subcommand)]
    what: What,

    /// How the log on standard error looks; RUST_LOG says what is in it.
    #[arg(long, env = "ROWCAST_LOG_FORMAT", value_enum, default_value_t, value_name = "FORMAT", global = true)]
    log_format: LogFormat,
}

#[derive(Subcommand)]
enum What {
    Dev(dev::Dev),
    Tail(tail::Tail),
}

fn main() -> ExitCode {
    let Command { what, log_format } = Command::parse();
    service::logging::start(log_format);
    service::crypto::install();
    service::exit::code(run(what))
}

#[tokio::main]
async fn run(what: What) -> anyhow::Result<()> {
    let shutdown = service::shutdown::on_signals()?;
    match what {
        What::Dev(dev) => dev.run(shutdown).await,
        What::Tail(tail) => tail.run(shutdown).await,
    }
}
