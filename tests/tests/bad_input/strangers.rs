//! What clients do.

use std::time::{Duration, Instant};

use e2e::{
    clients::Client,
    eventually::eventually,
    site::{BACK, Site},
    socket::Socket,
};

const STUCK: usize = 20;
const BATCHES: u64 = 40;
const ROWS: u64 = 50;

/// What a process has in memory, without what it shares.
fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or_default() * 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_never_read_hold_up_nobody_and_hold_no_memory() {
    let site = Site::start().await.unwrap();
    // All at one gateway, with those who read; nginx would read for them.
    let gateway = &site.gateways[0];
    let address = gateway.address();
    let (native, plain) = (Client::native(address).await.unwrap(), Client::plain(address).await.unwrap());
    let mut stuck = Vec::new();
    for number in 0..STUCK {
        let path = if number % 2 == 0 { "/rowcast" } else { "/ws/sensors/" };
        let mut socket = Socket::open(address, path).await.unwrap();
        socket.send(r#"{"type":"subscribe","topics":["sensor_updates"]}"#).await.unwrap();
        stuck.push(socket);
    }
    let sql = site.sql().await.unwrap();
    let insert = sql
        .prepare(
            "insert into sensor_readings(sensor_id, value, metadata)
             select 'sensor1', n, jsonb_build_object('padding', repeat('x', 7000)) from generate_series($1::int, $2) n",
        )
        .await
        .unwrap();
    let before = resident_bytes(gateway.pid());
    let mut slowest = Duration::ZERO;
    for batch in 0..BATCHES {
        let (first, last) = (batch * ROWS + 1, (batch + 1) * ROWS);
        sql.execute(&insert, &[&(first as i32), &(last as i32)]).await.unwrap();
        let committed = Instant::now();
        eventually("those who read have everything", BACK, async || {
            let seen = (native.last(), plain.last());
            if seen == (last, last) { Ok(()) } else { Err(seen) }
        })
        .await;
        slowest = slowest.max(committed.elapsed());
    }
    let grown = resident_bytes(gateway.pid()).saturating_sub(before);
    // It was 14 MB for each of them, of which the recent changes, kept once, take 16.
    assert!(grown < 64 << 20, "{} MiB more", grown >> 20);
    let behind = gateway.metric("subscriptions_fell_behind_total").await.unwrap();
    assert!(behind >= STUCK as f64, "only {behind} fell behind: they were not stuck");
    for client in [native, plain] {
        let seen = client.seen();
        assert!(seen.wrong.is_empty() && seen.resets.is_empty(), "{seen:?}");
        assert_eq!((seen.changes, seen.missed, seen.connections), (BATCHES * ROWS, 0, 1));
    }
    assert!(slowest < BACK, "{slowest:?}");
}
