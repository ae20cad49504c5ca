//! What cannot be told from outside: in which order sockets are written to, and what is built how often.

use std::{
    net::{Ipv4Addr, TcpStream as Client},
    sync::Arc,
    time::Duration,
};

use bus::{Bus, MemoryBus, Retention, Term};
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

mod behind;
mod looks;

const SOURCE: Source = Source::Notify;

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

fn hub(feed: &FeedId, topics: &[&str]) -> HubHandle {
    hub_of(SOURCE, feed, topics)
}

fn hub_of(source: Source, feed: &FeedId, topics: &[&str]) -> HubHandle {
    let catalogue = Arc::new(Catalogue::of_channels(topics.iter().map(|name| topic(name))));
    let bus = Bus::Memory(MemoryBus::new(Retention::default()));
    hub_over(&bus, source, Start { feed: feed.clone(), last: 0, at: 0, catalogue })
}

fn hub_over(bus: &Bus, source: Source, start: Start) -> HubHandle {
    let settings = HubSettings {
        queue_bytes: 256 * 1024,
        recent_bytes: 1024 * 1024,
        max_subscriptions: 10,
        ping: Duration::from_secs(60),
        stall: Duration::from_secs(60),
        inspect: true,
    };
    let metrics = Metrics::default();
    let hub = HubHandle::new(settings, Historian::start(bus, metrics.clone()), metrics, 0);
    hub.apply(FeedEvent::Started { source, start: Arc::new(start) });
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
        let key = hub.with(|hub| hub.join(socket, Speech::Realtime(vsn)));
        join_channel(&hub, key, channel, &bindings).unwrap();
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

/// Joins a channel with these bindings, as join 1.
fn join_channel(hub: &HubHandle, key: ConnKey, channel: &str, bindings: &serde_json::Value) -> Result<(), Refusal> {
    let payload = serde_json::json!({"config": {"postgres_changes": bindings}});
    let (join, claims) = (Join::of(channel, &payload).unwrap(), Claims::anonymous());
    let (join_ref, reference) = (Ref::default(), Ref::default());
    hub.with(|hub| hub.join_channel(key, Joining { topic: channel.into(), join_ref, reference, join, claims }))
}

#[tokio::test]
async fn who_has_no_channel_any_more_has_as_long_as_who_has_none_yet() {
    let hub = hub_of(Source::Log, &FeedId::random(), &["public.orders"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _client = Client::connect(listener.local_addr().unwrap()).unwrap();
    let socket = Rc::new(listener.accept().await.unwrap().0);
    let key = hub.with(|hub| {
        let key = hub.join(socket, Speech::Realtime(Vsn::Two));
        hub.unjoined_for(key, Duration::from_millis(100), Expiry::NoChannel);
        key
    });
    let left = || hub.with(|hub| hub.conn(key).unwrap().expires.map(|(at, _)| at.age(hub.now()).is_zero()));
    assert_eq!(left(), Some(true));
    let orders = serde_json::json!([{"event": "*", "schema": "public", "table": "orders"}]);
    let none = serde_json::json!([{"event": "*", "schema": "public", "table": "none"}]);
    join_channel(&hub, key, "realtime:a", &none).unwrap_err();
    assert!(left().is_some(), "a refusal is no channel");
    join_channel(&hub, key, "realtime:a", &orders).unwrap();
    join_channel(&hub, key, "realtime:b", &orders).unwrap();
    let leave = |channel: &str| hub.with(|hub| hub.leave_channel(key, channel, &Ref::default(), &Ref::default()));
    leave("realtime:a");
    assert_eq!(left(), None);
    // However the last one ends.
    for end in [
        |hub: &mut Hub, key| hub.revoke_channel(key, "realtime:b", "x"),
        |hub: &mut Hub, key| hub.fail_channel(key, "realtime:b", "x"),
    ] {
        hub.with(|hub| end(hub, key));
        assert!(left().is_some());
        join_channel(&hub, key, "realtime:b", &orders).unwrap();
        assert_eq!(left(), None);
    }
    leave("realtime:b");
    let is_closed = async {
        while hub.with(|hub| hub.conn(key).unwrap().closing.is_none()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
            hub.with(Hub::tick);
        }
    };
    tokio::time::timeout(Duration::from_secs(10), is_closed).await.unwrap();
}

#[tokio::test]
async fn a_hundred_bindings_of_whole_schemas_cost_little_more_than_one() {
    const TABLES: usize = 20_000;
    let names: Vec<String> = (0..TABLES).map(|n| format!("schema{}.table{n}", n % 100)).collect();
    let hub = hub_of(Source::Log, &FeedId::random(), &names.iter().map(String::as_str).collect::<Vec<_>>());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _client = Client::connect(listener.local_addr().unwrap()).unwrap();
    let socket = Rc::new(listener.accept().await.unwrap().0);
    let key = hub.with(|hub| hub.join(socket, Speech::Realtime(Vsn::Two)));
    let all: Vec<_> = (0..100)
        .map(|n| match n % 2 {
            0 => serde_json::json!({"event": "*", "schema": "*"}),
            _ => serde_json::json!({"event": "*", "schema": format!("schema{n}")}),
        })
        .collect();
    // The best of several: other tests run at the same time.
    let takes = |bindings: &serde_json::Value| {
        let once = |_| {
            let start = Instant::now();
            join_channel(&hub, key, "realtime:a", bindings).unwrap();
            start.elapsed()
        };
        (0..5).map(once).min().unwrap()
    };
    let (one, hundred) = (takes(&all[..1].to_vec().into()), takes(&all.into()));
    assert!(hundred < one * 10, "one: {one:?}, a hundred: {hundred:?}");
    let tables = hub.with(|hub| hub.routes.iter().map(|(_, route)| route.key.topics.len()).collect::<Vec<_>>());
    assert_eq!(tables, [TABLES]);
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
