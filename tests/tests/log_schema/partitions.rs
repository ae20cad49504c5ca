use serde_json::json;

use crate::{Stage, delete, insert, truncate, update};

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
