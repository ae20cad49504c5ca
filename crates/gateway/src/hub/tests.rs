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
        hub.with(|hub| hub.testify(0, key, SOURCE, &hit, &cursor).unwrap().subscriptions.remove(0).1)
    };
    for sent in [1, 2, 5] {
        assert_eq!(fact(sent), Fact::Standing(Standing::Written), "{sent}");
    }
    for missed in [3, 4] {
        assert!(matches!(fact(missed), Fact::Skipped(ResetReason::HistoryTrimmed, ..)), "{missed}: {:?}", fact(missed));
    }
}

/// Takes everything in and writes it out.
fn deliver(hub: &HubHandle, batch: &Arc<Batch>) {
    hub.with(|hub| hub.batch(SOURCE, batch, &[]));
    while hub.with(|hub| hub.flush_some(64)) {}
}

/// Reads what is there.
fn read(client: &mut Client) -> usize {
    let (mut buffer, mut count) = ([0; 65_536], 0);
    while let Ok(read @ 1..) = std::io::Read::read(client, &mut buffer) {
        count += read;
    }
    count
}

/// So many clients of a topic, of whom the first does not read: more and more of the ring is kept for it,
/// until it is about this much.
async fn one_who_lags(hub: &HubHandle, batcher: &mut Batcher, count: usize, lag: usize) -> Vec<Client> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..count {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        socket.connect(&listener.local_addr().unwrap().into()).unwrap();
        socket.set_nonblocking(true).unwrap();
        clients.push(Client::from(socket));
        let socket = listener.accept().await.unwrap().0;
        socket2::SockRef::from(&socket).set_send_buffer_size(4_096).unwrap();
        hub.with(|hub| {
            let key = hub.join(Rc::new(socket), Speech::WebSocket);
            hub.subscribe_plain(key, &[topic("t")], Wrap::None, &[]);
        });
    }
    while hub.with(|hub| hub.streams.iter().map(|stream| hub.streams.get(stream).ring.len()).sum::<usize>()) < lag {
        batcher.push(&topic("t"), 0, Kind::Text, &[b'x'; 1_000]);
        deliver(hub, &Arc::new(batcher.take(0)));
        clients[1..].iter_mut().for_each(|client| assert!(read(client) > 0));
    }
    clients
}

#[tokio::test]
async fn what_is_kept_for_one_who_lags_holds_up_nothing_for_the_others() {
    let feed = FeedId::random();
    let hub = hub(&feed, &["t", "other"]);
    let mut batcher = Batcher::new(feed, 1, 0);
    let _clients = one_who_lags(&hub, &mut batcher, 20, 200 * 1024).await;
    let batch = batch(&mut batcher, "t");
    hub.with(|hub| hub.batch(SOURCE, &batch, &[]));
    assert!(hub.with(|hub| hub.has_to_write()), "it is for the others to be written");
    assert!(!hub.with(|hub| hub.is_pressed()), "and no reason to take nothing more in: that is two bytes");
}

#[tokio::test]
async fn who_falls_behind_takes_nothing_of_the_ring_along_for_a_ping() {
    let feed = FeedId::random();
    let hub = hub(&feed, &["t"]);
    let mut batcher = Batcher::new(feed, 1, 0);
    let falls_behind = async {
        let mut clients = one_who_lags(&hub, &mut batcher, 2, 200 * 1024).await;
        hub.with(|hub| {
            hub.settings.ping = Duration::from_secs(10);
            // So it was heard of longer ago than that, and not so long that it is cut off.
            hub.started -= Duration::from_secs(15);
            hub.tick();
        });
        while hub.with(|hub| hub.conns.iter().all(|(_, conn)| conn.place.is_some())) {
            batcher.push(&topic("t"), 0, Kind::Text, &[b'x'; 1_000]);
            deliver(&hub, &Arc::new(batcher.take(0)));
            read(&mut clients[1]);
        }
        let waits = hub.with(|hub| hub.conns.iter().map(|(_, conn)| conn.outbox.bytes()).sum::<usize>());
        assert!(waits < 2_000, "{waits} bytes wait: the rest of a frame is enough");
    };
    tokio::task::LocalSet::new().run_until(falls_behind).await;
}

#[tokio::test]
async fn a_crowd_that_resumes_from_the_history_shares_its_frames() {
    const CROWD: usize = 20;
    let (feed, bus) = (FeedId::random(), Bus::Memory(MemoryBus::new(Retention::default())));
    let mut publisher = bus.publisher(SOURCE);
    let catalogue = Catalogue::of_channels([topic("t")]);
    let term = Term { feed: feed.clone(), epoch: 1, after: 0, at: 0, catalogue: catalogue.clone() };
    publisher.begin(&term).await.unwrap();
    let mut batcher = Batcher::new(feed.clone(), 1, 0);
    for _ in 0..1_000 {
        batcher.push(&topic("t"), 0, Kind::Text, &[b'x'; 200]);
    }
    publisher.publish(&batcher.take(0)).await.unwrap();
    // It begins when all that has gone by.
    let hub = hub_over(&bus, SOURCE, Start { feed: feed.clone(), last: 1_000, at: 0, catalogue: Arc::new(catalogue) });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let resume = async {
        let mut clients = Vec::new();
        for place in 0..CROWD {
            let client = Client::connect(listener.local_addr().unwrap()).unwrap();
            client.set_nonblocking(true).unwrap();
            clients.push(client);
            let socket = Rc::new(listener.accept().await.unwrap().0);
            let since = Some(Cursor::new(feed.clone(), place as u64));
            let (id, topics) = (Some("x".to_owned()), vec![topic("t")]);
            hub.with(|hub| {
                let key = hub.join(socket, Speech::WebSocket);
                let wanted = Subscribe { id, topics, since, watermark_ms: None, conflate_ms: None };
                hub.subscribe(key, wanted, |_| true).unwrap();
            });
        }
        let is_live = |conn: &Conn| conn.subs.iter().all(|(_, sub)| sub.is_live());
        let mut got = [0; CROWD];
        let started = Instant::now();
        while hub.with(|hub| hub.flush_some(64) || !hub.conns.iter().all(|(_, conn)| is_live(conn))) {
            clients.iter_mut().zip(&mut got).for_each(|(client, got)| *got += read(client));
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert!(started.elapsed() < Duration::from_secs(10), "they have caught up in time");
        }
        clients.iter_mut().zip(&mut got).for_each(|(client, got)| *got += read(client));
        assert!(got.iter().all(|got| *got > 980 * 200), "each has all of it: {got:?}");
        let framed = hub.with(|hub| hub.encoder.framed);
        // Who asks first may be served apart.
        assert!(framed <= 3_000, "{framed} frames were built of 1000 changes");
    };
    tokio::task::LocalSet::new().run_until(resume).await;
}
