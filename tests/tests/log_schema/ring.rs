use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::{
    Stage,
    stage::{files, refused, run},
};

const TABLE: &str = "create table t (id int primary key); select rowcast.watch('t');";
/// A horizon that sees all that has been committed.
const NOW: &str = "pg_current_snapshot()";

async fn empty(stage: &Stage, leaf: u8, horizon: &str) -> String {
    stage.value(&format!("select rowcast.empty_leaf({leaf}, {horizon})")).await
}

/// The newest tick is in the current leaf, as the listener would have it.
async fn tick(stage: &Stage) {
    stage.sql("select rowcast.begin_feed('resumed')").await;
}

pub async fn a_leaf_is_emptied_when_nobody_needs_it(stage: Stage) {
    stage.sql(&format!("{TABLE} create table h as select pg_current_snapshot() as early")).await;
    // A transaction of its own: the snapshot of a transaction sees what that writes later.
    stage.sql("insert into t values (1)").await;
    assert_eq!(empty(&stage, 0, NOW).await, "current");
    stage.sql("select rowcast.turn_ring(0)").await;
    assert_eq!(empty(&stage, 0, NOW).await, "needed", "the newest tick is in it");
    tick(&stage).await;
    assert_eq!(empty(&stage, 0, "(select early from h)").await, "needed", "the horizon does not see its change");
    let reader = stage.session(None).await;
    run(&reader, "begin; select count(*) from rowcast.event").await;
    assert_eq!(empty(&stage, 0, NOW).await, "busy", "it does not wait");
    run(&reader, "commit").await;
    assert_eq!(empty(&stage, 0, NOW).await, "emptied");
    assert_eq!(stage.value::<i64>("select count(*) from rowcast.event").await, 0);
    assert_eq!(stage.value::<i64>("select count(*) from rowcast.tick_0").await, 0);
    assert_eq!(empty(&stage, 0, NOW).await, "emptied", "it is already");
    let error = stage.refused("select rowcast.empty_leaf(4, pg_current_snapshot())").await;
    assert_eq!(error.message(), "there is no leaf 4; there are 0 to 3");
    let error = stage
        .refused("begin isolation level repeatable read; select rowcast.empty_leaf(0, pg_current_snapshot())")
        .await;
    assert_eq!(error.code().code(), "25001");
}

pub async fn what_is_prepared_keeps_its_leaf(stage: Stage) {
    let name = &stage.database;
    stage.sql(TABLE).await;
    stage.sql(&format!("begin; insert into t values (1); prepare transaction '{name}'")).await;
    stage.sql("select rowcast.turn_ring(0)").await;
    tick(&stage).await;
    assert_eq!(empty(&stage, 0, NOW).await, "busy");
    stage.sql("create table h as select pg_current_snapshot() as early").await;
    stage.sql(&format!("commit prepared '{name}'")).await;
    assert_eq!(empty(&stage, 0, "(select early from h)").await, "needed");
    assert_eq!(empty(&stage, 0, NOW).await, "emptied");
}

pub async fn the_ring_turns_into_an_empty_leaf_alone(stage: Stage) {
    stage.sql(TABLE).await;
    let turn =
        async |generation: i64| stage.value::<Option<i64>>(&format!("select rowcast.turn_ring({generation})")).await;
    assert_eq!(turn(1).await, None, "it is not that generation");
    for generation in 0..3 {
        stage.sql(&format!("insert into t values ({generation})")).await;
        assert_eq!(turn(generation).await, Some(generation + 1));
    }
    assert_eq!(turn(3).await, None, "leaf 0 has changes");
    tick(&stage).await;
    assert_eq!(empty(&stage, 0, NOW).await, "emptied");
    assert_eq!(turn(3).await, Some(4));
    assert_eq!(turn(3).await, None, "once");
}

pub async fn changes_go_to_the_leaf_of_their_generation(stage: Stage) {
    stage.sql(TABLE).await;
    for generation in 0..4 {
        stage.sql(&format!("insert into t values ({generation})")).await;
        let leaf: String = stage
            .value(&format!(
                "select tableoid::regclass::text from rowcast.event where data = '{{\"id\":{generation}}}'"
            ))
            .await;
        assert_eq!(leaf, format!("rowcast.event_{generation}"));
        let place: i64 = stage.value("select max(id) >> 36 from rowcast.event").await;
        assert_eq!(place, generation);
        stage.client.execute("select rowcast.turn_ring($1)", &[&generation]).await.unwrap();
    }
}

pub async fn a_feed_begins_with_an_empty_tick(stage: Stage) {
    stage.sql(&format!("{TABLE} insert into t values (1); select rowcast.turn_ring(0)")).await;
    let first: i64 = stage.value("select first_tick from rowcast.state").await;
    let feed: String = stage.value("select rowcast.begin_feed('went_back')").await;
    let row = stage
        .client
        .query_one(
            "select s.feed, s.feed_reason, s.first_tick, t.prev::text = t.snapshot::text, t.first, t.events, t.tableoid::regclass::text, s.cluster = rowcast.cluster()
             from rowcast.state s join rowcast.tick t on t.id = s.first_tick",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(
        (row.get::<_, String>(0), row.get::<_, &str>(1), row.get::<_, i64>(2)),
        (feed, "went_back", first + (1 << 20))
    );
    assert_eq!((row.get(3), row.get(4), row.get(5)), (Some(true), 1_i64, 0_i64));
    assert_eq!((row.get(6), row.get(7)), ("rowcast.tick_1", true));
    let seen: bool = stage
        .value("select bool_and(pg_visible_in_snapshot(e.xid, t.snapshot)) from rowcast.event e, rowcast.tick_1 t")
        .await;
    assert!(seen, "what was before is not in it");
}

/// How many changes the feed has.
const IN_FEED: &str = "select count(*) from rowcast.event e, rowcast.state s join rowcast.tick t on t.id = s.first_tick \
    where not pg_visible_in_snapshot(e.xid, t.snapshot)";

pub async fn a_feed_has_what_its_own_transaction_changes_later(stage: Stage) {
    // Between the number of a transaction and its snapshot others come and go.
    let other = stage.session(None).await;
    let others = async || run(&other, "create table if not exists x (id int); insert into x values (1)").await;
    stage.sql(&format!("{TABLE} select rowcast.pause()")).await;
    stage.sql("begin; select pg_current_xact_id()").await;
    others().await;
    stage.sql("select rowcast.resume()").await;
    others().await;
    stage.sql("insert into t values (1); commit").await;
    assert_eq!(stage.value::<i64>(IN_FEED).await, 1);

    stage.sql("drop schema rowcast cascade; begin; set local client_min_messages = warning").await;
    others().await;
    for sql in files() {
        stage.sql(&sql).await;
        others().await;
    }
    stage.sql("select rowcast.watch('t'); insert into t values (2), (3); commit").await;
    assert_eq!(stage.value::<i64>(IN_FEED).await, 2);
    stage.sql("insert into t values (4)").await;
    assert_eq!(stage.value::<i64>(IN_FEED).await, 3);
}

pub async fn a_feed_that_begins_while_others_write_keeps_the_log(stage: Stage) {
    stage.sql(TABLE).await;
    stage.sql("begin; select from rowcast.state for update").await;
    let (beginner, writer) = (stage.session(None).await, stage.session(None).await);
    let begun = tokio::spawn(async move { run(&beginner, "select rowcast.begin_feed('went_back')").await });
    while !stage
        .value::<bool>("select exists (select from pg_locks where not granted and pid <> pg_backend_pid())")
        .await
    {
        assert!(!begun.is_finished(), "it did not wait");
        sleep(Duration::from_millis(5)).await;
    }
    run(&writer, "insert into t values (1)").await;
    stage.sql("commit").await;
    begun.await.unwrap();
    assert_eq!(stage.value::<i64>("select count(*) from rowcast.event").await, 1);
    assert_eq!(stage.value::<i64>(IN_FEED).await, 0, "it was there before");
}

pub async fn what_another_cluster_numbered_goes_without_waiting(stage: Stage) {
    let restored = "insert into rowcast.event_1 (id, xid, topic, op) select 1 << 36, (pg_current_xact_id()::text::bigint + ahead)::text::xid8, 'public.t', 'D'";
    stage.sql(&format!("{TABLE} {restored} from (values (1000000)) a(ahead)")).await;
    let (reader, client) = (stage.session(None).await, stage.session(None).await);
    run(&reader, "begin; select count(*) from rowcast.event").await;
    let busy = timeout(Duration::from_secs(5), refused(&client, "select rowcast.begin_feed('other_cluster')")).await;
    assert_eq!(busy.unwrap().code().code(), "55P03");
    run(&reader, "commit").await;
    stage.sql("select rowcast.begin_feed('other_cluster')").await;
    assert_eq!(stage.value::<i64>("select count(*) from rowcast.event").await, 0);
    // Of a number that somebody has now.
    run(&reader, "begin; select pg_current_xact_id()").await;
    stage.sql(&format!("{restored} from (values (-1)) a(ahead)")).await;
    stage.sql("select rowcast.begin_feed('other_cluster')").await;
    assert_eq!(stage.value::<i64>("select count(*) from rowcast.event").await, 0);
    run(&reader, "rollback").await;
}

pub async fn a_feed_begins_while_the_leader_makes_a_tick(stage: Stage) {
    stage.sql(TABLE).await;
    let leader = stage.session(None).await;
    run(&leader, "begin; insert into rowcast.tick_0 (id, prev, snapshot, first, events) select max(id) + 1, '1:1:', pg_current_snapshot(), 1, 0 from rowcast.tick").await;
    stage.sql("set statement_timeout = '5s'; select rowcast.begin_feed('rewatched'); reset statement_timeout").await;
    run(&leader, "commit").await;
    let last: bool = stage.value("select s.first_tick = max(t.id) and count(*) = 3 from rowcast.state s, rowcast.tick t group by s.first_tick").await;
    assert!(last, "ticks of the old feed come before it");
}
