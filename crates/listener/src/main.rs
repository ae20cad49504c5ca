//! The listener's process.

use std::process::ExitCode;

use clap::Parser;

/// rowcast's listener: carries the changes of watched tables, and what the database notifies, from PostgreSQL to
/// Redis, and so to all gateways.
///
/// Start as many as you like: one is active, the others stand by and take over within a second
/// of its end.
/// Every flag can be given by the environment variable named with it.
/// Exit codes: 0 after SIGTERM or SIGINT; 2 for settings that cannot be used; 1 otherwise.
#[derive(Parser)]
#[command(name = "listener", version)]
struct Command {
    #[command(flatten)]
    options: listener::Options,
}

fn main() -> ExitCode {
    let Command { options } = Command::parse();
    service::logging::start(options.log_format);
    service::exit::code(run(&options))
}

#[tokio::main]
async fn run(options: &listener::Options) -> anyhow::Result<()> {
    service::crypto::install();
    let (config, bus) = (options.config()?, options.bus()?);
    let shutdown = service::shutdown::on_signals()?;
    listener::run(config, &bus, shutdown).await.map_err(|listener::Error::Settings(error)| error)?;
    Ok(())
}
