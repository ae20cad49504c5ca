use std::time::Duration;

use crate::{
    bus_stage::BusStage,
    fanout,
    ours::{Press, Setup},
    report::Report,
};

/// Load of `bench topics`.
#[derive(Debug, Clone, clap::Args)]
pub struct Topics {
    /// Topics with few clients each.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(2..=10_000))]
    pub topics: u32,
    /// Clients of each. In the run that is compared with it, one topic has them all.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub clients_each: u32,
}

/// One run: a batch has one change of each topic; or one change, where there is only one topic. So
/// a batch is one change to each client in both.
pub async fn run(stage: &BusStage, what: &Topics, time: Duration, report: &mut Report) -> anyhow::Result<()> {
    let early_percent = fanout::EARLY_PERCENT;
    let clients = what.topics * what.clients_each;
    let many = Setup { clients, topics: what.topics, unread: 0 };
    fanout::run(stage, many, Press { changes: what.topics, early_percent }, time, report).await?;
    fanout::run(stage, Setup::of(clients), Press { changes: 1, early_percent }, time, report).await
}
