use bus::{History, MemoryBus, Retention};
use protocol::Source;

use super::*;

const EPOCH: u64 = 1_000;

fn topic() -> Topic {
    Topic::new("a").unwrap()
}

fn catalogue() -> Catalogue {
    Catalogue::of_channels([topic()])
}

fn writer(publisher: &mut Publisher) -> Writer<'_> {
    Writer::new(publisher, catalogue(), EPOCH, Metrics::default())
}

/// Steps until there is nothing to do; what else came of it.
async fn settle(writer: &mut Writer<'_>) -> Step {
    for _ in 0..100 {
        match writer.step().await.unwrap() {
            Step::Moved => {}
            other => return other,
        }
    }
    panic!("it never settles");
}

async fn write(writer: &mut Writer<'_>, payloads: &[&str]) {
    for payload in payloads {
        writer.push(&topic(), 1, payload);
        writer.seal();
        assert_eq!(settle(writer).await, Step::Idle);
    }
}

/// The payloads that the bus holds of the writer's feed, after an offset.
async fn held(bus: &MemoryBus, writer: &Writer<'_>, after: Offset) -> Vec<String> {
    match bus.reader(Source::Notify).history(writer.feed(), &topic(), after).await.unwrap() {
        History::Complete { slices, .. } => slices
            .iter()
            .flat_map(|slice| slice.changes_after(after).unwrap())
            .map(|change| String::from_utf8(change.payload.to_vec()).unwrap())
            .collect(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_log_does_not_begin_late_on_a_bus_that_has_lost_it_just_now() {
    let bus = MemoryBus::new(Retention::default());
    let mut publisher = bus.publisher(Source::Log);
    let feed = FeedId::random();
    let mut of_log = Writer::of_log(&mut publisher, catalogue(), feed.clone(), EPOCH, 7, Metrics::default());
    // The bus was seen to end at 7; since then it was emptied.
    of_log.go_on();
    assert_eq!(of_log.step().await.unwrap(), Step::Torn);
    assert_eq!(bus.reader(Source::Log).head().await.unwrap(), None, "a refill will begin before 7");
    // The same when the catalogue changes.
    let mut of_log = Writer::of_log(&mut publisher, catalogue(), feed, EPOCH, 0, Metrics::default());
    assert_eq!(settle(&mut of_log).await, Step::Idle);
    bus.clear();
    of_log.announce(catalogue());
    assert_eq!(of_log.step().await.unwrap(), Step::Torn);
}

#[tokio::test]
async fn a_bus_that_came_back_empty_gets_the_same_feed_again() {
    let bus = MemoryBus::new(Retention::default());
    let mut publisher = bus.publisher(Source::Notify);
    let mut writer = writer(&mut publisher);
    write(&mut writer, &["1", "2", "3"]).await;
    let feed = writer.feed().clone();
    bus.clear();
    write(&mut writer, &["4"]).await;
    assert_eq!((writer.feed(), held(&bus, &writer, 0).await), (&feed, ["1", "2", "3", "4"].map(String::from).into()));
    bus.clear();
    writer.mark(5_000);
    assert_eq!(settle(&mut writer).await, Step::Idle);
    assert_eq!(held(&bus, &writer, 2).await, ["3", "4"]);
    let head = bus.reader(Source::Notify).head().await.unwrap().unwrap();
    assert_eq!((head.last, head.at, writer.marked().is_some()), (4, 5_000, true));
}

#[tokio::test]
async fn a_bus_that_came_back_older_is_continued_where_it_ends() {
    let bus = MemoryBus::new(Retention::default());
    let mut publisher = bus.publisher(Source::Notify);
    let mut writer = writer(&mut publisher);
    write(&mut writer, &["1", "2", "3"]).await;
    // What a replica that lagged holds: the same feed, two changes earlier.
    let old = older(&bus, &writer, 1).await;
    assert_eq!(old, Answer::Applied);
    write(&mut writer, &["4"]).await;
    assert_eq!(held(&bus, &writer, 1).await, ["2", "3", "4"]);
}

/// Makes the bus hold the writer's feed up to `last` only.
async fn older(bus: &MemoryBus, writer: &Writer<'_>, last: Offset) -> Answer {
    bus.clear();
    let term = Term { feed: writer.feed().clone(), epoch: writer.epoch(), after: last, at: 0, catalogue: catalogue() };
    bus.publisher(Source::Notify).begin(&term).await.unwrap()
}

#[tokio::test]
async fn a_bus_that_lost_more_than_is_kept_is_torn() {
    let bus = MemoryBus::new(Retention::default());
    let mut publisher = bus.publisher(Source::Notify);
    let mut writer = writer(&mut publisher);
    let large = "x".repeat(protocol::batch::MAX_BATCH_BYTES);
    write(&mut writer, &[large.as_str(); 20]).await;
    let feed = writer.feed().clone();
    older(&bus, &writer, 1).await;
    writer.push(&topic(), 1, "lost");
    writer.seal();
    assert_eq!(settle(&mut writer).await, Step::Torn);
    assert_eq!(writer.begin_feed(Reason::BusLostTooMuch), 1);
    write(&mut writer, &["new"]).await;
    assert_ne!(writer.feed(), &feed);
    assert_eq!(held(&bus, &writer, 0).await, ["new"]);
}

#[tokio::test]
async fn another_history_of_a_lower_epoch_is_replaced_by_the_same_feed() {
    let bus = MemoryBus::new(Retention::default());
    let mut publisher = bus.publisher(Source::Notify);
    let mut writer = writer(&mut publisher);
    write(&mut writer, &["1", "2"]).await;
    let feed = writer.feed().clone();
    begin_other(&bus, EPOCH - 1).await;
    write(&mut writer, &["3"]).await;
    assert_eq!((writer.feed(), held(&bus, &writer, 0).await), (&feed, ["1", "2", "3"].map(String::from).into()));
}

#[tokio::test]
async fn a_higher_epoch_fences_us_off_unless_we_still_hold_the_lock() {
    let bus = MemoryBus::new(Retention::default());
    let mut publisher = bus.publisher(Source::Notify);
    let mut writer = writer(&mut publisher);
    write(&mut writer, &["1"]).await;
    begin_other(&bus, EPOCH + 7).await;
    writer.push(&topic(), 1, "2");
    writer.seal();
    assert_eq!(settle(&mut writer).await, Step::Overtaken { epoch: EPOCH + 7 });
    writer.outrank(EPOCH + 7);
    assert_eq!(settle(&mut writer).await, Step::Idle);
    assert_eq!((writer.epoch(), held(&bus, &writer, 0).await), (EPOCH + 8, ["1", "2"].map(String::from).into()));
}

#[tokio::test]
async fn a_clock_that_was_set_back_does_not_stop_a_new_leader() {
    let bus = MemoryBus::new(Retention::default());
    begin_other(&bus, EPOCH + 1).await;
    let mut publisher = bus.publisher(Source::Notify);
    let mut writer = writer(&mut publisher);
    assert_eq!(settle(&mut writer).await, Step::Overtaken { epoch: EPOCH + 1 });
    writer.outrank(EPOCH + 1);
    write(&mut writer, &["1"]).await;
    assert_eq!(held(&bus, &writer, 0).await, ["1"]);
}

#[tokio::test]
async fn a_publish_whose_answer_was_lost_is_not_published_twice() {
    let bus = MemoryBus::new(Retention::default());
    let mut publisher = bus.publisher(Source::Notify);
    let mut writer = writer(&mut publisher);
    write(&mut writer, &["1"]).await;
    writer.push(&topic(), 1, "2");
    writer.seal();
    let batch = writer.tail.after(1, EPOCH).unwrap();
    assert_eq!(bus.publisher(Source::Notify).publish(&batch).await.unwrap(), Answer::Applied);
    assert_eq!(settle(&mut writer).await, Step::Idle);
    write(&mut writer, &["3"]).await;
    assert_eq!(held(&bus, &writer, 0).await, ["1", "2", "3"]);
}

#[tokio::test]
async fn a_new_feed_of_the_same_leader_has_a_higher_epoch() {
    let bus = MemoryBus::new(Retention::default());
    let mut publisher = bus.publisher(Source::Notify);
    let mut writer = writer(&mut publisher);
    write(&mut writer, &["1"]).await;
    assert_eq!(writer.begin_feed(Reason::Overflow), 0);
    write(&mut writer, &["2"]).await;
    assert_eq!((writer.epoch(), held(&bus, &writer, 0).await), (EPOCH + 1, vec!["2".to_owned()]));
}

async fn begin_other(bus: &MemoryBus, epoch: u64) {
    let term = Term { feed: FeedId::random(), epoch, after: 0, at: 0, catalogue: catalogue() };
    bus.clear();
    assert_eq!(bus.publisher(Source::Notify).begin(&term).await.unwrap(), Answer::Applied);
}
