//! A private PostgreSQL for `rowcast dev`: data under `.rowcast/`, reached by a Unix socket that
//! only its owner can enter, so it needs neither a port nor a password.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use tokio::process::Command;

/// PostgreSQL refuses to run as root; the package makes this user.
const SERVER_USER: &str = "postgres";
/// The role and the database in it.
const NAME: &str = "rowcast";
/// The longest path of a socket that systems take, less the name of the socket.
const MAX_SOCKET_FOLDER: usize = 80;

/// A running private PostgreSQL.
pub struct PrivatePostgres {
    programs: PathBuf,
    data: PathBuf,
    log: PathBuf,
    socket: PathBuf,
    as_root: bool,
}

impl PrivatePostgres {
    /// Makes it under `folder` if it is not there, and starts it if it does not run. `folder` is
    /// given up for another place where PostgreSQL's user could not enter it.
    pub async fn start(folder: &Path) -> anyhow::Result<Self> {
        let programs = programs()?;
        let as_root = rustix::process::geteuid().is_root();
        let home = if as_root {
            Path::new("/var/lib").join(format!("rowcast-dev-{}", fingerprint(folder)))
        } else {
            folder.join("postgres")
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&home)
            .with_context(|| format!("cannot make {}", home.display()))?;
        let socket = socket_folder(&home)?;
        let it = Self { data: home.join("data"), log: home.join("log"), socket, programs, as_root };
        if as_root {
            // The folders are PostgreSQL's; root can enter them all the same.
            run(Command::new("chown").arg(SERVER_USER).arg(&home).arg(&it.socket)).await?;
        }
        if !it.data.join("PG_VERSION").exists() {
            tracing::info!(data = %it.data.display(), "making a private PostgreSQL");
            let mut initdb = it.program("initdb");
            initdb.args([
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
                "--username",
                NAME,
                "--pgdata",
            ]);
            run(initdb.arg(&it.data)).await?;
        }
        if it.program("pg_ctl").args(["status", "--pgdata"]).arg(&it.data).output().await?.status.success() {
            tracing::info!("the private PostgreSQL runs already");
        } else {
            let options =
                format!("-c listen_addresses='' -c unix_socket_permissions=0700 -k '{}'", it.socket.display());
            let mut start = it.program("pg_ctl");
            start
                .args(["start", "--wait", "--silent", "--options", &options, "--log"])
                .arg(&it.log)
                .arg("--pgdata")
                .arg(&it.data);
            // Its output would be inherited by the server, and never end.
            start.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
            if !start.status().await?.success() {
                let log = std::fs::read_to_string(&it.log).unwrap_or_default();
                let end: Vec<&str> = log.lines().rev().take(8).collect();
                bail!(
                    "PostgreSQL did not start; the end of {}:\n{}",
                    it.log.display(),
                    end.into_iter().rev().collect::<Vec<_>>().join("\n")
                );
            }
        }
        it.make_database().await?;
        Ok(it)
    }

    /// How to connect, in keywords.
    pub fn connection(&self) -> String {
        format!("host={} user={NAME} dbname={NAME}", self.socket.display())
    }

    /// What to type to get into it.
    pub fn psql(&self) -> String {
        format!("psql -h {} -U {NAME} {NAME}", self.socket.display())
    }

    /// A connection; it ends with the client.
    pub async fn client(&self) -> anyhow::Result<tokio_postgres::Client> {
        self.connect(NAME).await
    }

    /// Runs statements.
    pub async fn execute(&self, sql: &str) -> anyhow::Result<()> {
        self.connect(NAME).await?.batch_execute(sql).await.map_err(|e| anyhow::anyhow!(service::postgres::describe(&e)))
    }

    /// Stops it; its data stay.
    pub async fn stop(&self) -> anyhow::Result<()> {
        let mut stop = self.program("pg_ctl");
        run(stop.args(["stop", "--mode=fast", "--wait", "--silent", "--pgdata"]).arg(&self.data)).await
    }

    async fn connect(&self, database: &str) -> anyhow::Result<tokio_postgres::Client> {
        let settings = format!("host={} user={NAME} dbname={database}", self.socket.display());
        let (client, connection) = tokio_postgres::connect(&settings, tokio_postgres::NoTls).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the private PostgreSQL ended");
            }
        });
        Ok(client)
    }

    async fn make_database(&self) -> anyhow::Result<()> {
        let client = self.connect("postgres").await?;
        let known = client.query_opt("select from pg_database where datname = $1", &[&NAME]).await?;
        if known.is_none() {
            client.batch_execute(&format!("create database {NAME}")).await?;
        }
        // Or what is made without naming a schema would go to the schema of the role's name.
        client.batch_execute(&format!("alter role {NAME} set search_path = public")).await?;
        Ok(())
    }

    fn program(&self, name: &str) -> Command {
        let program = self.programs.join(name);
        let mut command = if self.as_root {
            let mut as_user = Command::new("setpriv");
            as_user.args(["--reuid", SERVER_USER, "--regid", SERVER_USER, "--init-groups", "--"]).arg(program);
            as_user
        } else {
            Command::new(program)
        };
        // Root's own folder is closed to PostgreSQL's user.
        command.current_dir("/").kill_on_drop(false);
        command
    }
}

/// The folder with the newest initdb, from PostgreSQL 14 on.
fn programs() -> anyhow::Result<PathBuf> {
    let versioned = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = versioned
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(major, bin)| *major >= 14 && bin.join("initdb").exists())
        .collect();
    found.sort();
    if let Some((_, newest)) = found.pop() {
        return Ok(newest);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path =
        std::env::split_paths(&path).find(|folder| folder.join("initdb").exists() && folder.join("pg_ctl").exists());
    in_path.context(
        "no PostgreSQL 14 or later is installed. Install it (Debian, Ubuntu: sudo apt-get install postgresql), \
         or give a database of your own with --database-url",
    )
}

fn socket_folder(home: &Path) -> anyhow::Result<PathBuf> {
    if home.as_os_str().len() <= MAX_SOCKET_FOLDER {
        return Ok(home.into());
    }
    let short = std::env::temp_dir().join(format!("rowcast-{}", fingerprint(home)));
    match std::fs::DirBuilder::new().mode(0o700).create(&short) {
        Ok(()) => {}
        // From an earlier run; somebody else's would have the wrong owner or mode.
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            let meta = std::fs::symlink_metadata(&short)?;
            let private = meta.is_dir() && meta.permissions().mode() & 0o077 == 0;
            ensure!(private, "{} is there and is not a private folder; remove it", short.display());
        }
        Err(e) => return Err(e).with_context(|| format!("cannot make {}", short.display())),
    }
    Ok(short)
}

fn fingerprint(path: &Path) -> String {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    format!("{:012x}", hasher.finish() & 0xffff_ffff_ffff)
}

async fn run(command: &mut Command) -> anyhow::Result<()> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let output = command.output().await.with_context(|| format!("cannot run {name}"))?;
    ensure!(output.status.success(), "{name} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
