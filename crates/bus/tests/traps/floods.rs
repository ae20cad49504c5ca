use std::{sync::mpsc, thread};

use bus::{Answer, Bus, Retention};
use e2e::redis::RedisServer;

use crate::{follower::Follower, words::*, *};

/// A follower in a thread of its own that is blocked, sockets and timers and all, from offset 0
/// until it is released; then it follows to `last`.
struct Blocked {
    release: mpsc::Sender<()>,
    thread: thread::JoinHandle<Follower>,
}

impl Blocked {
    fn start(bus: Bus, last: u64) -> Self {
        let (release, released) = mpsc::channel();
        let (blocked, is_blocked) = mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut follower = Follower::new(&bus, &["a"]);
                follower.until(0).await;
                blocked.send(()).unwrap();
                released.recv().unwrap();
                follower.until(last).await;
                follower
            })
        });
        is_blocked.recv().unwrap();
        Self { release, thread }
    }

    fn release(self) -> Follower {
        self.release.send(()).unwrap();
        self.thread.join().unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_50_000_batches_while_the_subscriber_is_stalled_is_whole() {
    const BATCHES: u64 = 50_000;
    let server = RedisServer::start().await.unwrap();
    let bus = bus_at(server.port());
    let mut publisher = bus.publisher(SOURCE);
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    let mut does_not_ask = Follower::new(&bus, &["a"]);
    does_not_ask.until(0).await;
    let blocked = Blocked::start(bus.clone(), BATCHES);
    for after in 0..BATCHES {
        assert_eq!(publisher.publish(&batch("aaa", 5, after, &["a"])).await.unwrap(), Answer::Applied);
    }
    does_not_ask.until(BATCHES).await;
    let blocked = tokio::task::spawn_blocking(|| blocked.release()).await.unwrap();
    for follower in [does_not_ask, blocked] {
        assert_eq!(follower.seen.len(), BATCHES as usize);
        assert!(follower.seen.iter().copied().eq(1..=BATCHES));
        assert_eq!(follower.resets, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_redis_drops_for_falling_behind_repairs_it() {
    const BATCHES: u64 = 40;
    let server = RedisServer::start().await.unwrap();
    let limit = ["CONFIG", "SET", "client-output-buffer-limit", "pubsub 4mb 2mb 1"];
    server.command::<()>(&limit).await.unwrap();
    let bus = bus_with(server.port(), Retention { bytes: 100_000_000, ..Retention::default() });
    let mut publisher = bus.publisher(SOURCE);
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    let blocked = Blocked::start(bus.clone(), BATCHES);
    let payload = "x".repeat(1_000_000);
    for after in 0..BATCHES {
        let large = batch_of("aaa", 5, after, [("a", payload.as_str())]);
        assert_eq!(publisher.publish(&large).await.unwrap(), Answer::Applied);
    }
    assert_eq!(connections(&server, "pubsub").await, 0, "Redis did not drop it");
    let follower = tokio::task::spawn_blocking(|| blocked.release()).await.unwrap();
    assert!(follower.losses > 0);
    assert_eq!(follower.resets, 0);
    assert_eq!(follower.seen, (1..=BATCHES).collect::<Vec<_>>());
}
