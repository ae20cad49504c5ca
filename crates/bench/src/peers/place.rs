use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use e2e::ports::Port;
use tempfile::TempDir;

use crate::{machine, peers::peer};

/// Where a server of one run lives.
pub struct Place {
    installed: PathBuf,
    folder: TempDir,
    port: Port,
    redis: String,
}

impl Place {
    /// A folder and a port of its own.
    pub fn new(peer: &str, redis_url: &str) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("rowcast-peer-").tempdir()?;
        Ok(Self { installed: peer::installed(peer), folder, port: Port::take()?, redis: redis_url.to_owned() })
    }

    /// Something that was installed.
    pub fn installed(&self, path: &str) -> PathBuf {
        self.installed.join(path)
    }

    /// Where it starts.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    pub fn redis_url(&self) -> &str {
        &self.redis
    }

    pub fn redis_port(&self) -> &str {
        self.redis.rsplit(':').next().unwrap_or_default()
    }

    /// A file of settings, with what is known only now.
    pub fn fill(&self, template: &str) -> anyhow::Result<String> {
        let path = self.installed(template);
        let text = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
        let files = machine::open_files().min(20_000);
        Ok(text
            .replace("@PORT@", &self.port().to_string())
            .replace("@MODULES@", &self.installed.to_string_lossy())
            .replace("@FILES@", &files.to_string())
            .replace("@CONNECTIONS@", &(files - 64).to_string()))
    }

    /// As [`Place::fill`], into a file in the folder where it starts.
    pub fn write(&self, template: &str) -> anyhow::Result<PathBuf> {
        let path = self.folder().join(template);
        fs::write(&path, self.fill(template)?)?;
        Ok(path)
    }
}
