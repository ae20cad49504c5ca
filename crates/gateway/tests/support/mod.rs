//! A gateway over a memory bus, and clients that speak to it over real sockets.

#![allow(dead_code)]

use std::{net::SocketAddr, time::Duration};

use bus::{Answer, Bus, MemoryBus, Publisher, Retention, Term};
use clap::Parser;
use futures_util::{SinkExt, StreamExt};
use gateway::{Gateway, Settings};
use protocol::{Batcher, Catalogue, Cursor, FeedId, Kind, Op, Row, Source, Topic, config::Config};
use serde_json::Value;
use tokio::{net::TcpStream, task::JoinHandle};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{Message, client::IntoClientRequest},
};
use tokio_util::sync::CancellationToken;

pub mod events;
pub mod supabase;

/// Longer than anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A running gateway, and the listener's end of its bus.
pub struct TestGateway {
    pub bus: MemoryBus,
    pub address: SocketAddr,
    pub shutdown: CancellationToken,
    pub running: JoinHandle<anyhow::Result<()>>,
}

impl TestGateway {
    pub async fn start(flags: &[&str], config: &str) -> Self {
        Self::over(MemoryBus::new(Retention::default()), flags, config).await
    }

    pub async fn over(bus: MemoryBus, flags: &[&str], config: &str) -> Self {
        let bind: &[&str] = if flags.contains(&"--bind") { &[] } else { &["--bind", "127.0.0.1:0"] };
        let shards: &[&str] = if flags.contains(&"--shards") { &[] } else { &["--shards", "2"] };
        let flags = ["gateway"].iter().chain(shards).chain(bind).chain(flags).copied();
        let settings = Settings::try_parse_from(flags).unwrap();
        let config = Config::parse(config).unwrap();
        let gateway = Gateway::bind(settings, config, Bus::Memory(bus.clone())).await.unwrap();
        let address = gateway.address();
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(gateway.run(shutdown.clone()));
        let gateway = Self { bus, address, shutdown, running };
        gateway.until_ready().await;
        gateway
    }

    pub async fn until_ready(&self) {
        tokio::time::timeout(PATIENCE, async {
            while self.get("/readyz").await.0 != 200 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("the gateway becomes ready");
    }

    /// A new feed of these channels, and the gateway knows it.
    pub async fn feed(&self, channels: &[&str]) -> TestFeed {
        let feed = TestFeed::begin(&self.bus, channels).await;
        self.until_it_carries(channels[0]).await;
        feed
    }

    /// A new feed of these watched tables, and the gateway knows it.
    pub async fn log(&self, tables: &[&str]) -> TestFeed {
        let feed = TestFeed::begin_on(&self.bus, Source::Log, tables).await;
        self.until_it_carries(tables[0]).await;
        feed
    }

    pub async fn until_it_carries(&self, topic: &str) {
        tokio::time::timeout(PATIENCE, async {
            // 426: it is there, and wants a WebSocket.
            while self.get(&format!("/ws/{topic}/")).await.0 != 426 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("the gateway learns of the topic");
    }

    /// Until everything has reached a gateway of one shard; the last of it was a change of this topic.
    pub async fn until_it_has_all(&self, feed: &TestFeed, topic: &str) {
        let mut client = self.connect("/rowcast").await;
        client.next("hello").await;
        let before = feed.cursor(feed.batcher.last() - 1);
        client.subscribe(&format!(r#""topic":"{topic}","since":"{before}""#)).await;
        // One that comes early has caught up before that.
        while client.json().await["type"] != "change" {}
    }

    pub async fn get(&self, path: &str) -> (u16, String) {
        self.request(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address)).await
    }

    pub async fn request(&self, raw: &str) -> (u16, String) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        socket.write_all(raw.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answer)).await.unwrap().unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        (status, answer)
    }

    pub async fn metric(&self, name: &str) -> u64 {
        let text = self.get("/metrics").await.1;
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
    }

    pub async fn connect(&self, path: &str) -> Client {
        Client::connect(self.address, path, &[]).await.unwrap()
    }
}

/// A listener that publishes what a test says.
pub struct TestFeed {
    pub publisher: Publisher,
    pub batcher: Batcher,
    pub id: FeedId,
    pub catalogue: Catalogue,
    pub epoch: u64,
}

/// A row of a table with the key `id`, in a transaction.
pub fn row(op: Op, (tx, tx_last): (u64, u64), data: &str, old: &str) -> Row {
    let (key, data, old) = (r#"["id"]"#.into(), data.to_owned().into(), old.to_owned().into());
    Row { op, tx, tx_last, key, cut: Default::default(), data, old }
}

impl TestFeed {
    pub async fn begin(bus: &MemoryBus, channels: &[&str]) -> Self {
        Self::begin_on(bus, Source::Notify, channels).await
    }

    pub async fn begin_on(bus: &MemoryBus, source: Source, topics: &[&str]) -> Self {
        let mut catalogue = Catalogue::of_channels(topics.iter().map(|name| Topic::new(name).unwrap()));
        if source == Source::Log {
            catalogue.topics.iter_mut().for_each(|info| info.key = vec!["id".into()]);
        }
        Self::begin_with(bus, source, catalogue).await
    }

    pub async fn begin_with(bus: &MemoryBus, source: Source, catalogue: Catalogue) -> Self {
        static EPOCH: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        let epoch = EPOCH.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let id = FeedId::random();
        let term = Term { feed: id.clone(), epoch, after: 0, at: 1, catalogue: catalogue.clone() };
        let mut publisher = bus.publisher(source);
        assert_eq!(publisher.begin(&term).await.unwrap(), Answer::Applied);
        Self { publisher, batcher: Batcher::new(id.clone(), epoch, 0), id, catalogue, epoch }
    }

    pub fn push(&mut self, topic: &str, payload: &str) -> &mut Self {
        self.batcher.push(&Topic::new(topic).unwrap(), 0, Kind::of(payload), payload.as_bytes());
        self
    }

    pub fn push_row(&mut self, topic: &str, row: &Row) -> &mut Self {
        let mut payload = Default::default();
        row.encode(&mut payload);
        self.batcher.push(&Topic::new(topic).unwrap(), 0, Kind::Row, &payload);
        self
    }

    pub async fn send_row(&mut self, topic: &str, row: &Row) {
        self.push_row(topic, row);
        self.publish().await;
    }

    /// An insert that is a transaction of its own.
    pub async fn insert(&mut self, topic: &str, data: &str) {
        let last = self.batcher.last() + 1;
        self.send_row(topic, &row(Op::Insert, (last, last), data, "")).await;
    }

    pub async fn publish(&mut self) {
        let batch = self.batcher.take(2);
        assert_eq!(self.publisher.publish(&batch).await.unwrap(), Answer::Applied);
    }

    pub async fn send(&mut self, topic: &str, payload: &str) {
        self.push(topic, payload);
        self.publish().await;
    }

    pub fn cursor(&self, offset: u64) -> String {
        Cursor::new(self.id.clone(), offset).to_string()
    }
}

pub type Stream = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A client of either kind of endpoint.
pub struct Client {
    pub stream: Stream,
}

impl Client {
    pub async fn connect(
        address: SocketAddr,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, tokio_tungstenite::tungstenite::Error> {
        let mut request = format!("ws://{address}{path}").into_client_request()?;
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        let (stream, _) = tokio_tungstenite::connect_async(request).await?;
        Ok(Self { stream })
    }

    /// The next text frame.
    pub async fn text(&mut self) -> String {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.stream.next()).await.expect("a frame in time");
            match message.expect("the connection goes on").expect("a valid frame") {
                Message::Text(text) => return text.to_string(),
                Message::Close(close) => panic!("closed: {close:?}"),
                _ => {}
            }
        }
    }

    /// The next text frame as JSON.
    pub async fn json(&mut self) -> Value {
        let text = self.text().await;
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    /// The next JSON frame of a type.
    pub async fn next(&mut self, kind: &str) -> Value {
        let json = self.json().await;
        assert_eq!(json["type"], kind, "{json}");
        json
    }

    pub async fn send(&mut self, text: &str) {
        self.stream.send(Message::text(text)).await.unwrap();
    }

    /// Subscribes, and gives the answer.
    pub async fn subscribe(&mut self, rest: &str) -> Value {
        self.send(&format!(r#"{{"type":"subscribe",{rest}}}"#)).await;
        self.json().await
    }

    /// The code and the reason with which the gateway closes.
    pub async fn closed(&mut self) -> (u16, String) {
        loop {
            match tokio::time::timeout(PATIENCE, self.stream.next()).await.expect("a close in time") {
                Some(Ok(Message::Close(Some(close)))) => return (close.code.into(), close.reason.to_string()),
                Some(Ok(_)) => {}
                other => panic!("no close frame: {other:?}"),
            }
        }
    }

    /// Whether anything comes before a pong does: all that was sent before is handled by then.
    pub async fn is_quiet(&mut self) -> bool {
        self.send(r#"{"type":"ping"}"#).await;
        self.json().await["type"] == "pong"
    }
}
