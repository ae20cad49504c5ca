use bus::{Answer, Event, Position, Retention};
use protocol::Source;

use super::*;

const SOURCE: Source = Source::Notify;

pub async fn a_subscriber_gets_a_gap_first_and_then_batches<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let mut publisher = harness.bus().publisher(SOURCE);
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    publisher.publish(&batch("aaa", 5, 0, &["a"])).await.unwrap();
    let mut subscription = harness.bus().subscribe(SOURCE);
    assert_eq!(subscription.next().await, Event::Gap);
    subscription.set_position(Position { feed: feed("aaa"), epoch: 5, last: 1 });
    for after in 1..5 {
        let next = batch("aaa", 5, after, &["b"]);
        publisher.publish(&next).await.unwrap();
        assert_eq!(subscription.next().await, Event::Batch(next));
    }
}

pub async fn a_subscriber_without_a_position_gets_gaps<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let mut publisher = harness.bus().publisher(SOURCE);
    let mut subscription = harness.bus().subscribe(SOURCE);
    assert_eq!(subscription.next().await, Event::Gap);
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    assert_eq!(subscription.next().await, Event::Gap);
    publisher.publish(&batch("aaa", 5, 0, &["a"])).await.unwrap();
    assert_eq!(subscription.next().await, Event::Gap);
}

pub async fn a_batch_that_the_position_has_is_left_out<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let mut publisher = harness.bus().publisher(SOURCE);
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    let mut subscription = harness.bus().subscribe(SOURCE);
    assert_eq!(subscription.next().await, Event::Gap);
    for after in 0..3 {
        publisher.publish(&batch("aaa", 5, after, &["a"])).await.unwrap();
    }
    let last = batch("aaa", 5, 3, &["a", "a"]);
    publisher.publish(&last).await.unwrap();
    // The head was read late: what waits is known already, but for the end of the last.
    subscription.set_position(Position { feed: feed("aaa"), epoch: 5, last: 4 });
    assert_eq!(subscription.next().await, Event::Batch(last));
}

pub async fn a_hole_before_a_batch_is_a_gap<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let mut publisher = harness.bus().publisher(SOURCE);
    publisher.begin(&term("aaa", 5, 3)).await.unwrap();
    let mut subscription = harness.bus().subscribe(SOURCE);
    assert_eq!(subscription.next().await, Event::Gap);
    subscription.set_position(Position { feed: feed("aaa"), epoch: 5, last: 2 });
    publisher.publish(&batch("aaa", 5, 3, &["a"])).await.unwrap();
    assert_eq!(subscription.next().await, Event::Gap);
}

pub async fn a_subscriber_that_lags_is_told<H: Harness>() {
    const BATCHES: u64 = 20_000;
    let harness = H::start(Retention::default()).await;
    let mut publisher = harness.bus().publisher(SOURCE);
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    let mut follower = Follower::new(&harness.bus(), &["a"]);
    follower.until(0).await;
    for after in 0..BATCHES {
        assert_eq!(publisher.publish(&batch("aaa", 5, after, &["a"])).await.unwrap(), Answer::Applied);
    }
    follower.until(BATCHES).await;
    assert!(follower.gaps > 1, "it did not lag");
    assert_eq!(follower.resets, 0);
    assert_eq!(follower.seen, (1..=BATCHES).collect::<Vec<_>>());
}

pub async fn all_subscribers_get_all_changes_once_and_in_order<H: Harness>() {
    const BATCHES: u64 = 200;
    let harness = H::start(Retention::default()).await;
    let mut publisher = harness.bus().publisher(SOURCE);
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    let mut followers: Vec<_> = (0..4).map(|_| Follower::new(&harness.bus(), &["a", "b"])).collect();
    for follower in &mut followers {
        follower.until(0).await;
    }
    let publish = async {
        for n in 0..BATCHES {
            publisher.publish(&batch("aaa", 5, n * 3, &["a", "b", "a"])).await.unwrap();
        }
    };
    let [one, two, three, four] = &mut followers[..] else { unreachable!() };
    let end = BATCHES * 3;
    tokio::join!(publish, one.until(end), two.until(end), three.until(end), four.until(end));
    for follower in &followers {
        assert_eq!(follower.seen, (1..=end).collect::<Vec<_>>());
        assert_eq!(follower.resets, 0);
    }
}

pub async fn a_takeover_is_no_gap<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let mut old = harness.bus().publisher(SOURCE);
    old.begin(&term("aaa", 5, 0)).await.unwrap();
    let mut follower = Follower::new(&harness.bus(), &["a"]);
    follower.until(0).await;
    old.publish(&batch("aaa", 5, 0, &["a"])).await.unwrap();
    let mut new = harness.bus().publisher(SOURCE);
    new.begin(&term("aaa", 6, 1)).await.unwrap();
    new.publish(&batch("aaa", 6, 1, &["a"])).await.unwrap();
    let gaps = follower.gaps;
    follower.until(2).await;
    assert_eq!((follower.gaps, follower.resets), (gaps, 0));
    assert_eq!(follower.seen, [1, 2]);
    assert_eq!(follower.position.unwrap().epoch, 6);
}

pub async fn a_new_feed_is_a_gap<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let mut publisher = harness.bus().publisher(SOURCE);
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    let mut follower = Follower::new(&harness.bus(), &["a"]);
    follower.until(0).await;
    publisher.begin(&term("bbb", 6, 0)).await.unwrap();
    assert_eq!(follower.subscription.next().await, Event::Gap);
}

pub async fn subscriptions_are_counted<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let reader = harness.bus().reader(SOURCE);
    assert_eq!(reader.subscribers().await.unwrap(), 0);
    let mut first = harness.bus().subscribe(SOURCE);
    let mut second = harness.bus().subscribe(SOURCE);
    // The gap at the start says that it is connected.
    assert_eq!(first.next().await, Event::Gap);
    assert_eq!(second.next().await, Event::Gap);
    assert_eq!(reader.subscribers().await.unwrap(), 2);
    assert_eq!(harness.bus().reader(Source::Log).subscribers().await.unwrap(), 0);
    drop(first);
    let one_left = async {
        while reader.subscribers().await.unwrap() != 1 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(5), one_left).await.unwrap();
}
