use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::{load::Load, progress::Counts, usage::Cpu};

const WARM: Duration = Duration::from_secs(1);

/// What happened in the time that counts.
#[derive(Debug, Clone)]
pub struct Window {
    pub elapsed: Duration,
    pub counts: Counts,
    /// Of each group of processes.
    pub cpu: Vec<Cpu>,
}

impl Window {
    /// Watches for a while.
    pub async fn watch(load: &Load, groups: &[Vec<u32>], time: Duration) -> anyhow::Result<Self> {
        let cpu = || groups.iter().map(|pids| Cpu::of(pids)).collect::<anyhow::Result<Vec<Cpu>>>();
        load.progress.record(true);
        let (start, before, cpu_before) = (Instant::now(), load.progress.counts(), cpu()?);
        sleep(time).await;
        let (elapsed, after, cpu_after) = (start.elapsed(), load.progress.counts(), cpu()?);
        load.progress.record(false);
        let cpu = cpu_after.into_iter().zip(cpu_before).map(|(after, before)| after.since(before)).collect();
        Ok(Self { elapsed, counts: after.since(before), cpu })
    }

    /// As [`Window::watch`], a second later.
    pub async fn after_warming(load: &Load, groups: &[Vec<u32>], time: Duration) -> anyhow::Result<Self> {
        sleep(WARM).await;
        Self::watch(load, groups, time).await
    }

    /// Both together, of the same groups.
    pub fn plus(self, other: &Self) -> Self {
        Self {
            elapsed: self.elapsed + other.elapsed,
            counts: self.counts.plus(other.counts),
            cpu: self.cpu.into_iter().zip(&other.cpu).map(|(one, &other)| one.plus(other)).collect(),
        }
    }

    pub fn per_s(&self) -> f64 {
        self.counts.changes as f64 / self.elapsed.as_secs_f64()
    }

    /// Changes that were delivered, in millions.
    pub fn millions(&self) -> f64 {
        self.counts.changes as f64 / 1e6
    }
}
