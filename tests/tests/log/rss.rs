use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use e2e::process::Process;
use tokio::{task::JoinHandle, time::sleep};

pub const MIB: u64 = 1024 * 1024;

/// Watches how much memory a process has.
pub struct Rss {
    most: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Rss {
    pub fn of(process: &Process) -> Self {
        let (most, pid) = (Arc::new(AtomicU64::new(0)), process.pid());
        let greatest = Arc::clone(&most);
        let task = tokio::spawn(async move {
            loop {
                let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
                let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
                greatest.fetch_max(pages * 4096, Ordering::AcqRel);
                sleep(Duration::from_millis(5)).await;
            }
        });
        Self { most, task }
    }

    pub fn most(&self) -> u64 {
        self.most.load(Ordering::Acquire)
    }
}

impl Drop for Rss {
    fn drop(&mut self) {
        self.task.abort();
    }
}
