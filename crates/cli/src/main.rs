//! `rowcast`: the tool for people.

mod database;
mod dev;
mod examples;
mod install;
mod schema;
mod server;
mod status;
mod tail;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use service::logging::LogFormat;
use tokio_util::sync::CancellationToken;

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
    Install(install::Install),
    Uninstall(install::Uninstall),
    Watch(watch::Watch),
    Unwatch(watch::Unwatch),
    Status(status::Status),
    Pause(watch::Pause),
    Resume(watch::Resume),
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
        What::Install(install) => until(shutdown, install.run()).await,
        What::Uninstall(uninstall) => until(shutdown, uninstall.run()).await,
        What::Watch(watch) => until(shutdown, watch.run()).await,
        What::Unwatch(unwatch) => until(shutdown, unwatch.run()).await,
        What::Status(status) => until(shutdown, status.run()).await,
        What::Pause(pause) => until(shutdown, pause.run()).await,
        What::Resume(resume) => until(shutdown, resume.run()).await,
    }
}

/// Ctrl-C while the database makes us wait: the session ends, and what it had begun is undone.
async fn until(shutdown: CancellationToken, work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    match shutdown.run_until_cancelled(work).await {
        Some(done) => done,
        None => anyhow::bail!("interrupted; nothing was changed"),
    }
}
