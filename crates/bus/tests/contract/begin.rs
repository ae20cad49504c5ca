use bus::{Answer, Event, Head, History, Retention};
use protocol::{Batch, Source};

use super::*;

const SOURCE: Source = Source::Notify;

pub async fn an_empty_bus_takes_any_feed<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let (mut publisher, reader) = (harness.bus().publisher(SOURCE), harness.bus().reader(SOURCE));
    assert_eq!(reader.head().await.unwrap(), None);
    let term = term("aaa", 5, 40);
    assert_eq!(publisher.begin(&term).await.unwrap(), Answer::Applied);
    let expected = Head {
        feed: term.feed,
        epoch: 5,
        base: 40,
        last: 40,
        at: term.at,
        catalogue: term.catalogue,
        tails: [].into(),
    };
    assert_eq!(reader.head().await.unwrap(), Some(expected));
}

pub async fn a_feed_that_ends_where_the_term_begins_is_taken_over<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let (mut publisher, reader) = (harness.bus().publisher(SOURCE), harness.bus().reader(SOURCE));
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    publisher.publish(&batch("aaa", 5, 0, &["a", "b"])).await.unwrap();
    let mut next = harness.bus().publisher(SOURCE);
    let mut term = term("aaa", 6, 2);
    term.catalogue.topics.pop();
    assert_eq!(next.begin(&term).await.unwrap(), Answer::Applied);
    let head = reader.head().await.unwrap().unwrap();
    assert_eq!((head.epoch, head.base, head.last, head.catalogue), (6, 0, 2, term.catalogue));
    assert_eq!(offsets(reader.history(&head.feed, &topic("a"), 0).await.unwrap(), 0), [1]);
    assert_eq!(next.publish(&batch("aaa", 6, 2, &["a"])).await.unwrap(), Answer::Applied);
    assert_eq!(offsets(reader.history(&head.feed, &topic("a"), 0).await.unwrap(), 0), [1, 3]);
}

pub async fn a_feed_that_ends_elsewhere_is_not_taken_over<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let (mut publisher, reader) = (harness.bus().publisher(SOURCE), harness.bus().reader(SOURCE));
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    publisher.publish(&batch("aaa", 5, 0, &["a", "b"])).await.unwrap();
    let before = reader.head().await.unwrap();
    for after in [0, 1, 3] {
        let answer = publisher.begin(&term("aaa", 6, after)).await.unwrap();
        assert_eq!(answer, Answer::Behind { held: Some(2) });
    }
    assert_eq!(reader.head().await.unwrap(), before);
}

pub async fn a_bus_that_is_older_than_what_can_be_brought_begins_further_on<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let (mut publisher, reader) = (harness.bus().publisher(SOURCE), harness.bus().reader(SOURCE));
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    publisher.publish(&batch("aaa", 5, 0, &["a", "b"])).await.unwrap();
    for behind in [0, 1] {
        let answer = publisher.begin_further_on(&term("aaa", 6, behind)).await.unwrap();
        assert_eq!(answer, Answer::Behind { held: Some(2) });
    }
    assert_eq!(publisher.begin_further_on(&term("aaa", 6, 40)).await.unwrap(), Answer::Applied);
    let head = reader.head().await.unwrap().unwrap();
    assert_eq!((head.epoch, head.base, head.last, head.tails.len()), (6, 40, 40, 0));
    assert_eq!(reader.history(&head.feed, &topic("a"), 0).await.unwrap(), History::Trimmed);
    assert_eq!(publisher.publish(&batch("aaa", 6, 40, &["a"])).await.unwrap(), Answer::Applied);
    assert_eq!(offsets(reader.history(&head.feed, &topic("a"), 40).await.unwrap(), 40), [41]);
    assert_eq!(reader.history(&head.feed, &topic("a"), 2).await.unwrap(), History::Trimmed);
    // Where it ends there, it is taken over as always.
    assert_eq!(publisher.begin_further_on(&term("aaa", 7, 41)).await.unwrap(), Answer::Applied);
    assert_eq!(reader.head().await.unwrap().unwrap().base, 40);
}

pub async fn who_goes_on_begins_nothing_where_the_feed_is_gone<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let (mut publisher, reader) = (harness.bus().publisher(SOURCE), harness.bus().reader(SOURCE));
    assert_eq!(publisher.go_on(&term("aaa", 5, 2)).await.unwrap(), Answer::Behind { held: None });
    assert_eq!(reader.head().await.unwrap(), None);
    publisher.begin(&term("bbb", 4, 0)).await.unwrap();
    let before = reader.head().await.unwrap();
    assert_eq!(publisher.go_on(&term("aaa", 5, 2)).await.unwrap(), Answer::Behind { held: None });
    assert_eq!(reader.head().await.unwrap(), before);
    assert_eq!(publisher.go_on(&term("bbb", 5, 1)).await.unwrap(), Answer::Behind { held: Some(0) });
    assert_eq!(publisher.go_on(&term("bbb", 5, 0)).await.unwrap(), Answer::Applied);
    assert_eq!(reader.head().await.unwrap().unwrap().epoch, 5);
    assert!(matches!(publisher.go_on(&term("bbb", 4, 0)).await.unwrap(), Answer::Conflict { epoch: 5, .. }));
}

pub async fn a_higher_epoch_replaces_another_feed<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let (mut publisher, reader) = (harness.bus().publisher(SOURCE), harness.bus().reader(SOURCE));
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    publisher.publish(&batch("aaa", 5, 0, &["a", "b"])).await.unwrap();
    assert_eq!(publisher.begin(&term("bbb", 6, 0)).await.unwrap(), Answer::Applied);
    let head = reader.head().await.unwrap().unwrap();
    assert_eq!((head.feed, head.epoch, head.base, head.last), (feed("bbb"), 6, 0, 0));
    assert_eq!(head.tails, [].into());
    assert_eq!(offsets(reader.history(&feed("bbb"), &topic("a"), 0).await.unwrap(), 0), NOTHING);
}

pub async fn a_lower_epoch_is_refused<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let (mut publisher, reader) = (harness.bus().publisher(SOURCE), harness.bus().reader(SOURCE));
    publisher.begin(&term("aaa", 5, 7)).await.unwrap();
    let before = reader.head().await.unwrap();
    let conflict = Answer::Conflict { feed: feed("aaa"), epoch: 5, held: 7 };
    assert_eq!(publisher.begin(&term("bbb", 4, 0)).await.unwrap(), conflict);
    assert_eq!(publisher.begin(&term("aaa", 4, 7)).await.unwrap(), conflict);
    assert_eq!(publisher.begin(&term("aaa", 4, 3)).await.unwrap(), conflict);
    assert_eq!(reader.head().await.unwrap(), before);
}

pub async fn two_feeds_of_one_epoch_do_not_replace_each_other<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let mut publisher = harness.bus().publisher(SOURCE);
    publisher.begin(&term("aaa", 5, 7)).await.unwrap();
    let conflict = Answer::Conflict { feed: feed("aaa"), epoch: 5, held: 7 };
    assert_eq!(publisher.begin(&term("bbb", 5, 7)).await.unwrap(), conflict);
}

pub async fn begin_tells_all_that_subscribe<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let mut publisher = harness.bus().publisher(SOURCE);
    publisher.begin(&term("aaa", 5, 7)).await.unwrap();
    let mut follower = Follower::new(&harness.bus(), &["a"]);
    follower.until(7).await;
    publisher.begin(&term("aaa", 6, 7)).await.unwrap();
    let told = follower.subscription.next().await;
    assert_eq!(told, Event::Batch(Batch::watermark(feed("aaa"), 6, 7, 1_007)));
}

pub async fn begin_twice_is_the_same_as_once<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let (mut publisher, reader) = (harness.bus().publisher(SOURCE), harness.bus().reader(SOURCE));
    assert_eq!(publisher.begin(&term("aaa", 5, 7)).await.unwrap(), Answer::Applied);
    let once = reader.head().await.unwrap();
    assert_eq!(publisher.begin(&term("aaa", 5, 7)).await.unwrap(), Answer::Applied);
    assert_eq!(reader.head().await.unwrap(), once);
}

pub async fn a_bus_that_was_emptied_takes_the_feed_up_again_from_a_base<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let (mut publisher, reader) = (harness.bus().publisher(SOURCE), harness.bus().reader(SOURCE));
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    publisher.publish(&batch("aaa", 5, 0, &["a", "b", "a"])).await.unwrap();
    harness.clear().await;
    assert_eq!(reader.head().await.unwrap(), None);
    let next = batch("aaa", 5, 3, &["a"]);
    assert_eq!(publisher.publish(&next).await.unwrap(), Answer::Behind { held: None });
    assert_eq!(publisher.begin(&term("aaa", 5, 2)).await.unwrap(), Answer::Applied);
    assert_eq!(publisher.publish(&next).await.unwrap(), Answer::Behind { held: Some(2) });
    assert_eq!(publisher.publish(&batch("aaa", 5, 2, &["a"])).await.unwrap(), Answer::Applied);
    assert_eq!(publisher.publish(&next).await.unwrap(), Answer::Applied);
    assert_eq!(reader.history(&feed("aaa"), &topic("a"), 1).await.unwrap(), History::Trimmed);
    assert_eq!(reader.history(&feed("aaa"), &topic("b"), 1).await.unwrap(), History::Trimmed);
    assert_eq!(offsets(reader.history(&feed("aaa"), &topic("a"), 2).await.unwrap(), 2), [3, 4]);
    assert_eq!(offsets(reader.history(&feed("aaa"), &topic("b"), 2).await.unwrap(), 2), NOTHING);
}

pub async fn sources_are_apart<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let mut publisher = harness.bus().publisher(Source::Notify);
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    publisher.publish(&batch("aaa", 5, 0, &["a"])).await.unwrap();
    assert_eq!(harness.bus().reader(Source::Log).head().await.unwrap(), None);
    let mut log = harness.bus().publisher(Source::Log);
    assert_eq!(log.begin(&term("lll", 1, 0)).await.unwrap(), Answer::Applied);
    assert_eq!(harness.bus().reader(Source::Notify).head().await.unwrap().unwrap().feed, feed("aaa"));
}
