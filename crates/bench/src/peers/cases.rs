use std::time::Duration;

use anyhow::ensure;
use hdrhistogram::Histogram;

use crate::{
    args::Floor,
    bare::Bare,
    bus_stage::BusStage,
    load::Tally,
    peers::{
        Peers,
        peer::Peer,
        stand::Stand,
        table::{FLOOR, Row, Table},
    },
    window::Window,
};

/// The loads of one run.
pub struct Cases<'a> {
    pub stage: &'a BusStage,
    pub peers: &'a Peers,
    pub time: Duration,
}

impl Cases<'_> {
    /// All of them, each with the floor right behind. A peer that does not hold one goes on with the next.
    pub async fn run(&self, name: &str, peer: Option<&dyn Peer>, table: &mut Table) {
        for &clients in &self.peers.clients {
            eprintln!("bench:   {clients} clients, one change after the other");
            if let Err(error) = self.press(name, peer, clients, table).await {
                eprintln!("bench:   {error:#}");
                table.known(name).failed(&format!("{clients} clients"));
            }
        }
        let Peers { light_clients, rate, .. } = *self.peers;
        eprintln!("bench:   {light_clients} clients, {rate} changes a second");
        if let Err(error) = self.light(name, peer, table).await {
            eprintln!("bench:   {error:#}");
            table.known(name).failed(&format!("{rate}/s to {light_clients}"));
        }
    }

    async fn press(&self, name: &str, peer: Option<&dyn Peer>, clients: u32, table: &mut Table) -> anyhow::Result<()> {
        let mut stand = Stand::up(self.stage, peer, clients).await?;
        if self.peers.clients.iter().max() == Some(&clients) {
            let row = table.known(name);
            row.add("connects, 1/s", stand.entry.connects_per_s);
            row.add("memory, KiB each", stand.entry.kib_each);
        }
        stand.warm().await?;
        let window = stand.press(self.stage, self.time).await?;
        ensure!(window.counts.changes > 0, "nothing arrived in that time");
        let (bytes, tally) = (stand.bytes_each(), stand.end()?);
        let bare = Bare::up(self.stage, self.floor(clients, bytes, 0)).await?;
        let floor = bare.turn(self.time).await?;
        bare.end()?;
        let case = |what: &str| format!("{clients} clients: {what}");
        let add = |row: &mut Row, window: &Window| {
            row.add(&case("deliveries, 1/s"), window.per_s());
            row.add(&case("of the floor"), window.per_s() / floor.per_s());
            row.add(&case("CPU, s/million"), window.cpu[0].all_s() / window.millions());
        };
        add(table.known(FLOOR), &floor);
        let row = table.known(name);
        add(row, &window);
        row.busy(window.cpu[1].all_s() / window.elapsed.as_secs_f64());
        row.saw(tally.faults);
        Ok(())
    }

    async fn light(&self, name: &str, peer: Option<&dyn Peer>, table: &mut Table) -> anyhow::Result<()> {
        let Peers { light_clients: clients, rate, .. } = *self.peers;
        let mut stand = Stand::up(self.stage, peer, clients).await?;
        stand.warm().await?;
        stand.pace(rate, self.time).await?;
        let (bytes, tally) = (stand.bytes_each(), stand.end()?);
        let bare = Bare::up(self.stage, self.floor(clients, bytes, rate)).await?;
        bare.turn(self.time).await?;
        let floor = bare.end()?;
        let ms = |latency: &Histogram<u64>, quantile| latency.value_at_quantile(quantile) as f64 / 1000.0;
        let add = |row: &mut Row, tally: &Tally| {
            for (name, quantile) in [("p50", 0.5), ("p99", 0.99)] {
                row.add(&format!("{rate}/s to {clients}: {name}, ms"), ms(&tally.from_insert, quantile));
            }
        };
        add(table.known(FLOOR), &floor);
        let row = table.known(name);
        add(row, &tally);
        row.saw(tally.faults);
        Ok(())
    }

    fn floor(&self, clients: u32, bytes: usize, rate: u32) -> Floor {
        Floor { port: 0, clients, bytes, joined: 1, rate, at_most: 8 * self.time.as_secs() + 120 }
    }
}
