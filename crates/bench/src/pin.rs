use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Which cores the servers have, and which one the load client.
///
/// Where one gateway is measured it has the first core to itself, as the floor has; Redis and who
/// publishes to it have the cores between, and on a machine with two the load client's.
#[derive(Debug, Clone)]
pub struct Cores {
    all: CpuSet,
    servers: CpuSet,
    load: CpuSet,
    single: CpuSet,
    bus: CpuSet,
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
            return Ok(Self { all, servers: all, load: all, single: all, bus: all });
        }
        let (mut servers, mut load, mut single) = (all, CpuSet::new(), CpuSet::new());
        servers.unset(last);
        load.set(last);
        let first = (0..last).find(|&core| all.is_set(core)).unwrap_or(last);
        single.set(first);
        let mut bus = servers;
        bus.unset(first);
        let bus = if bus.count() == 0 { load } else { bus };
        Ok(Self { all, servers, load, single, bus })
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

    /// As [`Cores::as_servers`], for the one server that is measured.
    pub fn as_single(&self) -> anyhow::Result<()> {
        Ok(sched_setaffinity(None, &self.single)?)
    }

    /// As [`Cores::as_servers`], for Redis and its writer while one gateway is measured.
    pub fn as_bus(&self) -> anyhow::Result<()> {
        Ok(sched_setaffinity(None, &self.bus)?)
    }

    /// Whether Redis and its writer take from the load client's core.
    pub fn bus_shares_with_load(&self) -> bool {
        self.bus == self.load
    }

    /// Undoes [`Cores::as_servers`] and its like.
    pub fn release(&self) -> anyhow::Result<()> {
        Ok(sched_setaffinity(None, &self.all)?)
    }

    /// Pins this thread as the load client's.
    pub fn as_load(&self) -> anyhow::Result<()> {
        Ok(sched_setaffinity(None, &self.load)?)
    }
}
