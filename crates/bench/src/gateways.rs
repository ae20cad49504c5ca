use std::net::SocketAddr;

use anyhow::ensure;

use crate::{
    load::{Load, Tally},
    order::Faults,
    process::Process,
};

/// Gateways of one run.
pub struct Gateways(Vec<Process>);

impl Gateways {
    /// Starts that many, on the cores that this thread has, and waits until they are ready.
    pub async fn start(redis_url: &str, count: u32) -> anyhow::Result<Self> {
        Self::start_with(redis_url, count, &[]).await
    }

    /// The same, with these flags.
    pub async fn start_with(redis_url: &str, count: u32, flags: &[&str]) -> anyhow::Result<Self> {
        let mut gateways = Vec::new();
        for _ in 0..count {
            let arguments = ["--redis-url", redis_url, "--bind", "{bind}"].map(str::to_owned);
            let arguments: Vec<String> = arguments.into_iter().chain(flags.iter().map(|&flag| flag.into())).collect();
            gateways.push(Process::start("gateway", &arguments)?.ready().await?);
        }
        Ok(Self(gateways))
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().map(Process::address).collect()
    }

    pub fn pids(&self) -> Vec<u32> {
        self.0.iter().map(Process::pid).collect()
    }

    /// Ends the first one with SIGKILL.
    pub fn kill_one(&mut self) -> anyhow::Result<()> {
        ensure!(!self.0.is_empty(), "no gateway is left");
        drop(self.0.remove(0));
        Ok(())
    }

    /// What they have complained about.
    pub fn logs(&self) -> String {
        self.0.iter().map(Process::log).collect()
    }

    /// Ends the load client, then the gateways; if clients have seen faults, says what the
    /// gateways have to say.
    pub fn end(self, load: Load, last: u64) -> anyhow::Result<Tally> {
        let tally = load.end(Some(last))?;
        if tally.faults != Faults::default() {
            eprintln!("bench: {:?}; the gateways say:\n{}", tally.faults, self.logs());
        }
        Ok(tally)
    }
}
