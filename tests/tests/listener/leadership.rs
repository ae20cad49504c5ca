use std::time::Duration;

use e2e::{eventually::eventually, process::Process, proxy::Proxy};
use tokio::time::sleep;

use crate::stage::{SOON, Stage};

async fn leads(listener: &Process, yes: bool) {
    eventually("leader", SOON, async || match listener.metric("leader{source=\"notify\"}").await {
        Ok(leader) if (leader == 1.0) == yes => Ok(()),
        other => Err(other),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_within_2_seconds_of_the_leaders_death() {
    let stage = Stage::new().await;
    let mut leader = stage.listener().await;
    leads(&leader, true).await;
    let standby = stage.listener().await;
    leads(&standby, false).await;
    let follower = stage.follower();
    stage.notify(&["before"]).await;
    follower.got("before", SOON).await;
    leader.kill9().unwrap();
    let took_over = follower.until("a new feed", Duration::from_secs(2), |seen| seen.feeds.len() == 2).await;
    assert!(took_over.feeds[0] != took_over.feeds[1]);
    stage.notify(&["after"]).await;
    follower.got("after", SOON).await.assert_dense();
    leads(&standby, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_ends_hands_over_at_once() {
    let stage = Stage::new().await;
    let mut leader = stage.listener().await;
    let standby = stage.listener().await;
    let follower = stage.follower();
    follower.until("a feed", SOON, |seen| seen.feeds.len() == 1).await;
    assert_eq!(leader.term().await.unwrap(), Some(0));
    follower.until("a new feed", Duration::from_secs(1), |seen| seen.feeds.len() == 2).await;
    leads(&standby, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_slept_never_publishes_beside_its_successor() {
    let stage = Stage::new().await;
    let leader = stage.listener().await;
    leads(&leader, true).await;
    let standby = stage.listener().await;
    let follower = stage.follower();
    follower.until("a feed", SOON, |seen| seen.feeds.len() == 1).await;
    leader.pause().unwrap();
    // What it received in its sleep it would publish now, if it were let.
    stage.notify(&["into the void"]).await;
    follower.until("a new feed", Duration::from_secs(6), |seen| seen.feeds.len() == 2).await;
    stage.notify(&["1"]).await;
    leader.resume().unwrap();
    stage.notify(&["2"]).await;
    leads(&leader, false).await;
    sleep(Duration::from_millis(500)).await;
    stage.notify(&["3"]).await;
    let seen = follower.got("3", SOON).await;
    seen.assert_dense();
    assert_eq!((seen.payloads(), seen.feeds.len()), (vec!["1", "2", "3"], 2));
    leads(&standby, true).await;
    assert_eq!(leader.get("/readyz").await.unwrap().0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_gives_up_on_a_leader_that_it_cannot_reach() {
    let stage = Stage::new().await;
    let proxy = Proxy::to(stage.postgres.port()).await.unwrap();
    let url = stage.postgres.url_at(&stage.database, proxy.port());
    let cut_off = Process::listener(&url, &stage.redis.url(), &["--channels", "a,b"]).unwrap().ready().await.unwrap();
    leads(&cut_off, true).await;
    let standby = stage.listener().await;
    let follower = stage.follower();
    follower.until("a feed", SOON, |seen| seen.feeds.len() == 1).await;
    // Nothing closes: without idle_session_timeout the lock would be kept for hours.
    proxy.stall();
    follower.until("a new feed", Duration::from_secs(6), |seen| seen.feeds.len() == 2).await;
    leads(&standby, true).await;
    stage.notify(&["after"]).await;
    follower.got("after", SOON).await.assert_dense();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_set_back_stops_nobody() {
    let stage = Stage::new().await;
    // What a leader leaves behind whose database was an hour ahead.
    let epoch = u64::try_from(protocol::time::now()).unwrap() + 3_600_000_000;
    let term = bus::Term {
        feed: protocol::FeedId::random(),
        epoch,
        after: 0,
        at: 0,
        catalogue: protocol::Catalogue::of_channels([protocol::Topic::new("a").unwrap()]),
    };
    let answer = stage.bus().publisher(protocol::Source::Notify).begin(&term).await.unwrap();
    assert_eq!(answer, bus::Answer::Applied);
    let _listener = stage.listener().await;
    let head = stage.bus().reader(protocol::Source::Notify).head().await.unwrap().unwrap();
    assert_eq!(head.epoch, epoch + 1);
    assert_ne!(head.feed, term.feed);
}
