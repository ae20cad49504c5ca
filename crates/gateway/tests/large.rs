//! Rows of several MiB, wherever a change may pass.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use bus::{MemoryBus, Retention};
use protocol::Op;
use serde_json::json;
use support::{Client, TestGateway, row};

async fn native(gateway: &TestGateway) -> Client {
    let mut client = gateway.connect("/rowcast").await;
    client.next("hello").await;
    client
}

#[tokio::test]
async fn rows_of_several_mib_arrive_live_from_memory_from_the_history_and_slowly() {
    const ROWS: u64 = 6;
    let fill = "x".repeat(2 * 1024 * 1024);
    let data = |n: u64| format!(r#"{{"id":{n},"new":"{fill}"}}"#);
    let old = |n: u64| format!(r#"{{"id":{n},"old":"{fill}"}}"#);
    for recent_bytes in ["100000000", "1000"] {
        // Six of them are more than the history of a channel keeps.
        let bus = MemoryBus::new(Retention { bytes: 100_000_000, ms: 600_000 });
        let gateway = TestGateway::over(bus, &["--recent-bytes", recent_bytes], "").await;
        let mut feed = gateway.log(&["t"]).await;
        let (mut live, mut slow) = (native(&gateway).await, native(&gateway).await);
        let mut plain = gateway.connect("/ws/t/").await;
        live.subscribe(r#""topic":"t""#).await;
        slow.subscribe(r#""topic":"t""#).await;
        for n in 1..=ROWS {
            feed.send_row("t", &row(Op::Update, (n, n), &data(n), &old(n))).await;
            let change = live.next("change").await;
            assert_eq!((&change["cursor"], &change["old"]["id"]), (&json!(feed.cursor(n)), &json!(n)));
            assert_eq!(change["data"]["new"].as_str().unwrap().len(), fill.len());
            // The endpoint cannot be told of a loss, so it keeps up.
            let body = plain.text().await;
            assert_eq!(
                body.len(),
                r#"{"table":"t","op":"UPDATE","data":,"old":}"#.len() + data(n).len() + old(n).len()
            );
        }
        let since = feed.cursor(3);
        let mut late = native(&gateway).await;
        assert_eq!(late.subscribe(&format!(r#""topic":"t","since":"{since}""#)).await["resumed"], true);
        for (client, first) in [(&mut late, 4), (&mut slow, 1)] {
            for n in first..=ROWS {
                let change = client.next("change").await;
                assert_eq!((&change["cursor"], &change["data"]["id"]), (&json!(feed.cursor(n)), &json!(n)));
            }
        }
        assert_eq!(late.next("caught_up").await["cursor"], feed.cursor(ROWS));
        assert_eq!(slow.next("caught_up").await["cursor"], feed.cursor(ROWS));
        feed.insert("t", "{}").await;
        for client in [&mut live, &mut slow, &mut late] {
            assert_eq!(client.next("change").await["cursor"], feed.cursor(ROWS + 1));
        }
        assert!(gateway.metric("rowcast_gateway_subscriptions_fell_behind_total").await > 0, "one was slow");
        gateway.shutdown.cancel();
    }
}
