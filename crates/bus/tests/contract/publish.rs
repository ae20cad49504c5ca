use bus::{Answer, Event, Retention};
use protocol::{Batch, Source};

use super::*;

const SOURCE: Source = Source::Notify;

pub async fn a_batch_that_continues_is_applied<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let (mut publisher, reader) = (harness.bus().publisher(SOURCE), harness.bus().reader(SOURCE));
    publisher.begin(&term("aaa", 5, 10)).await.unwrap();
    let mut follower = Follower::new(&harness.bus(), &["a", "b"]);
    follower.until(10).await;
    for next in [batch("aaa", 5, 10, &["a", "b", "a"]), batch("aaa", 5, 13, &["b"])] {
        assert_eq!(publisher.publish(&next).await.unwrap(), Answer::Applied);
        let head = reader.head().await.unwrap().unwrap();
        assert_eq!((head.last, head.at), (next.last, next.at));
        assert_eq!(follower.subscription.next().await, Event::Batch(next));
    }
}

pub async fn a_repeat_is_not_applied_twice<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let (mut publisher, reader) = (harness.bus().publisher(SOURCE), harness.bus().reader(SOURCE));
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    let batches = [batch("aaa", 5, 0, &["a", "b"]), batch("aaa", 5, 2, &["a"]), batch("aaa", 5, 3, &["b"])];
    for next in &batches {
        assert_eq!(publisher.publish(next).await.unwrap(), Answer::Applied);
    }
    let before = reader.head().await.unwrap();
    for again in &batches {
        assert_eq!(publisher.publish(again).await.unwrap(), Answer::Already);
    }
    assert_eq!(publisher.publish(&batch("aaa", 5, 1, &["b", "a"])).await.unwrap(), Answer::Already);
    assert_eq!(reader.head().await.unwrap(), before);
    assert_eq!(offsets(reader.history(&feed("aaa"), &topic("a"), 0).await.unwrap(), 0), [1, 3]);
}

pub async fn a_batch_that_ends_later_but_begins_earlier_is_behind<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let mut publisher = harness.bus().publisher(SOURCE);
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    publisher.publish(&batch("aaa", 5, 0, &["a", "b"])).await.unwrap();
    let over = batch("aaa", 5, 1, &["b", "a"]);
    assert_eq!(publisher.publish(&over).await.unwrap(), Answer::Behind { held: Some(2) });
}

pub async fn a_batch_after_a_hole_is_behind<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let (mut publisher, reader) = (harness.bus().publisher(SOURCE), harness.bus().reader(SOURCE));
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    publisher.publish(&batch("aaa", 5, 0, &["a", "b"])).await.unwrap();
    let before = reader.head().await.unwrap();
    let ahead = batch("aaa", 5, 3, &["a"]);
    assert_eq!(publisher.publish(&ahead).await.unwrap(), Answer::Behind { held: Some(2) });
    assert_eq!(reader.head().await.unwrap(), before);
    publisher.publish(&batch("aaa", 5, 2, &["b"])).await.unwrap();
    assert_eq!(publisher.publish(&ahead).await.unwrap(), Answer::Applied);
}

pub async fn without_a_feed_all_batches_are_behind<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let mut publisher = harness.bus().publisher(SOURCE);
    let behind = Answer::Behind { held: None };
    assert_eq!(publisher.publish(&batch("aaa", 5, 0, &["a"])).await.unwrap(), behind);
    assert_eq!(publisher.publish(&batch("aaa", 5, 0, &[])).await.unwrap(), behind);
    assert_eq!(harness.bus().reader(SOURCE).head().await.unwrap(), None);
}

pub async fn another_feed_and_another_epoch_are_in_conflict<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let (mut publisher, reader) = (harness.bus().publisher(SOURCE), harness.bus().reader(SOURCE));
    publisher.begin(&term("aaa", 5, 3)).await.unwrap();
    let before = reader.head().await.unwrap();
    let conflict = Answer::Conflict { feed: feed("aaa"), epoch: 5, held: 3 };
    for (id, epoch, after) in [("bbb", 5, 3), ("aaa", 4, 3), ("aaa", 6, 3), ("bbb", 9, 0), ("bbb", 1, 9)] {
        let other = batch(id, epoch, after, &["a"]);
        assert_eq!(publisher.publish(&other).await.unwrap(), conflict, "{id} {epoch} {after}");
    }
    assert_eq!(reader.head().await.unwrap(), before);
}

pub async fn a_deposed_publisher_is_in_conflict<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let mut old = harness.bus().publisher(SOURCE);
    old.begin(&term("aaa", 5, 0)).await.unwrap();
    let first = batch("aaa", 5, 0, &["a"]);
    assert_eq!(old.publish(&first).await.unwrap(), Answer::Applied);

    let mut same_feed = harness.bus().publisher(SOURCE);
    same_feed.begin(&term("aaa", 6, 1)).await.unwrap();
    let conflict = Answer::Conflict { feed: feed("aaa"), epoch: 6, held: 1 };
    assert_eq!(old.publish(&batch("aaa", 5, 1, &["a"])).await.unwrap(), conflict);
    assert_eq!(old.publish(&first).await.unwrap(), conflict);

    let mut new_feed = harness.bus().publisher(SOURCE);
    new_feed.begin(&term("bbb", 7, 0)).await.unwrap();
    let conflict = Answer::Conflict { feed: feed("bbb"), epoch: 7, held: 0 };
    assert_eq!(same_feed.publish(&batch("aaa", 6, 1, &["a"])).await.unwrap(), conflict);
    assert_eq!(old.begin(&term("aaa", 5, 1)).await.unwrap(), conflict);
}

pub async fn a_watermark_counts_only_where_the_bus_ends<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let (mut publisher, reader) = (harness.bus().publisher(SOURCE), harness.bus().reader(SOURCE));
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    publisher.publish(&batch("aaa", 5, 0, &["a", "b"])).await.unwrap();
    let watermark = |last, at| Batch::watermark(feed("aaa"), 5, last, at);
    assert_eq!(publisher.publish(&watermark(3, 9_000)).await.unwrap(), Answer::Behind { held: Some(2) });
    assert_eq!(publisher.publish(&watermark(1, 9_000)).await.unwrap(), Answer::Already);
    assert_eq!(reader.head().await.unwrap().unwrap().at, 1_002);
    assert_eq!(publisher.publish(&watermark(2, 9_000)).await.unwrap(), Answer::Applied);
    assert_eq!(reader.head().await.unwrap().unwrap().at, 9_000);
    // The same again is another watermark.
    assert_eq!(publisher.publish(&watermark(2, 9_001)).await.unwrap(), Answer::Applied);
}

pub async fn a_batch_with_many_topics_is_one<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let (mut publisher, reader) = (harness.bus().publisher(SOURCE), harness.bus().reader(SOURCE));
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    let mut follower = Follower::new(&harness.bus(), &[]);
    follower.until(0).await;
    // More than a Lua stack holds.
    let names: Vec<_> = (0..10_000).map(|n| format!("topic {n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let large = batch("aaa", 5, 0, &names);
    assert_eq!(publisher.publish(&large).await.unwrap(), Answer::Applied);
    assert_eq!(reader.head().await.unwrap().unwrap().tails.len(), 10_000);
    assert_eq!(offsets(reader.history(&feed("aaa"), &topic("topic 7"), 0).await.unwrap(), 0), [8]);
    assert_eq!(follower.subscription.next().await, Event::Batch(large));
}

pub async fn any_payload_and_any_topic_name_arrives<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let (mut publisher, reader) = (harness.bus().publisher(SOURCE), harness.bus().reader(SOURCE));
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    let mut follower = Follower::new(&harness.bus(), &[]);
    follower.until(0).await;
    let names = ["public.\"Größe\"", "{notify}", "t:a", "a b*?[]", ":", "x"];
    let large = "ü".repeat(500_000);
    let payloads = ["", "\0\r\n\u{7f}", "{\"a\":1}", "$-1\r\n", "*", &large];
    let odd = batch_of("aaa", 5, 0, names.into_iter().zip(payloads));
    assert_eq!(publisher.publish(&odd).await.unwrap(), Answer::Applied);
    for (name, slice) in &odd.slices {
        let history = reader.history(&feed("aaa"), name, 0).await.unwrap();
        assert_eq!(history, bus::History::Complete { through: 6, slices: vec![slice.clone()] });
    }
    assert_eq!(follower.subscription.next().await, Event::Batch(odd));
}
