//! Redis away, dead or silent.

use bus::Event;
use e2e::{proxy::Proxy, redis::RedisServer};
use tokio::time::{Instant, sleep, timeout};

use crate::{follower::Follower, words::*, *};

/// So long may a half-open connection go unnoticed.
const NOTICED_WITHIN: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_20_s_without_redis_all_come_back_by_themselves() {
    let mut server = RedisServer::start().await.unwrap();
    let bus = bus_at(server.port());
    let mut publisher = bus.publisher(SOURCE);
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    let mut follower = Follower::new(&bus, &["a"]);
    follower.until(0).await;
    publisher.publish(&batch("aaa", 5, 0, &["a"])).await.unwrap();
    follower.until(1).await;
    server.kill().unwrap();
    let next = batch("aaa", 5, 1, &["a"]);
    let following = async {
        follower.until(2).await;
        Instant::now()
    };
    let publishing = async {
        deliver(&mut publisher, &next, Duration::from_secs(60)).await;
        Instant::now()
    };
    let mending = async {
        sleep(Duration::from_secs(20)).await;
        server.restart(true).await.unwrap();
        Instant::now()
    };
    let (followed, published, back) = tokio::join!(following, publishing, mending);
    assert!(published - back < BACK_WITHIN, "{:?}", published - back);
    assert!(followed - back < BACK_WITHIN, "{:?}", followed - back);
    assert_eq!(follower.seen, [1, 2]);
    assert_eq!((follower.losses, follower.resets), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_open_connection_of_the_publisher_is_replaced() {
    let server = RedisServer::start().await.unwrap();
    let proxy = Proxy::to(server.port()).await.unwrap();
    let mut publisher = bus_at(proxy.port()).publisher(SOURCE);
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    let next = batch("aaa", 5, 0, &["a"]);
    proxy.stall();
    let noticed = timeout(NOTICED_WITHIN, publisher.publish(&next)).await.expect("it is noticed");
    assert!(matches!(noticed, Err(bus::BusError::Unavailable(_))), "{noticed:?}");
    // While it lasts each attempt fails in time as well.
    let again = timeout(NOTICED_WITHIN, publisher.publish(&next)).await.expect("it is noticed");
    assert!(matches!(again, Err(bus::BusError::Unavailable(_))), "{again:?}");
    proxy.forward();
    assert_eq!(timeout(BACK_WITHIN, publisher.publish(&next)).await.unwrap().unwrap(), Answer::Applied);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_open_connection_of_a_subscriber_is_replaced() {
    let server = RedisServer::start().await.unwrap();
    let mut publisher = bus_at(server.port()).publisher(SOURCE);
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    let proxy = Proxy::to(server.port()).await.unwrap();
    let mut follower = Follower::new(&bus_at(proxy.port()), &["a"]);
    follower.until(0).await;
    proxy.stall();
    publisher.publish(&batch("aaa", 5, 0, &["a"])).await.unwrap();
    let noticed = timeout(NOTICED_WITHIN, follower.subscription.next()).await;
    assert_eq!(noticed.expect("it is noticed"), Event::Lost);
    proxy.forward();
    timeout(BACK_WITHIN, follower.until(1)).await.expect("it comes back");
    assert_eq!((follower.seen, follower.resets), (vec![1], 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_readers_share_a_connection_and_the_wait_for_a_new_one() {
    let server = RedisServer::start().await.unwrap();
    let proxy = Proxy::to(server.port()).await.unwrap();
    let bus = bus_at(proxy.port());
    bus.publisher(SOURCE).begin(&term("aaa", 5, 0)).await.unwrap();
    let reader = bus.reader(SOURCE);
    let read_by_many = async || {
        let readers = (0..200).map(|_| {
            let reader = reader.clone();
            tokio::spawn(async move { reader.head().await.is_ok_and(|head| head.is_some()) })
        });
        let readers: Vec<_> = readers.collect();
        let mut succeeded = 0;
        for read in readers {
            succeeded += usize::from(read.await.unwrap());
        }
        succeeded
    };
    assert_eq!(read_by_many().await, 200);
    // This connection's own, and that of the question.
    eventually("one connection", BACK_WITHIN, async || match connections(&server, "normal").await {
        2 => Ok(()),
        count => Err(count),
    })
    .await;
    proxy.stall();
    assert_eq!(timeout(NOTICED_WITHIN, read_by_many()).await.expect("all are told in time"), 0);
    assert_eq!(timeout(NOTICED_WITHIN, read_by_many()).await.expect("all are told in time"), 0);
    proxy.forward();
    eventually("they read again", BACK_WITHIN, async || match read_by_many().await {
        200 => Ok(()),
        succeeded => Err(succeeded),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_stood_still_is_joined_again() {
    let server = RedisServer::start().await.unwrap();
    let bus = bus_at(server.port());
    let mut publisher = bus.publisher(SOURCE);
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    let mut follower = Follower::new(&bus, &["a"]);
    follower.until(0).await;
    server.pause().unwrap();
    assert!(publisher.publish(&batch("aaa", 5, 0, &["a"])).await.is_err());
    assert_eq!(timeout(NOTICED_WITHIN, follower.subscription.next()).await.unwrap(), Event::Lost);
    server.resume().unwrap();
    // What was sent then may have been applied now.
    deliver(&mut publisher, &batch("aaa", 5, 0, &["a"]), BACK_WITHIN).await;
    timeout(BACK_WITHIN, follower.until(1)).await.expect("it comes back");
    assert_eq!((follower.seen, follower.resets), (vec![1], 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_cut_is_told_and_replaced_at_once() {
    let server = RedisServer::start().await.unwrap();
    let proxy = Proxy::to(server.port()).await.unwrap();
    let bus = bus_at(proxy.port());
    let mut publisher = bus.publisher(SOURCE);
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    let mut follower = Follower::new(&bus, &["a"]);
    follower.until(0).await;
    for after in 0..5 {
        proxy.cut();
        assert_eq!(timeout(BACK_WITHIN, follower.subscription.next()).await.unwrap(), Event::Lost);
        deliver(&mut publisher, &batch("aaa", 5, after, &["a"]), BACK_WITHIN).await;
        timeout(BACK_WITHIN, follower.until(after + 1)).await.expect("it comes back");
    }
    assert_eq!((follower.seen, follower.resets), (vec![1, 2, 3, 4, 5], 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_starts_before_redis_is_told_and_waits() {
    let server = RedisServer::start().await.unwrap();
    let proxy = Proxy::to(server.port()).await.unwrap();
    proxy.refuse();
    let mut subscription = bus_at(proxy.port()).subscribe(SOURCE);
    assert_eq!(timeout(BACK_WITHIN, subscription.next()).await.unwrap(), Event::Lost);
    assert!(timeout(Duration::from_secs(2), subscription.next()).await.is_err(), "it is told once");
    proxy.forward();
    assert_eq!(timeout(BACK_WITHIN, subscription.next()).await.unwrap(), Event::Gap);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_is_dropped_closes_its_connection() {
    let server = RedisServer::start().await.unwrap();
    let bus = bus_at(server.port());
    let mut subscriptions: Vec<_> = (0..3).map(|_| bus.subscribe(SOURCE)).collect();
    for subscription in &mut subscriptions {
        assert_eq!(subscription.next().await, Event::Gap);
    }
    assert_eq!(connections(&server, "pubsub").await, 3);
    subscriptions.truncate(1);
    eventually("one is left", BACK_WITHIN, async || match connections(&server, "pubsub").await {
        1 => Ok(()),
        count => Err(count),
    })
    .await;
    let normal = connections(&server, "normal").await;
    assert_eq!(normal, 1, "the connection that asks");
}
