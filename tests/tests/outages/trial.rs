use std::time::Duration;

use e2e::{
    clients::Client,
    eventually::eventually,
    ledger::Ledger,
    site::{BACK, SOON, Site},
    writer::Writer,
};

/// Rows are written this often.
const EVERY: Duration = Duration::from_millis(20);
/// Of each kind, dealt out to both gateways.
const CLIENTS: usize = 4;

/// A site on which an application writes and clients read.
pub struct Trial {
    pub site: Site,
    pub writer: Writer,
    pub natives: Vec<Client>,
    pub plains: Vec<Client>,
}

/// What everybody has seen, after the last row.
#[derive(Debug)]
pub struct Outcome {
    pub natives: Vec<Ledger>,
    pub plains: Vec<Ledger>,
    /// The number of the last row.
    pub last: u64,
}

impl Trial {
    /// Clients of both kinds, who have seen the first rows.
    pub async fn on(site: Site) -> Self {
        let mut plains = Vec::new();
        for _ in 0..CLIENTS {
            plains.push(Client::plain(site.address()).await.unwrap());
        }
        Self::with(site, plains).await
    }

    /// The same without plain clients, for who kills gateways: they do not come back.
    pub async fn of_natives(site: Site) -> Self {
        Self::with(site, Vec::new()).await
    }

    async fn with(site: Site, plains: Vec<Client>) -> Self {
        let mut natives = Vec::new();
        for _ in 0..CLIENTS {
            natives.push(Client::native(site.address()).await.unwrap());
        }
        let writer = Writer::start(site.database_url(), EVERY);
        let trial = Self { site, writer, natives, plains };
        trial.rows_are_seen(20, SOON).await;
        trial
    }

    /// Waits until this many more rows are written, whoever sees them.
    pub async fn rows_are_written(&self, count: u64) {
        let until = self.writer.written() + count;
        eventually("the application writes", SOON, async || {
            let written = self.writer.written();
            if written >= until { Ok(()) } else { Err(written) }
        })
        .await;
    }

    /// A part is back from now on: rows that are written from now on reach everybody, and soon.
    pub async fn flows_again(&self) {
        self.rows_are_seen(1, BACK).await;
    }

    async fn rows_are_seen(&self, count: u64, within: Duration) {
        let until = self.writer.written() + count;
        eventually("everybody gets what is written", within, async || {
            let seen: Vec<u64> = self.natives.iter().chain(&self.plains).map(Client::last).collect();
            if seen.iter().all(|&last| last >= until) { Ok(()) } else { Err(format!("{seen:?} of {until}")) }
        })
        .await;
    }

    /// Lets a little more flow, and ends when everybody has the last row.
    pub async fn end(self) -> Outcome {
        self.rows_are_seen(20, SOON).await;
        let last = self.writer.stop().await.unwrap();
        eventually("everybody has the last row", SOON, async || {
            let seen: Vec<u64> = self.natives.iter().chain(&self.plains).map(Client::last).collect();
            if seen.iter().all(|&seen| seen >= last) { Ok(()) } else { Err(format!("{seen:?} of {last}")) }
        })
        .await;
        let ledgers = |clients: &[Client]| clients.iter().map(Client::seen).collect();
        Outcome { natives: ledgers(&self.natives), plains: ledgers(&self.plains), last }
    }
}

impl Outcome {
    /// Nobody lost its connection, was reset, or missed a row.
    pub fn nobody_noticed(&self) {
        self.nothing_is_wrong();
        for ledger in self.natives.iter().chain(&self.plains) {
            assert_eq!((ledger.connections, ledger.missed, ledger.changes), (1, 0, self.last), "{ledger:?}");
            assert!(ledger.resets.is_empty(), "{ledger:?}");
        }
    }

    /// Nobody lost its connection, and all rows came except around a new feed, of which every native
    /// client was told.
    pub fn everybody_was_told_of_new_feeds(&self, count: usize) {
        self.nothing_is_wrong();
        for ledger in self.natives.iter().chain(&self.plains) {
            assert_eq!(ledger.connections, 1, "{ledger:?}");
            assert_eq!(ledger.changes + ledger.missed, self.last, "{ledger:?}");
        }
        for ledger in &self.natives {
            assert_eq!(ledger.resets, vec!["new_feed"; count], "{ledger:?}");
        }
    }

    /// Nothing came twice or in the wrong order, and nothing was missed of which nobody was told.
    pub fn nothing_is_wrong(&self) {
        for ledger in self.natives.iter().chain(&self.plains) {
            assert!(ledger.wrong.is_empty(), "{ledger:?}");
            assert_eq!(ledger.first, Some(1), "{ledger:?}");
        }
    }
}
