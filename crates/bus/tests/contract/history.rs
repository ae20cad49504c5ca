use std::time::Duration;

use bus::{Answer, Event, History, Retention};
use e2e::eventually::eventually;
use protocol::{Batch, Source};

use super::*;

const SOURCE: Source = Source::Notify;

pub async fn one_order_over_all_topics<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let (mut publisher, reader) = (harness.bus().publisher(SOURCE), harness.bus().reader(SOURCE));
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    publisher.publish(&batch("aaa", 5, 0, &["a", "b", "a", "b"])).await.unwrap();
    publisher.publish(&batch("aaa", 5, 4, &["b"])).await.unwrap();
    publisher.publish(&batch("aaa", 5, 5, &["a"])).await.unwrap();
    let history = reader.history(&feed("aaa"), &topic("a"), 0).await.unwrap();
    assert!(matches!(history, History::Complete { through: 6, .. }), "{history:?}");
    assert_eq!(offsets(history, 0), [1, 3, 6]);
    let history = reader.history(&feed("aaa"), &topic("b"), 0).await.unwrap();
    assert!(matches!(history, History::Complete { through: 6, .. }), "{history:?}");
    assert_eq!(offsets(history, 0), [2, 4, 5]);
}

pub async fn a_history_begins_after_any_offset<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let (mut publisher, reader) = (harness.bus().publisher(SOURCE), harness.bus().reader(SOURCE));
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    publisher.publish(&batch("aaa", 5, 0, &["a", "b", "a", "a"])).await.unwrap();
    publisher.publish(&batch("aaa", 5, 4, &["b", "a", "b"])).await.unwrap();
    for after in 0..=7 {
        let history = reader.history(&feed("aaa"), &topic("a"), after).await.unwrap();
        let expected: Vec<_> = [1, 3, 4, 6].into_iter().filter(|offset| *offset > after).collect();
        assert_eq!(offsets(history, after), expected, "after {after}");
    }
}

pub async fn a_long_history_is_whole<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let (mut publisher, reader) = (harness.bus().publisher(SOURCE), harness.bus().reader(SOURCE));
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    for n in 0..256 {
        publisher.publish(&batch("aaa", 5, n, &["a"])).await.unwrap();
    }
    // Whole pages, and pages and a rest.
    for after in [0, 1, 127, 128, 129, 191, 192, 193, 255, 256] {
        let history = reader.history(&feed("aaa"), &topic("a"), after).await.unwrap();
        assert_eq!(offsets(history, after), (after + 1..=256).collect::<Vec<_>>(), "after {after}");
    }
}

pub async fn a_topic_without_changes_has_an_empty_history<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let (mut publisher, reader) = (harness.bus().publisher(SOURCE), harness.bus().reader(SOURCE));
    publisher.begin(&term("aaa", 5, 10)).await.unwrap();
    publisher.publish(&batch("aaa", 5, 10, &["a"])).await.unwrap();
    let empty = History::Complete { through: 11, slices: vec![] };
    assert_eq!(reader.history(&feed("aaa"), &topic("b"), 10).await.unwrap(), empty);
    assert_eq!(reader.history(&feed("aaa"), &topic("b"), 11).await.unwrap(), empty);
    assert_eq!(reader.history(&feed("aaa"), &topic("a"), 11).await.unwrap(), empty);
}

pub async fn what_the_limit_of_bytes_drops_is_trimmed<H: Harness>() {
    // A change has a head of 21 bytes: two slices fit, three do not.
    let harness = H::start(Retention { bytes: 250, ..Retention::default() }).await;
    let (mut publisher, reader) = (harness.bus().publisher(SOURCE), harness.bus().reader(SOURCE));
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    let payload = "x".repeat(100);
    for after in 0..20 {
        let next = batch_of("aaa", 5, after, [("a", payload.as_str())]);
        assert_eq!(publisher.publish(&next).await.unwrap(), Answer::Applied);
    }
    publisher.publish(&batch("aaa", 5, 20, &["b"])).await.unwrap();
    for after in [0, 1, 17] {
        assert_eq!(reader.history(&feed("aaa"), &topic("a"), after).await.unwrap(), History::Trimmed, "{after}");
    }
    assert_eq!(offsets(reader.history(&feed("aaa"), &topic("a"), 18).await.unwrap(), 18), [19, 20]);
    assert_eq!(offsets(reader.history(&feed("aaa"), &topic("a"), 19).await.unwrap(), 19), [20]);
    // The limit is a topic's own.
    assert_eq!(offsets(reader.history(&feed("aaa"), &topic("b"), 0).await.unwrap(), 0), [21]);
}

pub async fn what_is_too_old_is_trimmed<H: Harness>() {
    let harness = H::start(Retention { ms: 100, ..Retention::default() }).await;
    let (mut publisher, reader) = (harness.bus().publisher(SOURCE), harness.bus().reader(SOURCE));
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    let mut last = 0;
    eventually("the first change is dropped", Duration::from_secs(10), async || {
        publisher.publish(&batch("aaa", 5, last, &["a"])).await.unwrap();
        last += 1;
        let newest = reader.history(&feed("aaa"), &topic("a"), last - 1).await.unwrap();
        assert_eq!(offsets(newest, last - 1), [last]);
        match reader.history(&feed("aaa"), &topic("a"), 0).await.unwrap() {
            History::Trimmed => Ok(()),
            other => Err(other),
        }
    })
    .await;
    assert!(last > 1, "the newest change is never too old");
}

pub async fn a_change_above_the_limit_of_bytes_is_sent_and_trimmed<H: Harness>() {
    let harness = H::start(Retention { bytes: 1000, ..Retention::default() }).await;
    let (mut publisher, reader) = (harness.bus().publisher(SOURCE), harness.bus().reader(SOURCE));
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    let mut follower = Follower::new(&harness.bus(), &["a"]);
    follower.until(0).await;
    publisher.publish(&batch("aaa", 5, 0, &["a"])).await.unwrap();
    let payload = "x".repeat(2000);
    let large = batch_of("aaa", 5, 1, [("a", payload.as_str())]);
    assert_eq!(publisher.publish(&large).await.unwrap(), Answer::Applied);
    assert_eq!(reader.history(&feed("aaa"), &topic("a"), 0).await.unwrap(), History::Trimmed);
    assert_eq!(reader.history(&feed("aaa"), &topic("a"), 1).await.unwrap(), History::Trimmed);
    assert_eq!(offsets(reader.history(&feed("aaa"), &topic("a"), 2).await.unwrap(), 2), NOTHING);
    publisher.publish(&batch("aaa", 5, 2, &["a"])).await.unwrap();
    assert_eq!(reader.history(&feed("aaa"), &topic("a"), 1).await.unwrap(), History::Trimmed);
    assert_eq!(offsets(reader.history(&feed("aaa"), &topic("a"), 2).await.unwrap(), 2), [3]);
    follower.step().await;
    assert_eq!(follower.subscription.next().await, Event::Batch(large));
}

pub async fn what_was_before_the_base_is_trimmed<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let (mut publisher, reader) = (harness.bus().publisher(SOURCE), harness.bus().reader(SOURCE));
    publisher.begin(&term("aaa", 5, 10)).await.unwrap();
    assert_eq!(reader.history(&feed("aaa"), &topic("a"), 9).await.unwrap(), History::Trimmed);
    assert_eq!(offsets(reader.history(&feed("aaa"), &topic("a"), 10).await.unwrap(), 10), NOTHING);
    publisher.publish(&batch("aaa", 5, 10, &["a"])).await.unwrap();
    assert_eq!(reader.history(&feed("aaa"), &topic("a"), 9).await.unwrap(), History::Trimmed);
    assert_eq!(offsets(reader.history(&feed("aaa"), &topic("a"), 10).await.unwrap(), 10), [11]);
}

pub async fn a_bus_that_ends_earlier_is_not_ready<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let (mut publisher, reader) = (harness.bus().publisher(SOURCE), harness.bus().reader(SOURCE));
    assert_eq!(reader.history(&feed("aaa"), &topic("a"), 0).await.unwrap(), History::NotReady);
    publisher.begin(&term("aaa", 5, 3)).await.unwrap();
    assert_eq!(reader.history(&feed("aaa"), &topic("a"), 4).await.unwrap(), History::NotReady);
    assert_eq!(reader.history(&feed("aaa"), &topic("a"), u64::MAX).await.unwrap(), History::NotReady);
    harness.clear().await;
    assert_eq!(reader.history(&feed("aaa"), &topic("a"), 3).await.unwrap(), History::NotReady);
}

pub async fn another_feed_is_told<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let (mut publisher, reader) = (harness.bus().publisher(SOURCE), harness.bus().reader(SOURCE));
    publisher.begin(&term("aaa", 5, 3)).await.unwrap();
    for after in [0, 3, 9] {
        let history = reader.history(&feed("bbb"), &topic("a"), after).await.unwrap();
        assert_eq!(history, History::OtherFeed, "{after}");
    }
}

pub async fn the_head_tells_catalogue_and_tails<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let (mut publisher, reader) = (harness.bus().publisher(SOURCE), harness.bus().reader(SOURCE));
    let mut term = term("aaa", 5, 0);
    term.catalogue.topics[1].columns = vec!["id".into(), "größe \"x\"".into()];
    term.catalogue.topics[1].key = vec!["id".into()];
    publisher.begin(&term).await.unwrap();
    publisher.publish(&batch("aaa", 5, 0, &["a", "b", "a"])).await.unwrap();
    publisher.publish(&Batch::watermark(feed("aaa"), 5, 3, 77)).await.unwrap();
    let head = reader.head().await.unwrap().unwrap();
    assert_eq!(head.catalogue, term.catalogue);
    assert_eq!(head.tails, [(topic("a"), 3), (topic("b"), 2)].into());
    assert_eq!((head.base, head.last, head.at), (0, 3, 77));
}

pub async fn a_history_is_read_in_pieces_without_a_hole<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let (mut publisher, reader) = (harness.bus().publisher(SOURCE), harness.bus().reader(SOURCE));
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    let mut largest = 0;
    for n in 0..200 {
        let payload = "x".repeat(if n % 50 == 7 { 100_000 } else { n as usize });
        let next = batch_of("aaa", 5, n * 2, [("a", payload.as_str()), ("b", "b")]);
        largest = largest.max(next.slice("a").unwrap().bytes.len());
        publisher.publish(&next).await.unwrap();
    }
    for most_bytes in [0, 1, 50, 1_000, 50_000, 150_000, 1 << 30] {
        let (mut after, mut seen, mut pieces) = (0, Vec::new(), 0);
        while after < 400 {
            let piece = reader.history_up_to(&feed("aaa"), &topic("a"), after, most_bytes).await.unwrap();
            let History::Complete { through, slices } = piece else { panic!("{piece:?}") };
            let bytes: usize = slices.iter().map(|slice| slice.bytes.len()).sum();
            assert!(bytes < most_bytes as usize + largest + 1, "{bytes} bytes, asked for {most_bytes}");
            assert!(through > after, "it gets on");
            let changes = slices.iter().flat_map(|slice| slice.changes_after(after).unwrap());
            seen.extend(changes.map(|change| change.offset));
            assert!(seen.last().is_none_or(|last| *last <= through));
            (after, pieces) = (through, pieces + 1);
        }
        assert_eq!(seen, (1..400).step_by(2).collect::<Vec<_>>(), "{most_bytes}");
        let expected = match most_bytes {
            0..50 => 100..=200,
            1_073_741_824.. => 1..=1,
            _ => 2..=200,
        };
        assert!(expected.contains(&pieces), "{pieces} pieces of {most_bytes}");
    }
}

pub async fn a_piece_of_what_is_trimmed_is_refused_and_one_behind_it_is_not<H: Harness>() {
    let harness = H::start(Retention { bytes: 1_000, ..Retention::default() }).await;
    let (mut publisher, reader) = (harness.bus().publisher(SOURCE), harness.bus().reader(SOURCE));
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    let payload = "x".repeat(100);
    for after in 0..20 {
        publisher.publish(&batch_of("aaa", 5, after, [("a", payload.as_str())])).await.unwrap();
    }
    let piece = async |after| reader.history_up_to(&feed("aaa"), &topic("a"), after, 1).await.unwrap();
    for after in 0..12 {
        assert_eq!(piece(after).await, History::Trimmed, "{after}");
    }
    for after in 12..19 {
        let History::Complete { through, slices } = piece(after).await else { panic!("refused") };
        assert_eq!((through, slices.len()), (after + 1, 1));
    }
    assert_eq!(piece(20).await, History::Complete { through: 20, slices: vec![] });
}

pub async fn rows_of_several_mib_are_sent_and_kept<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let (mut publisher, reader) = (harness.bus().publisher(SOURCE), harness.bus().reader(SOURCE));
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    let mut follower = Follower::new(&harness.bus(), &["a"]);
    follower.until(0).await;
    let payload = "x".repeat(4 * 1024 * 1024);
    for after in 0..3 {
        let large = batch_of("aaa", 5, after, [("a", payload.as_str())]);
        assert_eq!(publisher.publish(&large).await.unwrap(), Answer::Applied);
        assert_eq!(follower.subscription.next().await, Event::Batch(large));
    }
    let piece = reader.history_up_to(&feed("aaa"), &topic("a"), 0, 1_000_000).await.unwrap();
    assert!(matches!(&piece, History::Complete { through: 1, .. }), "one at a time");
    assert_eq!(offsets(reader.history(&feed("aaa"), &topic("a"), 0).await.unwrap(), 0), [1, 2, 3]);
}
