use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::{files, ports::Port, process::get};

/// How long it may take to answer after its start.
const STARTS_WITHIN: Duration = Duration::from_secs(10);

/// A private nginx in front of gateways, with the settings of `make demo`. It dies with the handle.
#[derive(Debug)]
pub struct Nginx {
    port: Port,
    folder: TempDir,
    process: Child,
}

impl Nginx {
    /// Starts one. The gateways need not be up.
    pub async fn start(gateways: &[SocketAddr]) -> anyhow::Result<Self> {
        Self::start_with(gateways, "").await
    }

    /// Starts one that has more to serve, as that of an application has: `location` blocks.
    pub async fn start_with(gateways: &[SocketAddr], locations: &str) -> anyhow::Result<Self> {
        let port = Port::take()?;
        let folder = tempfile::Builder::new().prefix("rowcast-nginx-").tempdir()?;
        let deploy = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/nginx"));
        let files = files::raise_limit()?;
        let servers: String = gateways.iter().map(|gateway| format!("server {gateway} max_fails=0; ")).collect();
        let settings = fs::read_to_string(deploy.join("demo.conf.in"))?
            .replace("@PORT@", &port.number().to_string())
            .replace("@LISTEN_IPV6@", "")
            .replace("@FILES@", &files.to_string())
            .replace("@CONNECTIONS@", &(files - 64).to_string())
            .replace("@GATEWAYS@", &servers)
            .replace("include proxy.conf;", &format!("include proxy.conf; {locations}"));
        fs::write(folder.path().join("nginx.conf"), settings)?;
        fs::copy(deploy.join("proxy.conf"), folder.path().join("proxy.conf"))?;
        fs::create_dir(folder.path().join("nginx-tmp"))?;
        let log = fs::File::create(folder.path().join("log"))?;
        let process = Command::new("nginx")
            .arg("-p")
            .arg(folder.path())
            .arg("-c")
            .arg(folder.path().join("nginx.conf"))
            // Its worker would otherwise be somebody who may not enter the folder. Without root it
            // stays who it is, and says that this is ignored.
            .args(["-e", "stderr", "-g", "user root;"])
            .env("PATH", path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("nginx cannot be started: is it installed?")?;
        let mut nginx = Self { port, folder, process };
        nginx.until_up().await?;
        Ok(nginx)
    }

    /// Where it serves.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port.number()))
    }

    /// What it has complained about.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    async fn until_up(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + STARTS_WITHIN;
        let address = self.address();
        // Any answer will do: it says so itself where no gateway is up.
        while tokio::task::spawn_blocking(move || get(address, "/healthz")).await?.is_err() {
            let ended = self.process.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                bail!("nginx does not answer ({ended:?}): {}", self.log());
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // SIGTERM, so that it takes its workers along; it may have ended already.
        if let Ok(None) = self.process.try_wait()
            && kill_process(Pid::from_child(&self.process), Signal::TERM).is_ok()
        {
            drop(self.process.wait());
        }
        if std::thread::panicking() {
            let text = format!("--- log of nginx\n{}---\n", self.log());
            drop(std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes()));
        }
    }
}

/// Debian has nginx where only root looks.
fn path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}
