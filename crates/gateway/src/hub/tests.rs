//! What cannot be told from outside: in which order sockets are written to.

use std::{net::TcpStream as Client, sync::Arc, time::Duration};

use bus::{Bus, MemoryBus, Retention};
use protocol::{Batch, Batcher, Catalogue, FeedId, Kind, config::Wrap};
use tokio::net::TcpListener;

use super::*;
use crate::feed::Start;

const SOURCE: Source = Source::Notify;

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

fn hub(feed: &FeedId, topics: &[&str]) -> HubHandle {
    let settings = HubSettings {
        queue_bytes: 256 * 1024,
        recent_bytes: 1024 * 1024,
        max_subscriptions: 10,
        ping: Duration::from_secs(60),
        stall: Duration::from_secs(60),
        inspect: false,
    };
    let (metrics, bus) = (Metrics::default(), Bus::Memory(MemoryBus::new(Retention::default())));
    let hub = HubHandle::new(settings, Historian::start(&bus, metrics.clone()), metrics, 0);
    let catalogue = Arc::new(Catalogue::of_channels(topics.iter().map(|name| topic(name))));
    let start = Arc::new(Start { feed: feed.clone(), last: 0, at: 0, catalogue });
    hub.apply(FeedEvent::Started { source: SOURCE, start });
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
