use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use tempfile::TempDir;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};
use tokio_postgres::{Client, NoTls};

use crate::{ports::Port, postgres_versions};

/// How long a server may take to answer after its start, recovery from a crash included.
const STARTS_WITHIN: Duration = Duration::from_secs(30);
/// PostgreSQL refuses to run as root; Debian's package makes this user.
const USER: &str = "postgres";
/// The superuser of every cluster; it needs no password.
const ROLE: &str = "postgres";

/// How much of a machine's crash a cluster survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// As a process may crash, but not the machine: `fsync = off`, and tests are fast.
    Fast,
    /// As in production.
    Full,
}

/// How a server is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Sessions are ended, and everything is written.
    Fast,
    /// At once; the next start recovers, as after a crash.
    Immediate,
}

/// What a server had.
#[derive(Debug)]
pub struct Backup(TempDir);

/// A private PostgreSQL, on a port of 127.0.0.1 and a Unix socket, that trusts everybody. It dies
/// with the handle.
#[derive(Debug)]
pub struct PostgresServer {
    port: Port,
    folder: TempDir,
    /// The folder with its programs.
    programs: PathBuf,
    options: Vec<String>,
    process: Option<Child>,
    databases: AtomicU32,
}

impl PostgresServer {
    /// One that all tests of this process share while any of them uses it. Each test takes a
    /// database of its own; who restarts or breaks the server wants its own one.
    pub async fn shared() -> anyhow::Result<Arc<Self>> {
        static SHARED: Mutex<Weak<PostgresServer>> = Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(server) = shared.upgrade() {
            return Ok(server);
        }
        let server = Arc::new(Self::start().await?);
        *shared = Arc::downgrade(&server);
        Ok(server)
    }

    /// Starts one.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(Durability::Fast, &[]).await
    }

    /// Starts one with settings: `&["max_connections=500"]`.
    pub async fn start_with(durability: Durability, settings: &[&str]) -> anyhow::Result<Self> {
        let programs = binary("postgres")?.parent().context("no folder")?.to_owned();
        Self::start_in(programs, durability, settings).await
    }

    /// Starts one of another version: see [`crate::postgres_versions`].
    pub async fn start_version(major: u32, settings: &[&str]) -> anyhow::Result<Self> {
        Self::start_in(postgres_versions::programs(major)?, Durability::Fast, settings).await
    }

    /// Starts one whose cluster has an identity of its own; the others are copies of one cluster.
    pub async fn start_unrelated() -> anyhow::Result<Self> {
        let programs = binary("postgres")?.parent().context("no folder")?.to_owned();
        let folder = tempfile::Builder::new().prefix("rowcast-pg-").tempdir()?;
        hand_over(folder.path())?;
        initdb(&programs, folder.path())?;
        Self::start_on(folder, programs, Durability::Fast, &[]).await
    }

    async fn start_in(programs: PathBuf, durability: Durability, settings: &[&str]) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("rowcast-pg-").tempdir()?;
        run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(template(&programs)?).arg(data(folder.path())))?;
        hand_over(folder.path())?;
        Self::start_on(folder, programs, durability, settings).await
    }

    async fn start_on(
        folder: TempDir,
        programs: PathBuf,
        durability: Durability,
        settings: &[&str],
    ) -> anyhow::Result<Self> {
        let mut options: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
        if durability == Durability::Fast {
            options.extend(["fsync=off", "full_page_writes=off"].map(str::to_owned));
        }
        let mut server =
            Self { port: Port::take()?, folder, programs, options, process: None, databases: AtomicU32::new(0) };
        server.launch().await?;
        Ok(server)
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Where its Unix socket is.
    pub fn socket_folder(&self) -> &Path {
        self.folder.path()
    }

    /// The postmaster's process.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// The URL of a database.
    pub fn url(&self, database: &str) -> String {
        self.url_at(database, self.port())
    }

    /// The URL of a database behind a proxy on another port.
    pub fn url_at(&self, database: &str, port: u16) -> String {
        format!("postgres://{ROLE}@127.0.0.1:{port}/{database}")
    }

    /// Makes an empty database, and returns its name.
    pub async fn create_database(&self) -> anyhow::Result<String> {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.copy_database("template1", &name).await?;
        Ok(name)
    }

    /// Makes a database with what another one has; nobody may be connected to that one.
    pub async fn copy_database(&self, template: &str, name: &str) -> anyhow::Result<()> {
        // One at a time: a template that is being copied cannot be copied.
        static COPYING: Mutex<()> = Mutex::const_new(());
        let _one = COPYING.lock().await;
        let sql = format!("create database \"{name}\" template \"{template}\"");
        self.connect("postgres").await?.batch_execute(&sql).await.map_err(shown)
    }

    /// A connection; it ends with the client.
    pub async fn connect(&self, database: &str) -> anyhow::Result<Client> {
        let (client, connection) = tokio_postgres::connect(&self.url(database), NoTls).await.map_err(shown)?;
        tokio::spawn(async move {
            // Its user sees how it ended.
            drop(connection.await);
        });
        Ok(client)
    }

    /// Runs statements on a connection of their own.
    pub async fn execute(&self, database: &str, sql: &str) -> anyhow::Result<()> {
        self.connect(database).await?.batch_execute(sql).await.map_err(shown)
    }

    /// Stops it and waits until it has.
    pub async fn stop(&mut self, how: Shutdown) -> anyhow::Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        signal(
            match how {
                Shutdown::Fast => "INT",
                Shutdown::Immediate => "QUIT",
            },
            &[process.id()],
        )?;
        let deadline = Instant::now() + STARTS_WITHIN;
        while process.try_wait()?.is_none() {
            if Instant::now() > deadline {
                process.kill()?;
                process.wait()?;
                bail!("PostgreSQL did not stop: {}", self.log());
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Ends the postmaster with SIGKILL; its sessions see that and end too.
    pub fn kill9(&mut self) -> anyhow::Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    /// Stops it if it runs, and starts it again on the same port.
    pub async fn restart(&mut self, how: Shutdown) -> anyhow::Result<()> {
        self.stop(how).await?;
        self.launch().await
    }

    /// A cold copy of everything that it has: it is stopped, copied, and started again.
    pub async fn back_up(&mut self) -> anyhow::Result<Backup> {
        self.stop(Shutdown::Fast).await?;
        let copy = tempfile::Builder::new().prefix("rowcast-backup-").tempdir()?;
        run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(data(self.folder.path())).arg(data(copy.path())))?;
        self.launch().await?;
        Ok(Backup(copy))
    }

    /// Stops it if it runs, and starts it again on the same port with what a backup has. What was
    /// written since is gone.
    pub async fn restore(&mut self, backup: &Backup) -> anyhow::Result<()> {
        self.stop(Shutdown::Immediate).await?;
        fs::remove_dir_all(data(self.folder.path()))?;
        run(Command::new("cp")
            .args(["-a", "--reflink=auto"])
            .arg(data(backup.0.path()))
            .arg(data(self.folder.path())))?;
        self.launch().await
    }

    /// Copies a database into another server, as `pg_dump | psql` does; it must not exist there.
    pub async fn dump_into(&self, database: &str, other: &Self) -> anyhow::Result<()> {
        other.copy_database("template0", database).await?;
        let dump = self.folder.path().join("dump.sql");
        let file = fs::File::create(&dump)?;
        let mut make = Command::new(binary("pg_dump")?);
        ensure!(make.arg(self.url(database)).stdout(file).status()?.success(), "pg_dump has failed");
        let mut load = Command::new(binary("psql")?);
        load.args(["-q", "-1", "-v", "ON_ERROR_STOP=1", "-f"]).arg(&dump).arg(other.url(database));
        run(&mut load)
    }

    /// Stops all its processes, which leaves their sockets open and silent.
    pub fn pause(&self) -> anyhow::Result<()> {
        signal_all("STOP", &self.processes()?)
    }

    /// Undoes [`PostgresServer::pause`].
    pub fn resume(&self) -> anyhow::Result<()> {
        signal_all("CONT", &self.processes()?)
    }

    /// What it has logged since its last start.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    async fn launch(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + STARTS_WITHIN;
        loop {
            let mut process = self.spawn()?;
            while self.connect("postgres").await.is_err() {
                // Sessions of a postmaster that was killed may keep its shared memory for a moment.
                if process.try_wait()?.is_some() {
                    break;
                }
                if Instant::now() > deadline {
                    process.kill()?;
                    process.wait()?;
                    bail!("PostgreSQL does not answer: {}", self.log());
                }
                sleep(Duration::from_millis(10)).await;
            }
            if process.try_wait()?.is_none() {
                self.process = Some(process);
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("PostgreSQL does not start: {}", self.log());
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn spawn(&self) -> anyhow::Result<Child> {
        let mut command = as_user(&self.programs.join("postgres"));
        command.arg("-D").arg(data(self.folder.path())).arg("-k").arg(self.folder.path());
        command.args(["-h", "127.0.0.1", "-p", &self.port().to_string()]);
        for option in
            ["shared_buffers=32MB", "log_min_messages=log"].into_iter().chain(self.options.iter().map(|o| &**o))
        {
            command.args(["-c", option]);
        }
        let log = fs::File::create(self.folder.path().join("log"))?;
        let command = command.current_dir(self.folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.spawn().context("PostgreSQL cannot be started")
    }

    /// The postmaster and its children.
    fn processes(&self) -> anyhow::Result<Vec<u32>> {
        let postmaster = self.pid().context("it does not run")?;
        let is_child = |pid: &u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.lines().any(|line| line.split_whitespace().eq(["PPid:", &postmaster.to_string()]))
        };
        let all = fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        Ok([postmaster].into_iter().chain(all.filter(is_child)).collect())
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        // A test may have left it paused, and what is stopped does not end. It may also have ended.
        if let Ok(all) = self.processes() {
            drop(signal("CONT", &all));
            drop(signal("QUIT", &all[..1]));
        }
        let ended = (0..200).any(|_| {
            let ended = self.process.as_mut().is_none_or(|process| !matches!(process.try_wait(), Ok(None)));
            if !ended {
                std::thread::sleep(Duration::from_millis(10));
            }
            ended
        });
        if !ended {
            drop(self.kill9());
        }
    }
}

fn data(folder: &Path) -> PathBuf {
    folder.join("data")
}

/// Makes a cluster.
fn initdb(programs: &Path, folder: &Path) -> anyhow::Result<()> {
    let mut make = as_user(&programs.join("initdb"));
    make.current_dir(folder).arg("-D").arg(data(folder));
    run(make.args(["--username", ROLE, "--auth", "trust", "--encoding", "UTF8", "--no-locale", "--no-sync"]))
}

/// A cluster as initdb makes it, made once on this machine and copied for each server: initdb takes
/// a second, a copy a tenth.
fn template(programs: &Path) -> anyhow::Result<PathBuf> {
    let version = Command::new(programs.join("initdb")).arg("--version").output()?.stdout;
    let version: String = String::from_utf8_lossy(&version).chars().filter(|c| c.is_alphanumeric()).collect();
    let uid = fs::metadata("/proc/self")?.uid();
    let path = std::env::temp_dir().join(format!("rowcast-test-{version}-{uid}"));
    if path.exists() {
        return Ok(path);
    }
    // Made aside and moved into place: another process may make it at the same time.
    let aside = tempfile::Builder::new().prefix("rowcast-initdb-").tempdir()?;
    hand_over(aside.path())?;
    initdb(programs, aside.path())?;
    match fs::rename(data(aside.path()), &path) {
        Err(error) if !path.exists() => Err(error.into()),
        _ => Ok(path),
    }
}

/// Where Debian has the server's binaries, which are not in PATH; else PATH.
/// A program of the newest PostgreSQL that is installed.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(|entry| {
        let folder = entry.ok()?.path();
        Some((folder.file_name()?.to_str()?.parse::<u32>().ok()?, folder.join("bin").join(name)))
    });
    let newest = debian.filter(|(_, path)| path.exists()).max().map(|(_, path)| path);
    let in_path = || {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.exists())
    };
    newest.or_else(in_path).with_context(|| {
        format!("PostgreSQL's {name} is neither in /usr/lib/postgresql/*/bin nor in PATH: install postgresql")
    })
}

fn as_user(binary: &Path) -> Command {
    if !is_root() {
        return Command::new(binary);
    }
    // Unlike runuser and su it leaves no process between us and the server.
    let mut command = Command::new("setpriv");
    command.args(["--reuid", USER, "--regid", USER, "--init-groups"]).arg(binary);
    command
}

fn hand_over(folder: &Path) -> anyhow::Result<()> {
    if !is_root() {
        return Ok(());
    }
    run(Command::new("chown").arg(format!("{USER}:")).arg(folder))
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|this| this.uid() == 0)
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn signal(name: &str, pids: &[u32]) -> anyhow::Result<()> {
    run(Command::new("kill").args(["-s", name]).args(pids.iter().map(u32::to_string)))
}

/// The postmaster, and those of its children that have not ended by themselves meanwhile.
fn signal_all(name: &str, pids: &[u32]) -> anyhow::Result<()> {
    signal(name, &pids[..1])?;
    for pid in &pids[1..] {
        drop(signal(name, &[*pid]));
    }
    Ok(())
}

fn shown(error: tokio_postgres::Error) -> anyhow::Error {
    match error.as_db_error() {
        Some(db) => anyhow::anyhow!("{db} (SQLSTATE {})", db.code().code()),
        None => error.into(),
    }
}
