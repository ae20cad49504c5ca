//! `rowcast tail` when gateways come and go.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

#[path = "../../gateway/tests/support/mod.rs"]
mod support;

use std::process::Stdio;

use support::TestGateway;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
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
