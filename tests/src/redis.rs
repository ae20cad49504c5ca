use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use crate::ports::Port;

/// How long a server may take to answer after its start.
const STARTS_WITHIN: Duration = Duration::from_secs(10);

/// A private redis-server. It keeps each write in its append-only file before it answers, so that
/// `kill` loses nothing. It dies with the handle.
#[derive(Debug)]
pub struct RedisServer {
    port: Port,
    folder: TempDir,
    options: Vec<String>,
    process: Option<Child>,
}

/// A copy of what a server held.
#[derive(Debug)]
pub struct Snapshot(TempDir);

impl RedisServer {
    /// Starts one.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(&[]).await
    }

    /// Starts one with options, as on the command line: `&["--maxmemory", "10mb"]`.
    pub async fn start_with(options: &[&str]) -> anyhow::Result<Self> {
        let options = options.iter().map(|&option| option.to_owned()).collect();
        let mut server = Self { port: Port::take()?, folder: TempDir::new()?, options, process: None };
        server.launch().await?;
        Ok(server)
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port())
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Its process.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// Runs one command on a connection of its own.
    pub async fn command<T: redis::FromRedisValue>(&self, words: &[&str]) -> anyhow::Result<T> {
        let (name, arguments) = words.split_first().context("no command")?;
        let mut command = redis::cmd(name);
        command.arg(arguments);
        let client = redis::Client::open(self.url())?;
        let answered = async {
            let mut connection = client.get_multiplexed_async_connection().await?;
            command.query_async(&mut connection).await
        };
        Ok(timeout(Duration::from_secs(5), answered).await.context("no answer")??)
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    /// Kills it if it runs, and starts it again on the same port, with its data or empty.
    pub async fn restart(&mut self, keep_data: bool) -> anyhow::Result<()> {
        self.kill()?;
        if !keep_data {
            fs::remove_dir_all(self.folder.path())?;
            fs::create_dir(self.folder.path())?;
        }
        self.launch().await
    }

    /// Stops its process, which leaves its sockets open and silent.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal("STOP")
    }

    /// Undoes [`RedisServer::pause`].
    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal("CONT")
    }

    /// Takes the last third off what it has kept, while it is down: it comes back older than it was.
    pub fn forget_last_third(&self) -> anyhow::Result<()> {
        for entry in fs::read_dir(self.folder.path().join("appendonlydir"))? {
            let path = entry?.path();
            if path.to_string_lossy().ends_with(".incr.aof") {
                let file = fs::OpenOptions::new().write(true).open(path)?;
                file.set_len(file.metadata()?.len() / 3 * 2)?;
            }
        }
        Ok(())
    }

    /// What it has logged since its last start.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Copies what it holds; nothing may be written meanwhile.
    pub fn snapshot(&self) -> anyhow::Result<Snapshot> {
        let copy = TempDir::new()?;
        copy_folder(self.folder.path(), copy.path())?;
        Ok(Snapshot(copy))
    }

    /// Kills it if it runs, and starts it again with what a snapshot held.
    pub async fn restore(&mut self, snapshot: &Snapshot) -> anyhow::Result<()> {
        self.kill()?;
        fs::remove_dir_all(self.folder.path())?;
        copy_folder(snapshot.0.path(), self.folder.path())?;
        self.launch().await
    }

    async fn launch(&mut self) -> anyhow::Result<()> {
        let log = fs::File::create(self.log_path())?;
        let process = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &self.port().to_string()])
            .args(["--save", "", "--appendonly", "yes", "--appendfsync", "no"])
            .args(["--auto-aof-rewrite-percentage", "0", "--repl-diskless-sync-delay", "0"])
            .args(&self.options)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(Stdio::null())
            .spawn()
            .context("redis-server cannot be started: is it installed?")?;
        self.process = Some(process);
        let deadline = Instant::now() + STARTS_WITHIN;
        while self.command::<String>(&["PING"]).await.is_err() {
            let ended = self.process.as_mut().map(Child::try_wait).transpose()?.flatten();
            if ended.is_some() || Instant::now() > deadline {
                bail!("redis-server does not answer: {}", self.log());
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("redis.log")
    }

    fn signal(&self, name: &str) -> anyhow::Result<()> {
        let pid = self.pid().context("it does not run")?.to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status()?;
        ensure!(sent.success(), "no signal {name} to {pid}");
        Ok(())
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.kill());
    }
}

fn copy_folder(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
