use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_postgres::{Client, NoTls};

use super::{dice::Dice, statement::statement};

/// A connection that has not answered for this long is given up, like by an application.
const PATIENCE: Duration = Duration::from_secs(5);
/// Of every session. Nobody waits long for a lock, and a session whose writer is gone goes too.
const SESSION: &str = "set lock_timeout = '400ms'; set idle_in_transaction_session_timeout = '12s'; \
                       set idle_session_timeout = '60s'; set statement_timeout = '20s'";

/// How transactions ended. What is in the tables and in the log is the truth; these are for the
/// report.
#[derive(Debug, Default)]
pub struct Outcomes {
    /// Known to be committed.
    pub committed: AtomicU64,
    /// Rolled back on purpose.
    pub rolled_back: AtomicU64,
    /// Refused by the database: a deadlock, a lock not to be had, a key that was there.
    pub failed: AtomicU64,
    /// The connection ended, or said nothing: nobody knows.
    pub unknown: AtomicU64,
    /// Prepared; committed or rolled back later.
    pub prepared: AtomicU64,
}

/// What a writer needs.
#[derive(Debug, Clone)]
pub struct Desk {
    /// The database, through the writers' network.
    pub url: String,
    /// Whether transactions may be prepared.
    pub prepares: bool,
    /// The mean time between its transactions.
    pub every: Duration,
    /// All writers count together.
    pub outcomes: Arc<Outcomes>,
}

/// An application that writes random transactions until it is told to stop.
pub fn start(number: usize, seed: u64, desk: Desk, stop: watch::Receiver<bool>) -> JoinHandle<()> {
    let writer = Writer { number, dice: Dice::of(seed, "writer", number), desk, prepared: 0 };
    tokio::spawn(writer.write(stop))
}

struct Writer {
    number: usize,
    dice: Dice,
    desk: Desk,
    /// How many transactions it has prepared, for their names.
    prepared: u64,
}

/// Why a transaction was not brought to its end.
enum Broken {
    Refused,
    Lost,
}

impl Writer {
    async fn write(mut self, stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            let Some(client) = connect(&self.desk.url).await else {
                sleep(Duration::from_millis(100)).await;
                continue;
            };
            while !*stop.borrow() {
                let pause = self.desk.every.as_millis() as u64;
                sleep(self.dice.millis(0..=2 * pause)).await;
                match self.transaction(&client).await {
                    Ok(()) => {}
                    Err(Broken::Refused) => {
                        self.desk.outcomes.failed.fetch_add(1, Ordering::Relaxed);
                        if run(&client, "rollback").await.is_err() {
                            break;
                        }
                    }
                    Err(Broken::Lost) => {
                        self.desk.outcomes.unknown.fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                }
            }
        }
    }

    async fn transaction(&mut self, client: &Client) -> Result<(), Broken> {
        match self.dice.within(0..=99) {
            0..=54 => {
                run(client, &statement(&mut self.dice)).await?;
                self.committed();
            }
            55..=74 => {
                self.open(client, 1..=6, 0..=5).await?;
                self.commit(client).await?;
            }
            75..=82 => self.with_savepoints(client).await?,
            83..=90 => {
                self.open(client, 1..=5, 0..=20).await?;
                run(client, "rollback").await?;
                self.desk.outcomes.rolled_back.fetch_add(1, Ordering::Relaxed);
            }
            91..=95 if self.desk.prepares => self.prepare(client).await?,
            // Long, so that many ticks pass while it is open; its rows have early numbers.
            _ => {
                let pauses = if self.dice.percent(30) { 100..=1_500 } else { 20..=150 };
                self.open(client, 2..=5, pauses).await?;
                self.commit(client).await?;
            }
        }
        Ok(())
    }

    /// Begins a transaction and writes, with pauses.
    async fn open(
        &mut self,
        client: &Client,
        statements: std::ops::RangeInclusive<u64>,
        pauses: std::ops::RangeInclusive<u64>,
    ) -> Result<(), Broken> {
        run(client, self.dice.pick(&["begin", "begin", "begin", "begin isolation level repeatable read"])).await?;
        for _ in 0..self.dice.within(statements) {
            run(client, &statement(&mut self.dice)).await?;
            sleep(self.dice.millis(pauses.clone())).await;
        }
        Ok(())
    }

    async fn with_savepoints(&mut self, client: &Client) -> Result<(), Broken> {
        self.open(client, 1..=2, 0..=5).await?;
        for _ in 0..self.dice.within(1..=4) {
            run(client, "savepoint s").await?;
            let done = run(client, &statement(&mut self.dice)).await;
            match done {
                Err(Broken::Lost) => return done,
                Err(Broken::Refused) => run(client, "rollback to s").await?,
                Ok(()) if self.dice.percent(50) => run(client, "rollback to s").await?,
                Ok(()) => run(client, "release s").await?,
            }
        }
        self.commit(client).await
    }

    async fn commit(&mut self, client: &Client) -> Result<(), Broken> {
        if self.dice.percent(15) {
            // A crash may take it back, but then nobody may have seen it.
            run(client, "set local synchronous_commit = off").await?;
        }
        run(client, "commit").await?;
        self.committed();
        Ok(())
    }

    async fn prepare(&mut self, client: &Client) -> Result<(), Broken> {
        self.open(client, 1..=4, 0..=50).await?;
        self.prepared += 1;
        let name = format!("writer-{}-{}", self.number, self.prepared);
        run(client, &format!("prepare transaction '{name}'")).await?;
        self.desk.outcomes.prepared.fetch_add(1, Ordering::Relaxed);
        sleep(self.dice.millis(0..=4_000)).await;
        let end = if self.dice.percent(75) { "commit" } else { "rollback" };
        run(client, &format!("{end} prepared '{name}'")).await
    }

    fn committed(&self) {
        self.desk.outcomes.committed.fetch_add(1, Ordering::Relaxed);
    }
}

async fn connect(url: &str) -> Option<Client> {
    let (client, connection) = timeout(PATIENCE, tokio_postgres::connect(url, NoTls)).await.ok()?.ok()?;
    tokio::spawn(async move {
        // Its writer sees how it ended.
        drop(connection.await);
    });
    run(&client, SESSION).await.ok()?;
    Some(client)
}

async fn run(client: &Client, sql: &str) -> Result<(), Broken> {
    match timeout(PATIENCE, client.batch_execute(sql)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) if error.as_db_error().is_some() && !client.is_closed() => Err(Broken::Refused),
        _ => Err(Broken::Lost),
    }
}
