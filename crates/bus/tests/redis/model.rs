//! Random calls to the bus over Redis and to the one in memory: the same answers, the same head,
//! the same histories.

use bus::{Bus, MemoryBus, RedisBus, RedisSettings, Retention, Term};
use e2e::redis::RedisServer;
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use protocol::{Batch, Offset, Source};

use crate::contract::*;

const SOURCE: Source = Source::Notify;
const FEEDS: [&str; 2] = ["aaa", "bbb"];
const TOPICS: [&str; 3] = ["a", "b", "c"];

/// Some slices are larger than the limit alone, most are not.
const RETENTION: Retention = Retention { bytes: 300, ms: 600_000 };

/// A call; offsets and epochs are relative to what the bus in memory has at the time.
#[derive(Debug, Clone)]
enum Call {
    Begin { feed: usize, epoch: i64, after: i64 },
    Publish { feed: usize, epoch: i64, after: i64, changes: Vec<(usize, usize)> },
    Clear,
}

fn call() -> impl Strategy<Value = Call> {
    let near = || prop_oneof![6 => Just(0i64), 1 => -3..=3i64];
    let feed = || prop_oneof![6 => Just(0usize), 1 => Just(1usize)];
    let changes = prop::collection::vec((0..TOPICS.len(), prop_oneof![9 => 0..60usize, 1 => 250..400usize]), 0..5);
    prop_oneof![
        4 => (feed(), near(), near()).prop_map(|(feed, epoch, after)| Call::Begin { feed, epoch, after }),
        20 => (feed(), near(), near(), changes)
            .prop_map(|(feed, epoch, after, changes)| Call::Publish { feed, epoch, after, changes }),
        1 => Just(Call::Clear),
    ]
}

struct Buses {
    server: RedisServer,
    redis: Bus,
    memory: MemoryBus,
    /// Of the last begin that was applied, and it stays so when the bus is cleared.
    epoch: u64,
    last: Offset,
    feed: usize,
}

impl Buses {
    async fn check(&mut self, calls: &[Call]) {
        self.server.command::<()>(&["FLUSHALL"]).await.unwrap();
        (self.memory, self.epoch, self.last, self.feed) = (MemoryBus::new(RETENTION), 5, 0, 0);
        for call in calls {
            self.apply(call).await;
            self.compare(call).await;
        }
    }

    async fn apply(&mut self, call: &Call) {
        let of_feed = |relative: usize| (self.feed + relative) % FEEDS.len();
        let (mut redis, mut memory) = (self.redis.publisher(SOURCE), self.memory.publisher(SOURCE));
        match call {
            Call::Clear => {
                self.memory.clear();
                self.server.command::<()>(&["FLUSHALL"]).await.unwrap();
            }
            Call::Begin { feed, epoch, after } => {
                let feed = of_feed(*feed);
                let (epoch, after) =
                    (self.epoch.saturating_add_signed(*epoch), self.last.saturating_add_signed(*after));
                let term: Term = term(FEEDS[feed], epoch, after);
                let answer = memory.begin(&term).await.unwrap();
                assert_eq!(redis.begin(&term).await.unwrap(), answer, "{term:?}");
                if answer == bus::Answer::Applied {
                    (self.feed, self.epoch, self.last) = (feed, epoch, after);
                }
            }
            Call::Publish { feed, epoch, after, changes } => {
                let payloads: Vec<_> = changes.iter().map(|(topic, n)| (TOPICS[*topic], "x".repeat(*n))).collect();
                let payloads = payloads.iter().map(|(topic, payload)| (*topic, payload.as_str()));
                let (epoch, after) =
                    (self.epoch.saturating_add_signed(*epoch), self.last.saturating_add_signed(*after));
                let batch: Batch = batch_of(FEEDS[of_feed(*feed)], epoch, after, payloads);
                let answer = memory.publish(&batch).await.unwrap();
                assert_eq!(redis.publish(&batch).await.unwrap(), answer, "{batch:?}");
                if answer == bus::Answer::Applied {
                    self.last = batch.last;
                }
            }
        }
    }

    async fn compare(&self, call: &Call) {
        let (redis, memory) = (self.redis.reader(SOURCE), self.memory.reader(SOURCE));
        assert_eq!(redis.head().await.unwrap(), memory.head().await.unwrap(), "after {call:?}");
        for (id, name) in FEEDS.iter().flat_map(|id| TOPICS.map(|name| (id, name))) {
            for after in [0, self.last.saturating_sub(4), self.last.saturating_sub(1), self.last, self.last + 1] {
                let expected = memory.history(&feed(id), &topic(name), after).await.unwrap();
                let got = redis.history(&feed(id), &topic(name), after).await.unwrap();
                assert_eq!(got, expected, "{id} {name} after {after}, after {call:?}");
            }
        }
    }
}

#[test]
fn redis_answers_as_memory_does() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(RedisServer::start()).unwrap();
    let settings = RedisSettings { url: server.url(), namespace: "test".into(), retention: RETENTION };
    let redis = Bus::Redis(RedisBus::new(settings).unwrap());
    let memory = MemoryBus::new(RETENTION);
    let buses = std::cell::RefCell::new(Buses { server, redis, memory, epoch: 5, last: 0, feed: 0 });
    let config = Config { cases: 60, max_shrink_iters: 200, failure_persistence: None, ..Config::default() };
    let calls = prop::collection::vec(call(), 1..60);
    let outcome = TestRunner::new(config).run(&calls, |calls| {
        runtime.block_on(buses.borrow_mut().check(&calls));
        Ok(())
    });
    assert!(outcome.is_ok(), "{outcome:?}");
}
