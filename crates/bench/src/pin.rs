use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Which cores the servers have, and which one the load client.
#[derive(Debug, Clone)]
pub struct Cores {
    all: CpuSet,
    servers: CpuSet,
    load: CpuSet,
}

impl Cores {
    /// All but the last for the servers, the last for the load client. On a single core, or if not
    /// wanted, everybody has all.
    pub fn split(wanted: bool) -> anyhow::Result<Self> {
        let all = sched_getaffinity(None)?;
        let Some(last) = (0..CpuSet::MAX_CPU).rev().find(|&core| all.is_set(core)) else {
            anyhow::bail!("no core to run on");
        };
        if !wanted || all.count() < 2 {
            return Ok(Self { all, servers: all, load: all });
        }
        let (mut servers, mut load) = (all, CpuSet::new());
        servers.unset(last);
        load.set(last);
        Ok(Self { all, servers, load })
    }

    /// In words, for the report.
    pub fn describe(&self) -> String {
        match self.servers == self.load {
            true => format!("servers and load client share {} cores", self.all.count()),
            false => {
                format!("servers on {} of {} cores, load client on the last", self.servers.count(), self.all.count())
            }
        }
    }

    /// Processes that this thread starts until [`Cores::release`] are pinned: they inherit it.
    pub fn as_servers(&self) -> anyhow::Result<()> {
        Ok(sched_setaffinity(None, &self.servers)?)
    }

    /// Undoes [`Cores::as_servers`].
    pub fn release(&self) -> anyhow::Result<()> {
        Ok(sched_setaffinity(None, &self.all)?)
    }

    /// Pins this thread as the load client's.
    pub fn as_load(&self) -> anyhow::Result<()> {
        Ok(sched_setaffinity(None, &self.load)?)
    }
}
