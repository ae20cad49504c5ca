use std::time::Duration;

use anyhow::{Context, ensure};

use crate::{
    args::{self, Args, Command},
    away,
    bus_stage::BusStage,
    connects, crowd, fanout, herd, idle, latency, light, listener, machine,
    ours::{Press, Setup},
    overload,
    pin::Cores,
    report::Report,
    stage::Stage,
    stuck, throughput, topics, writers,
};

/// However many runs are asked for.
pub const AT_MOST: Duration = Duration::from_secs(4 * 3600);
/// Files that are not clients.
const OWN_FILES: u64 = 100;

/// What the runs need, started when the first one needs it.
struct Suite {
    cores: Cores,
    stage: Option<Stage>,
    bus: Option<BusStage>,
    report: Report,
    /// As in "run 2 of 3".
    which: String,
}

/// Measures what was asked for. Runs alternate: whatever changes on the machine meanwhile hits all
/// measurements, and the floor with them.
pub async fn run(args: &Args) -> anyhow::Result<Report> {
    let commands = match &args.command {
        Some(Command::Writers(what)) => return writers::run(what, args.seconds).await,
        Some(command) => vec![command.clone()],
        None => all(),
    };
    let most = commands.iter().map(clients).max().unwrap_or(0);
    let (needed, files) = (u64::from(most) + OWN_FILES, machine::open_files());
    ensure!(needed <= files, "{needed} files are needed, and a process may open {files}: take fewer clients");
    machine::reserve_files(needed)?;
    let cores = Cores::split(!args.no_pin)?;
    let time = match &args.command {
        Some(Command::Away(what)) => what.seconds_away,
        _ => args.seconds,
    };
    let report = Report::new(machine::describe(), cores.describe(), args.runs, time);
    let mut suite = Suite { cores, stage: None, bus: None, report, which: String::new() };
    for run in 1..=args.runs {
        suite.which = format!("run {run} of {}", args.runs);
        for command in &commands {
            suite.measure(command).await?;
        }
    }
    Ok(suite.report)
}

/// What is measured without a command.
fn all() -> Vec<Command> {
    vec![
        Command::Latency(args::defaults()),
        Command::Throughput(args::defaults()),
        Command::Fanout(args::defaults()),
        Command::Overload(args::defaults()),
        Command::Light(args::defaults()),
        Command::Topics(args::defaults()),
        Command::Connects(args::defaults()),
        Command::Herd(args::defaults()),
        Command::Stuck(args::defaults()),
        Command::Idle(args::defaults()),
        Command::Listener(args::defaults()),
    ]
}

/// Sockets that this process has open at once.
fn clients(command: &Command) -> u32 {
    match command {
        Command::Latency(what) => what.clients,
        Command::Throughput(what) => what.clients,
        Command::Fanout(what) => what.clients.iter().copied().max().unwrap_or(0),
        Command::Overload(what) => what.clients,
        Command::Light(what) => what.clients.iter().map(|clients| 3 * clients).max().unwrap_or(0),
        Command::Idle(what) => what.connections,
        Command::Topics(what) => what.topics * what.clients_each,
        Command::Connects(what) => what.connections + 1000,
        Command::Herd(what) => what.clients,
        Command::Stuck(what) => what.clients,
        // Its clients are in processes of their own.
        Command::Crowd(_) | Command::CrowdClients(_) => 0,
        Command::Listener(_) | Command::Away(_) | Command::Writers(_) | Command::Peers(_) => 0,
        Command::Floor(_) | Command::Relay(_) => 0,
    }
}

impl Suite {
    async fn measure(&mut self, command: &Command) -> anyhow::Result<()> {
        match command {
            Command::Latency(what) => self.latency(what).await,
            Command::Throughput(what) => self.throughput(what).await,
            Command::Listener(what) => self.listener(what).await,
            Command::Away(what) => {
                self.say(&format!("{} s without a listener", what.seconds_away.as_secs()));
                away::run(&self.cores, what, &mut self.report).await
            }
            Command::Fanout(what) => {
                for &clients in &what.clients {
                    for &changes in &what.changes {
                        self.say(&format!("fan-out to {clients} clients, changes a batch: {changes}"));
                        let (bus, report) = self.bus().await?;
                        let press = Press { changes, early_percent: what.early };
                        fanout::run(bus, Setup::of(clients), press, report.time(), report).await?;
                    }
                }
                Ok(())
            }
            Command::Overload(what) => {
                for &rate in &what.rate {
                    self.say(&format!("{rate} changes/s offered to {} clients", what.clients));
                    let (bus, report) = self.bus().await?;
                    overload::run(bus, what.clients, rate, report.time(), report).await?;
                }
                Ok(())
            }
            Command::Light(what) => {
                for &clients in &what.clients {
                    self.say(&format!("{} changes/s to {clients} clients", what.rate));
                    let (bus, report) = self.bus().await?;
                    light::run(bus, clients, what.rate, report.time(), report).await?;
                }
                Ok(())
            }
            Command::Idle(what) => {
                self.say(&format!("{} idle connections", what.connections));
                let (bus, report) = self.bus().await?;
                idle::run(bus, what, report.time(), report).await
            }
            Command::Topics(what) => {
                self.say(&format!("{} topics with {} clients each", what.topics, what.clients_each));
                let (bus, report) = self.bus().await?;
                topics::run(bus, what, report.time(), report).await
            }
            Command::Connects(what) => {
                self.say(&format!("{} connects", what.connections));
                let (bus, report) = self.bus().await?;
                connects::run(bus, what, report).await
            }
            Command::Herd(what) => {
                self.say(&format!("{} clients come back", what.clients));
                let (bus, report) = self.bus().await?;
                herd::run(bus, what, report).await
            }
            Command::Stuck(what) => {
                self.say(&format!("{} of {} clients never read", what.stuck, what.clients));
                let (bus, report) = self.bus().await?;
                stuck::run(bus, what, report.time(), report).await
            }
            Command::Crowd(what) => {
                self.say(&format!("a crowd of {}", what.connections));
                let (bus, report) = self.bus().await?;
                crowd::run(bus, what, report).await
            }
            Command::Writers(_) | Command::Peers(_) => Ok(()),
            Command::Floor(_) | Command::Relay(_) | Command::CrowdClients(_) => Ok(()),
        }
    }

    async fn latency(&mut self, what: &args::Latency) -> anyhow::Result<()> {
        for &rate in &what.rates {
            for &origin in &what.origins {
                self.say(&format!("latency at {rate} changes/s from {origin} to {} clients", what.clients));
                let (stage, report) = self.stage().await?;
                latency::run(stage, what, origin, rate, report.time(), report).await?;
            }
        }
        Ok(())
    }

    async fn throughput(&mut self, what: &args::Throughput) -> anyhow::Result<()> {
        for &gateways in &what.gateways {
            for &load in &what.loads {
                self.say(&format!("throughput, gateways: {gateways}, rows a statement: {}", load.rows));
                let (stage, report) = self.stage().await?;
                throughput::run(stage, what, gateways, load, report.time(), report).await?;
            }
        }
        Ok(())
    }

    async fn listener(&mut self, what: &args::Listener) -> anyhow::Result<()> {
        for &rows in &what.rows {
            self.say(&format!("a listener with {} changes to catch up, {rows} a transaction", what.changes));
            let (stage, report) = self.stage().await?;
            listener::run(stage, what.changes, rows, report).await?;
        }
        Ok(())
    }

    /// PostgreSQL, Redis and a listener.
    async fn stage(&mut self) -> anyhow::Result<(&Stage, &mut Report)> {
        if self.stage.is_none() {
            eprintln!("bench: starting PostgreSQL, Redis and a listener");
            self.stage = Some(Stage::set(self.cores.clone()).await?);
        }
        let stage = self.stage.as_ref().context("it was started")?;
        Ok((stage, &mut self.report))
    }

    /// Redis alone.
    async fn bus(&mut self) -> anyhow::Result<(&BusStage, &mut Report)> {
        if self.bus.is_none() {
            eprintln!("bench: starting Redis");
            self.bus = Some(BusStage::set(self.cores.clone()).await?);
        }
        let bus = self.bus.as_ref().context("it was started")?;
        Ok((bus, &mut self.report))
    }

    fn say(&self, what: &str) {
        eprintln!("bench: {}: {what}", self.which);
    }
}
