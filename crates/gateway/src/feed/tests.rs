use std::time::Duration;

use bus::{Answer, Bus, MemoryBus, Publisher, RedisBus, RedisSettings, Retention, Term};
use e2e::{eventually::eventually, redis::RedisServer};
use protocol::{Batcher, Catalogue, FeedId, Kind, Source, Topic};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::*;

const SOURCE: Source = Source::Log;

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

fn term(feed: &FeedId, epoch: u64, after: Offset, topics: &[&str]) -> Term {
    let catalogue = Catalogue::of_channels(topics.iter().map(|name| topic(name)));
    Term { feed: feed.clone(), epoch, after, at: 1, catalogue }
}

async fn publish(publisher: &mut Publisher, batch: &Batch) {
    assert_eq!(publisher.publish(batch).await.unwrap(), Answer::Applied);
}

fn run(bus: &Bus) -> (mpsc::Receiver<FeedEvent>, watch::Receiver<FeedStatus>, Metrics) {
    let (events, inbox) = mpsc::channel(1024);
    let metrics = Metrics::default();
    let feed = Feed::new(bus, SOURCE, vec![events], metrics.clone());
    let status = feed.status();
    tokio::spawn(feed.run(CancellationToken::new()));
    (inbox, status, metrics)
}

async fn next(inbox: &mut mpsc::Receiver<FeedEvent>) -> FeedEvent {
    tokio::time::timeout(Duration::from_secs(10), inbox.recv()).await.expect("an event in time").unwrap()
}

#[tokio::test]
async fn a_gap_of_many_mib_is_repaired_in_pieces_and_its_losses_are_told_once_at_the_end() {
    let bus = Bus::Memory(MemoryBus::new(Retention { bytes: 12_000_000, ms: 600_000 }));
    let (mut publisher, feed) = (bus.publisher(SOURCE), FeedId::random());
    publisher.begin(&term(&feed, 1, 0, &["kept", "lost"])).await.unwrap();
    let (mut inbox, ..) = run(&bus);
    assert!(matches!(next(&mut inbox).await, FeedEvent::Started { .. }));
    // The feed shares this thread, so it finds all this behind it: more than the channel holds.
    let mut batcher = Batcher::new(feed, 1, 0);
    let payload = [b'x'; 2_000];
    for _ in 0..5_000 {
        batcher.push(&topic("kept"), 0, Kind::Text, &payload);
        for _ in 0..3 {
            batcher.push(&topic("lost"), 0, Kind::Text, &payload);
        }
        publish(&mut publisher, &batcher.take(1)).await;
    }
    let (mut last, mut seen, mut pieces) = (0, Vec::new(), 0);
    loop {
        match next(&mut inbox).await {
            FeedEvent::Torn { batch, lost, .. } => {
                assert_eq!((batch.first, &lost[..]), (last + 1, &[topic("lost")][..]));
                let bytes: usize = batch.slices.iter().map(|(_, slice)| slice.bytes.len()).sum();
                assert!(bytes < 1_200_000, "{bytes} bytes at once");
                for (_, slice) in &batch.slices {
                    seen.extend(slice.changes_after(0).unwrap().iter().map(|change| change.offset));
                }
                (last, pieces) = (batch.last, pieces + 1);
            }
            FeedEvent::Lost { topics, .. } => {
                assert_eq!(topics[..], [topic("lost")]);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(pieces > 5, "{pieces} pieces");
    assert_eq!(last, 20_000, "told where nothing more is missing");
    assert_eq!(seen, (1..20_000).step_by(4).collect::<Vec<_>>());
    batcher.push(&topic("lost"), 0, Kind::Text, b"x");
    publish(&mut publisher, &batcher.take(1)).await;
    assert!(matches!(next(&mut inbox).await, FeedEvent::Batch { .. }), "and then it goes on");
}

#[tokio::test]
async fn batches_wait_where_the_shards_are_behind() {
    let bus = Bus::Memory(MemoryBus::new(Retention::default()));
    let (mut publisher, feed) = (bus.publisher(SOURCE), FeedId::random());
    publisher.begin(&term(&feed, 1, 0, &["t"])).await.unwrap();
    let (mut inbox, ..) = run(&bus);
    let mut batcher = Batcher::new(feed, 1, 0);
    let payload = vec![b'x'; 1024 * 1024];
    assert!(matches!(next(&mut inbox).await, FeedEvent::Started { .. }));
    for _ in 0..100 {
        batcher.push(&topic("t"), 0, Kind::Text, &payload);
        publish(&mut publisher, &batcher.take(1)).await;
        tokio::task::yield_now().await;
    }
    let mut waiting = 0;
    while inbox.len() > waiting {
        waiting = inbox.len();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!((20..=33).contains(&waiting), "{waiting} MiB wait for a shard");
    for n in 1..=100 {
        let FeedEvent::Batch { batch, .. } = next(&mut inbox).await else { panic!("a loss") };
        assert_eq!(batch.last, n);
    }
}

#[tokio::test]
async fn a_bus_that_is_refilled_moves_nothing_back_and_stays_ready() {
    let memory = MemoryBus::new(Retention::default());
    let bus = Bus::Memory(memory.clone());
    let (mut publisher, feed) = (bus.publisher(SOURCE), FeedId::random());
    publisher.begin(&term(&feed, 1, 0, &["t"])).await.unwrap();
    let (mut inbox, mut status, _) = run(&bus);
    assert!(matches!(next(&mut inbox).await, FeedEvent::Started { .. }));
    let batches: Vec<Batch> = (0..20)
        .map(|after| {
            let mut batcher = Batcher::new(feed.clone(), 1, after);
            batcher.push(&topic("t"), 0, Kind::Text, b"x");
            batcher.take(1)
        })
        .collect();
    for batch in &batches[..10] {
        publish(&mut publisher, batch).await;
        assert!(matches!(next(&mut inbox).await, FeedEvent::Batch { .. }));
    }
    memory.clear();
    status.mark_unchanged();
    // Another listener brings it back from further down, and goes on.
    publisher.begin(&term(&feed, 2, 3, &["t"])).await.unwrap();
    for batch in &batches[3..] {
        publish(&mut publisher, &Batch { epoch: 2, ..batch.clone() }).await;
        tokio::task::yield_now().await;
    }
    for n in 11..=20 {
        let FeedEvent::Batch { batch, .. } = next(&mut inbox).await else { panic!("not a batch") };
        assert_eq!((batch.first, batch.last, batch.epoch), (n, n, 2));
    }
    assert!(!status.has_changed().unwrap(), "it was live all the time");
}

#[tokio::test]
async fn what_another_listener_announces_is_read_until_that_works() {
    let server = RedisServer::start().await.unwrap();
    let user = async |right: &str| {
        let setting = ["ACL", "SETUSER", "gateway", "on", ">secret", "~*", "&*", "+@all", right];
        server.command::<()>(&setting).await.unwrap();
    };
    user("+hgetall").await;
    let bus_at = |url: String| {
        let (namespace, retention) = ("test".into(), Retention::default());
        Bus::Redis(RedisBus::new(RedisSettings { url, namespace, retention }).unwrap())
    };
    let mut publisher = bus_at(server.url()).publisher(SOURCE);
    let feed = FeedId::random();
    publisher.begin(&term(&feed, 1, 0, &["t"])).await.unwrap();
    let (mut inbox, ..) = run(&bus_at(format!("redis://gateway:secret@127.0.0.1:{}", server.port())));
    assert!(matches!(next(&mut inbox).await, FeedEvent::Started { .. }));
    user("-hgetall").await;
    publisher.begin(&term(&feed, 2, 0, &["t", "u"])).await.unwrap();
    for after in 0..3 {
        let mut batcher = Batcher::new(feed.clone(), 2, after);
        batcher.push(&topic("t"), 0, Kind::Text, b"x");
        publish(&mut publisher, &batcher.take(1)).await;
    }
    let changes =
        async { while !matches!(next(&mut inbox).await, FeedEvent::Batch { batch, .. } if batch.last == 3) {} };
    tokio::time::timeout(Duration::from_secs(2), changes).await.expect("changes do not wait for it");
    user("+hgetall").await;
    eventually("it is read", Duration::from_secs(5), async || match next(&mut inbox).await {
        FeedEvent::Catalogue { catalogue, .. } if catalogue.get("u").is_some() => Ok(()),
        other => Err(other),
    })
    .await;
}
