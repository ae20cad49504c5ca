//! HTTP/2 by prior knowledge, over real sockets.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Empty};
use hyper::{Request, Response, body::Bytes, body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use support::{PATIENCE, TestGateway};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};

struct Client {
    sender: http2::SendRequest<Empty<Bytes>>,
    connection: JoinHandle<hyper::Result<()>>,
    authority: String,
}

impl Client {
    async fn connect(gateway: &TestGateway) -> Self {
        let socket = TcpStream::connect(gateway.address).await.unwrap();
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
        let connection = tokio::spawn(connection);
        Self { sender, connection, authority: gateway.address.to_string() }
    }

    async fn get(&mut self, path: &str) -> Response<Incoming> {
        let request = Request::get(format!("http://{}{path}", self.authority)).body(Empty::new()).unwrap();
        self.sender.send_request(request).await.unwrap()
    }
}

/// What has come of a body, as soon as this is in it.
async fn until(body: &mut Incoming, end: &str) -> String {
    let mut text = String::new();
    while !text.contains(end) {
        let frame = tokio::time::timeout(PATIENCE, body.frame()).await.expect("in time").expect("it goes on").unwrap();
        text.push_str(str::from_utf8(frame.data_ref().unwrap()).unwrap());
    }
    text
}

#[tokio::test]
async fn many_streams_share_a_connection_and_each_ends_alone() {
    let gateway = TestGateway::start(&["--drain-ms", "300"], "").await;
    let mut feed = gateway.feed(&["a", "b"]).await;
    let mut client = Client::connect(&gateway).await;
    let mut streams = Vec::new();
    for topic in ["a", "a", "b"] {
        let response = client.get(&format!("/sse?topic={topic}")).await;
        assert_eq!(
            (response.status(), response.headers()["content-type"].as_bytes()),
            (200.try_into().unwrap(), &b"text/event-stream"[..])
        );
        let mut body = response.into_body();
        until(&mut body, "subscribed").await;
        streams.push(body);
    }
    drop(streams.remove(1));
    let open = "rowcast_gateway_connections{door=\"sse\"}";
    while gateway.metric(open).await != 2 {}
    feed.push("a", "\"of a\"").push("b", "\"of b\"").publish().await;
    assert!(until(&mut streams[0], "of a").await.contains(&feed.cursor(1)));
    assert!(until(&mut streams[1], "of b").await.contains(&feed.cursor(2)));
    assert_eq!(client.get("/changes?topic=a").await.status(), 200);
    assert_eq!(client.get("/rowcast").await.status(), 426);
    assert_eq!(client.get("/").await.status(), 200);
    gateway.shutdown.cancel();
    for mut stream in streams {
        until(&mut stream, "restart").await;
        assert!(stream.collect().await.unwrap().to_bytes().is_empty(), "it was the last event");
    }
    tokio::time::timeout(PATIENCE, gateway.running).await.expect("it ends").unwrap().unwrap();
}

#[tokio::test]
async fn the_rules_of_who_is_let_in_are_the_same() {
    let gateway = TestGateway::start(&[], "").await;
    let _feed = gateway.feed(&["a"]).await;
    let mut client = Client::connect(&gateway).await;
    let own = client.authority.clone();
    for (authority, header, status) in [
        (own.as_str(), None, 200),
        (&own, Some(("host", own.as_str())), 200),
        ("rebound.evil.example", None, 403),
        ("rebound.evil.example", Some(("host", &*own)), 403),
        (&own, Some(("host", "evil.example")), 403),
        (&own, Some(("origin", "https://evil.example")), 403),
        (&own, Some(("origin", "http://localhost:5173")), 200),
    ] {
        let mut request = Request::get(format!("http://{authority}/changes?topic=a"));
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let response = client.sender.send_request(request.body(Empty::new()).unwrap()).await.unwrap();
        assert_eq!(response.status(), status, "{authority} {header:?}");
    }
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_connection_without_requests_ends_and_one_with_a_stream_goes_on() {
    let gateway = TestGateway::start(&[], "").await;
    let mut feed = gateway.feed(&["a"]).await;
    let (idle, mut busy) = (Client::connect(&gateway).await, Client::connect(&gateway).await);
    let mut body = busy.get("/sse?topic=a").await.into_body();
    let started = Instant::now();
    tokio::time::timeout(PATIENCE * 2, idle.connection).await.expect("it ends").unwrap().unwrap();
    assert!(started.elapsed() > Duration::from_secs(4), "{:?}", started.elapsed());
    feed.send("a", "\"still here\"").await;
    until(&mut body, "still here").await;
    drop(idle.sender);
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_slow_stream_holds_up_no_other_of_its_connection() {
    let gateway = TestGateway::start(&["--queue-bytes", "50000", "--recent-bytes", "100000000"], "").await;
    let mut feed = gateway.log(&["a", "b"]).await;
    let mut client = Client::connect(&gateway).await;
    let mut slow = client.get("/sse?topic=a").await.into_body();
    let mut other = client.get("/sse?topic=b").await.into_body();
    let fill = "x".repeat(20_000);
    for n in 1..=200 {
        feed.insert("a", &format!("[{n},\"{fill}\"]")).await;
    }
    feed.insert("b", "\"of b\"").await;
    until(&mut other, "of b").await;
    let text = until(&mut slow, "[200,").await;
    let mut last = 0;
    for n in 1..=200 {
        let place = text.find(&format!("[{n},")).unwrap();
        assert!(place > last, "in order");
        last = place;
    }
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_stream_that_nobody_reads_is_given_up_and_its_connection_goes_on() {
    let flags = ["--stall-ms", "500", "--queue-bytes", "50000", "--max-connections-per-ip", "2"];
    let gateway = TestGateway::start(&flags, "").await;
    let mut feed = gateway.log(&["a", "b"]).await;
    let mut client = Client::connect(&gateway).await;
    let stuck = client.get("/sse?topic=a").await.into_body();
    let mut other = client.get("/sse?topic=b").await.into_body();
    let started = Instant::now();
    while gateway.metric("rowcast_gateway_connections{door=\"sse\"}").await == 2 {
        feed.insert("a", &format!("\"{}\"", "x".repeat(100_000))).await;
        assert!(started.elapsed() < PATIENCE * 3, "it is still served");
    }
    feed.insert("b", "\"of b\"").await;
    until(&mut other, "of b").await;
    assert_eq!(client.get("/changes?topic=a").await.status(), 429, "it still counts");
    drop(stuck);
    while client.get("/changes?topic=a").await.status() == 429 {
        assert!(started.elapsed() < PATIENCE * 3, "it has left");
    }
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn what_only_begins_like_http2_is_http1() {
    let gateway = TestGateway::start(&[], "").await;
    let mut socket = TcpStream::connect(gateway.address).await.unwrap();
    for part in ["P", "RI", "NT /healthz HTTP/1.1\r\nHost: localhost\r\n", "Connection: close\r\n\r\n"] {
        socket.write_all(part.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, socket.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    gateway.shutdown.cancel();
}
