use std::{
    fs,
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::{ports::Port, process::get};

/// The example of the JavaScript client.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../clients/js/examples/dashboard");
/// How long it may take to answer after its start.
const STARTS_WITHIN: Duration = Duration::from_secs(30);

/// The example dashboard, built as it stands, and served by `vite preview`. It ends with the handle.
#[derive(Debug)]
pub struct Dashboard {
    port: Port,
    folder: TempDir,
    process: Child,
}

impl Dashboard {
    /// Builds it, and serves it with the tables of a database and the gateways at an address.
    pub async fn start(database_url: &str, gateway: SocketAddr) -> anyhow::Result<Self> {
        let (port, folder) = (Port::take()?, tempfile::Builder::new().prefix("rowcast-dashboard-").tempdir()?);
        let into = folder.path().join("dist");
        let to = into.clone();
        let built = tokio::task::spawn_blocking(move || vite(&["build"], &to)?.output().context(MISSING)).await??;
        ensure!(built.status.success(), "the dashboard cannot be built: {}", said(&built));
        let number = port.number().to_string();
        let log = fs::File::create(folder.path().join("log"))?;
        let process = vite(&["preview", "--strictPort", "--host", "127.0.0.1", "--port", &number], &into)?
            .env("DATABASE_URL", database_url)
            .env("GATEWAY", format!("http://{gateway}"))
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut dashboard = Self { port, folder, process };
        dashboard.until_up().await?;
        Ok(dashboard)
    }

    /// Where it is served.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port.number()))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    async fn until_up(&mut self) -> anyhow::Result<()> {
        let (deadline, address) = (Instant::now() + STARTS_WITHIN, self.address());
        while !matches!(tokio::task::spawn_blocking(move || get(address, "/")).await?, Ok((200, _))) {
            let ended = self.process.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                bail!("vite preview does not answer ({ended:?}): {}", self.log());
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        // It may have ended already.
        if self.process.kill().is_ok() {
            drop(self.process.wait());
        }
        if std::thread::panicking() {
            let text = format!("--- log of vite preview\n{}---\n", self.log());
            drop(std::io::stderr().write_all(text.as_bytes()));
        }
    }
}

const MISSING: &str = "Node.js is not installed: make test installs it";

fn vite(arguments: &[&str], into: &Path) -> anyhow::Result<Command> {
    let program = PathBuf::from(FOLDER).join("node_modules/vite/bin/vite.js");
    ensure!(program.exists(), "{FOLDER}/node_modules is missing: npm ci --prefix {FOLDER} --ignore-scripts");
    let mut command = Command::new("node");
    command.arg(program).args(arguments).arg("--outDir").arg(into).current_dir(FOLDER).stdin(Stdio::null());
    Ok(command)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned()
}
