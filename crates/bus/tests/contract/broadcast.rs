use bus::{Broadcasts, Heard, Retention};
use bytes::Bytes;

use super::*;

fn message(n: usize) -> Bytes {
    Bytes::from(n.to_string())
}

/// A receiver that is there: what is sent from now on arrives.
async fn receiver<H: Harness>(harness: &H) -> Broadcasts {
    let mut broadcasts = harness.bus().broadcasts();
    assert_eq!(broadcasts.next().await, Heard::Missed);
    broadcasts
}

pub async fn a_broadcast_reaches_everybody_who_is_there_once_and_in_order<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    let mut receivers = [receiver(&harness).await, receiver(&harness).await];
    let sender = harness.bus().broadcaster();
    // One by one, and several at a time; any bytes, also none.
    sender.send(&[message(0)]).await.unwrap();
    sender.send(&(1..10).map(message).collect::<Vec<_>>()).await.unwrap();
    sender.send(&[Bytes::new(), Bytes::from_static(b"\xff\x00\r\n")]).await.unwrap();
    for broadcasts in &mut receivers {
        for n in 0..10 {
            assert_eq!(broadcasts.next().await, Heard::Message(message(n)));
        }
        assert_eq!(broadcasts.next().await, Heard::Message(Bytes::new()));
        assert_eq!(broadcasts.next().await, Heard::Message(Bytes::from_static(b"\xff\x00\r\n")));
    }
    // Who comes later gets nothing of it.
    let mut late = receiver(&harness).await;
    sender.send(&[message(10)]).await.unwrap();
    assert_eq!(late.next().await, Heard::Message(message(10)));
}

pub async fn a_broadcast_to_nobody_is_sent_all_the_same<H: Harness>() {
    let harness = H::start(Retention::default()).await;
    harness.bus().broadcaster().send(&[message(1)]).await.unwrap();
    harness.bus().broadcaster().send(&[]).await.unwrap();
}

pub async fn who_takes_broadcasts_too_slowly_is_told_and_goes_on<H: Harness>() {
    const COUNT: usize = 40_000;
    let harness = H::start(Retention::default()).await;
    let mut slow = receiver(&harness).await;
    let sender = harness.bus().broadcaster();
    for n in 0..COUNT / 100 {
        sender.send(&(n * 100..n * 100 + 100).map(message).collect::<Vec<_>>()).await.unwrap();
    }
    let (mut missed, mut last) = (0, None);
    while last != Some(COUNT - 1) {
        match slow.next().await {
            Heard::Missed => missed += 1,
            Heard::Message(bytes) => {
                let n: usize = std::str::from_utf8(&bytes).unwrap().parse().unwrap();
                assert!(last.is_none_or(|last| n > last), "{n} after {last:?}");
                last = Some(n);
            }
        }
    }
    assert!(missed > 0, "it kept up");
}

pub async fn a_flood_of_broadcasts_costs_no_batch<H: Harness>() {
    const BATCHES: u64 = 500;
    let harness = H::start(Retention::default()).await;
    let mut publisher = harness.bus().publisher(protocol::Source::Log);
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    let mut subscription = harness.bus().subscribe(protocol::Source::Log);
    assert_eq!(subscription.next().await, bus::Event::Gap);
    subscription.set_position(bus::Position { feed: feed("aaa"), epoch: 5, last: 0 });
    let _deaf = receiver(&harness).await;
    let sender = harness.bus().broadcaster();
    let large = vec![Bytes::from(vec![b'x'; 10_000]); 20];
    for after in 0..BATCHES {
        sender.send(&large).await.unwrap();
        publisher.publish(&batch("aaa", 5, after, &["a"])).await.unwrap();
    }
    for after in 0..BATCHES {
        assert_eq!(subscription.next().await, bus::Event::Batch(batch("aaa", 5, after, &["a"])));
    }
}
