//! `rowcast tail` when gateways come and go.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "../../gateway/tests/support/mod.rs"]
mod support;

use std::process::Stdio;

use protocol::Op;
use support::{TestGateway, row};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::Command,
};

#[tokio::test]
async fn a_tail_whose_gateway_dies_goes_on_without_a_loss_or_a_repeat() {
    let first = TestGateway::start(&["--drain-ms", "0"], "").await;
    let (bus, address) = (first.bus.clone(), first.address);
    let mut feed = first.feed(&["a"]).await;
    let mut tail = Command::new(env!("CARGO_BIN_EXE_rowcast"))
        .args(["tail", "a", "--url", &format!("ws://{address}"), "--count", "300"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut said = BufReader::new(tail.stderr.take().unwrap()).lines();
    while !said.next_line().await.unwrap().expect("it says that it is live").contains("live from") {}
    for n in 0..100 {
        feed.send("a", &n.to_string()).await;
    }
    first.shutdown.cancel();
    first.running.await.unwrap().unwrap();
    for n in 100..200 {
        feed.send("a", &n.to_string()).await;
    }
    let second = TestGateway::over(bus, &["--bind", &address.to_string()], "").await;
    while !said.next_line().await.unwrap().expect("it says that it goes on").contains("continued after") {}
    for n in 200..300 {
        feed.send("a", &n.to_string()).await;
    }
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    for n in 0..300 {
        let line = tokio::time::timeout(support::PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
        assert!(line.ends_with(&format!("  {n}")), "{n}: {line}");
    }
    assert!(tail.wait().await.unwrap().success());
    second.shutdown.cancel();
}

#[tokio::test]
async fn a_token_reaches_the_application_that_the_gateway_asks() {
    // An application that knows one token.
    let application = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", application.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = application.accept().await.unwrap();
            let mut question = String::new();
            let mut reader = BufReader::new(&mut socket);
            while !question.ends_with("\r\n\r\n") {
                reader.read_line(&mut question).await.unwrap();
            }
            let known = question.to_lowercase().contains("authorization: bearer sesame\r\n");
            let (status, body) = if known { ("200 OK", r#"{"topics":["a"]}"#) } else { ("401 Unauthorized", "") };
            let answer =
                format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let config = format!("[auth]\nurl = \"{url}\"\norigins = [\"https://app.example.com\"]\n");
    let gateway = TestGateway::start(&[], &config).await;
    let mut feed = gateway.feed(&["a"]).await;
    let mut tail = Command::new(env!("CARGO_BIN_EXE_rowcast"))
        .args(["tail", "a", "--url", &format!("ws://{}", gateway.address), "--token", "sesame", "--count", "1"])
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut said = BufReader::new(tail.stderr.take().unwrap()).lines();
    while !said.next_line().await.unwrap().expect("it says that it is live").contains("live from") {}
    feed.send("a", "1").await;
    assert!(tail.wait().await.unwrap().success());
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn a_watched_table_is_shown_row_by_row() {
    let gateway = TestGateway::start(&[], "").await;
    let mut feed = gateway.log(&["public.orders"]).await;
    let tail = async |json: Option<&str>| {
        let mut tail = Command::new(env!("CARGO_BIN_EXE_rowcast"))
            .args(["tail", "public.orders", "--url", &format!("ws://{}", gateway.address), "--count", "2"])
            .args(json)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut said = BufReader::new(tail.stderr.take().unwrap()).lines();
        while !said.next_line().await.unwrap().expect("it says that it is live").contains("live from") {}
        tail
    };
    let (shown, raw) = (tail(None).await, tail(Some("--json")).await);
    feed.send_row("public.orders", &row(Op::Insert, (5, 1), r#"{"id":1,"s":"a"}"#, "")).await;
    feed.send_row("public.orders", &row(Op::Update, (6, 2), r#"{"id":1,"s":"b"}"#, r#"{"id":1,"s":"a"}"#)).await;
    let lines =
        async |tail: tokio::process::Child| String::from_utf8(tail.wait_with_output().await.unwrap().stdout).unwrap();
    let expected = format!(
        "00:00:00.000  {}  INSERT  id=1  {{\"id\":1,\"s\":\"a\"}}\n00:00:00.000  {}  UPDATE  id=1  {{\"id\":1,\"s\":\"b\"}}  was s=\"a\"\n",
        feed.cursor(1),
        feed.cursor(2)
    );
    assert_eq!(lines(shown).await, expected);
    let raw = lines(raw).await;
    assert_eq!(raw.lines().count(), 2);
    assert!(
        raw.starts_with("{\"type\":\"change\",\"route\":") && raw.contains("\"tx\":\"6\",\"tx_end\":true"),
        "{raw}"
    );
    gateway.shutdown.cancel();
}
