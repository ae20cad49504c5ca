use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use e2e::{ports::Port, process::get};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long a process may take until it is ready.
const PATIENCE: Duration = Duration::from_secs(20);

/// A program that lies beside this one, in a folder of its own and with no environment, so that
/// no setting of the user gets into a run. It dies with the handle.
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    child: Child,
    folder: TempDir,
    port: Port,
}

impl Process {
    /// Starts a program; `{bind}` in its arguments becomes 127.0.0.1 and a free port, `{port}` the port.
    pub fn start(name: &'static str, arguments: &[String]) -> anyhow::Result<Self> {
        let port = Port::take()?;
        let folder = tempfile::Builder::new().prefix("rowcast-bench-").tempdir()?;
        let log = fs::File::create(folder.path().join("log"))?;
        let bind = format!("127.0.0.1:{}", port.number());
        let fill = |argument: &String| argument.replace("{bind}", &bind).replace("{port}", &port.number().to_string());
        let child = Command::new(program(name)?)
            .args(arguments.iter().map(fill))
            .env_clear()
            .env("RUST_LOG", "warn")
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok(Self { name, child, folder, port })
    }

    /// Runs a program to its end; an error if it fails.
    pub fn run(name: &'static str, arguments: &[&str]) -> anyhow::Result<()> {
        let output = Command::new(program(name)?).args(arguments).env_clear().stdin(Stdio::null()).output()?;
        ensure!(output.status.success(), "{name} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port.number()))
    }

    /// Waits until `/readyz` says 200.
    pub async fn ready(mut self) -> anyhow::Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = get(self.address(), "/readyz");
            if let Ok((200, _)) = answer {
                return Ok(self);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}: {}", self.name, self.log());
            }
            ensure!(Instant::now() < deadline, "{} is not ready: {answer:?} {}", self.name, self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Stops its threads until [`Process::go_on`]: its core is free.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    pub fn go_on(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = Pid::from_raw(self.child.id().cast_signed()).context("no process")?;
        Ok(kill_process(pid, signal)?)
    }

    /// What it has complained about.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn program(name: &str) -> anyhow::Result<PathBuf> {
    let this = std::env::current_exe()?;
    let path = this.parent().context("no folder")?.join(name);
    ensure!(path.exists(), "{} is not there: cargo build --release --bins", path.display());
    Ok(path)
}
