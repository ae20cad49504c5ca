use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::{Instant, sleep_until};
use tokio_postgres::{Client, Statement};

use crate::{
    args::Offered,
    load::Load,
    origin::Origin,
    payload::{LOCATION, now_us},
};

/// The application: it inserts rows and knows nothing of rowcast. Only one writes at a time, so ids
/// are dense and in the order of commits.
pub struct Writer {
    client: Client,
    origin: Origin,
    insert: Statement,
    /// The id of the last row.
    last: u64,
}

impl Writer {
    pub async fn new(client: Client, origin: Origin) -> anyhow::Result<Self> {
        let insert = client
            .prepare(&format!(
                "insert into {} (sensor_id, value, metadata)
                 select 'press-12', 21.5, jsonb_build_object('sent', $1::bigint, 'location', $2::text)
                 from generate_series(1, $3::int)",
                origin.table()
            ))
            .await?;
        let mut writer = Self { client, origin, insert, last: 0 };
        writer.settle().await?;
        Ok(writer)
    }

    /// Asks the database how far it is, after [`Writer::press`] was cut short.
    pub async fn settle(&mut self) -> anyhow::Result<()> {
        let sql = format!("select coalesce(max(id), 0) from {}", self.origin.table());
        let row = self.client.query_one(&sql, &[]).await?;
        self.last = row.get::<_, i64>(0) as u64;
        Ok(())
    }

    /// The id of the last row.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Inserts rows in one statement, stamped with the time before it is sent, and tells the load
    /// client when it was committed.
    pub async fn insert(&mut self, rows: u32, load: &Load) -> anyhow::Result<()> {
        self.client.execute(&self.insert, &[&(now_us() as i64), &LOCATION, &(rows as i32)]).await?;
        let committed_us = now_us();
        for _ in 0..rows {
            self.last += 1;
            load.progress.committed(self.last, committed_us);
        }
        Ok(())
    }

    /// Inserts single rows at a rate, off the beat of any timer: each comes up to half an interval
    /// later than the rate says (by the golden ratio, so that all delays occur alike). How long each
    /// INSERT took, in microseconds.
    pub async fn pace(&mut self, rate: u32, time: Duration, load: &Load) -> anyhow::Result<Histogram<u64>> {
        let mut took = Histogram::new(3)?;
        let interval = Duration::from_secs(1) / rate;
        let start = Instant::now();
        for count in 0..(time.as_secs() as u32 * rate) {
            let off_beat = (f64::from(count) * 0.618_034).fract() / 2.0;
            sleep_until(start + interval * count + interval.mul_f64(off_beat)).await;
            let begun = now_us();
            self.insert(1, load).await?;
            took.record(now_us() - begun)?;
        }
        Ok(took)
    }

    /// Inserts as fast as changes arrive at the clients, until dropped.
    pub async fn press(&mut self, offered: Offered, load: &Load) -> anyhow::Result<()> {
        let before = self.last;
        loop {
            let sent = self.last - before + u64::from(offered.rows);
            load.all_have(sent.saturating_sub(u64::from(offered.ahead))).await;
            self.insert(offered.rows, load).await?;
        }
    }
}
