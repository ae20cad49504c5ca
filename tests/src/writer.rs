use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_postgres::NoTls;

use crate::numbered::INSERT;

/// An application that goes on writing, whatever happens: one row a transaction, numbered from 1.
/// Who misses a tick catches up, so that the rate is kept. It stops with the handle.
#[derive(Debug)]
pub struct Writer {
    written: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Writer {
    /// Starts one.
    pub fn start(url: String, every: Duration) -> Self {
        let (written, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let task = tokio::spawn(write(url, every, Arc::clone(&written), Arc::clone(&stop)));
        Self { written, stop, task }
    }

    /// The number of the last row that is committed for certain.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Stops; returns the number of the last row.
    pub async fn stop(mut self) -> anyhow::Result<u64> {
        self.stop.store(true, Ordering::Release);
        (&mut self.task).await?;
        Ok(self.written())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn write(url: String, every: Duration, written: Arc<AtomicU64>, stop: Arc<AtomicBool>) {
    let mut number = 0;
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    while !stop.load(Ordering::Acquire) {
        let Ok((client, connection)) = tokio_postgres::connect(&url, NoTls).await else {
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        let connection = tokio::spawn(connection);
        // What was missed while there was no database does not come in one burst.
        ticks.reset();
        if let Ok(insert) = client.prepare(INSERT).await {
            while !stop.load(Ordering::Acquire) {
                ticks.tick().await;
                // A number is not used again: the row of an error may be there all the same.
                number += 1;
                let inserted = timeout(Duration::from_secs(5), client.execute(&insert, &[&(number as f64)])).await;
                if !matches!(inserted, Ok(Ok(_))) {
                    break;
                }
                written.store(number, Ordering::Release);
            }
        }
        connection.abort();
    }
}
