//! What cannot be told from outside: in which order sockets are written to, and what is built how often.

use std::{
    net::{Ipv4Addr, TcpStream as Client},
    sync::Arc,
    time::Duration,
};

use bus::{Bus, MemoryBus, Retention};
use protocol::{
    Batch, Batcher, Catalogue, Cursor, FeedId, Kind, Op, ResetReason, Row, config::Wrap, message::Subscribe,
};
use tokio::net::TcpListener;

use super::*;
use crate::{
    access::Claims,
    feed::Start,
    hit::Hit,
    realtime::{Join, Ref, Vsn},
};

const SOURCE: Source = Source::Notify;

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

fn hub(feed: &FeedId, topics: &[&str]) -> HubHandle {
    hub_of(SOURCE, feed, topics)
}

fn hub_of(source: Source, feed: &FeedId, topics: &[&str]) -> HubHandle {
    let settings = HubSettings {
        queue_bytes: 256 * 1024,
        recent_bytes: 1024 * 1024,
        max_subscriptions: 10,
        ping: Duration::from_secs(60),
        stall: Duration::from_secs(60),
        inspect: true,
    };
    let (metrics, bus) = (Metrics::default(), Bus::Memory(MemoryBus::new(Retention::default())));
    let hub = HubHandle::new(settings, Historian::start(&bus, metrics.clone()), metrics, 0);
    let catalogue = Arc::new(Catalogue::of_channels(topics.iter().map(|name| topic(name))));
    let start = Arc::new(Start { feed: feed.clone(), last: 0, at: 0, catalogue });
    hub.apply(FeedEvent::Started { source, start });
    hub
}

/// Clients of a topic, as the plain endpoint has them.
async fn clients(hub: &HubHandle, name: &str, count: usize) -> Vec<Client> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..count {
        let client = Client::connect(listener.local_addr().unwrap()).unwrap();
        client.set_nonblocking(true).unwrap();
        clients.push(client);
        let socket = Rc::new(listener.accept().await.unwrap().0);
        hub.with(|hub| {
            let key = hub.join(socket, Speech::WebSocket);
            hub.subscribe_plain(key, &[topic(name)], Wrap::None, &[]);
        });
    }
    clients
}

/// How many have got something.
fn served(clients: &[Client]) -> usize {
    clients.iter().filter(|client| client.peek(&mut [0]).is_ok()).count()
}

fn batch(batcher: &mut Batcher, name: &str) -> Arc<Batch> {
    batcher.push(&topic(name), 0, Kind::Json, b"{}");
    Arc::new(batcher.take(0))
}

#[tokio::test]
async fn a_busy_topic_does_not_keep_a_quiet_one_waiting() {
    let feed = FeedId::random();
    let hub = hub(&feed, &["busy", "quiet"]);
    let (busy, quiet) = (clients(&hub, "busy", 300).await, clients(&hub, "quiet", 3).await);
    let mut batcher = Batcher::new(feed, 1, 0);
    for name in ["busy", "quiet", "busy"] {
        let batch = batch(&mut batcher, name);
        hub.with(|hub| hub.batch(SOURCE, &batch, &[]));
    }
    assert!(hub.with(|hub| hub.flush_some(64)), "there is more to write");
    assert_eq!(served(&quiet), 3, "it had its turn");
    assert!(served(&busy) < 64, "with {} of the other's", served(&busy));
    // However much comes for the other one, all of that gets its turn too.
    let mut sweeps = 0;
    while hub.with(|hub| hub.flush_some(64)) {
        let batch = batch(&mut batcher, if sweeps < 20 { "quiet" } else { "neither" });
        hub.with(|hub| hub.batch(SOURCE, &batch, &[]));
        sweeps += 1;
        assert!(sweeps < 100, "it ends");
    }
    assert_eq!(served(&busy), 300);
}

#[tokio::test]
async fn a_change_is_built_once_for_all_who_have_joined_the_same_channel_and_for_no_others() {
    let feed = FeedId::random();
    let hub = hub_of(Source::Log, &feed, &["public.orders"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut clients = Vec::new();
    let mut join = async |vsn, channel: &str, event: &str| {
        clients.push(Client::connect(listener.local_addr().unwrap()).unwrap());
        let socket = Rc::new(listener.accept().await.unwrap().0);
        let bindings = serde_json::json!([{"event": event, "schema": "public", "table": "orders"}]);
        let payload = serde_json::json!({"config": {"postgres_changes": bindings}});
        let join = Join::of(channel, &payload).unwrap();
        let (join_ref, reference, claims) = (Ref::default(), Ref::default(), Claims::anonymous());
        let joining = Joining { topic: channel.into(), join_ref, reference, join, claims };
        hub.with(|hub| {
            let key = hub.join(socket, Speech::Realtime(vsn));
            hub.join_channel(key, joining).unwrap();
        });
    };
    for _ in 0..50 {
        join(Vsn::Two, "realtime:floor", "*").await;
    }
    let count = || hub.with(|hub| (hub.routes.len(), hub.streams.iter().count()));
    assert_eq!(count(), (1, 1), "one route, and one ring");
    join(Vsn::One, "realtime:floor", "*").await;
    join(Vsn::Two, "realtime:other", "*").await;
    join(Vsn::Two, "realtime:floor", "INSERT").await;
    assert_eq!(count(), (4, 4));

    // What nobody wants is not built.
    let mut batcher = Batcher::new(feed, 1, 0);
    let mut payload = Default::default();
    let none = Bytes::new;
    Row { op: Op::Delete, tx: 1, tx_last: 1, key: none(), cut: none(), data: none(), old: none() }.encode(&mut payload);
    batcher.push(&topic("public.orders"), 0, Kind::Row, &payload);
    let batch = Arc::new(batcher.take(0));
    hub.with(|hub| hub.batch(Source::Log, &batch, &[]));
    let rings = hub.with(|hub| {
        let rings: Vec<bool> = hub.streams.iter().map(|stream| hub.streams.get(stream).ring.len() > 0).collect();
        rings.iter().filter(|has| **has).count()
    });
    assert_eq!(rings, 3);
}

#[tokio::test]
async fn what_came_before_a_loss_was_not_lost() {
    let feed = FeedId::random();
    let hub = hub(&feed, &["a", "b"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _client = Client::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, peer) = listener.accept().await.unwrap();
    let key = hub.with(|hub| {
        let key = hub.join(Rc::new(socket), Speech::WebSocket);
        let caller = Caller { peer, client: Ipv4Addr::LOCALHOST.into() };
        hub.introduce(key, caller, "native", Some(&Claims::anonymous()));
        let wanted =
            Subscribe { id: None, topics: vec![topic("a")], since: None, watermark_ms: None, conflate_ms: None };
        hub.subscribe(key, wanted, |_| true).unwrap();
        key
    });
    let mut batcher = Batcher::new(feed.clone(), 1, 0);
    let batches: Vec<Arc<Batch>> = (0..5).map(|_| batch(&mut batcher, "a")).collect();
    // Two are delivered, two are torn, and one comes after it was told.
    let lost = [topic("a")];
    for (batch, lost) in batches.iter().zip([&[][..], &[], &lost, &lost]) {
        hub.with(|hub| hub.batch(SOURCE, batch, lost));
    }
    hub.apply(FeedEvent::Lost { source: SOURCE, topics: Arc::new(lost.to_vec()) });
    hub.with(|hub| hub.batch(SOURCE, &batches[4], &[]));
    while hub.with(|hub| hub.flush_some(64)) {}
    let fact = |offset: u64| {
        let hit = Hit::read(&topic("a"), &batches[offset as usize - 1].slices[0].1, 0).unwrap().remove(0);
        let cursor = Cursor::new(feed.clone(), offset);
        let mut hearing = Hearing::new(key, SOURCE, hit, cursor);
        hub.with(|hub| hub.testify(0, &mut hearing).unwrap().unwrap().subscriptions.remove(0).1)
    };
    for sent in [1, 2, 5] {
        assert_eq!(fact(sent), Fact::Standing(Standing::Written), "{sent}");
    }
    for missed in [3, 4] {
        assert!(matches!(fact(missed), Fact::Skipped(ResetReason::HistoryTrimmed, ..)), "{missed}: {:?}", fact(missed));
    }
}

/// Takes a connection in, on a socket of its own.
async fn joined(hub: &HubHandle) -> (Client, ConnKey) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, peer) = listener.accept().await.unwrap();
    let key = hub.with(|hub| {
        let key = hub.join(Rc::new(socket), Speech::WebSocket);
        let caller = Caller { peer, client: Ipv4Addr::LOCALHOST.into() };
        hub.introduce(key, caller, "native", Some(&Claims::anonymous()));
        key
    });
    (client, key)
}

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

#[tokio::test]
async fn much_that_came_while_a_page_was_let_in_is_sent_in_steps_and_once() {
    let local = tokio::task::LocalSet::new();
    Box::pin(local.run_until(let_in_between_two_feeds())).await;
}

async fn let_in_between_two_feeds() {
    let feeds = [(Source::Log, FeedId::random(), "public.a"), (SOURCE, FeedId::random(), "b")];
    let hub = hub_of(feeds[0].0, &feeds[0].1, &["public.a"]);
    let catalogue = Arc::new(Catalogue::of_channels([topic("b")]));
    let start = Arc::new(Start { feed: feeds[1].1.clone(), last: 0, at: 0, catalogue });
    hub.apply(FeedEvent::Started { source: SOURCE, start });
    let since = hub.with(|hub| hub.positions());
    let mut batchers = feeds.clone().map(|(_, feed, _)| Batcher::new(feed, 1, 0));
    let fill = "x".repeat(20_000);
    let mut sent: [u64; 2] = [0, 0];
    let mut send = |which: usize| {
        let (source, _, name) = &feeds[which];
        sent[which] += 1;
        batchers[which].push(&topic(name), 0, Kind::Json, format!(r#"["{name}",{},"{fill}"]"#, sent[which]).as_bytes());
        let batch = Arc::new(batchers[which].take(0));
        hub.with(|hub| hub.batch(*source, &batch, &[]));
    };
    (0..40).for_each(|n| send(n % 2));
    let (client, key) = joined(&hub).await;
    hub.with(|hub| hub.subscribe_plain(key, &[topic("public.a"), topic("b")], Wrap::None, &since));
    let first = hub.with(|hub| hub.conn(key).unwrap().outbox.bytes());
    assert!((60_000..150_000).contains(&first), "one step, and not all: {first}");
    // Its session writes whenever the socket takes more.
    let writer = hub.clone();
    tokio::task::spawn_local(
        async move { writer.writing_for(key, std::pin::pin!(std::future::pending::<()>())).await },
    );
    client.set_nonblocking(true).unwrap();
    let client = tokio::net::TcpStream::from_std(client).unwrap();
    let (mut text, deadline, mut more) = (Vec::new(), Instant::now() + Duration::from_secs(20), 0..20);
    while text.len() < 60 * 20_000 {
        assert!(Instant::now() < deadline, "{} bytes have come", text.len());
        // Changes go on coming before it has them all.
        more.next().into_iter().for_each(|n| send(n % 2));
        while hub.with(|hub| hub.flush_some(64)) {}
        let mut bytes = [0; 65_536];
        while let Ok(count @ 1..) = client.try_read(&mut bytes) {
            text.extend_from_slice(&bytes[..count]);
        }
        tokio::task::yield_now().await;
    }
    for (_, _, name) in &feeds {
        let numbers: Vec<u64> = numbers_of(&text, name);
        assert_eq!(numbers, (1..=30).collect::<Vec<_>>(), "{name}");
    }
}

/// The numbers of the changes of a topic, in order.
fn numbers_of(text: &[u8], name: &str) -> Vec<u64> {
    let text = String::from_utf8_lossy(text);
    let prefix = format!(r#"["{name}","#);
    text.split(&prefix).skip(1).map(|rest| rest[..rest.find(',').unwrap()].parse().unwrap()).collect()
}
