use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::process::CommandExt,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process_group},
};
use tokio::time::sleep;

use crate::{
    bus_stage::BusStage,
    peers::{
        peer::{CHANNEL, Peer, Way},
        place::Place,
    },
    usage,
};

/// How long one may take until it listens: Python reads its modules.
const PATIENCE: Duration = Duration::from_secs(20);

/// A peer that runs, with what runs beside it. All of it dies with the handle.
pub struct Server {
    name: &'static str,
    place: Place,
    /// The first one is measured.
    programs: Vec<Program>,
}

/// A program in a process group of its own, so that its workers die with it.
struct Program(Child);

impl Server {
    /// Starts one on a core of its own, and waits until it listens.
    pub async fn start(stage: &BusStage, peer: &dyn Peer) -> anyhow::Result<Self> {
        let place = Place::new(peer.folder(), &stage.redis().url())?;
        let mut server = Self { name: peer.name(), place, programs: Vec::new() };
        let log = File::create(server.place.folder().join("log"))?;
        for mut command in peer.commands(&server.place)? {
            if server.programs.is_empty() {
                stage.cores.as_single()?
            } else {
                stage.cores.as_bus()?
            }
            let program = command
                .env_remove("RUST_LOG")
                .env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()))
                .current_dir(server.place.folder())
                .process_group(0)
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log.try_clone()?)
                .spawn();
            stage.cores.release()?;
            let program = program.with_context(|| format!("{} cannot be started", command.get_program().display()))?;
            server.programs.push(Program(program));
        }
        server.until_up(stage, matches!(peer.way(), Way::Redis)).await?;
        Ok(server)
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.place.port()))
    }

    /// The measured server's processes.
    pub fn pids(&self) -> Vec<u32> {
        self.programs.first().map(|program| usage::family(program.0.id())).unwrap_or_default()
    }

    /// What it has complained about at last.
    pub fn log(&self) -> String {
        let log = fs::read_to_string(self.place.folder().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }

    async fn until_up(&mut self, stage: &BusStage, subscribes: bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // Who subscribes before it listens has done both then, and who subscribes beside it has not.
            if TcpStream::connect(self.address()).is_ok() && (!subscribes || is_subscribed(stage).await?) {
                return Ok(());
            }
            for program in &mut self.programs {
                if let Some(status) = program.0.try_wait()? {
                    bail!("{} ended with {status}: {}", self.name, self.log());
                }
            }
            if Instant::now() > deadline {
                bail!("{} does not listen: {}", self.name, self.log());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn is_subscribed(stage: &BusStage) -> anyhow::Result<bool> {
    let (_, subscribers): (String, u64) = stage.redis().command(&["PUBSUB", "NUMSUB", CHANNEL]).await?;
    Ok(subscribers > 0)
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Err(error) = kill_process_group(Pid::from_child(&self.0), Signal::KILL)
            // It may have ended already.
            && error != Errno::SRCH
        {
            eprintln!("bench: process {} cannot be ended: {error}", self.0.id());
        }
        drop(self.0.wait());
    }
}
