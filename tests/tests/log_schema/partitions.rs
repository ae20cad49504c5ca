use serde_json::json;

use crate::{Stage, delete, insert, stage::run, truncate, update};

const TABLE: &str = "create table t (id int, a text, primary key (id)) partition by range (id);
    create table p1 partition of t for values from (0) to (10);
    create table p2 (a text, gone int, id int not null);
    alter table p2 drop gone;
    alter table t attach partition p2 for values from (10) to (20);
    select rowcast.watch('t');";

fn row(id: i32) -> serde_json::Value {
    json!({"id": id, "a": "x"})
}

pub async fn the_topic_is_the_root(stage: Stage) {
    stage.sql(&format!("{TABLE} insert into t values (1, 'x'), (11, 'x'); insert into p2 values ('x', 12); update p2 set a = 'y' where id = 12")).await;
    let raw = stage.raw().await;
    assert!(raw.iter().all(|change| change["topic"] == "public.t" && change["key"] == json!(["id"])));
    let data: Vec<_> = raw.iter().map(|change| change["data"].clone()).collect();
    assert_eq!(data, [row(1), row(11), row(12), json!({"id": 12, "a": "y"})]);
}

pub async fn a_move_is_a_delete_and_an_insert(stage: Stage) {
    stage.sql(&format!("{TABLE} insert into t values (1, 'x'); update t set id = 2; update t set id = 15")).await;
    assert_eq!(stage.log().await, [insert(row(1)), update(row(1), row(2)), delete(row(2)), insert(row(15))]);
}

pub async fn truncate_names_the_partition(stage: Stage) {
    let part = |name: &str| json!({"op": "T", "data": {"partition": name}});
    stage.sql(&format!("{TABLE} truncate p1")).await;
    assert_eq!(stage.log().await, [part("public.p1")]);
    stage.sql("truncate t").await;
    assert_eq!(
        stage.log().await,
        [truncate(), part("public.p1"), part("public.p2")],
        "first of all that the whole is empty"
    );
}

pub async fn truncate_of_a_detached_partition_is_not_of_the_topic(stage: Stage) {
    stage
        .sql(
            "create table t (id int, b int) partition by list (id);
             create table p1 partition of t for values in (1);
             create table p2 partition of t for values in (2) partition by list (b);
             create table q partition of p2 for values in (2);
             create table p3 partition of t for values in (3);
             select rowcast.watch('t');
             alter table t detach partition p1; alter table t detach partition p2; alter table t detach partition p3;
             truncate p1; truncate p2; truncate q",
        )
        .await;
    assert!(stage.log().await.is_empty(), "nothing of the topic is gone");
    stage.sql("create table u (id int, b int) partition by list (id); alter table u attach partition p1 for values in (1); truncate p1; truncate u").await;
    assert!(stage.log().await.is_empty(), "it belongs to another table");
    stage.sql("drop table t; truncate q, p3").await;
    assert!(stage.log().await.is_empty(), "the topic has no table any more");
    stage.sql("create table t (id int); select rowcast.watch('t', each => 'statement'); truncate p3; truncate t").await;
    assert_eq!(stage.log().await, [truncate()], "only the table of the topic");
}

pub async fn a_detached_partition_is_captured_where_it_is_watched_next(stage: Stage) {
    let topics = async || -> Vec<serde_json::Value> {
        stage.raw().await.iter().map(|c| json!([c["op"], c["topic"], c.get("data")])).collect()
    };
    stage
        .sql(
            "create table t (id int) partition by list (id);
             create table p1 partition of t for values in (1); create table p2 partition of t for values in (2);
             create table u (id int) partition by list (id);
             select rowcast.watch('t'); alter table t detach partition p1; alter table t detach partition p2;
             select rowcast.watch('p1'); truncate p1",
        )
        .await;
    assert_eq!(topics().await, [json!(["T", "public.p1", null])], "a table of its own");
    stage.sql("alter table u attach partition p2 for values in (2); select rowcast.watch('u'); truncate p2").await;
    assert_eq!(topics().await, [json!(["T", "public.u", {"partition": "public.p2"}])]);
    stage.sql("select rowcast.unwatch('t'); truncate p1; truncate u").await;
    let expected = [
        json!(["T", "public.p1", null]),
        json!(["T", "public.u", null]),
        json!(["T", "public.u", {"partition": "public.p2"}]),
    ];
    assert_eq!(topics().await, expected, "the end of the other watch takes no trigger of theirs away");
    let silent: i64 =
        stage.value("select count(*) from pg_trigger where tgname like '!rowcast%' and tgenabled <> 'A'").await;
    assert_eq!(silent, 0);
}

pub async fn a_root_that_is_attached_is_truncated_as_a_whole(stage: Stage) {
    stage
        .sql(&format!(
            "{TABLE} create table u (a text, id int not null, primary key (id)) partition by range (id);
             alter table u attach partition t for values from (0) to (100); truncate t; truncate p1"
        ))
        .await;
    let part = |name: &str| json!({"op": "T", "data": {"partition": name}});
    assert_eq!(stage.log().await, [truncate(), part("public.p1"), part("public.p2"), part("public.p1")]);
}

pub async fn truncate_is_seen_by_who_began_before_the_watch(stage: Stage) {
    stage.sql(&TABLE.replace("select rowcast.watch('t');", "create table s (id int)")).await;
    let early = stage.session(None).await;
    run(&early, "begin isolation level repeatable read; select 1").await;
    stage.sql("select rowcast.watch('t'), rowcast.watch('s')").await;
    run(&early, "truncate p1; truncate s; commit").await;
    assert_eq!(stage.log().await, [json!({"op": "T", "data": {"partition": "public.p1"}}), truncate()]);
}

pub async fn new_partitions_are_watched(stage: Stage) {
    stage
        .sql(&format!(
            "{TABLE} create table p3 partition of t for values from (20) to (30); insert into t values (21, 'x')"
        ))
        .await;
    assert_eq!(stage.log().await, [insert(row(21))]);
    stage.sql("set session_replication_role = replica; insert into t values (22, 'x')").await;
    assert_eq!(stage.log().await, [insert(row(22))]);
    stage.sql("select rowcast.watch('t'); truncate p3").await;
    assert_eq!(stage.log().await, [json!({"op": "T", "data": {"partition": "public.p3"}})]);
    stage.sql("alter table t detach partition p3; insert into p3 values (23, 'x')").await;
    assert!(stage.log().await.is_empty(), "it is a table of its own now");
    stage.sql("select rowcast.unwatch('t')").await;
    assert_eq!(stage.value::<i64>("select count(*) from pg_trigger where not tgisinternal").await, 0);
}

pub async fn partitions_of_partitions_are_watched(stage: Stage) {
    stage
        .sql(
            "create table t (id int, b int, primary key (id, b)) partition by list (id);
             create table p partition of t for values in (1) partition by list (b);
             create table q partition of p for values in (2);
             select rowcast.watch('t'); insert into t values (1, 2); truncate q",
        )
        .await;
    assert_eq!(
        stage.log().await,
        [insert(json!({"id": 1, "b": 2})), json!({"op": "T", "data": {"partition": "public.q"}})]
    );
    let error = stage.refused("select rowcast.watch('q')").await;
    assert_eq!(error.message(), "public.q is a partition of public.t");
}
