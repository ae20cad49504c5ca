//! What processes have used, by /proc.

use std::fs;

use anyhow::Context;

/// CPU seconds. Counted in hundredths.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu {
    /// In the program's own code.
    pub user_s: f64,
    /// In the kernel, on its behalf.
    pub system_s: f64,
}

impl Cpu {
    /// Of these processes so far, all threads.
    pub fn of(pids: &[u32]) -> anyhow::Result<Self> {
        let ticks_per_s = rustix::param::clock_ticks_per_second() as f64;
        let mut all = Self::default();
        for &pid in pids {
            let (user, system) = ticks(pid)?;
            all.user_s += user as f64 / ticks_per_s;
            all.system_s += system as f64 / ticks_per_s;
        }
        Ok(all)
    }

    pub fn all_s(self) -> f64 {
        self.user_s + self.system_s
    }

    pub fn since(self, before: Self) -> Self {
        Self { user_s: self.user_s - before.user_s, system_s: self.system_s - before.system_s }
    }

    pub fn plus(self, other: Self) -> Self {
        Self { user_s: self.user_s + other.user_s, system_s: self.system_s + other.system_s }
    }
}

/// CPU seconds of these processes, user and system, all threads.
pub fn cpu_s(pids: &[u32]) -> anyhow::Result<f64> {
    Ok(Cpu::of(pids)?.all_s())
}

fn ticks(pid: u32) -> anyhow::Result<(u64, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} is gone"))?;
    // The name, in parentheses, may hold anything; utime and stime are the 12th and 13th after it.
    let (_, rest) = stat.rsplit_once(')').context("no name in stat")?;
    let mut fields = rest.split_whitespace().skip(11).map(str::parse::<u64>);
    match (fields.next(), fields.next()) {
        (Some(Ok(user)), Some(Ok(system))) => Ok((user, system)),
        _ => anyhow::bail!("no times in stat"),
    }
}

/// Resident memory of these processes, in KiB.
pub fn resident_kib(pids: &[u32]) -> anyhow::Result<u64> {
    pids.iter()
        .map(|&pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
            line.trim().trim_end_matches(" kB").parse::<u64>().context("VmRSS")
        })
        .sum()
}

/// A process and its children.
pub fn family(parent: u32) -> Vec<u32> {
    let is_child = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line.split_whitespace().eq(["PPid:", &parent.to_string()]))
    };
    let all = fs::read_dir("/proc").into_iter().flatten();
    let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    std::iter::once(parent).chain(pids.filter(is_child)).collect()
}
