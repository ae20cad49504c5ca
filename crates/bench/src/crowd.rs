//! As many connections as this machine holds, and a gateway that dies among them.

use std::time::{Duration, Instant};

use anyhow::ensure;
use tokio::time::sleep;

use crate::{
    bus_stage::BusStage,
    crowd_clients::{CrowdClients, CrowdProcess, Look},
    gateways::Gateways,
    kernel, machine,
    order::Faults,
    payload::now_us,
    report::{Measure, Report},
    usage,
};

/// Load of `bench crowd`.
#[derive(Debug, Clone, clap::Args)]
pub struct Crowd {
    /// Connections, each with a native subscription to one topic. A pair of loopback sockets costs
    /// the kernel 7 to 10 KiB.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(100..=2_000_000))]
    pub connections: u32,
    /// Gateways [default: as many as have files for the connections, and one more, which is killed].
    #[arg(long, value_parser = clap::value_parser!(u32).range(2..=200))]
    pub gateways: Option<u32>,
}

/// Open files of a process that are no clients.
const OWN_FILES: u64 = 500;
/// Files of a process are asked for up to here, wherever the limit is.
const MOST_FILES: u64 = 60_000;
/// Changes to all, one after the other: connections that are new are slower.
const CHANGES: u64 = 10;
/// Changes that are published while those of the killed gateway are away.
const MISSED: u32 = 10;
/// Until memory is accounted for.
const SETTLE: Duration = Duration::from_secs(2);
/// How long the last client may take to have something.
const PATIENCE: Duration = Duration::from_secs(60);

struct Clients(Vec<CrowdProcess>);

/// One run: all connect; one change to all; a gateway is killed, its clients resume on the others.
pub async fn run(stage: &BusStage, what: &Crowd, report: &mut Report) -> anyhow::Result<()> {
    let all = u64::from(what.connections);
    let each = machine::open_files().min(MOST_FILES).saturating_sub(OWN_FILES);
    let needed = all.div_ceil(each) as u32;
    let count = what.gateways.unwrap_or(needed + 1);
    ensure!(count > needed, "{count} gateways do not hold {all} connections once one is killed");
    // Those that come back are connections too, and the old ones stay known for a while.
    check_tracking(all + all.div_ceil(u64::from(count)))?;
    let writer = stage.writer(1).await?;
    let mut gateways = stage.gateways(count).await?;
    sleep(SETTLE).await;
    let before_kib = usage::resident_kib(&gateways.pids())?;
    let case = format!("{} connections of {count} gateways", what.connections);
    let mut add = |what, unit, value| {
        report.add(Measure { case: case.clone(), what, unit, less_is_better: true, recipe: None }, value, None);
    };

    let started = Instant::now();
    let mut clients = Clients::start(stage, &gateways, what.connections, each as u32)?;
    clients.0.iter_mut().try_for_each(CrowdProcess::up)?;
    add("until all are up", "s", started.elapsed().as_secs_f64());
    let tracking = tracking();
    sleep(SETTLE).await;
    let grown_kib = usage::resident_kib(&gateways.pids())?.saturating_sub(before_kib);
    add("resident memory in gateways, each", "KiB", grown_kib as f64 / all as f64);
    let clients_kib = usage::resident_kib(&clients.0.iter().map(CrowdProcess::pid).collect::<Vec<_>>())?;
    add("resident memory of the load client, each", "KiB", clients_kib as f64 / all as f64);

    for nth in 1..=CHANGES {
        let published_us = now_us();
        writer.batch(1).await?;
        let look = clients.until(|look| look.changes >= all * nth, &gateways).await?;
        let took_ms = (look.last_read_us - published_us) as f64 / 1000.0;
        match nth {
            1 => add("the first change, from publish to the last", "ms", took_ms),
            CHANGES => add("the tenth change, from publish to the last", "ms", took_ms),
            _ => {}
        }
    }

    gateways.kill_one()?;
    let killed = Instant::now();
    let held = clients.shares(count);
    writer.batch(MISSED).await?;
    clients.until(|look| look.lost >= held, &gateways).await?;
    let back = clients.resume(writer.feed(), &gateways)?;
    ensure!(back == held, "{back} of {held} came back");
    writer.batch(1).await?;
    clients.until(|look| look.changes >= all * writer.last(), &gateways).await?;
    add("clients of the gateway that was killed", "", held as f64);
    add("until all of them are back and complete", "s", killed.elapsed().as_secs_f64());
    let faults = clients.end(writer.last())?;
    if faults.missing + faults.repeated + faults.reordered > 0 {
        eprintln!("bench: {faults:?}; the gateways say:\n{}", gateways.logs());
    }
    report.note(tracking);
    // That many were cut off with their gateway.
    report.faults(Faults { cut_off: faults.cut_off.saturating_sub(held), ..faults });
    Ok(())
}

/// Connections that are tracked have a limit; past it, packets are lost.
fn check_tracking(wanted: u64) -> anyhow::Result<()> {
    if let Some((tracked @ 1.., most)) = kernel::connection_tracking() {
        let left = most.saturating_sub(tracked);
        ensure!(wanted <= left, "{wanted} connections, and nf_conntrack_max leaves {left}: raise it, or unload it");
    }
    Ok(())
}

/// Whether the connections of a run are tracked, in words.
fn tracking() -> String {
    match kernel::connection_tracking() {
        None => "No connection is tracked: nf_conntrack is not loaded.".into(),
        Some((0, most)) => format!("No connection is tracked; if any were, {most} could be (nf_conntrack_max)."),
        Some((_, most)) => format!("Connections are tracked, which costs CPU; at most {most} (nf_conntrack_max)."),
    }
}

impl Clients {
    /// Processes with as many clients as each has files for.
    fn start(stage: &BusStage, gateways: &Gateways, connections: u32, each: u32) -> anyhow::Result<Self> {
        stage.cores.as_load()?;
        let servers = gateways.addresses();
        let processes = (0..connections).step_by(each as usize).map(|before| {
            let count = each.min(connections - before);
            CrowdProcess::start(&CrowdClients { servers: servers.clone(), count, before })
        });
        let processes = processes.collect::<anyhow::Result<_>>();
        stage.cores.release()?;
        Ok(Self(processes?))
    }

    /// Waits until all clients together have seen what is asked for.
    async fn until(&mut self, done: impl Fn(&Look) -> bool, gateways: &Gateways) -> anyhow::Result<Look> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let looks = self.0.iter_mut().map(CrowdProcess::look).collect::<anyhow::Result<Vec<Look>>>()?;
            let all = together(&looks);
            if done(&all) {
                return Ok(all);
            }
            ensure!(Instant::now() < deadline, "clients are at {all:?}; the gateways say: {}", gateways.logs());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Clients of the first of so many gateways: each process has spread its own.
    fn shares(&self, gateways: u32) -> u64 {
        self.0.iter().map(|process| u64::from(process.count().div_ceil(gateways))).sum()
    }

    /// Those who are away come back; how many.
    fn resume(&mut self, feed: &str, gateways: &Gateways) -> anyhow::Result<u64> {
        let servers = gateways.addresses();
        self.0.iter_mut().try_for_each(|process| process.resume(feed, &servers))?;
        self.0.iter_mut().map(CrowdProcess::resumed).sum()
    }

    fn end(self, last: u64) -> anyhow::Result<Faults> {
        let mut all = Faults::default();
        for process in self.0 {
            all.add(process.end(last)?);
        }
        Ok(all)
    }
}

fn together(looks: &[Look]) -> Look {
    looks.iter().fold(Look::default(), |all, one| Look {
        changes: all.changes + one.changes,
        last_read_us: all.last_read_us.max(one.last_read_us),
        lost: all.lost + one.lost,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_processes_have_seen_adds_up_and_the_latest_read_counts() {
        let looks = [Look { changes: 2, last_read_us: 9, lost: 1 }, Look { changes: 3, last_read_us: 7, lost: 0 }];
        assert_eq!(together(&looks), Look { changes: 5, last_read_us: 9, lost: 1 });
    }
}
