use std::time::Duration;

use e2e::{
    eventually::eventually,
    follower::{Follower, Seen},
    postgres::{PostgresServer, Shutdown},
    process::Process,
    redis::RedisServer,
};

use crate::stage::{SOON, Stage};

async fn insert(stage: &Stage<PostgresServer>, words: impl IntoIterator<Item = &str>) {
    for word in words {
        stage.sql(&format!("insert into a (word) values ('{word}')")).await;
    }
}

async fn until_word(follower: &Follower, word: &str) -> Seen {
    let wanted = format!(r#""word":"{word}""#);
    follower
        .until(word, SOON, |seen| {
            seen.changes
                .last()
                .and_then(|got| got.change.row())
                .is_some_and(|row| String::from_utf8_lossy(&row.data).contains(&wanted))
        })
        .await
}

/// The words of the feed that is current, without those of the rows that every test begins with.
fn words(seen: &Seen) -> Vec<String> {
    let word = |got: &e2e::follower::Got| {
        let row: serde_json::Value = serde_json::from_slice(&got.change.row()?.data).ok()?;
        Some(row["word"].as_str()?.to_owned())
    };
    seen.of_feed(seen.feeds.last().unwrap()).filter_map(word).collect()
}

async fn reason(stage: &Stage<PostgresServer>) -> String {
    stage.ask("select feed_reason from rowcast.state").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_went_back_begins_a_new_feed() {
    let mut stage = Stage::alone(&[]).await;
    let mut listener = stage.listener().await;
    let follower = stage.follower();
    insert(&stage, ["kept"]).await;
    until_word(&follower, "kept").await;
    let backup = stage.postgres.back_up().await.unwrap();
    insert(&stage, ["gone 1", "gone 2"]).await;
    until_word(&follower, "gone 2").await;
    // While the listener runs.
    stage.postgres.restore(&backup).await.unwrap();
    follower.until("a new feed", SOON, |seen| seen.feeds.len() == 2).await;
    assert_eq!(reason(&stage).await, "went_back");
    insert(&stage, ["new"]).await;
    let seen = until_word(&follower, "new").await;
    seen.assert_dense();
    assert_eq!(words(&seen), ["new"], "nothing of before comes out again");

    // While no listener runs, and what was written since is more than what the bus holds.
    let backup = stage.postgres.back_up().await.unwrap();
    insert(&stage, ["gone 3", "gone 4"]).await;
    until_word(&follower, "gone 4").await;
    listener.kill9().unwrap();
    stage.postgres.restore(&backup).await.unwrap();
    insert(&stage, ["other 3", "other 4", "other 5", "other 6"]).await;
    listener.restart().unwrap();
    let seen = follower.until("a new feed", SOON, |seen| seen.feeds.len() == 3).await;
    assert_eq!((reason(&stage).await.as_str(), seen.feeds.len()), ("went_back", 3));
    insert(&stage, ["newest"]).await;
    until_word(&follower, "newest").await.assert_dense();

    // The log has moved on past the bus before the bus could be asked.
    listener.kill9().unwrap();
    let backup = stage.postgres.back_up().await.unwrap();
    listener.restart().unwrap();
    insert(&stage, ["gone 6"]).await;
    let held = until_word(&follower, "gone 6").await.last();
    listener.kill9().unwrap();
    stage.redis.kill().unwrap();
    stage.postgres.restore(&backup).await.unwrap();
    insert(&stage, ["other 6", "other 7", "other 8"]).await;
    listener.restart().unwrap();
    let last = "select first + events - 1 from rowcast.tick order by id desc limit 1";
    eventually("ticks past what the bus holds", SOON, async || match stage.ask(last).await.parse::<u64>().unwrap() {
        last if last > held => Ok(()),
        last => Err((last, held)),
    })
    .await;
    stage.redis.restart(true).await.unwrap();
    follower.until("a new feed", SOON, |seen| seen.feeds.len() == 4).await;
    assert_eq!(reason(&stage).await, "went_back");

    // A crash is no way back, and neither is a restart.
    for how in [Shutdown::Immediate, Shutdown::Fast] {
        insert(&stage, ["before"]).await;
        until_word(&follower, "before").await;
        stage.postgres.restart(how).await.unwrap();
        insert(&stage, ["after"]).await;
        let seen = until_word(&follower, "after").await;
        seen.assert_dense();
        assert_eq!(seen.feeds.len(), 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_that_was_loaded_into_another_cluster_begins_a_new_feed_and_old_events_never_come_out() {
    let stage = Stage::alone(&[]).await;
    let mut listener = stage.listener().await;
    let follower = stage.follower();
    // The other cluster's transactions have numbers that these have used, and will use them again.
    let burn =
        |n: u32| format!("do $$ begin for i in 1..{n} loop perform pg_current_xact_id(); commit; end loop; end $$");
    stage.sql(&burn(3000)).await;
    insert(&stage, ["old 1", "old 2"]).await;
    until_word(&follower, "old 2").await;
    listener.kill9().unwrap();
    insert(&stage, ["not published"]).await;

    let other = PostgresServer::start_unrelated().await.unwrap();
    stage.postgres.dump_into(&stage.database, &other).await.unwrap();
    let moved = Stage { postgres: other, database: stage.database.clone(), redis: RedisServer::start().await.unwrap() };
    let _listener = Process::listener(&moved.url(), &stage.redis.url(), &[]).unwrap();
    follower.until("a new feed", SOON, |seen| seen.feeds.len() == 2).await;
    assert_eq!(reason(&moved).await, "other_cluster");
    insert(&moved, ["new 1"]).await;
    until_word(&follower, "new 1").await;
    moved.sql(&burn(6000)).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    insert(&moved, ["new 2"]).await;
    let seen = until_word(&follower, "new 2").await;
    seen.assert_dense();
    assert_eq!(words(&seen), ["new 1", "new 2"]);
}
