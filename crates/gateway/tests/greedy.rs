//! Clients that take more than they give: what they cost is bounded.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::{net::SocketAddr, time::Duration};

use support::TestGateway;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// A client without a library, which would read by itself. Takes little into its own buffer.
async fn bare(gateway: &TestGateway, more_headers: &str) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut socket = socket.connect(gateway.address).await.unwrap();
    let request = format!("GET /rowcast HTTP/1.1\r\nHost: {}\r\n{UPGRADE}{more_headers}\r\n", gateway.address);
    socket.write_all(request.as_bytes()).await.unwrap();
    socket
}

/// A short text frame, masked with zeros.
fn frame(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81, 0x80 | u8::try_from(text.len()).unwrap(), 0, 0, 0, 0];
    frame.extend_from_slice(text.as_bytes());
    frame
}

/// Whether this process still has the gateway's end of the connection (an orphan of the kernel has
/// no inode).
fn is_held(gateway: SocketAddr, client: SocketAddr) -> bool {
    let port = |address: SocketAddr| format!(":{:04X}", address.port());
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    table.lines().skip(1).any(|line| {
        let field: Vec<&str> = line.split_whitespace().collect();
        field[1].ends_with(&port(gateway)) && field[2].ends_with(&port(client)) && field[9] != "0"
    })
}

#[tokio::test]
async fn who_leaves_without_reading_leaves_nothing_behind() {
    leaves_without_reading(&[]).await;
}

#[tokio::test]
async fn who_asks_and_leaves_without_reading_leaves_nothing_behind() {
    // While the answer waits behind all the rest, nothing is read from it.
    leaves_without_reading(&frame(r#"{"type":"ping"}"#)).await;
}

async fn leaves_without_reading(last_words: &[u8]) {
    let gateway = TestGateway::start(&["--queue-bytes", "20000"], "").await;
    let mut feed = gateway.feed(&["a"]).await;
    let mut client = bare(&gateway, "").await;
    let mut answers = Vec::new();
    // A shard may hear of a feed a moment after the others.
    while !String::from_utf8_lossy(&answers).contains(r#""type":"subscribed""#) {
        client.write_all(&frame(r#"{"type":"subscribe","id":"x","topic":"a"}"#)).await.unwrap();
        assert!(client.read_buf(&mut answers).await.unwrap() > 0);
    }
    let payload = "x".repeat(7_000);
    tokio::time::timeout(support::PATIENCE, async {
        while gateway.metric("rowcast_gateway_subscriptions_fell_behind_total").await == 0 {
            for _ in 0..100 {
                feed.push("a", &payload);
            }
            feed.publish().await;
        }
    })
    .await
    .expect("its socket is full");
    let address = client.local_addr().unwrap();
    assert!(is_held(gateway.address, address));
    client.write_all(last_words).await.unwrap();
    // It says that it sends no more, and keeps its end open.
    client.shutdown().await.unwrap();
    tokio::time::timeout(support::PATIENCE, async {
        while is_held(gateway.address, address) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the gateway lets go of the socket");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn who_does_not_read_its_answers_is_not_read_from() {
    let flags = ["--queue-bytes", "20000", "--max-messages-per-s", "1000000"];
    let gateway = TestGateway::start(&flags, "").await;
    let channels: Vec<String> = (0..20).map(|n| format!("{n:0>120}")).collect();
    let _feed = gateway.feed(&channels.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut client = bare(&gateway, "").await;
    // Each is answered with the names of all topics, 2.5 kB.
    const QUESTIONS: u64 = 20_000;
    let questions = frame(r#"{"type":"subscribe","topic":"nobody"}"#).repeat(QUESTIONS as usize);
    let (mut reading, mut writing) = client.split();
    let asking = writing.write_all(&questions);
    let errors = async || gateway.metric("rowcast_gateway_errors_total{code=\"unknown_topic\"}").await;
    let watching = async {
        let mut answered = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            match errors().await {
                now if now > 0 && now == answered => return now,
                now => answered = now,
            }
        }
    };
    let (asked, answered) = tokio::join!(tokio::time::timeout(Duration::from_secs(2), asking), watching);
    assert!(answered < QUESTIONS, "it stops somewhere");
    drop(asked);
    // And goes on as the answers are read.
    let mut scratch = vec![0; 1 << 16];
    tokio::time::timeout(support::PATIENCE, async {
        while errors().await < answered + 100 {
            assert!(reading.read(&mut scratch).await.unwrap() > 0);
        }
    })
    .await
    .expect("it is read from again");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn an_upgrade_with_a_body_holds_no_place() {
    let gateway = TestGateway::start(&["--max-connections", "1"], "").await;
    for headers in ["Content-Length: 10\r\n", "Transfer-Encoding: chunked\r\n"] {
        let mut client = bare(&gateway, headers).await;
        let mut answer = [0; 12];
        client.read_exact(&mut answer).await.unwrap();
        assert_ne!(&answer, b"HTTP/1.1 101", "{headers}");
        drop(client);
    }
    gateway.connect("/rowcast").await.next("hello").await;
    gateway.shutdown.cancel();
}

/// Bytes that wait in the send queues of the gateway's sockets, by the kernel's own table.
fn unsent(gateway: &TestGateway) -> u64 {
    let port = format!(":{:04X}", gateway.address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let queue = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let ours = fields.get(1)?.ends_with(&port);
        let waiting = fields.get(4)?.split(':').next()?;
        u64::from_str_radix(waiting, 16).ok().filter(|_| ours)
    };
    table.lines().filter_map(queue).sum()
}

#[tokio::test]
async fn what_a_stuck_reader_has_not_been_sent_does_not_fill_the_kernel() {
    let gateway = TestGateway::start(&[], "").await;
    let mut feed = gateway.feed(&["a"]).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = socket.connect(gateway.address).await.unwrap();
    let url = format!("ws://{}/ws/a/", gateway.address);
    let (_stuck, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
    let payload = format!("\"{}\"", "x".repeat(5_000));
    for _ in 0..500 {
        feed.send("a", &payload).await;
    }
    while gateway.metric("rowcast_gateway_subscriptions_fell_behind_total").await == 0 {
        feed.send("a", &payload).await;
    }
    let unsent = unsent(&gateway);
    assert!(unsent > 0 && unsent < 256 * 1024, "{unsent} bytes wait in the kernel");
    gateway.shutdown.cancel();
}
