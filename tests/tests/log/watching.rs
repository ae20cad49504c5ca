use std::time::Duration;

use e2e::{eventually::eventually, postgres::PostgresServer, process::Process};
use protocol::Source;
use tokio::time::sleep;

use crate::{
    load::Load,
    stage::{LATER, SOON, Stage, leads},
};

/// Within this time who subscribes finds what is watched.
const SECONDS: Duration = Duration::from_secs(4);

async fn carried<P: std::borrow::Borrow<PostgresServer>>(stage: &Stage<P>, topics: &[&str]) {
    let reader = stage.bus().reader(Source::Log);
    eventually("the catalogue", SECONDS, async || {
        let head = reader.head().await.map_err(|e| e.to_string())?.ok_or("no head")?;
        let carried: Vec<String> = head.catalogue.topics.iter().map(|info| info.topic.to_string()).collect();
        if carried == topics { Ok(()) } else { Err(format!("{carried:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_watched_is_carried_within_seconds_also_under_load() {
    let stage = Stage::new().await;
    let _listener = stage.listener().await;
    let follower = stage.follower();
    let always = ["public.a", "public.b", "public.c"];
    carried(&stage, &always).await;
    let load = Load::mixed(stage.url(), 4);
    sleep(Duration::from_millis(500)).await;
    stage
        .sql("create table \"Größe, d\" (x int, y text, primary key (y, x)); select rowcast.watch('\"Größe, d\"')")
        .await;
    carried(&stage, &["public.Größe, d", "public.a", "public.b", "public.c"]).await;
    let head = stage.bus().reader(Source::Log).head().await.unwrap().unwrap();
    let info = head.catalogue.topics.iter().find(|info| info.topic.as_str() == "public.Größe, d").unwrap();
    assert_eq!(
        (&info.columns[..], &info.key[..]),
        (&["x", "y"].map(String::from)[..], &["y", "x"].map(String::from)[..])
    );
    stage.sql("insert into \"Größe, d\" values (1, 'ü')").await;
    stage.sql("select rowcast.unwatch('\"Größe, d\"'::regclass)").await;
    carried(&stage, &always).await;
    stage.sql("create table f (x int); select rowcast.watch('f')").await;
    carried(&stage, &["public.a", "public.b", "public.c", "public.f"]).await;
    stage.sql("drop table f").await;
    // Nobody says so; the listener sees it.
    carried(&stage, &always).await;
    stage
        .sql(
            "create table e (x int, y text); select rowcast.watch('e', max_change_bytes => 1024); \
         insert into e values (1, repeat('cut', 1000))",
        )
        .await;
    carried(&stage, &["public.a", "public.b", "public.c", "public.e"]).await;
    load.stop().await;
    let seen = stage.all_is_right(&follower, LATER).await;
    stage.assert_state(&seen).await;
    assert_eq!(seen.feeds.len(), 1);
    assert!(seen.changes.iter().any(|got| got.topic.as_str() == "public.Größe, d"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_watched_again_begins_a_new_feed() {
    let stage = Stage::new().await;
    let _listener = stage.listener().await;
    let follower = stage.follower();
    stage.sql("insert into b (word) values ('seen')").await;
    stage.all_arrived(&follower, SOON).await;
    stage.sql("select rowcast.unwatch('b'::regclass); insert into b (word) values ('seen by nobody')").await;
    stage.sql("select rowcast.watch('b')").await;
    // Who was there before must not believe that nothing was missed.
    follower.until("a new feed", SOON, |seen| seen.feeds.len() == 2).await;
    stage.sql("insert into b (word) values ('seen again')").await;
    stage.all_is_right(&follower, LATER).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_with_the_least_rights_does_all_of_its_work() {
    let stage = Stage::alone(&[]).await;
    stage.sql("create role messenger login; select rowcast.grant_listener('messenger')").await;
    let url = stage.url().replace("postgres@", "messenger@");
    let arguments = ["--log-retention-ms", "1000"];
    let _listener = Process::listener(&url, &stage.redis.url(), &arguments).unwrap().ready().await.unwrap();
    let follower = stage.follower();
    let load = Load::start(stage.url(), 1, "call work(2)", Duration::from_millis(5));
    let sql = "select (last_value >> 36) >= 4 from rowcast.event_id";
    eventually("the ring has turned once around", LATER, async || match stage.ask(sql).await {
        turned if turned == "true" => Ok(()),
        _ => Err(()),
    })
    .await;
    stage.redis.command::<String>(&["FLUSHALL"]).await.unwrap();
    stage.sql("select rowcast.pause()").await;
    stage.sql("select rowcast.resume()").await;
    follower.until("a new feed", SOON, |seen| seen.feeds.len() == 2 && seen.last() > 100).await;
    load.stop().await;
    stage.all_arrived(&follower, SOON).await;
    follower.seen().assert_dense();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_is_removed_and_installed_again_is_noticed_by_a_listener_that_runs() {
    let stage = Stage::new().await;
    let listener = stage.listener().await;
    let follower = stage.follower();
    stage.all_is_right(&follower, SOON).await;
    // What rowcast uninstall does.
    stage.sql("drop schema rowcast cascade").await;
    eventually("it says so", SOON, async || {
        let (_, body) = listener.get("/readyz").await.map_err(|e| e.to_string())?;
        if body.contains("not installed") { Ok(()) } else { Err(body) }
    })
    .await;
    stage.sql("insert into a (word) values ('nobody watches')").await;
    stage.install().await;
    stage.sql("select rowcast.watch('a')").await;
    leads(&listener, true).await;
    stage.sql("insert into a (word) values ('watched again')").await;
    let seen = follower.until("a new feed", SOON, |seen| seen.feeds.len() == 2 && !seen.changes.is_empty()).await;
    assert_ne!(seen.feeds[0], seen.feeds[1]);
    let seen = stage.all_is_right(&follower, SOON).await;
    assert_eq!(seen.of_feed(&seen.feeds[1]).count(), 1);
}
