use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::ports::Port;

/// How long a process may take until it is ready, or has ended.
const PATIENCE: Duration = Duration::from_secs(15);

/// One of our binaries, as users run it. It has a folder of its own, so it finds no rowcast.toml,
/// and no environment but RUST_LOG. Its log goes to a file, which is printed if the test fails. It
/// dies with the handle.
#[derive(Debug)]
pub struct Process {
    name: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    child: Child,
    folder: TempDir,
    address: Option<SocketAddr>,
    /// Kept from other tests.
    port_lock: Option<Port>,
}

impl Process {
    /// Starts a binary.
    pub fn start(name: &str, arguments: &[&str]) -> anyhow::Result<Self> {
        Self::start_with(name, arguments, &[])
    }

    /// Starts a binary with environment variables.
    pub fn start_with(name: &str, arguments: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("rowcast-run-").tempdir()?;
        let arguments: Vec<_> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let environment: Vec<_> =
            environment.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        let child = spawn(name, &arguments, &environment, folder.path())?;
        Ok(Self { name: name.into(), arguments, environment, child, folder, address: None, port_lock: None })
    }

    /// Kills it if it runs, and starts it again as it was started, on the same address. Its log
    /// goes on. It may not be ready yet.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.kill9()?;
        self.child = spawn(&self.name, &self.arguments, &self.environment, self.folder.path())?;
        Ok(())
    }

    /// Starts a listener on a free status port; see [`Process::address`]. It may not be ready yet.
    pub fn listener(database_url: &str, redis_url: &str, arguments: &[&str]) -> anyhow::Result<Self> {
        Self::on_aport_lock("listener", "--status-bind", database_url, redis_url, arguments)
    }

    /// Starts a gateway on a free port; see [`Process::address`]. It may not be ready yet.
    pub fn gateway(database_url: &str, redis_url: &str, arguments: &[&str]) -> anyhow::Result<Self> {
        Self::on_aport_lock("gateway", "--bind", database_url, redis_url, arguments)
    }

    fn on_aport_lock(name: &str, flag: &str, database: &str, redis: &str, arguments: &[&str]) -> anyhow::Result<Self> {
        let port = Port::take()?;
        let bind = SocketAddr::from((Ipv4Addr::LOCALHOST, port.number())).to_string();
        let all = [&["--database-url", database, "--redis-url", redis, flag, &bind], arguments].concat();
        Ok(Self::start(name, &all)?.at(port))
    }

    /// Says on which port it was told to serve HTTP; see [`Process::address`].
    #[must_use]
    pub fn at(mut self, port: Port) -> Self {
        self.address = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port.number())));
        self.port_lock = Some(port);
        self
    }

    /// Where it serves HTTP.
    pub fn address(&self) -> SocketAddr {
        self.address.expect("only listeners and gateways have an address")
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// `GET path`: status and body.
    pub async fn get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let (address, path) = (self.address(), path.to_owned());
        tokio::task::spawn_blocking(move || get(address, &path)).await?
    }

    /// A value of `/metrics`; the name may have labels: `changes_total`, `feeds_total{reason="overflow"}`.
    /// What was never counted is 0.
    pub async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let name = format!("rowcast_{}_{name}", self.name);
        let (_, text) = self.get("/metrics").await?;
        let line = text.lines().find_map(|line| line.strip_prefix(&*name)?.strip_prefix(' '));
        line.map_or(Ok(0.0), |value| value.trim().parse().context("a number"))
    }

    /// Waits until `/readyz` says 200.
    pub async fn ready(mut self) -> anyhow::Result<Self> {
        self.until_ready().await?;
        Ok(self)
    }

    /// Waits until `/readyz` says 200.
    pub async fn until_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.get("/readyz").await;
            if let Ok((200, _)) = answer {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}:\n{}", self.name, self.log());
            }
            ensure!(Instant::now() < deadline, "{} is not ready: {answer:?}\n{}", self.name, self.log());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until `/healthz` says 200.
    pub async fn until_alive(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !matches!(self.get("/healthz").await, Ok((200, _))) {
            ensure!(Instant::now() < deadline, "{} does not answer:\n{}", self.name, self.log());
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until it has ended; its exit code (`None`: by a signal).
    pub async fn ended(&mut self) -> anyhow::Result<Option<i32>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.code());
            }
            ensure!(Instant::now() < deadline, "{} does not end:\n{}", self.name, self.log());
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Asks it to end, and waits; its exit code.
    pub async fn term(&mut self) -> anyhow::Result<Option<i32>> {
        self.signal("TERM")?;
        self.ended().await
    }

    /// Ends it with SIGKILL.
    pub fn kill9(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Stops it, which leaves its sockets open and silent.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal("STOP")
    }

    /// Undoes [`Process::pause`].
    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal("CONT")
    }

    /// Sends it a signal, by name.
    pub fn signal(&self, name: &str) -> anyhow::Result<()> {
        let sent = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status()?;
        ensure!(sent.success(), "no signal {name} to {}", self.name);
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.kill9());
        if std::thread::panicking() {
            // Not eprintln, which the house lints keep out of libraries.
            let text = format!("--- log of {} ({})\n{}---\n", self.name, self.pid(), self.log());
            drop(std::io::stderr().write_all(text.as_bytes()));
        }
    }
}

fn spawn(name: &str, arguments: &[String], environment: &[(String, String)], folder: &Path) -> anyhow::Result<Child> {
    let log = fs::OpenOptions::new().create(true).append(true).open(folder.join("log"))?;
    let mut command = Command::new(binary(name)?);
    command.args(arguments).env_clear().current_dir(folder);
    command.env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into()));
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    Ok(command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?)
}

/// In `target/<profile>`, where this executable is too if it is a program, while a test's own is in
/// `deps` there.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let this = std::env::current_exe()?;
    let folder = this.parent().context("no target folder")?;
    let folder = if folder.ends_with("deps") { folder.parent().context("no target folder")? } else { folder };
    let path = folder.join(name);
    ensure!(path.exists(), "{} is not there: build it first (cargo build -p {name})", path.display());
    Ok(path)
}

/// One request on a connection of its own.
pub fn get(address: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
    let limit = Duration::from_secs(2);
    let mut socket = TcpStream::connect_timeout(&address, limit)?;
    socket.set_read_timeout(Some(limit))?;
    write!(socket, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status")?;
    Ok((status, body.to_owned()))
}
