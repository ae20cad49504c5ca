//! Some of the clients of a crowd, in a process of their own: no process may open files for all.
//! Both ends of the conversation are here: a line asks, a line answers.

use std::{
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use tokio::time::timeout;

use crate::{
    bus_writer::BusWriter,
    connect::{Dialler, Hello},
    load::Load,
    order::{Faults, Order},
    pin::Cores,
};

/// How many, and whose.
#[derive(Debug, Clone, clap::Args)]
pub struct CrowdClients {
    /// Gateways, of which each gets an equal share.
    #[arg(long, value_delimiter = ',')]
    pub servers: Vec<SocketAddr>,
    /// Connections.
    #[arg(long)]
    pub count: u32,
    /// Connections of the processes before this one.
    #[arg(long)]
    pub before: u32,
}

/// What clients have seen so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Look {
    /// Changes that all together have.
    pub changes: u64,
    /// When the last one was read.
    pub last_read_us: u64,
    /// Those whose connection has ended, and who have not come back.
    pub lost: u64,
}

/// How long those whose gateway was killed may take to notice and to come back.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process of clients; it dies with the handle.
pub struct CrowdProcess {
    count: u32,
    child: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl CrowdProcess {
    /// Starts one; it begins to connect.
    pub fn start(what: &CrowdClients) -> anyhow::Result<Self> {
        let servers: Vec<String> = what.servers.iter().map(SocketAddr::to_string).collect();
        let mut child = Command::new(std::env::current_exe()?)
            .arg("crowd-clients")
            .args(["--servers", &servers.join(",")])
            .args(["--count", &what.count.to_string(), "--before", &what.before.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let asks = child.stdin.take().context("no standard input")?;
        let answers = BufReader::new(child.stdout.take().context("no standard output")?);
        Ok(Self { count: what.count, child, asks, answers })
    }

    /// Its connections.
    pub fn count(&self) -> u32 {
        self.count
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until all are connected.
    pub fn up(&mut self) -> anyhow::Result<()> {
        let answer = self.answer()?;
        ensure!(answer == ["up"], "clients are not up: {answer:?}");
        Ok(())
    }

    pub fn look(&mut self) -> anyhow::Result<Look> {
        self.ask("look")?;
        let [changes, last_read_us, lost] = self.numbers()?;
        Ok(Look { changes, last_read_us, lost })
    }

    /// Those who have lost their connection are to resume on these gateways. [`CrowdProcess::resumed`]
    /// waits for it.
    pub fn resume(&mut self, feed: &str, servers: &[SocketAddr]) -> anyhow::Result<()> {
        let servers: Vec<String> = servers.iter().map(SocketAddr::to_string).collect();
        self.ask(&format!("resume {feed} {}", servers.join(",")))
    }

    /// How many have come back.
    pub fn resumed(&mut self) -> anyhow::Result<u64> {
        let [count] = self.numbers()?;
        Ok(count)
    }

    /// Ends it; each client is to have every change up to the last.
    pub fn end(mut self, last: u64) -> anyhow::Result<Faults> {
        self.ask(&format!("end {last}"))?;
        let [missing, repeated, reordered, cut_off] = self.numbers()?;
        Ok(Faults { missing, repeated, reordered, cut_off })
    }

    fn ask(&mut self, line: &str) -> anyhow::Result<()> {
        writeln!(self.asks, "{line}").context("the clients have ended")
    }

    fn answer(&mut self) -> anyhow::Result<Vec<String>> {
        let mut line = String::new();
        ensure!(self.answers.read_line(&mut line)? > 0, "the clients have ended");
        Ok(line.split_whitespace().map(str::to_owned).collect())
    }

    fn numbers<const N: usize>(&mut self) -> anyhow::Result<[u64; N]> {
        let words = self.answer()?;
        let numbers = words.iter().map(|word| word.parse()).collect::<Result<Vec<u64>, _>>();
        numbers.ok().and_then(|numbers| numbers.try_into().ok()).with_context(|| format!("clients say {words:?}"))
    }
}

impl Drop for CrowdProcess {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The process: connects, then does what it is asked until it is to end.
pub async fn serve(what: &CrowdClients) -> anyhow::Result<()> {
    crate::machine::open_files();
    // Who starts it has pinned it.
    let cores = Cores::split(false)?;
    let mut dialler = Dialler::new(what.servers.clone(), &cores);
    dialler.before = what.before as usize;
    let hello = Hello::native(&BusWriter::topic(0), None);
    let load = Load::start(Vec::new(), 0, &cores)?;
    let hello = move |_| hello.clone();
    dialler.clone().connect_into(&load, what.count as usize, hello, |_| Order::after(0)).await?;
    say("up")?;
    for line in std::io::stdin().lines() {
        let line = line?;
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["look"] => {
                let (changes, last) = (load.progress.counts().changes, load.progress.last_read_us());
                say(&format!("{changes} {last} {}", load.progress.count_lost()))?;
            }
            ["resume", feed, servers] => {
                let servers = servers.split(',').map(str::parse).collect::<Result<Vec<SocketAddr>, _>>()?;
                let count = timeout(PATIENCE, resume(&load, &dialler, feed, servers)).await??;
                say(&count.to_string())?;
            }
            ["end", last] => {
                let faults = load.end(Some(last.parse()?))?.faults;
                let Faults { missing, repeated, reordered, cut_off } = faults;
                return say(&format!("{missing} {repeated} {reordered} {cut_off}"));
            }
            _ => bail!("'{line}' is not understood"),
        }
    }
    Ok(())
}

/// Brings back those who have lost their connection, each from what it has seen.
async fn resume(load: &Load, dialler: &Dialler, feed: &str, servers: Vec<SocketAddr>) -> anyhow::Result<usize> {
    let lost = load.progress.take_lost();
    let count = lost.len();
    let feed = feed.to_owned();
    let hellos: Vec<Hello> = lost
        .iter()
        .map(|order| Hello::native(&BusWriter::topic(0), Some(&format!("{feed}.{}", order.last()))))
        .collect();
    let dialler = Dialler { servers, ..dialler.clone() };
    let mut lost: Vec<Option<Order>> = lost.into_iter().map(Some).collect();
    // Each index comes once.
    let seen = move |index: usize| lost[index].take().unwrap_or_else(|| Order::after(0));
    dialler.connect_into(load, count, move |index| hellos[index].clone(), seen).await?;
    Ok(count)
}

fn say(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
