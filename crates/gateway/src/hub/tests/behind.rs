//! Who lags, falls behind or comes back: what is kept for it, and what is built how often.

use super::*;

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

#[tokio::test]
async fn who_reads_slowly_gets_its_close_frame_however_long_that_takes() {
    let feed = FeedId::random();
    let hub = hub(&feed, &["t"]);
    let mut batcher = Batcher::new(feed, 1, 0);
    let reads_slowly = async {
        let mut client = one_who_lags(&hub, &mut batcher, 1, 200 * 1024).await.remove(0);
        let key = hub.with(|hub| hub.keys()[0]);
        hub.with(|hub| hub.close(key, Close::TryAgainLater, "too slow"));
        let writer = hub.clone();
        tokio::task::spawn_local(
            async move { writer.writing_for(key, std::pin::pin!(std::future::pending::<()>())).await },
        );
        let (mut text, mut seconds, started) = (Vec::new(), 0, Instant::now());
        while !text.ends_with(b"too slow") {
            assert!(started.elapsed() < Duration::from_secs(10), "it ends: {} bytes", text.len());
            let mut bytes = [0; 4_096];
            match std::io::Read::read(&mut client, &mut bytes) {
                Ok(count @ 1..) => {
                    text.extend_from_slice(&bytes[..count]);
                    // A second goes by.
                    seconds += 1;
                    hub.with(|hub| {
                        hub.started -= Duration::from_secs(1);
                        hub.tick();
                    });
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                ended => panic!("{ended:?} after {} bytes and {seconds} s", text.len()),
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(seconds > 10, "{seconds}");
        // It does not answer, and is not waited for any longer.
        hub.with(|hub| {
            hub.started -= Duration::from_secs(10);
            hub.tick();
        });
        let cut = async {
            while !matches!(std::io::Read::read(&mut client, &mut [0]), Ok(0)) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), cut).await.unwrap();
    };
    tokio::task::LocalSet::new().run_until(reads_slowly).await;
}
