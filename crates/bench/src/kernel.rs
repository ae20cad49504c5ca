//! What the kernel says of sockets.

use std::{fs, process::Command};

use anyhow::{Context, ensure};

/// The sockets of one server's port, its own ends or its clients'.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sockets {
    pub count: u64,
    /// Those with something that the other side has not taken.
    pub full: u64,
    /// Memory of their queues, as the kernel accounts it: buffers with their heads, and what is
    /// reserved for more.
    pub bytes: u64,
}

impl Sockets {
    /// The server's ends.
    pub fn of_server(port: u16) -> anyhow::Result<Self> {
        Self::of("sport", port)
    }

    /// The clients' ends.
    pub fn of_clients(port: u16) -> anyhow::Result<Self> {
        Self::of("dport", port)
    }

    fn of(side: &str, port: u16) -> anyhow::Result<Self> {
        let filter = ["-tmnOH", "state", "established", side, "=", &format!(":{port}")];
        let output =
            Command::new("ss").args(filter).output().context("ss cannot be started: is iproute2 installed?")?;
        ensure!(output.status.success(), "ss: {}", String::from_utf8_lossy(&output.stderr));
        Ok(Self::read(&String::from_utf8_lossy(&output.stdout)))
    }

    /// Reads lines as `0 4096 127.0.0.1:8080 127.0.0.2:40000 skmem:(r0,rb…,t0,tb…,f…,w…,o0,bl0,d0)`.
    fn read(text: &str) -> Self {
        let mut all = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (received, unsent) = (words.next(), words.next());
            let Some((_, memory)) = line.split_once("skmem:(") else { continue };
            all.count += 1;
            all.full += u64::from([received, unsent].iter().any(|queue| queue.is_some_and(|bytes| bytes != "0")));
            all.bytes += memory.trim_end().trim_end_matches(')').split(',').filter_map(queued).sum::<u64>();
        }
        all
    }
}

/// Receive queue, write queue and what is reserved; not the limits, nor what is counted twice.
fn queued(field: &str) -> Option<u64> {
    let number = ["r", "w", "f"].iter().find_map(|name| field.strip_prefix(name))?;
    number.parse().ok()
}

/// Connections that are tracked, and how many may be; `None` where none is.
pub fn connection_tracking() -> Option<(u64, u64)> {
    let read = |name: &str| fs::read_to_string(format!("/proc/sys/net/netfilter/nf_conntrack_{name}")).ok();
    Some((read("count")?.trim().parse().ok()?, read("max")?.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queues_of_sockets_are_added_up_and_not_their_limits() {
        let text = "0 0 127.0.0.1:18000 127.0.0.2:40001 skmem:(r0,rb131072,t0,tb87040,f4096,w0,o0,bl0,d0)\n\
                    0 9000 127.0.0.1:18000 127.0.0.2:40002 skmem:(r1,rb131072,t5,tb87040,f2,w20000,o0,bl0,d7)\n";
        assert_eq!(Sockets::read(text), Sockets { count: 2, full: 1, bytes: 4096 + 1 + 2 + 20_000 });
    }
}
