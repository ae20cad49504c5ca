//! Batches of a bus that was refilled have other boundaries than those before.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use bus::{Answer, MemoryBus, Retention, Term};
use protocol::{Batch, Batcher, Catalogue, FeedId, Kind, Source, Topic};
use serde_json::json;
use support::TestGateway;

fn batch(feed: &FeedId, epoch: u64, first: u64, last: u64) -> Batch {
    let mut batcher = Batcher::new(feed.clone(), epoch, first - 1);
    for n in first..=last {
        batcher.push(&Topic::new("t").unwrap(), 1, Kind::Json, n.to_string().as_bytes());
    }
    batcher.take(1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_resumes_across_the_seam_of_a_refill_gets_every_change_once() {
    let bus = MemoryBus::new(Retention::default());
    let (mut publisher, feed) = (bus.publisher(Source::Log), FeedId::random());
    let term = |epoch| {
        let catalogue = Catalogue::of_channels([Topic::new("t").unwrap()]);
        Term { feed: feed.clone(), epoch, after: 0, at: 1, catalogue }
    };
    assert_eq!(publisher.begin(&term(1)).await.unwrap(), Answer::Applied);
    let gateway = TestGateway::over(bus.clone(), &[], "").await;
    gateway.until_it_carries("t").await;
    let mut watcher = gateway.connect("/rowcast").await;
    watcher.next("hello").await;
    watcher.subscribe(r#""topic":"t""#).await;
    for n in 1..=5 {
        assert_eq!(publisher.publish(&batch(&feed, 1, n, n)).await.unwrap(), Answer::Applied);
        assert_eq!(watcher.next("change").await["data"], n);
    }
    bus.clear();
    assert_eq!(publisher.begin(&term(2)).await.unwrap(), Answer::Applied);
    // Its first changes are known: it overlaps what the gateway has.
    assert_eq!(publisher.publish(&batch(&feed, 2, 1, 2)).await.unwrap(), Answer::Applied);
    assert_eq!(publisher.publish(&batch(&feed, 2, 3, 8)).await.unwrap(), Answer::Applied);
    for n in 6..=8 {
        assert_eq!(watcher.next("change").await["data"], n);
    }
    let mut late = gateway.connect("/rowcast").await;
    late.next("hello").await;
    let answer = late.subscribe(&format!(r#""topic":"t","since":"{feed}.1""#)).await;
    assert_eq!(answer["resumed"], json!(true));
    for n in 2..=8 {
        let change = late.next("change").await;
        assert_eq!((&change["data"], &change["cursor"]), (&json!(n), &json!(format!("{feed}.{n}"))));
    }
    gateway.shutdown.cancel();
}
