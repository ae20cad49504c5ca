//! What the inspector is shown, and in how many pieces.

use super::*;

fn subscribe(hub: &mut Hub, key: ConnKey, names: &[&str]) {
    let mut topics: Vec<Topic> = names.iter().map(|name| topic(name)).collect();
    topics.sort();
    topics.dedup();
    let wanted = Subscribe { id: None, topics, since: None, watermark_ms: None, conflate_ms: None };
    hub.subscribe(key, wanted, |_| true).unwrap();
}

/// In how many pieces a look comes to its end.
fn pieces(hub: &HubHandle, mut look: impl FnMut(&Hub) -> bool) -> usize {
    1 + (0..10_000).take_while(|_| hub.with(|hub| look(hub))).count()
}

#[tokio::test]
async fn however_much_there_is_to_look_at_it_is_looked_at_in_pieces() {
    let names: Vec<String> = (0..100).map(|n| format!("topic_{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let feed = FeedId::random();
    let hub = hub(&feed, &names);
    hub.with(|hub| hub.settings.max_subscriptions = 100);
    let mut clients = Vec::new();
    for _ in 0..200 {
        clients.push(joined(&hub).await);
        let key = clients[clients.len() - 1].1;
        let pair = |n: usize| [names[n], names[(n + clients.len()) % 100]];
        hub.with(|hub| (0..100).for_each(|n| subscribe(hub, key, &pair(n))));
    }
    let mut batcher = Batcher::new(feed, 1, 0);
    let batch = batch(&mut batcher, names[0]);
    hub.with(|hub| hub.batch(SOURCE, &batch, &[]));

    let mut scan = Scan::new(Order::Lag, None, 100);
    pieces(&hub, |hub| hub.scan(0, &mut scan));
    assert_eq!((scan.matched, scan.found.len(), scan.totals.connections), (200, 100, 200));
    let mut scan = Scan::new(Order::Lag, Some("nowhere"), 100);
    assert!(pieces(&hub, |hub| hub.scan(0, &mut scan)) > 1, "each name is looked at");
    assert_eq!((scan.matched, scan.totals.connections), (0, 200));
    let keys: Vec<ConnKey> = clients.iter().map(|(_, key)| *key).collect();
    let (mut next, mut looks) = (0, Vec::new());
    let look_at_all =
        |hub: &Hub| look_at_some(keys.len(), &mut next, |place| looks.extend(hub.look_at_connection(0, keys[place])));
    assert!(pieces(&hub, look_at_all) > 1);
    assert!(looks.len() == 200 && looks.iter().all(|look| look.subscriptions.len() == 100));
    let mut survey = Survey::default();
    assert!(pieces(&hub, |hub| hub.survey(&mut survey)) > 3, "more than one of each kind");
    let Surveyed { topics, routes, route_count } = survey.found;
    // Where both of a pair are the same it is one.
    assert_eq!((topics.values().map(|look| look.subscriptions).sum::<usize>(), topics.len()), (39_800, 100));
    assert_eq!((route_count, routes.len()), (hub.with(|hub| hub.routes.len()), 500.min(route_count)));
    assert_eq!(topics[&(Some(SOURCE), topic(names[0]))].last, Some((1, 0)));
}

#[tokio::test]
async fn a_topic_that_nobody_carries_any_more_is_forgotten() {
    let feed = FeedId::random();
    let hub = hub(&feed, &["a", "b"]);
    let mut batcher = Batcher::new(feed, 1, 0);
    let seen = || {
        hub.with(|hub| ["a", "b", "c"].map(|name| hub.register.as_ref().unwrap().seen(SOURCE, &topic(name)).is_some()))
    };
    // The third is not carried.
    for name in ["a", "b", "c"] {
        let batch = batch(&mut batcher, name);
        hub.with(|hub| hub.batch(SOURCE, &batch, &[]));
    }
    assert_eq!(seen(), [true, true, false]);
    let catalogue = Arc::new(Catalogue::of_channels([topic("b")]));
    hub.apply(FeedEvent::Catalogue { source: SOURCE, catalogue: Arc::clone(&catalogue) });
    assert_eq!(seen(), [false, true, false]);
    // Its offset is not one of the next feed.
    let start = Arc::new(Start { feed: FeedId::random(), last: 0, at: 0, catalogue });
    hub.apply(FeedEvent::Started { source: SOURCE, start });
    assert_eq!(seen(), [false; 3]);
}

#[tokio::test]
async fn a_page_that_was_there_before_a_feed_was_not_sent_what_came_before_this_gateway_took_it_up() {
    let hub = hub(&FeedId::random(), &["a"]);
    let (_client, key) = joined(&hub).await;
    hub.with(|hub| hub.subscribe_plain(key, &[topic("a")], Wrap::None, &[]));
    let feed = FeedId::random();
    let mut batcher = Batcher::new(feed.clone(), 1, 0);
    let batches: Vec<Arc<Batch>> = (0..3).map(|_| batch(&mut batcher, "a")).collect();
    let catalogue = Arc::new(Catalogue::of_channels([topic("a")]));
    let start = Arc::new(Start { feed: feed.clone(), last: 2, at: 0, catalogue });
    hub.apply(FeedEvent::Started { source: SOURCE, start });
    hub.with(|hub| hub.batch(SOURCE, &batches[2], &[]));
    while hub.with(|hub| hub.flush_some(64)) {}
    let fact = |offset: u64| {
        let hit = change_at(&batches[offset as usize - 1], offset).unwrap();
        let mut hearing = Hearing::new(key, SOURCE, hit, Cursor::new(feed.clone(), offset));
        hub.with(|hub| hub.testify(0, &mut hearing).unwrap().unwrap().subscriptions.remove(0).1)
    };
    for missed in [1, 2] {
        assert_eq!(fact(missed), Fact::BeforeTheFeed(Cursor::new(feed.clone(), 2)), "{missed}");
    }
    assert_eq!(fact(3), Fact::Standing(Standing::Written));
}
