//! A gateway that may be looked into, and clients of every kind.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::support::{Client, PATIENCE, TestFeed, TestGateway};

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Of the gateways that have one; the others do not ask for it.
pub const TOKEN: &str = "a-token-that-nobody-tries-out";

pub async fn get(gateway: &TestGateway, path: &str, headers: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{headers}\r\n", gateway.address);
    gateway.request(&request).await
}

/// One shard, so that what was published is there for whoever asks next.
pub async fn start(flags: &[&str]) -> TestGateway {
    TestGateway::start(&[&["--inspect", "--shards", "1"], flags].concat(), "").await
}

pub async fn ask(gateway: &TestGateway, what: &str) -> (u16, Value) {
    let (status, answer) =
        get(gateway, &format!("/inspect/api/{what}"), &format!("Authorization: Bearer {TOKEN}\r\n")).await;
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    (status, serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {answer}")))
}

/// The answer with 200.
pub async fn look(gateway: &TestGateway, what: &str) -> Value {
    let (status, answer) = ask(gateway, what).await;
    assert_eq!(status, 200, "{what}: {answer}");
    answer
}

/// Looks until it is so.
pub async fn until(gateway: &TestGateway, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let asked = Instant::now();
    loop {
        let answer = look(gateway, what).await;
        if is_so(&answer) {
            return answer;
        }
        assert!(asked.elapsed() < PATIENCE, "{what}: {answer:#}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until the shard has taken in what was published.
pub async fn until_it_is_there(gateway: &TestGateway, feed: &TestFeed) {
    let has_it = |of: &Value| of["feed"] == feed.id.as_str() && of["offset"].as_u64() >= Some(feed.batcher.last());
    until(gateway, "overview", |overview| overview["feeds"].as_array().is_some_and(|feeds| feeds.iter().any(has_it)))
        .await;
}

pub async fn native(gateway: &TestGateway) -> Client {
    let mut client = gateway.connect("/rowcast").await;
    client.next("hello").await;
    client
}

/// The id of the connection that came last.
pub async fn newest(gateway: &TestGateway) -> String {
    let list = look(gateway, "connections?order=new&limit=1").await;
    list["connections"][0]["id"].as_str().unwrap().to_owned()
}

/// A client that subscribes and then reads nothing, with as little room as there can be.
pub async fn stuck(gateway: &TestGateway, subscribe: &str) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut socket = socket.connect(gateway.address).await.unwrap();
    let request = format!("GET /rowcast HTTP/1.1\r\nHost: {}\r\n{UPGRADE}\r\n", gateway.address);
    socket.write_all(request.as_bytes()).await.unwrap();
    // A short text frame, masked with zeros.
    let mut frame = vec![0x81, 0x80 | u8::try_from(subscribe.len()).unwrap(), 0, 0, 0, 0];
    frame.extend_from_slice(subscribe.as_bytes());
    socket.write_all(&frame).await.unwrap();
    until(gateway, "connections?order=new&limit=1", |list| {
        list["connections"][0]["subscription_count"] == 1
            && list["connections"][0]["peer"] == socket.local_addr().unwrap().to_string()
    })
    .await;
    socket
}

pub async fn why(gateway: &TestGateway, connection: &str, what: &str) -> Value {
    look(gateway, &format!("why?connection={connection}&{what}")).await
}
