use std::time::Duration;

use serde_json::{Value, json};
use tokio_postgres::AsyncMessage;

use crate::{Stage, delete, insert, stage::run, truncate, update};

const TABLE: &str = "create table t (id int primary key, a text); select rowcast.watch('t');";
const DOORBELL: i64 = 32_210_705_904_137_076;

fn row(id: i32, a: &str) -> Value {
    json!({"id": id, "a": a})
}

pub async fn a_replica_role_silences_nothing(stage: Stage) {
    stage.sql(&format!("{TABLE} set session_replication_role = replica; insert into t values (1, 'a'); truncate t; set session_replication_role = local; insert into t values (1, 'a')")).await;
    assert_eq!(stage.log().await, [insert(row(1, "a")), truncate(), insert(row(1, "a"))]);
}

pub async fn copy_is_inserts(stage: Stage) {
    stage.sql(&format!("{TABLE} copy t from program $$printf '1\\ta\\n2\\tb\\n'$$")).await;
    assert_eq!(stage.log().await, [insert(row(1, "a")), insert(row(2, "b"))]);
}

pub async fn an_upsert_is_an_insert_or_an_update(stage: Stage) {
    let upsert = "insert into t values (1, 'a'), (2, 'b') on conflict (id) do update set a = t.a || excluded.a";
    stage.sql(&format!("{TABLE} {upsert}; delete from t where id = 1; {upsert}; insert into t values (1, 'x') on conflict do nothing")).await;
    let expected = [
        insert(row(1, "a")),
        insert(row(2, "b")),
        delete(row(1, "a")),
        insert(row(1, "a")),
        update(row(2, "b"), row(2, "bb")),
    ];
    assert_eq!(stage.log().await, expected);
}

pub async fn a_merge_is_its_parts(stage: Stage) {
    if stage.version().await < 15 {
        return;
    }
    stage
        .sql(&format!(
            "{TABLE} insert into t values (1, 'a'), (2, 'b');
             merge into t using (values (1), (2), (3)) s(id) on t.id = s.id
               when matched and s.id = 1 then delete when matched then update set a = 'm' when not matched then insert values (s.id, 'n')"
        ))
        .await;
    let expected = [
        insert(row(1, "a")),
        insert(row(2, "b")),
        delete(row(1, "a")),
        update(row(2, "b"), row(2, "m")),
        insert(row(3, "n")),
    ];
    assert_eq!(stage.log().await, expected);
}

pub async fn a_cascade_comes_after_its_cause(stage: Stage) {
    stage
        .sql(&format!(
            "{TABLE} create table child (id int primary key, t int references t on delete cascade on update cascade); select rowcast.watch('child');
             insert into t values (1, 'a'), (2, 'b'); insert into child values (10, 1), (20, 2)"
        ))
        .await;
    stage.log().await;
    stage.sql("update t set id = 3 where id = 1").await;
    let child = |id: i32, t: i32| json!({"id": id, "t": t});
    assert_eq!(stage.log().await, [update(row(1, "a"), row(3, "a")), update(child(10, 1), child(10, 3))]);
    stage.sql("delete from t").await;
    let log = stage.log().await;
    let place = |change: &Value| log.iter().position(|c| c == change).unwrap();
    assert_eq!(log.len(), 4);
    assert!(place(&delete(row(3, "a"))) < place(&delete(child(10, 3))), "{log:?}");
    assert!(place(&delete(row(2, "b"))) < place(&delete(child(20, 2))), "{log:?}");
}

pub async fn a_truncate_is_one_change(stage: Stage) {
    stage.sql(&format!("{TABLE} create table u (id int references t); select rowcast.watch('u'); insert into t values (1, 'a'), (2, 'b')")).await;
    stage.log().await;
    stage.sql("truncate t cascade").await;
    let mut topics: Vec<String> = stage.raw().await.iter().map(|c| format!("{} {}", c["op"], c["topic"])).collect();
    topics.sort();
    assert_eq!(topics, ["\"T\" \"public.t\"", "\"T\" \"public.u\""]);
}

pub async fn a_changed_key_is_one_update(stage: Stage) {
    stage.sql(&format!("{TABLE} insert into t values (1, 'a'); update t set id = 2")).await;
    assert_eq!(stage.log().await, [insert(row(1, "a")), update(row(1, "a"), row(2, "a"))]);
}

pub async fn a_savepoint_takes_its_changes_with_it(stage: Stage) {
    stage
        .sql(&format!(
            "{TABLE} begin; insert into t values (1, 'a'); savepoint s; insert into t values (2, 'b'); update t set a = 'x'; rollback to s;
             insert into t values (3, 'c'); savepoint u; update t set a = 'd' where id = 3; release u; commit;
             begin; insert into t values (4, 'e'); rollback"
        ))
        .await;
    assert_eq!(stage.log().await, [insert(row(1, "a")), insert(row(3, "c")), update(row(3, "c"), row(3, "d"))]);
    assert_eq!(
        stage.value::<i64>("select count(distinct xid) from rowcast.event").await,
        1,
        "a savepoint is no transaction of its own"
    );
}

pub async fn a_prepared_transaction_is_logged_when_it_commits(stage: Stage) {
    let name = &stage.database;
    stage.sql(TABLE).await;
    stage.sql(&format!("begin; insert into t values (1, 'a'); prepare transaction '{name}'")).await;
    assert!(stage.log().await.is_empty());
    stage.sql("insert into t values (2, 'b')").await;
    assert_eq!(stage.value::<i64>("select count(*) from rowcast.event").await, 1);
    stage.sql(&format!("commit prepared '{name}'")).await;
    assert_eq!(stage.value::<i64>("select count(*) from rowcast.event").await, 2);
}

pub async fn the_doorbell_rings_only_for_a_listener_that_sleeps(stage: Stage) {
    stage.sql(TABLE).await;
    let (listener, mut connection) =
        tokio_postgres::connect(&stage.server.url(&stage.database), tokio_postgres::NoTls).await.unwrap();
    let (rings, mut rung) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notification(ring) = message {
                rings.send((ring.channel().to_owned(), ring.payload().to_owned())).unwrap();
            }
        }
    });
    run(&listener, "listen rowcast_log; listen done").await;
    stage.sql("insert into t values (1, 'a')").await;
    run(&listener, &format!("select pg_advisory_lock({DOORBELL})")).await;
    stage.sql("insert into t values (2, 'b'), (3, 'c')").await;
    run(&listener, &format!("select pg_advisory_unlock({DOORBELL})")).await;
    stage.sql("insert into t values (4, 'a'); notify done").await;
    let mut next = async || tokio::time::timeout(Duration::from_secs(10), rung.recv()).await.unwrap().unwrap();
    assert_eq!(next().await, ("rowcast_log".into(), String::new()));
    assert_eq!(next().await.0, "done", "once for both, and not while it is awake");

    // Who wrote and did not ring keeps the lock, so the listener cannot fall asleep over it.
    let writer = stage.session(None).await;
    run(&writer, "begin; insert into t values (5, 'e')").await;
    let locked = || async {
        listener.query_one("select pg_try_advisory_lock($1)", &[&DOORBELL]).await.unwrap().get::<_, bool>(0)
    };
    assert!(!locked().await);
    run(&writer, "commit").await;
    assert!(locked().await);
}

pub async fn changes_of_one_transaction_are_in_order(stage: Stage) {
    stage.sql(&format!("{TABLE} begin; insert into t select i, '' from generate_series(1, 100) i; update t set a = id::text; delete from t where id % 2 = 0; commit")).await;
    let log = stage.log().await;
    assert_eq!(log.len(), 250);
    assert!(
        log[..100].iter().all(|c| c["op"] == "I")
            && log[100..200].iter().all(|c| c["op"] == "U")
            && log[200..].iter().all(|c| c["op"] == "D")
    );
    assert_eq!(log[0], insert(row(1, "")));
    assert_eq!(log[99], insert(row(100, "")));
}
