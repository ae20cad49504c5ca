//! A Redis that comes back with less than it had, or with something else.

use bus::History;
use e2e::{proxy::Proxy, redis::RedisServer};

use crate::{follower::Follower, words::*, *};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_comes_back_empty_is_filled_from_where_the_listener_can() {
    let mut server = RedisServer::start().await.unwrap();
    let bus = bus_at(server.port());
    let (mut publisher, reader) = (bus.publisher(SOURCE), bus.reader(SOURCE));
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    let mut follower = Follower::new(&bus, &["a", "b"]);
    follower.until(0).await;
    publisher.publish(&batch("aaa", 5, 0, &["a", "b", "a"])).await.unwrap();
    follower.until(3).await;
    server.restart(false).await.unwrap();
    let next = batch("aaa", 5, 3, &["b", "a"]);
    eventually("the publisher is told", BACK_WITHIN, async || match publisher.publish(&next).await {
        Ok(Answer::Behind { held: None }) => Ok(()),
        other => Err(other),
    })
    .await;
    let waits = async || reader.history(&feed("aaa"), &topic("a"), 3).await;
    eventually("the reader is told to wait", BACK_WITHIN, async || match waits().await {
        Ok(History::NotReady) => Ok(()),
        other => Err(other),
    })
    .await;
    // This listener still has what came after 1.
    publisher.begin(&term("aaa", 5, 1)).await.unwrap();
    assert_eq!(publisher.publish(&next).await.unwrap(), Answer::Behind { held: Some(1) });
    let (refilled, followed) = tokio::join!(
        async {
            assert_eq!(publisher.publish(&batch("aaa", 5, 1, &["b", "a"])).await.unwrap(), Answer::Applied);
            publisher.publish(&next).await.unwrap()
        },
        follower.until(5)
    );
    assert_eq!((refilled, followed), (Answer::Applied, ()));
    assert_eq!(follower.seen, [1, 2, 3, 4, 5]);
    assert_eq!(follower.resets, 0);
    assert_eq!(reader.history(&feed("aaa"), &topic("a"), 0).await.unwrap(), History::Trimmed);
    assert_eq!(offsets(reader.history(&feed("aaa"), &topic("a"), 1).await.unwrap(), 1), [3, 5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_comes_back_older_is_brought_up_to_date() {
    let mut server = RedisServer::start().await.unwrap();
    let bus = bus_at(server.port());
    let (mut publisher, reader) = (bus.publisher(SOURCE), bus.reader(SOURCE));
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    let mut follower = Follower::new(&bus, &["a"]);
    follower.until(0).await;
    let batches: Vec<_> = (0..10).map(|after| batch("aaa", 5, after, &["a"])).collect();
    for next in &batches[..5] {
        publisher.publish(next).await.unwrap();
    }
    let snapshot = server.snapshot().unwrap();
    for next in &batches[5..9] {
        publisher.publish(next).await.unwrap();
    }
    follower.until(9).await;
    server.restore(&snapshot).await.unwrap();
    eventually("the publisher is told", BACK_WITHIN, async || match publisher.publish(&batches[9]).await {
        Ok(Answer::Behind { held: Some(5) }) => Ok(()),
        other => Err(other),
    })
    .await;
    // Nobody who has more is told to begin anew.
    eventually("the reader waits", BACK_WITHIN, async || match reader.history(&feed("aaa"), &topic("a"), 9).await {
        Ok(History::NotReady) => Ok(()),
        other => Err(other),
    })
    .await;
    let refill = async {
        for next in &batches[5..] {
            assert_eq!(publisher.publish(next).await.unwrap(), Answer::Applied);
        }
    };
    tokio::join!(refill, follower.until(10));
    assert_eq!(follower.seen, (1..=10).collect::<Vec<_>>());
    assert_eq!(follower.resets, 0);
    assert_eq!(offsets(reader.history(&feed("aaa"), &topic("a"), 0).await.unwrap(), 0).len(), 10);
}

async fn replica_of(master: &RedisServer) -> RedisServer {
    let port = master.port().to_string();
    let replica = RedisServer::start_with(&["--replicaof", &format!("127.0.0.1 {port}")]).await.unwrap();
    eventually("the replica is linked", Duration::from_secs(20), async || {
        let info: String = replica.command(&["INFO", "replication"]).await.unwrap();
        if info.contains("master_link_status:up") { Ok(()) } else { Err(info) }
    })
    .await;
    replica
}

async fn replica_has(replica: &RedisServer, last: &str) {
    eventually("the replica has it", Duration::from_secs(5), async || {
        let held: Option<String> = replica.command(&["HGET", "test:{notify}:head", "last"]).await.unwrap();
        if held.as_deref() == Some(last) { Ok(()) } else { Err(held) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_lacked_the_end_and_was_promoted_is_brought_up_to_date() {
    let master = RedisServer::start().await.unwrap();
    let replica = replica_of(&master).await;
    let proxy = Proxy::to(master.port()).await.unwrap();
    let bus = bus_at(proxy.port());
    let mut publisher = bus.publisher(SOURCE);
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    let mut follower = Follower::new(&bus, &["a"]);
    follower.until(0).await;
    publisher.publish(&batch("aaa", 5, 0, &["a"])).await.unwrap();
    replica_has(&replica, "1").await;
    replica.command::<()>(&["REPLICAOF", "NO", "ONE"]).await.unwrap();
    publisher.publish(&batch("aaa", 5, 1, &["a"])).await.unwrap();
    follower.until(2).await;

    proxy.switch_to(replica.port());
    eventually("the publisher is told", BACK_WITHIN, async || {
        match publisher.publish(&batch("aaa", 5, 2, &["a"])).await {
            Ok(Answer::Behind { held: Some(1) }) => Ok(()),
            other => Err(other),
        }
    })
    .await;
    for after in [1, 2] {
        assert_eq!(publisher.publish(&batch("aaa", 5, after, &["a"])).await.unwrap(), Answer::Applied);
    }
    follower.until(3).await;
    assert_eq!((follower.seen, follower.resets), (vec![1, 2, 3], 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_promoted_with_another_history_is_a_conflict_until_a_new_feed() {
    let master = RedisServer::start().await.unwrap();
    let replica = replica_of(&master).await;
    let proxy = Proxy::to(master.port()).await.unwrap();
    let bus = bus_at(proxy.port());
    let mut publisher = bus.publisher(SOURCE);
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    let mut follower = Follower::new(&bus, &["a"]);
    follower.until(0).await;
    publisher.publish(&batch("aaa", 5, 0, &["a"])).await.unwrap();
    replica_has(&replica, "1").await;
    replica.command::<()>(&["REPLICAOF", "NO", "ONE"]).await.unwrap();
    // The networks are split: there another listener leads.
    let mut other = bus_at(replica.port()).publisher(SOURCE);
    other.begin(&term("bbb", 6, 0)).await.unwrap();
    other.publish(&batch("bbb", 6, 0, &["a", "a", "a"])).await.unwrap();
    publisher.publish(&batch("aaa", 5, 1, &["a"])).await.unwrap();
    follower.until(2).await;
    assert_eq!(follower.seen, [1, 2]);

    proxy.switch_to(replica.port());
    let conflict = Answer::Conflict { feed: feed("bbb"), epoch: 6, held: 3 };
    eventually("the publisher is told", BACK_WITHIN, async || {
        match publisher.publish(&batch("aaa", 5, 2, &["a"])).await {
            Ok(answer) if answer == conflict => Ok(()),
            other => Err(other),
        }
    })
    .await;
    // The follower is told at the next chance, and begins anew.
    while follower.resets == 0 {
        follower.step().await;
    }
    let position = follower.position.clone().unwrap();
    assert_eq!((position.feed, position.epoch, position.last), (feed("bbb"), 6, 3));
    // The publisher's next term has a higher epoch.
    assert_eq!(publisher.begin(&term("ccc", 7, 0)).await.unwrap(), Answer::Applied);
    publisher.publish(&batch("ccc", 7, 0, &["a"])).await.unwrap();
    while follower.resets == 1 {
        follower.step().await;
    }
    follower.until(1).await;
    assert_eq!(follower.position.unwrap().feed, feed("ccc"));
}

#[tokio::test]
async fn a_publisher_on_a_replica_waits_for_the_master() {
    let master = RedisServer::start().await.unwrap();
    let replica = replica_of(&master).await;
    let mut publisher = bus_at(replica.port()).publisher(SOURCE);
    let refused = publisher.begin(&term("aaa", 5, 0)).await;
    assert!(matches!(refused, Err(bus::BusError::Unavailable(_))), "{refused:?}");
    replica.command::<()>(&["REPLICAOF", "NO", "ONE"]).await.unwrap();
    assert_eq!(publisher.begin(&term("aaa", 5, 0)).await.unwrap(), Answer::Applied);
}

#[tokio::test]
async fn a_history_without_one_of_its_entries_is_refused() {
    let server = RedisServer::start().await.unwrap();
    let bus = bus_at(server.port());
    let (mut publisher, reader) = (bus.publisher(SOURCE), bus.reader(SOURCE));
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    for after in 0..5 {
        publisher.publish(&batch("aaa", 5, after, &["a"])).await.unwrap();
    }
    let history = async |after| reader.history(&feed("aaa"), &topic("a"), after).await.unwrap();
    let stream = "test:{notify}:h:aaa:a";
    server.command::<()>(&["XDEL", stream, "3-0"]).await.unwrap();
    assert_eq!(history(0).await, History::Trimmed);
    assert_eq!(history(2).await, History::Trimmed);
    assert_eq!(offsets(history(3).await, 3), [4, 5]);
    // The last one: only the tail in the head knows.
    server.command::<()>(&["XDEL", stream, "5-0"]).await.unwrap();
    assert_eq!(history(3).await, History::Trimmed);
    assert_eq!(offsets(history(5).await, 5), NOTHING);
    publisher.publish(&batch("aaa", 5, 5, &["a"])).await.unwrap();
    assert_eq!(history(4).await, History::Trimmed);
    assert_eq!(offsets(history(5).await, 5), [6]);
    // The tail: the entries tell that there was one, and the next entry that something was before.
    server.command::<()>(&["HDEL", "test:{notify}:head", "t:a"]).await.unwrap();
    assert_eq!(history(3).await, History::Trimmed);
    publisher.publish(&batch("aaa", 5, 6, &["a"])).await.unwrap();
    assert_eq!(history(3).await, History::Trimmed);
    assert_eq!(offsets(history(6).await, 6), [7]);
}

#[tokio::test]
async fn a_history_that_was_evicted_is_refused_and_begins_anew() {
    let server = RedisServer::start().await.unwrap();
    let bus = bus_at(server.port());
    let (mut publisher, reader) = (bus.publisher(SOURCE), bus.reader(SOURCE));
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    publisher.publish(&batch("aaa", 5, 0, &["a", "b"])).await.unwrap();
    server.command::<()>(&["DEL", "test:{notify}:h:aaa:a"]).await.unwrap();
    assert_eq!(reader.history(&feed("aaa"), &topic("a"), 0).await.unwrap(), History::Trimmed);
    assert_eq!(offsets(reader.history(&feed("aaa"), &topic("a"), 1).await.unwrap(), 1), NOTHING);
    assert_eq!(offsets(reader.history(&feed("aaa"), &topic("b"), 0).await.unwrap(), 0), [2]);
    publisher.publish(&batch("aaa", 5, 2, &["a"])).await.unwrap();
    assert_eq!(reader.history(&feed("aaa"), &topic("a"), 0).await.unwrap(), History::Trimmed);
    assert_eq!(offsets(reader.history(&feed("aaa"), &topic("a"), 1).await.unwrap(), 1), [3]);
}

#[tokio::test]
async fn after_the_head_was_evicted_old_entries_do_not_count() {
    let server = RedisServer::start().await.unwrap();
    let bus = bus_at(server.port());
    let (mut publisher, reader) = (bus.publisher(SOURCE), bus.reader(SOURCE));
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    for after in 0..4 {
        publisher.publish(&batch("aaa", 5, after, &["a"])).await.unwrap();
    }
    server.command::<()>(&["DEL", "test:{notify}:head"]).await.unwrap();
    let history = async |after| reader.history(&feed("aaa"), &topic("a"), after).await.unwrap();
    assert_eq!(history(4).await, History::NotReady);
    let next = batch("aaa", 5, 4, &["a"]);
    assert_eq!(publisher.publish(&next).await.unwrap(), Answer::Behind { held: None });
    assert_eq!(publisher.begin(&term("aaa", 5, 2)).await.unwrap(), Answer::Applied);
    assert_eq!(history(1).await, History::Trimmed);
    assert_eq!(offsets(history(2).await, 2), NOTHING);
    assert_eq!(history(3).await, History::NotReady);
    for after in 2..5 {
        assert_eq!(publisher.publish(&batch("aaa", 5, after, &["a"])).await.unwrap(), Answer::Applied);
    }
    assert_eq!(history(1).await, History::Trimmed);
    assert_eq!(offsets(history(2).await, 2), [3, 4, 5]);

    // The same where the bus ended: what lies there may lack something that nobody knows of.
    server.command::<()>(&["DEL", "test:{notify}:head"]).await.unwrap();
    assert_eq!(publisher.begin(&term("aaa", 5, 5)).await.unwrap(), Answer::Applied);
    publisher.publish(&batch("aaa", 5, 5, &["a"])).await.unwrap();
    assert_eq!(history(4).await, History::Trimmed);
    assert_eq!(offsets(history(5).await, 5), [6]);
    assert_eq!(server.command::<u64>(&["XLEN", "test:{notify}:h:aaa:a"]).await.unwrap(), 1);
}
