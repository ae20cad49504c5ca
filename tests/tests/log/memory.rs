use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{
    load::Load,
    rss::{MIB, Rss},
    stage::{LATER, Stage},
};

/// So that the follower, which reads the histories where it cannot keep up, misses nothing.
const ROOMY: [&str; 2] = ["--history-bytes", "4294967296"];

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_with_a_million_rows_is_delivered_whole_in_bounded_memory() {
    const ROWS: u64 = 1_000_000;
    let stage = Stage::alone(&["max_wal_size=8GB", "autovacuum=off"]).await;
    let listener = stage.listener_with(&ROOMY).ready().await.unwrap();
    let follower = stage.follower();
    let rss = Rss::of(&listener);
    let small = Load::gentle(stage.url(), Duration::from_millis(20));
    sleep(Duration::from_millis(500)).await;
    stage.sql(&format!("insert into c (n, word) select g, repeat('x', 250) from generate_series(1, {ROWS}) g")).await;
    let committed = Instant::now();
    sleep(Duration::from_millis(500)).await;
    let written = small.stop().await;
    stage.all_arrived(&follower, 3 * LATER).await;
    let took = committed.elapsed();
    follower.look(|seen| {
        seen.assert_dense();
        let whole: Vec<_> = seen.changes.iter().filter(|got| got.topic.as_str() == "public.c").skip(100).collect();
        let (first, last) = (whole[0].change.offset, whole[whole.len() - 1].change.offset);
        assert_eq!((whole.len() as u64, last - first + 1), (ROWS, ROWS), "it is not torn apart");
        for (n, got) in (1..).zip(&whole) {
            let row = got.change.row().unwrap();
            assert_eq!(row.tx_last, last);
            if n % 1000 == 0 {
                let data = String::from_utf8_lossy(&row.data);
                assert!(data.contains(&format!(r#""n":{n},"#)), "{data}");
            }
        }
        let gentle = seen.changes.iter().filter(|got| got.topic.as_str() == "public.a").count() as u64;
        assert_eq!(gentle, written + 100);
    });
    eprintln!("a million rows: {} MiB at most, {:.0} changes/s", rss.most() / MIB, ROWS as f64 / took.as_secs_f64());
    // The rows alone are 400 MB, and twice that as batches.
    assert!(rss.most() < 200 * MIB, "{} MiB", rss.most() / MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_large_rows_is_delivered_whole_in_bounded_memory() {
    const ROWS: usize = 160;
    let stage = Stage::alone(&["max_wal_size=8GB"]).await;
    let listener = stage.listener_with(&ROOMY).ready().await.unwrap();
    let follower = stage.follower();
    let rss = Rss::of(&listener);
    let small = Load::gentle(stage.url(), Duration::from_millis(20));
    for rows in [40, ROWS - 40] {
        stage.sql(&format!("insert into c (word) select repeat('x', 1000000) from generate_series(1, {rows}) g")).await;
    }
    let written = small.stop().await;
    stage.all_arrived(&follower, LATER).await;
    let seen = follower.seen();
    seen.assert_dense();
    let large: Vec<_> = seen.changes.iter().filter(|got| got.change.payload.len() > 1_000_000).collect();
    assert_eq!(large.len(), ROWS);
    for whole in [&large[..40], &large[40..]] {
        let last = whole[whole.len() - 1].change.offset;
        assert_eq!(last - whole[0].change.offset + 1, whole.len() as u64);
        assert!(whole.iter().all(|got| got.change.row().unwrap().tx_last == last));
    }
    let gentle = seen.changes.iter().filter(|got| got.topic.as_str() == "public.a").count() as u64;
    assert_eq!(gentle, written + 100);
    eprintln!("{ROWS} rows of 1 MB: {} MiB at most", rss.most() / MIB);
    assert!(rss.most() < 140 * MIB, "{} MiB", rss.most() / MIB);
}
