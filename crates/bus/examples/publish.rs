//! How many changes a second a publisher gets into Redis: `throughput REDIS_URL [BATCH [BYTES]]`.
//! It writes to a namespace of its own, and leaves nothing but an empty head.

use std::time::{Duration, Instant};

use bus::{Answer, RedisBus, RedisSettings, Retention, Term};
use protocol::{Batcher, Catalogue, FeedId, Kind, Source, Topic};

const LASTS: Duration = Duration::from_secs(5);

#[tokio::main]
#[allow(clippy::print_stdout)]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or_else(|| "redis://127.0.0.1:6379".into());
    let changes: u64 = arguments.next().map_or(Ok(100), |n| n.parse())?;
    let bytes: usize = arguments.next().map_or(Ok(300), |n| n.parse())?;

    let settings = RedisSettings { url, namespace: "rowcast-throughput".into(), retention: Retention::default() };
    let mut publisher = RedisBus::new(settings)?.publisher(Source::Notify);
    let (feed, topic) = (FeedId::random(), Topic::new("throughput")?);
    let epoch = protocol::time::now() as u64;
    let term = Term { feed: feed.clone(), epoch, after: 0, at: 0, catalogue: Catalogue::default() };
    anyhow::ensure!(publisher.begin(&term).await? == Answer::Applied);

    let payload = vec![b'x'; bytes];
    let mut batcher = Batcher::new(feed, epoch, 0);
    let mut slowest = Duration::ZERO;
    let began = Instant::now();
    while began.elapsed() < LASTS {
        for _ in 0..changes {
            batcher.push(&topic, 0, Kind::Text, &payload);
        }
        let batch = batcher.take(0);
        let sent = Instant::now();
        anyhow::ensure!(publisher.publish(&batch).await? == Answer::Applied);
        slowest = slowest.max(sent.elapsed());
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{changes} changes of {bytes} B a batch: {:.0} changes/s, {:.0} batches/s, slowest {slowest:?}",
        batcher.last() as f64 / seconds,
        (batcher.last() / changes) as f64 / seconds
    );
    let term = Term { feed: FeedId::random(), epoch: epoch + 1, ..term };
    anyhow::ensure!(publisher.begin(&term).await? == Answer::Applied);
    Ok(())
}
