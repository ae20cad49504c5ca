use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use anyhow::Context;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_postgres::NoTls;

use super::{
    client::{Client, Surroundings, Tally},
    counters::Counters,
    dice::Dice,
    judge::Judge,
    log_reader::LogReader,
    manner::Manner,
    options::Options,
    recovery::{self, Recovery},
    replica::Replica,
    report::Report,
    sightings::Sightings,
    stage::Stage,
    strikes::Strikes,
    terms::Terms,
    truth::Truth,
    violation::{Crime, Violation},
    writer::{self, Desk, Outcomes},
};

/// Clients that build the tables: some stay, some come and go.
const BUILDERS: usize = 4;
/// Clients that build the tables from conflated changes.
const CONFLATERS: usize = 2;
/// Clients that build the tables from events.
const FOLLOWERS: usize = 2;
/// Clients that time recoveries.
const WATCHERS: usize = 3;
/// Between two looks of the judges.
const EVERY: Duration = Duration::from_millis(100);
/// Nothing may take longer than this to flow again.
const STUCK_AFTER: Duration = Duration::from_secs(45);
/// Everybody has everything within this time of the end.
const QUIET_WITHIN: Duration = Duration::from_secs(90);
/// Ticks that are read again at the end.
const AUDITED: usize = 2_000;

/// A run that has shown a violation, or could not be carried out.
#[derive(Debug)]
pub struct Failure {
    /// What happened.
    pub error: anyhow::Error,
    /// How far the schedule was.
    pub at: Duration,
    /// To reproduce it.
    pub seed: u64,
    /// What was struck before.
    pub last_faults: Vec<String>,
    /// Where the logs of all processes are.
    pub folder: PathBuf,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}, after {:.3} s: {:#}", self.seed, self.at.as_secs_f64(), self.error)?;
        writeln!(f, "the last faults:")?;
        for line in &self.last_faults {
            writeln!(f, "  {line}")?;
        }
        write!(f, "logs of all processes: {}", self.folder.display())
    }
}

impl std::error::Error for Failure {}

/// Carries out a run. `Ok`: nobody lost, repeated, reordered or invented anything.
pub async fn run(options: Options) -> Result<Report, Failure> {
    let seed = options.seed;
    let failed = |error: anyhow::Error| Failure {
        error,
        at: Duration::ZERO,
        seed,
        last_faults: Vec::new(),
        folder: options.folder.clone(),
    };
    crate::files::raise_limit().map_err(failed)?;
    let mut run = Run::start(options.clone()).await.map_err(failed)?;
    let done = run.go().await;
    match done {
        Ok(()) => {
            let report = run.report();
            // Nothing went wrong, so nobody reads it.
            drop(std::fs::remove_dir_all(&options.folder));
            Ok(report)
        }
        Err(error) => {
            let (at, last_faults) = (run.strikes.elapsed(), run.strikes.last(16));
            let kept = timeout(Duration::from_secs(30), run.stage.keep_logs()).await;
            let error = match kept {
                Ok(Ok(())) => error,
                _ => error.context("and the logs could not all be kept"),
            };
            Err(Failure { error, at, seed, last_faults, folder: options.folder })
        }
    }
}

struct Run {
    options: Options,
    terms: Terms,
    stage: Arc<Stage>,
    recovery: Arc<Recovery>,
    strikes: Arc<Strikes>,
    counters: Counters,
    clients: Vec<Client>,
    judges: Vec<Judge>,
    reader: LogReader,
    truth: Truth,
    tally: Arc<Tally>,
    /// How many of the clients read events.
    followers: usize,
    outcomes: Arc<Outcomes>,
    finish: watch::Sender<bool>,
    began: Instant,
    /// How long was written and struck.
    written: Duration,
    settled: Duration,
    audited: usize,
}

impl Run {
    async fn start(options: Options) -> anyhow::Result<Self> {
        let terms = Terms::of(options.seed);
        (options.say)(&format!("seed {}: {terms:?}", options.seed));
        let stage = Arc::new(Stage::start(&terms, options.gateways, options.folder.clone()).await?);
        let recovery = Arc::new(Recovery::of(WATCHERS));
        let (reader, truth) = LogReader::start(stage.url()).await?;
        let (finish, finishes) = watch::channel(false);
        let tally = Arc::new(Tally::default());
        let around = Surroundings {
            gateways: stage.gateways(),
            sightings: Sightings::default(),
            finish: finishes,
            recovery: Arc::clone(&recovery),
            tally: Arc::clone(&tally),
        };
        let mut dice = Dice::of(options.seed, "crowd", 0);
        let some = |count: usize, manner: fn(bool) -> Manner| (0..count).map(move |number| manner(number % 2 == 0));
        let mut manners: Vec<Manner> = (0..WATCHERS).map(|_| Manner::watcher()).collect();
        manners.extend(some(BUILDERS, Manner::builder));
        manners.extend(some(CONFLATERS, Manner::conflater));
        manners.extend(some(FOLLOWERS, Manner::follower));
        manners.extend((0..options.clients).map(|_| Manner::drawn(&mut dice, terms.kept().time)));
        let followers = manners.iter().filter(|manner| manner.reads_events).count();
        let start = |(number, manner)| Client::start(number, options.seed, manner, around.clone());
        let clients: Vec<Client> = manners.into_iter().enumerate().map(start).collect();
        let witnesses = clients.iter().flat_map(|client| &client.witnesses);
        let judges = witnesses.map(|witness| Judge::of(Arc::clone(witness), terms.kept())).collect();
        let strikes = Arc::new(Strikes::new(Arc::clone(&stage), Arc::clone(&recovery), Arc::clone(&options.say)));
        let counters = Counters::of(stage.metrics());
        Ok(Self {
            terms,
            stage,
            recovery,
            strikes,
            counters,
            clients,
            judges,
            reader,
            truth,
            tally,
            followers,
            outcomes: Arc::default(),
            finish,
            began: Instant::now(),
            written: Duration::ZERO,
            settled: Duration::ZERO,
            audited: 0,
            options,
        })
    }

    async fn go(&mut self) -> anyhow::Result<()> {
        self.everybody_is_there().await?;
        self.strikes =
            Arc::new(Strikes::new(Arc::clone(&self.stage), Arc::clone(&self.recovery), Arc::clone(&self.options.say)));
        self.began = Instant::now();
        let (stop, stops) = watch::channel(false);
        let mut tasks = self.writers(&stops);
        tasks.push(recovery::probe(self.stage.url(), Arc::clone(&self.recovery), stops.clone()));
        tasks.push(janitor(self.stage.url(), self.options.seed, stops));
        let striking = tokio::spawn(Arc::clone(&self.strikes).run(self.options.schedule()));
        let mut told = Instant::now();
        while self.began.elapsed() < self.options.length || !striking.is_finished() {
            sleep(EVERY).await;
            self.judge().await?;
            self.nothing_is_stuck()?;
            if told.elapsed() > Duration::from_secs(10) {
                told = Instant::now();
                (self.options.say)(&self.progress());
            }
        }
        self.written = self.began.elapsed();
        stop.send_replace(true);
        for task in tasks {
            task.await?;
        }
        self.settle().await?;
        self.compare().await
    }

    /// Before anything is written: who began then can build the tables.
    async fn everybody_is_there(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.judges.iter().all(Judge::has_begun) {
            anyhow::ensure!(Instant::now() < deadline, "not all clients could subscribe");
            sleep(EVERY).await;
            self.judge().await?;
        }
        Ok(())
    }

    fn writers(&self, stops: &watch::Receiver<bool>) -> Vec<JoinHandle<()>> {
        let Options { seed, writers, rate, .. } = self.options;
        let desk = Desk {
            url: self.stage.writers_url(),
            prepares: self.terms.prepares,
            every: Duration::from_secs_f64(writers as f64 / rate.max(1) as f64),
            outcomes: Arc::clone(&self.outcomes),
        };
        (0..writers).map(|number| writer::start(number, seed, desk.clone(), stops.clone())).collect()
    }

    async fn judge(&mut self) -> anyhow::Result<()> {
        self.stage.died()?;
        if let Some(failure) = self.strikes.failure() {
            return Err(failure);
        }
        self.reader.read(&mut self.truth).await?;
        for judge in &mut self.judges {
            judge.judge(self.reader.feed(), &self.truth)?;
        }
        Ok(())
    }

    fn nothing_is_stuck(&self) -> Result<(), Violation> {
        match self.recovery.longest_wait() {
            Some((kind, waited)) if waited > STUCK_AFTER => {
                let how = format!("after '{kind}' nothing reached all watchers for {} s", waited.as_secs());
                Err(Violation::new(Crime::Stuck, "the watchers", how))
            }
            _ => Ok(()),
        }
    }

    /// Waits until the log is at its end, and everybody has it.
    async fn settle(&mut self) -> anyhow::Result<()> {
        (self.options.say)("nobody writes or strikes any more; waiting until everybody has everything");
        self.stage.end_writers().await?;
        self.finish.send_replace(true);
        let began = Instant::now();
        loop {
            self.judge().await?;
            let unticked = self.reader.unticked().await.unwrap_or(i64::MAX);
            let behind = self.judges.iter().find_map(|judge| judge.is_complete(&self.truth).err());
            match behind {
                None if unticked == 0 => break,
                None if began.elapsed() > QUIET_WITHIN => {
                    let how = format!("{unticked} events are in no tick");
                    return Err(Violation::new(Crime::Stuck, "the log", how).into());
                }
                Some(violation) if began.elapsed() > QUIET_WITHIN => return Err(violation.into()),
                _ => sleep(EVERY).await,
            }
        }
        self.settled = began.elapsed();
        Ok(())
    }

    /// The tables, against the log and against what clients made of it; and the log against itself.
    async fn compare(&mut self) -> anyhow::Result<()> {
        let (client, connection) = tokio_postgres::connect(&self.stage.url(), NoTls).await?;
        let connection = tokio::spawn(connection);
        let tables = Replica::of_tables(&client).await?;
        drop(client);
        connection.await??;
        let wrong = |who: &str, how| Violation::new(Crime::WrongState, who, how);
        self.truth.replica().compare(&tables).map_err(|how| wrong("the log", how))?;
        for client in &self.clients {
            if let Some(replica) = &client.replica {
                let replica = replica.lock().unwrap_or_else(PoisonError::into_inner);
                replica.compare(&tables).map_err(|how| wrong(&client.witnesses[0].name, how))?;
            }
        }
        self.audited = self.reader.audit(&self.truth, AUDITED).await.context("reading the log again")?;
        Ok(())
    }

    fn deliveries(&self) -> u64 {
        self.judges.iter().map(Judge::deliveries).sum()
    }

    fn progress(&self) -> String {
        format!(
            "{:7.3} s  {} changes in {} transactions, {} deliveries, {} faults",
            self.began.elapsed().as_secs_f64(),
            self.truth.last(),
            self.truth.transactions(),
            self.deliveries(),
            self.strikes.done().len()
        )
    }

    fn report(&self) -> Report {
        let mut report = Report::default();
        let faults = self.strikes.done();
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let total = |name: &str| format!("{:.0}", self.counters.total(name));
        report.figure("seed", self.options.seed);
        report.figure("duration", format!("{:.0} s", self.written.as_secs_f64()));
        report.figure("changes in the log", self.truth.last());
        report.figure("transactions in the log", self.truth.transactions());
        report.figure("… committed for certain, by writers", count(&self.outcomes.committed));
        report.figure("… prepared", count(&self.outcomes.prepared));
        report.figure("… rolled back", count(&self.outcomes.rolled_back));
        report.figure("… failed: locks, deadlocks, duplicates", count(&self.outcomes.failed));
        report.figure("… of unknown outcome", count(&self.outcomes.unknown));
        report.figure("clients", self.clients.len());
        report.figure("… of them readers of /sse", self.followers);
        report.figure("connections", count(&self.tally.connections));
        report.figure("… refused for now", count(&self.tally.refused));
        report.figure("… given up as silent", count(&self.tally.silent));
        report.figure("deliveries, all as the log says", self.deliveries());
        report.figure("subscriptions resumed", count(&self.tally.resumed));
        for from in ["memory", "history"] {
            let name = format!("rowcast_gateway_resumed_changes_total{{from=\"{from}\"}}");
            report.figure(&format!("changes sent again from {from}"), total(&name));
        }
        report.figure("gaps noticed by gateways", total("rowcast_gateway_gaps_total{source=\"log\"}"));
        report.figure("… repaired", total("rowcast_gateway_repairs_total{source=\"log\"}"));
        report.figure("batches that the log gave again", total("rowcast_listener_republished_batches_total"));
        let resets = self.tally.resets.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (reason, times) in &resets {
            report.figure(&format!("resets, explained: {reason}"), times);
        }
        report.figure("lost, duplicated, inverted, split, wrong", 0);
        report.figure("resets, unexplained", 0);
        report.figure("rows compared with each builder's", self.truth.replica().rows());
        report.figure("ticks read again", self.audited);
        report.figure("until everybody had everything at the end", format!("{} ms", self.settled.as_millis()));
        report.figure("faults", faults.len());
        let times = self.recovery.times();
        let mut kinds: Vec<String> = faults.iter().map(|fault| fault.kind()).collect();
        kinds.sort();
        kinds.dedup();
        for kind in kinds.into_iter().chain(["(with another one)".to_owned()]) {
            let times = times.iter().find(|(its, _)| *its == kind).map(|(_, times)| times.clone()).unwrap_or_default();
            let count = match faults.iter().filter(|fault| fault.kind() == kind).count() {
                0 => times.len(),
                count => count,
            };
            report.faults.push((kind, count, times));
        }
        report
    }
}

/// Ends what writers have prepared and, for their connection was lost, not ended.
fn janitor(url: String, seed: u64, stops: watch::Receiver<bool>) -> JoinHandle<()> {
    let mut dice = Dice::of(seed, "janitor", 0);
    tokio::spawn(async move {
        while !*stops.borrow() {
            sleep(Duration::from_secs(1)).await;
            let Ok(Ok((client, connection))) =
                timeout(Duration::from_secs(2), tokio_postgres::connect(&url, NoTls)).await
            else {
                continue;
            };
            let connection = tokio::spawn(connection);
            let sql = "select gid from pg_prepared_xacts where prepared < now() - interval '8 s'";
            if let Ok(Ok(rows)) = timeout(Duration::from_secs(5), client.query(sql, &[])).await {
                for row in rows {
                    let end = if dice.percent(75) { "commit" } else { "rollback" };
                    let sql = format!("{end} prepared '{}'", row.get::<_, &str>(0));
                    // Its writer may have been quicker.
                    drop(timeout(Duration::from_secs(5), client.batch_execute(&sql)).await);
                }
            }
            connection.abort();
        }
    })
}
