//! Whatever clients do, and however slowly they read: each subscription gets each of its changes once, in order.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bus::{MemoryBus, Retention};
use futures_util::{SinkExt, StreamExt};
use protocol::Op;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use support::{Client, TestGateway, row};
use tokio::net::TcpSocket;
use tokio_tungstenite::{MaybeTlsStream, tungstenite::Message};

const TOPICS: [&str; 4] = ["a", "b", "c", "d"];

/// The topic of each offset, from 1.
type Published = Arc<Mutex<Vec<usize>>>;

#[derive(Debug, Clone)]
struct Sub {
    topics: Vec<usize>,
    /// How far it is; nothing before it was answered.
    after: Option<u64>,
    route: Option<u64>,
    is_leaving: bool,
    /// The transaction of its last change, if its end has not been told.
    open: Option<String>,
}

struct Stormy {
    client: Client,
    subs: HashMap<String, Sub>,
    /// The offset of the last live change, on whatever route.
    live: u64,
    published: Published,
}

impl Sub {
    /// Nothing of its topics lies between where it is and this offset.
    fn check_until(&self, offset: u64, published: &Published) {
        let after = self.after.unwrap();
        let published = published.lock().unwrap();
        let missed = (after + 1..offset).find(|it| self.topics.contains(&published[*it as usize - 1]));
        assert_eq!(missed, None, "between {after} and {offset}: {self:?}");
    }
}

impl Stormy {
    /// The subscription that a frame counts for.
    fn of(&mut self, json: &Value) -> &mut Sub {
        let is_it = |name: &String, sub: &Sub| match json["id"].as_str() {
            Some(id) => name == id,
            None => sub.route == json["route"].as_u64(),
        };
        let mut those: Vec<&mut Sub> =
            self.subs.iter_mut().filter_map(|(name, sub)| is_it(name, sub).then_some(sub)).collect();
        assert_eq!(those.len(), 1, "{json}");
        those.remove(0)
    }

    fn take(&mut self, json: &Value) {
        let published = Arc::clone(&self.published);
        let shown = json.to_string();
        let offset = || json["cursor"].as_str().unwrap().split_once('.').unwrap().1.parse::<u64>().unwrap();
        match json["type"].as_str().unwrap() {
            "subscribed" => {
                let sub = self.subs.get_mut(json["id"].as_str().unwrap()).unwrap();
                if let Some(after) = sub.after {
                    assert_eq!((after, &json["resumed"]), (offset(), &json!(true)), "{shown}");
                }
                sub.after = Some(offset());
                sub.route = json["route"].as_u64();
            }
            "change" => {
                let offset = offset();
                let live = self.live;
                let sub = self.of(json);
                assert!(offset > sub.after.unwrap(), "again: {shown} {sub:?}");
                sub.check_until(offset, &published);
                let topic = published.lock().unwrap()[offset as usize - 1];
                assert!(json["topic"] == TOPICS[topic] && sub.topics.contains(&topic), "{shown}");
                sub.after = Some(offset);
                let tx = json["tx"].as_str().unwrap().to_owned();
                assert!(sub.open.as_ref().is_none_or(|open| *open == tx), "{shown} in {:?}", sub.open);
                sub.open = (json["tx_end"] != json!(true)).then_some(tx);
                if json["id"].is_null() {
                    assert!(offset >= live, "{shown} after {live}");
                    self.live = offset;
                }
            }
            "caught_up" => {
                let sub = self.of(json);
                sub.check_until(offset() + 1, &published);
            }
            "tx_end" => {
                let sub = self.of(json);
                sub.check_until(offset() + 1, &published);
                let open = sub.open.take();
                assert!(open.is_none_or(|open| open == json["tx"].as_str().unwrap()), "{shown}");
            }
            "watermark" => {
                for sub in self.subs.values().filter(|sub| sub.route.is_some() && !sub.is_leaving) {
                    sub.check_until(offset() + 1, &published);
                }
            }
            "unsubscribed" => drop(self.subs.remove(json["id"].as_str().unwrap()).unwrap()),
            other => panic!("{other}: {shown}"),
        }
    }

    /// Takes what comes within a while, so much at most.
    async fn read(&mut self, most: usize, within: Duration) {
        let until = tokio::time::Instant::now() + within;
        for _ in 0..most {
            match tokio::time::timeout_at(until, self.client.stream.next()).await {
                Ok(Some(Ok(Message::Text(text)))) => self.take(&serde_json::from_str(&text).unwrap()),
                Ok(Some(Ok(Message::Ping(_) | Message::Pong(_)))) => {}
                Ok(other) => panic!("{other:?}"),
                Err(_) => return,
            }
        }
    }

    async fn say(&mut self, json: &Value) {
        self.client.stream.send(Message::text(json.to_string())).await.unwrap();
    }

    async fn subscribe(&mut self, id: &str, feed: &str, topics: Vec<usize>, after: Option<u64>) {
        let names: Vec<&str> = topics.iter().map(|topic| TOPICS[*topic]).collect();
        let mut wanted = json!({ "type": "subscribe", "id": id, "topics": names, "watermark": {"every_ms": 5000} });
        if let Some(after) = after {
            wanted["since"] = format!("{feed}.{after}").into();
        }
        let sub = Sub { topics, after, route: None, is_leaving: false, open: None };
        self.subs.insert(id.into(), sub);
        self.say(&wanted).await;
    }
}

async fn connect(gateway: std::net::SocketAddr) -> Client {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let socket = MaybeTlsStream::Plain(socket.connect(gateway).await.unwrap());
    let mut client =
        Client { stream: tokio_tungstenite::client_async(format!("ws://{gateway}/rowcast"), socket).await.unwrap().0 };
    client.next("hello").await;
    client
}

async fn storm(seed: u64, gateway: std::net::SocketAddr, feed: String, published: Published, is_over: Arc<AtomicBool>) {
    let mut random = StdRng::seed_from_u64(seed);
    let client = connect(gateway).await;
    let mut it = Stormy { client, subs: HashMap::new(), live: 0, published: Arc::clone(&published) };
    while !is_over.load(Ordering::Relaxed) {
        match random.random_range(0..20) {
            0..8 => it.read(random.random_range(1..200), Duration::from_millis(5)).await,
            8..12 => tokio::time::sleep(Duration::from_millis(random.random_range(0..60))).await,
            12..16 => {
                let id = format!("s{}", random.random_range(0..5));
                if it.subs.contains_key(&id) {
                    continue;
                }
                let mut topics: Vec<usize> = (0..4).filter(|_| random.random_bool(0.5)).collect();
                if topics.is_empty() {
                    topics = vec![0, 1, 2, 3];
                }
                let last = published.lock().unwrap().len() as u64;
                let after = match random.random_range(0..4) {
                    0 => None,
                    1 => Some(last.saturating_sub(random.random_range(0..20))),
                    2 => Some(last.saturating_sub(random.random_range(0..1_000))),
                    _ => Some(random.random_range(0..=last)),
                };
                it.subscribe(&id, &feed, topics, after).await;
            }
            16..19 => {
                let id = format!("s{}", random.random_range(0..5));
                if let Some(sub) = it.subs.get_mut(&id).filter(|sub| !sub.is_leaving) {
                    sub.is_leaving = true;
                    it.say(&json!({ "type": "unsubscribe", "id": id })).await;
                }
            }
            _ => {
                it.client = connect(gateway).await;
                it.live = 0;
                let subs = std::mem::take(&mut it.subs);
                for (id, sub) in subs.into_iter().filter(|(_, sub)| !sub.is_leaving) {
                    it.subscribe(&id, &feed, sub.topics, sub.after).await;
                }
            }
        }
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    let last_of = |sub: &Sub| {
        published
            .lock()
            .unwrap()
            .iter()
            .rposition(|topic| sub.topics.contains(topic))
            .map_or(0, |place| place as u64 + 1)
    };
    while it
        .subs
        .values()
        .any(|sub| sub.is_leaving || sub.open.is_some() || sub.after.is_none_or(|after| after < last_of(sub)))
    {
        assert!(Instant::now() < deadline, "{:?}", it.subs);
        it.read(1_000, Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_subscription_gets_each_of_its_changes_once_and_in_order() {
    let bus = MemoryBus::new(Retention { bytes: 1 << 30, ms: 600_000 });
    let flags = ["--queue-bytes", "20000", "--recent-bytes", "60000", "--max-messages-per-s", "100000"];
    let gateway = TestGateway::over(bus, &flags, "").await;
    let mut feed = gateway.log(&TOPICS).await;
    let (published, is_over): (Published, Arc<AtomicBool>) = Default::default();
    let storms: Vec<_> = (0..16)
        .map(|n| {
            let (published, is_over) = (Arc::clone(&published), Arc::clone(&is_over));
            tokio::spawn(storm(n, gateway.address, feed.id.to_string(), published, is_over))
        })
        .collect();
    let mut random = StdRng::seed_from_u64(16);
    let fill = "x".repeat(40_000);
    let (began, mut tx, mut tx_last) = (Instant::now(), 0, 0);
    while began.elapsed() < Duration::from_secs(3) {
        let many = if random.random_bool(0.02) { 300 } else { 30 };
        for _ in 0..random.random_range(1..many) {
            let topic = random.random_range(0..4);
            let size = if random.random_bool(0.005) { 40_000 } else { random.random_range(0..300) };
            published.lock().unwrap().push(topic);
            let offset = feed.batcher.last() + 1;
            if offset > tx_last {
                (tx, tx_last) = (tx + 1, offset + random.random_range(0..8));
            }
            let data = format!(r#"{{"id":1,"fill":"{}"}}"#, &fill[..size]);
            feed.push_row(TOPICS[topic], &row(Op::Update, (tx, tx_last), &data, ""));
        }
        feed.publish().await;
        if random.random_bool(0.7) {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..8))).await;
        }
    }
    // The last transaction comes to its end.
    while feed.batcher.last() < tx_last {
        published.lock().unwrap().push(0);
        feed.push_row(TOPICS[0], &row(Op::Update, (tx, tx_last), "{}", ""));
    }
    feed.publish().await;
    is_over.store(true, Ordering::Relaxed);
    for storm in storms {
        storm.await.unwrap();
    }
    for name in [
        "rowcast_gateway_subscriptions_fell_behind_total",
        "rowcast_gateway_resumed_changes_total{from=\"memory\"}",
        "rowcast_gateway_resumed_changes_total{from=\"history\"}",
    ] {
        assert!(gateway.metric(name).await > 100, "{name}");
    }
    gateway.shutdown.cancel();
}
