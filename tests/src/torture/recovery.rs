use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_postgres::{Client, NoTls};

/// Between two probes.
const EVERY: Duration = Duration::from_millis(20);
/// A commit that takes longer finds a database that is struck.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many probes are left in their table.
const LEFT: i64 = 500;

/// Times how long it takes after each fault until a change that was committed after it has reached
/// every watcher.
#[derive(Debug, Default)]
pub struct Recovery {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    watchers: usize,
    waiting: Vec<Waiting>,
    times: BTreeMap<String, Vec<Duration>>,
    /// Of faults that did not have the stage alone.
    mixed: Vec<Duration>,
}

#[derive(Debug)]
struct Waiting {
    kind: String,
    alone: bool,
    since: Instant,
    /// The first probe that was begun after it and committed.
    probe: Option<i64>,
    /// Who has got that one, or a later one.
    reached: Vec<usize>,
}

impl Recovery {
    /// With this many watchers.
    pub fn of(watchers: usize) -> Self {
        Self { state: Mutex::new(State { watchers, ..State::default() }) }
    }

    /// A fault from whose end, or beginning, on it is timed. `alone`: no other one lasts.
    pub fn begin(&self, kind: String, alone: bool) {
        let since = Instant::now();
        self.lock().waiting.push(Waiting { kind, alone, since, probe: None, reached: Vec::new() });
    }

    /// Another fault has begun: what is not over yet is no longer that of one fault.
    pub fn disturbed(&self) {
        self.lock().waiting.iter_mut().for_each(|waiting| waiting.alone = false);
    }

    /// A watcher has got a change of the probes.
    pub fn reached(&self, watcher: usize, text: &str) {
        let Some((_, rest)) = text.split_once(r#""data":{"id":"#) else { return };
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        let Ok(number) = digits.parse::<i64>() else { return };
        let mut state = self.lock();
        let State { watchers, waiting, times, mixed } = &mut *state;
        waiting.retain_mut(|one| {
            if one.probe.is_some_and(|probe| number >= probe) && !one.reached.contains(&watcher) {
                one.reached.push(watcher);
            }
            let over = one.reached.len() == *watchers;
            if over {
                let time = one.since.elapsed();
                if one.alone { times.entry(one.kind.clone()).or_default().push(time) } else { mixed.push(time) }
            }
            !over
        });
    }

    /// What is not over yet, the longest first.
    pub fn longest_wait(&self) -> Option<(String, Duration)> {
        self.lock().waiting.first().map(|waiting| (waiting.kind.clone(), waiting.since.elapsed()))
    }

    /// The times by kind of fault, sorted, and last those of faults that overlapped with others.
    pub fn times(&self) -> Vec<(String, Vec<Duration>)> {
        let state = self.lock();
        let mut all: Vec<_> = state.times.iter().map(|(kind, times)| (kind.clone(), times.clone())).collect();
        all.push(("(with another one)".into(), state.mixed.clone()));
        all.iter_mut().for_each(|(_, times)| times.sort());
        all.retain(|(_, times)| !times.is_empty());
        all
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begun(&self) -> Instant {
        Instant::now()
    }

    fn committed(&self, number: i64, begun: Instant) {
        for waiting in &mut self.lock().waiting {
            if waiting.since <= begun {
                waiting.probe.get_or_insert(number);
            }
        }
    }
}

/// Commits probes, on a connection that only PostgreSQL's own faults concern, until it is told to
/// stop.
pub fn probe(url: String, recovery: std::sync::Arc<Recovery>, stop: watch::Receiver<bool>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut number = 0;
        while !*stop.borrow() {
            if let Some(client) = connect(&url).await {
                while !*stop.borrow() {
                    number += 1;
                    let begun = recovery.begun();
                    // A number is not used again: the row of an error may be there all the same.
                    let sql = format!("insert into probes values ({number})");
                    if !matches!(timeout(PATIENCE, client.batch_execute(&sql)).await, Ok(Ok(()))) {
                        break;
                    }
                    recovery.committed(number, begun);
                    if number % LEFT == 0 {
                        let sql = format!("delete from probes where id <= {}", number - LEFT);
                        if !matches!(timeout(PATIENCE, client.batch_execute(&sql)).await, Ok(Ok(()))) {
                            break;
                        }
                    }
                    sleep(EVERY).await;
                }
            }
            sleep(EVERY).await;
        }
    })
}

async fn connect(url: &str) -> Option<Client> {
    let (client, connection) = timeout(PATIENCE, tokio_postgres::connect(url, NoTls)).await.ok()?.ok()?;
    tokio::spawn(async move {
        // The prober sees how it ended.
        drop(connection.await);
    });
    Some(client)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(number: i64) -> String {
        format!(r#"{{"type":"change","data":{{"id":{number}}},"tx":"1"}}"#)
    }

    #[test]
    fn a_fault_is_over_when_all_have_a_change_that_was_begun_after_it() {
        let recovery = Recovery::of(2);
        let early = recovery.begun();
        recovery.begin("kill -9 leader".into(), true);
        recovery.committed(4, early);
        recovery.committed(5, recovery.begun());
        recovery.reached(0, &probe(4));
        recovery.reached(1, &probe(4));
        recovery.reached(0, &probe(5));
        recovery.reached(0, &probe(6));
        assert!(recovery.times().is_empty() && recovery.longest_wait().is_some());
        recovery.reached(1, &probe(6));
        assert_eq!(recovery.times()[0].1.len(), 1);
        assert_eq!(recovery.longest_wait(), None);
    }

    #[test]
    fn a_fault_that_another_one_falls_into_is_counted_apart() {
        let recovery = Recovery::of(1);
        recovery.begin("flush redis".into(), true);
        recovery.disturbed();
        recovery.committed(1, recovery.begun());
        recovery.reached(0, &probe(1));
        assert_eq!(recovery.times()[0].0, "(with another one)");
    }
}
