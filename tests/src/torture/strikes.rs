use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{fault::Fault, options::Say, recovery::Recovery, stage::Stage};

/// The faults as they really come, after the schedule.
pub struct Strikes {
    stage: Arc<Stage>,
    recovery: Arc<Recovery>,
    began: Instant,
    /// For each that lasts: whether it has had the stage alone so far.
    lasting: Mutex<Vec<Arc<AtomicBool>>>,
    done: Mutex<Vec<Fault>>,
    journal: Mutex<Vec<String>>,
    failed: Mutex<Option<anyhow::Error>>,
    say: Say,
}

impl Strikes {
    /// None yet; their times count from now on.
    pub fn new(stage: Arc<Stage>, recovery: Arc<Recovery>, say: Say) -> Self {
        Self {
            stage,
            recovery,
            began: Instant::now(),
            lasting: Mutex::default(),
            done: Mutex::default(),
            journal: Mutex::default(),
            failed: Mutex::default(),
            say,
        }
    }

    /// Strikes, to the end of the schedule.
    pub async fn run(self: Arc<Self>, schedule: Vec<Fault>) {
        let mut running = JoinSet::new();
        for fault in schedule {
            sleep_until(self.began + fault.at).await;
            running.spawn(Arc::clone(&self).one(fault));
        }
        running.join_all().await;
    }

    /// What was struck so far.
    pub fn done(&self) -> Vec<Fault> {
        lock(&self.done).clone()
    }

    /// The last lines of the journal.
    pub fn last(&self, count: usize) -> Vec<String> {
        let journal = lock(&self.journal);
        journal[journal.len().saturating_sub(count)..].to_vec()
    }

    /// Why a fault could not be carried out, if so.
    pub fn failure(&self) -> Option<anyhow::Error> {
        lock(&self.failed).take()
    }

    /// How long ago it began.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    async fn one(self: Arc<Self>, fault: Fault) {
        let alone = self.enter();
        lock(&self.done).push(fault);
        self.note(format!("{fault}"));
        match self.stage.strike(fault, &self.recovery, &alone).await {
            Ok(whom) => self.note(format!("{:7.3} s  over: {} {whom}", self.elapsed().as_secs_f64(), fault.blow)),
            Err(error) => {
                lock(&self.failed).get_or_insert(error.context(format!("{fault}")));
            }
        }
        lock(&self.lasting).retain(|other| !Arc::ptr_eq(other, &alone));
    }

    /// Another fault begins: whatever lasts, or has just ended, no longer has the stage alone.
    fn enter(&self) -> Arc<AtomicBool> {
        self.recovery.disturbed();
        let mut lasting = lock(&self.lasting);
        lasting.iter().for_each(|other| other.store(false, Ordering::Release));
        let alone = Arc::new(AtomicBool::new(lasting.is_empty()));
        lasting.push(Arc::clone(&alone));
        alone
    }

    fn note(&self, line: String) {
        (self.say)(&line);
        lock(&self.journal).push(line);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
