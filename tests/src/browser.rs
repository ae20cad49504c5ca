use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::{Context, anyhow, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::Mutex,
    time::timeout,
};

/// Where playwright-core, React and esbuild are, once installed.
pub const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/browser");
const FLAGS: [&str; 10] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
    // Where /dev/shm is small, as in containers.
    "--disable-dev-shm-usage",
];
const MISSING: &str = "the browser tests need Node.js 18 or later with npm, and Chromium: \
                       `make test` installs them (on Debian: apt install nodejs npm chromium)";
/// How long one call may take; starting Chromium is one.
const PATIENCE: Duration = Duration::from_secs(60);

/// A Chromium of this test's own. It ends with the handle.
#[derive(Debug)]
pub struct Browser {
    pipe: Mutex<Pipe>,
    ids: AtomicU64,
    _process: Child,
}

#[derive(Debug)]
struct Pipe {
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
}

/// A page, in a profile of its own.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    browser: &'a Browser,
    id: u64,
}

/// A line of a page's console.
#[derive(Debug, Clone, Deserialize)]
pub struct Line {
    /// `log`, `error`, `exception` …
    pub kind: String,
    /// As it is shown.
    pub text: String,
    /// What it is about, or where it was said: a URL.
    pub at: String,
    /// What was logged, as JSON.
    pub values: Vec<Value>,
}

/// A WebSocket that a page opened.
#[derive(Debug, Clone, Deserialize)]
pub struct PageSocket {
    /// Where to.
    pub url: String,
    /// All frames that came.
    pub frames: Vec<String>,
}

impl Browser {
    /// Starts Chromium with these flags besides the usual ones.
    pub async fn start(flags: &[&str]) -> anyhow::Result<Self> {
        let installed = Path::new(FOLDER).join("node_modules/playwright-core").exists();
        ensure!(installed, "tests/browser/node_modules is missing: npm ci --prefix tests/browser --ignore-scripts");
        let mut process = Command::new("node")
            .arg("driver.mjs")
            .arg(chromium()?)
            .args(FLAGS)
            .args(flags)
            .current_dir(FOLDER)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context(MISSING)?;
        let stdin = process.stdin.take().context("no stdin")?;
        let stdout = BufReader::new(process.stdout.take().context("no stdout")?).lines();
        let mut pipe = Pipe { stdin, stdout };
        pipe.answer(0).await.context("Chromium cannot be started")?;
        Ok(Self { pipe: Mutex::new(pipe), ids: AtomicU64::new(1), _process: process })
    }

    /// Opens a page.
    pub async fn open(&self, url: &str) -> anyhow::Result<Page<'_>> {
        let page = Page { browser: self, id: self.ids.fetch_add(1, Ordering::Relaxed) };
        page.call("open", json!({"url": url})).await?;
        Ok(page)
    }
}

impl Page<'_> {
    /// What it has logged.
    pub async fn console(&self) -> anyhow::Result<Vec<Line>> {
        Ok(serde_json::from_value(self.call("console", json!({})).await?)?)
    }

    /// What its WebSockets have received.
    pub async fn sockets(&self) -> anyhow::Result<Vec<PageSocket>> {
        Ok(serde_json::from_value(self.call("sockets", json!({})).await?)?)
    }

    /// The sounds that were played to their end, by path.
    pub async fn played(&self) -> anyhow::Result<Vec<String>> {
        Ok(serde_json::from_value(self.evaluate("window.played").await?)?)
    }

    /// The value of an expression of JavaScript.
    pub async fn evaluate(&self, expression: &str) -> anyhow::Result<Value> {
        self.call("evaluate", json!({"expression": expression})).await
    }

    /// Waits until an expression of JavaScript is true.
    pub async fn until(&self, expression: &str, within: Duration) -> anyhow::Result<()> {
        let wait = json!({"expression": expression, "timeout": within.as_millis() as u64});
        match self.call("until", wait).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let text = self.evaluate("document.body.innerText").await?;
                bail!("not within {within:?}: {expression}: {error:#}; the page says: {text}")
            }
        }
    }

    /// Clicks on what a selector finds.
    pub async fn click(&self, selector: &str) -> anyhow::Result<()> {
        self.call("click", json!({"selector": selector})).await.map(drop)
    }

    /// Lets it sleep, as a tab in the background of a phone: it is hidden, and no script of it runs.
    pub async fn freeze(&self) -> anyhow::Result<()> {
        self.call("freeze", json!({})).await.map(drop)
    }

    /// Wakes it, and shows it.
    pub async fn thaw(&self) -> anyhow::Result<()> {
        self.call("thaw", json!({})).await.map(drop)
    }

    /// Loads it anew.
    pub async fn reload(&self) -> anyhow::Result<()> {
        self.call("reload", json!({})).await.map(drop)
    }

    /// Saves a picture of it, as a PNG.
    pub async fn screenshot(&self, path: &Path, full: bool) -> anyhow::Result<()> {
        self.call("screenshot", json!({"path": path, "fullPage": full})).await.map(drop)
    }

    /// Makes its window another size.
    pub async fn resize(&self, width: u32, height: u32) -> anyhow::Result<()> {
        self.call("size", json!({"width": width, "height": height})).await.map(drop)
    }

    /// Sets what it is told of the user's preference: `light` or `dark`.
    pub async fn color_scheme(&self, scheme: &str) -> anyhow::Result<()> {
        self.call("scheme", json!({"colorScheme": scheme})).await.map(drop)
    }

    async fn call(&self, name: &str, mut arguments: Value) -> anyhow::Result<Value> {
        let mut pipe = self.browser.pipe.lock().await;
        let id = self.browser.ids.fetch_add(1, Ordering::Relaxed);
        arguments["id"] = id.into();
        arguments["call"] = name.into();
        arguments["page"] = self.id.into();
        pipe.stdin.write_all(format!("{arguments}\n").as_bytes()).await?;
        pipe.answer(id).await.with_context(|| name.to_owned())
    }
}

impl Pipe {
    async fn answer(&mut self, id: u64) -> anyhow::Result<Value> {
        let line = timeout(PATIENCE, self.stdout.next_line()).await.context("the browser does not answer")??;
        let mut answer: Value = serde_json::from_str(&line.context("the browser has ended")?)?;
        ensure!(answer["id"] == id, "an answer to another question: {answer}");
        match answer["error"].as_str() {
            Some(error) => Err(anyhow!("{error}")),
            None => Ok(answer["result"].take()),
        }
    }
}

/// What Debian, Ubuntu and others call it.
fn chromium() -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let named = |name| std::env::split_paths(&path).map(move |folder| folder.join(name));
    let mut all = ["chromium", "chromium-browser", "google-chrome"].into_iter().flat_map(named);
    all.find(|path| path.exists()).context(MISSING)
}
