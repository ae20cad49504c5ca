use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{task::JoinSet, time::sleep};

use crate::process::get;

/// Between two looks; what a process counted after the last one before it was killed is not seen.
const EVERY: Duration = Duration::from_millis(300);

/// What all processes have counted together, over their deaths: `/metrics` begins at 0 again.
#[derive(Debug, Default)]
pub struct Counters {
    totals: Arc<Mutex<BTreeMap<String, f64>>>,
    tasks: JoinSet<()>,
}

impl Counters {
    /// Looks at these processes until it is dropped.
    pub fn of(addresses: Vec<SocketAddr>) -> Self {
        let mut counters = Self::default();
        for address in addresses {
            counters.tasks.spawn(follow(address, Arc::clone(&counters.totals)));
        }
        counters
    }

    /// A total: `rowcast_gateway_repairs_total{source="log"}`.
    pub fn total(&self, name: &str) -> f64 {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied().unwrap_or_default()
    }
}

async fn follow(address: SocketAddr, totals: Arc<Mutex<BTreeMap<String, f64>>>) {
    let mut last = BTreeMap::new();
    loop {
        if let Ok(Ok((200, text))) = tokio::task::spawn_blocking(move || get(address, "/metrics")).await {
            let now = counters(&text);
            let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
            for (name, value) in &now {
                let before = last.get(name).copied().unwrap_or_default();
                // One that went back is that of a new process.
                let since = if *value >= before { value - before } else { *value };
                *totals.entry(name.clone()).or_default() += since;
            }
            last = now;
        }
        sleep(EVERY).await;
    }
}

fn counters(text: &str) -> BTreeMap<String, f64> {
    let counter = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        let counts = name.split('{').next().is_some_and(|name| name.ends_with("_total"));
        counts.then(|| Some((name.to_owned(), value.parse().ok()?)))?
    };
    text.lines().filter_map(counter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_told_from_gauges_and_comments() {
        let text = "# HELP a_total x\na_total 3\nb{x=\"y z\"} 4\nc_total{from=\"memory\"} 5\n";
        let expected = [("a_total".to_owned(), 3.0), ("c_total{from=\"memory\"}".to_owned(), 5.0)];
        assert_eq!(counters(text), BTreeMap::from(expected));
    }
}
