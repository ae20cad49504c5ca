//! The whole product at work: real processes, PostgreSQL, Redis and nginx.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::time::Duration;

use e2e::{clients::Client, eventually::eventually, ledger::Ledger, site::Site, writer::Writer};
use futures_util::future::try_join_all;

/// Of each kind.
const CLIENTS: usize = 1_000;
const ROWS: u64 = 1_000;
/// 100 a second.
const EVERY: Duration = Duration::from_millis(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_clients_of_two_gateways_get_every_change_in_order_and_once() {
    let site = Site::start().await.unwrap();
    let address = site.address();
    let mut clients = Vec::new();
    // In portions, as the accept queue of nginx is not endless.
    for _ in 0..CLIENTS / 100 {
        clients.extend(try_join_all((0..100).map(|_| Client::native(address))).await.unwrap());
        clients.extend(try_join_all((0..100).map(|_| Client::plain(address))).await.unwrap());
    }
    let mut connections = 0.0;
    for gateway in &site.gateways {
        for door in ["native", "plain"] {
            let here = gateway.metric(&format!(r#"connections{{door="{door}"}}"#)).await.unwrap();
            assert!(here > CLIENTS as f64 / 4.0, "nginx gave {here} of {CLIENTS} {door} clients to one gateway");
            connections += here;
        }
    }
    assert_eq!(connections, 2.0 * CLIENTS as f64);

    let writer = Writer::start(site.database_url(), EVERY);
    eventually("the rows are written", Duration::from_secs(60), async || {
        if writer.written() >= ROWS { Ok(()) } else { Err(writer.written()) }
    })
    .await;
    let last = writer.stop().await.unwrap();
    eventually("everybody has the last row", Duration::from_secs(30), async || {
        let behind = clients.iter().filter(|client| client.last() < last).count();
        if behind == 0 { Ok(()) } else { Err(format!("{behind} clients have not")) }
    })
    .await;
    for client in &clients {
        let Ledger { changes, first, missed, connections, resets, wrong, .. } = client.seen();
        assert!(wrong.is_empty(), "{wrong:?}");
        assert_eq!((changes, first, missed, connections, resets.len()), (last, Some(1), 0, 1, 0));
    }
}
