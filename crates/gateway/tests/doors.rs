//! Plain endpoints, HTTP, limits and the drain, over real sockets.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use std::time::{Duration, Instant};

use futures_util::SinkExt;
use support::{Client, TestGateway};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::{
    Error, Message,
    protocol::frame::{
        Frame,
        coding::{Data, OpCode},
    },
};

const SENSORS: &str = r#"
[[endpoint]]
path = "/ws/sensors/"
topics = ["sensor_updates"]
wrap = "data"
[[endpoint]]
path = "/ws/all/"
topics = ["sensor_updates", "db_changes"]
"#;

fn status(result: Result<Client, Error>) -> u16 {
    match result {
        Err(Error::Http(response)) => response.status().as_u16(),
        Err(other) => panic!("{other}"),
        Ok(_) => 101,
    }
}

#[tokio::test]
async fn a_plain_endpoint_sends_payloads_byte_for_byte_or_wrapped() {
    let gateway = TestGateway::start(&[], SENSORS).await;
    // A page may be there before the listener is.
    let mut wrapped = gateway.connect("/ws/sensors/").await;
    let mut feed = gateway.feed(&["sensor_updates", "db_changes"]).await;
    let mut all = gateway.connect("/ws/all/").await;
    let mut any = gateway.connect("/ws/db_changes/").await;
    feed.push("sensor_updates", "{ \"id\" :1}").push("db_changes", "not json").push("sensor_updates", "2");
    feed.publish().await;
    assert_eq!(wrapped.text().await, "{\"data\":{ \"id\" :1}}");
    assert_eq!(wrapped.text().await, "{\"data\":2}");
    assert_eq!(
        (all.text().await, all.text().await, all.text().await),
        ("{ \"id\" :1}".into(), "not json".into(), "2".into())
    );
    assert_eq!(any.text().await, "not json");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_plain_connection_survives_a_new_feed() {
    let gateway = TestGateway::start(&[], SENSORS).await;
    let mut feed = gateway.feed(&["sensor_updates"]).await;
    let mut client = gateway.connect("/ws/sensors/").await;
    feed.send("sensor_updates", "1").await;
    assert_eq!(client.text().await, "{\"data\":1}");
    let mut next = support::TestFeed::begin(&gateway.bus, &["sensor_updates"]).await;
    next.send("sensor_updates", "2").await;
    assert_eq!(client.text().await, "{\"data\":2}");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_topic_that_nobody_carries_is_not_found_and_one_that_nobody_announced_is_not_ready() {
    let gateway = TestGateway::start(&[], "").await;
    assert_eq!(gateway.get("/ws/orders/").await.0, 503);
    let _feed = gateway.feed(&["a"]).await;
    let (code, answer) = gateway.get("/ws/orders/").await;
    assert_eq!(code, 404);
    assert!(answer.contains("unknown_topic") && answer.contains("orders"), "{answer}");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn what_is_not_served_is_said_in_json() {
    let gateway = TestGateway::start(&[], "").await;
    let _feed = gateway.feed(&["a"]).await;
    let request = async |start: &str| {
        let raw = format!("{start} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        let (code, answer) = gateway.request(&raw).await;
        let body: serde_json::Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).expect("JSON");
        assert!(body["message"].is_string(), "{body}");
        (code, body["error"].as_str().unwrap().to_owned())
    };
    assert_eq!(request("GET /nowhere").await, (404, "not_found".into()));
    assert_eq!(request("GET /assets/nothing.js").await, (404, "not_found".into()));
    assert_eq!(request("GET /assets/%ff").await, (404, "not_found".into()));
    assert_eq!(request("GET /ws/%ff/").await, (404, "bad_topic".into()));
    assert_eq!(request("POST /healthz").await, (405, "method_not_allowed".into()));
    assert_eq!(request("POST /ws/a/").await, (405, "bad_handshake".into()));
    assert_eq!(request("GET /ws/a/").await, (426, "bad_handshake".into()));
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_gateway_serves_its_page_its_health_and_its_metrics() {
    let gateway = TestGateway::start(&["--name", "west"], "").await;
    let (code, page) = gateway.get("/").await;
    assert!(code == 200 && page.contains("<!doctype html>") && page.contains("content-security-policy"), "{page}");
    assert!(page.contains("x-rowcast-gateway: west"));
    for asset in page.split('"').filter(|part| part.starts_with("/assets/")) {
        assert_eq!(gateway.get(asset).await.0, 200, "{asset}");
    }
    assert!(gateway.get("/healthz").await.1.contains("\"gateway\":\"west\""));
    assert!(gateway.get("/readyz").await.1.contains("\"ready\":true"));
    assert_eq!(gateway.metric("rowcast_gateway_ready").await, 1);
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_gateway_serves_the_client_as_one_module_and_once_to_who_keeps_it() {
    let gateway = TestGateway::start(&[], "").await;
    let (code, answer) = gateway.get("/rowcast.js").await;
    assert_eq!(code, 200);
    let (head, module) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        head.contains("content-type: text/javascript") && head.contains("access-control-allow-origin: *"),
        "{head}"
    );
    assert!(module.contains("export const connect = "), "{module}");
    assert!(!module.lines().any(|line| line.starts_with("import ")), "{module}");
    let etag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
    let again = format!(
        "GET /rowcast.js HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nIf-None-Match: \"x\", W/{etag}\r\n\r\n"
    );
    let (code, answer) = gateway.request(&again).await;
    assert!(code == 304 && !answer.contains("export"), "{answer}");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_foreign_page_cannot_open_a_socket_to_this_machine() {
    let gateway = TestGateway::start(&[], "").await;
    let _feed = gateway.feed(&["a"]).await;
    let try_with =
        async |headers: &[(&'static str, &str)]| status(Client::connect(gateway.address, "/rowcast", headers).await);
    assert_eq!(try_with(&[("origin", "https://evil.example")]).await, 403);
    assert_eq!(try_with(&[("origin", "null")]).await, 403);
    assert_eq!(try_with(&[("x-forwarded-for", "10.0.0.1")]).await, 403);
    assert_eq!(try_with(&[("origin", "http://localhost:8000")]).await, 101);
    assert_eq!(try_with(&[]).await, 101);
    let rebound = "GET /rowcast HTTP/1.1\r\nHost: evil.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    assert_eq!(gateway.request(&rebound.replace("Upgrade\r\n", "Upgrade, close\r\n")).await.0, 403);
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_broken_frame_closes_with_its_code_and_nobody_else_notices() {
    let gateway = TestGateway::start(&["--max-frame-bytes", "1000"], SENSORS).await;
    let mut feed = gateway.feed(&["sensor_updates"]).await;
    let mut other = gateway.connect("/ws/sensors/").await;
    let cases: Vec<(u16, Message)> = vec![
        (1003, Message::binary(vec![1, 2, 3])),
        (1009, Message::text("x".repeat(10_000_000))),
        (1007, Message::Frame(Frame::message(vec![0xff, 0xfe], OpCode::Data(Data::Text), true))),
        (1002, Message::Frame(Frame::message(vec![1], OpCode::Data(Data::Reserved(3)), true))),
        (1002, Message::Frame(Frame::message(vec![1], OpCode::Data(Data::Continue), true))),
    ];
    for (code, message) in cases {
        let mut client = gateway.connect("/rowcast").await;
        // The 10 MB may be refused before they are all sent.
        drop(client.stream.send(message).await);
        assert_eq!(client.closed().await.0, code);
    }
    feed.send("sensor_updates", "1").await;
    assert_eq!(other.text().await, "{\"data\":1}");
    gateway.shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_knows_that_it_is_connected_misses_nothing_from_then_on() {
    let gateway = TestGateway::start(&[], SENSORS).await;
    let mut feed = gateway.feed(&["sensor_updates"]).await;
    gateway.connect("/ws/sensor_updates/").await;
    for n in 0..300 {
        let mut client = gateway.connect("/ws/sensor_updates/").await;
        feed.send("sensor_updates", &n.to_string()).await;
        // Its shard may have been about to pass on those before.
        let mut next: u32 = client.text().await.parse().unwrap();
        while next < n {
            next += 1;
            assert_eq!(client.text().await, next.to_string());
        }
        assert_eq!(next, n);
    }
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn who_broke_the_protocol_is_hung_up_on_at_once_also_if_it_says_no_goodbye() {
    let gateway = TestGateway::start(&[], "").await;
    let mut socket = tokio::net::TcpStream::connect(gateway.address).await.unwrap();
    let request = format!(
        "GET /rowcast HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        gateway.address
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    // A frame of a client has to be masked.
    socket.write_all(b"\x81\x01x").await.unwrap();
    let (since, mut answer) = (Instant::now(), Vec::new());
    socket.read_to_end(&mut answer).await.unwrap();
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    let (close, code) = (answer.iter().rposition(|byte| *byte == 0x88).unwrap(), 1002_u16.to_be_bytes());
    assert_eq!(answer[close + 2..close + 4], code);
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn there_are_limits_in_all_and_per_address() {
    let gateway = TestGateway::start(&["--max-connections", "3", "--max-connections-per-ip", "2"], "").await;
    let _one = gateway.connect("/rowcast").await;
    let two = gateway.connect("/rowcast").await;
    assert_eq!(status(Client::connect(gateway.address, "/rowcast", &[]).await), 429);
    drop(two);
    tokio::time::timeout(support::PATIENCE, async {
        while status(Client::connect(gateway.address, "/rowcast", &[]).await) != 101 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("who leaves makes room");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn who_sends_without_end_is_closed() {
    let gateway = TestGateway::start(&["--max-messages-per-s", "10"], "").await;
    let mut client = gateway.connect("/rowcast").await;
    for _ in 0..500 {
        drop(client.stream.feed(Message::text(r#"{"type":"ping"}"#)).await);
    }
    drop(client.stream.flush().await);
    assert_eq!(client.closed().await.0, 4429);
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_drain_spreads_the_goodbyes_and_tells_when_to_come_back() {
    let gateway = TestGateway::start(&["--drain-ms", "1000"], SENSORS).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(gateway.connect("/rowcast").await);
    }
    let started = Instant::now();
    gateway.shutdown.cancel();
    let mut times = Vec::new();
    for client in &mut clients {
        let (code, reason) = client.closed().await;
        assert_eq!(code, 1012);
        assert!(reason.contains("retry_ms"), "{reason}");
        times.push(started.elapsed());
    }
    assert!(Client::connect(gateway.address, "/rowcast", &[]).await.is_err(), "nobody is let in any more");
    let slow = times.iter().max().copied().unwrap_or_default();
    assert!(slow >= Duration::from_millis(700), "the last was closed after {slow:?}");
    drop(clients);
    tokio::time::timeout(support::PATIENCE, gateway.running).await.expect("it ends").unwrap().unwrap();
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    use clap::Parser;
    let gateway = TestGateway::start(&[], "").await;
    let settings = gateway::Settings::try_parse_from(["gateway", "--bind", &gateway.address.to_string()]).unwrap();
    let bus = bus::Bus::Memory(gateway.bus.clone());
    let error = gateway::Gateway::bind(settings, Default::default(), bus).await.err().expect("taken").to_string();
    assert!(error.contains("--bind") && error.contains(&gateway.address.to_string()), "{error}");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn serving_more_than_this_machine_needs_a_word() {
    use clap::Parser;
    let bind = async |flags: &[&str]| {
        let flags = ["gateway", "--bind", "0.0.0.0:0"].iter().chain(flags).copied();
        let settings = gateway::Settings::try_parse_from(flags).unwrap();
        let bus = bus::Bus::Memory(bus::MemoryBus::new(bus::Retention::default()));
        gateway::Gateway::bind(settings, Default::default(), bus).await.map(|_| ()).map_err(|e| e.to_string())
    };
    let refused = bind(&[]).await.unwrap_err();
    assert!(refused.contains("0.0.0.0") && refused.contains("--anonymous"), "{refused}");
    assert!(bind(&["--anonymous"]).await.is_ok());
}

#[tokio::test]
async fn a_post_is_counted_by_its_answer() {
    let config = "[[ingest]]\npath = \"/api/a/\"\ntable = \"a\"\ncolumns = [\"x\"]\n";
    let gateway = TestGateway::start(&[], config).await;
    let post = "POST /api/a/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: 7\r\n\r\n{\"x\":1}";
    assert_eq!(gateway.request(post).await.0, 503, "there is no database");
    assert_eq!(gateway.get("/api/a/").await.0, 405);
    assert_eq!(gateway.metric("rowcast_gateway_ingests_total{status=\"503\"}").await, 1);
    assert_eq!(gateway.metric("rowcast_gateway_ingests_total{status=\"405\"}").await, 1);
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn after_the_goodbyes_the_gateway_hangs_up_at_once() {
    use futures_util::StreamExt;
    let gateway = TestGateway::start(&[], "").await;
    let mut client = gateway.connect("/rowcast").await;
    let started = Instant::now();
    client.stream.close(None).await.unwrap();
    while client.stream.next().await.is_some() {}
    assert!(started.elapsed() < Duration::from_secs(2), "browsers wait for that before they say onclose");
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_request_in_hand_is_answered_before_the_gateway_ends() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let config = "[[ingest]]\npath = \"/api/a/\"\ntable = \"a\"\ncolumns = [\"x\"]\n";
    let gateway = TestGateway::start(&[], config).await;
    let mut socket = tokio::net::TcpStream::connect(gateway.address).await.unwrap();
    let head =
        "POST /api/a/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    // It is in hand as soon as somebody waits for its body.
    while !gateway.get("/metrics").await.1.contains("rowcast_gateway_ready 1") {}
    gateway.shutdown.cancel();
    while Client::connect(gateway.address, "/rowcast", &[]).await.is_ok() {}
    socket.write_all(b"{\"x\":1}").await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503"), "there is no database, but there is an answer: {answer}");
    gateway.running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_spare_connection_of_a_browser_does_not_hold_up_the_end() {
    let gateway = TestGateway::start(&[], "").await;
    let _spare = tokio::net::TcpStream::connect(gateway.address).await.unwrap();
    // It is taken in by then.
    gateway.get("/healthz").await;
    let started = Instant::now();
    gateway.shutdown.cancel();
    gateway.running.await.unwrap().unwrap();
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}
