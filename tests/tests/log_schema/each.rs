use serde_json::{Value, json};

use crate::{Stage, delete, insert, truncate, update};

const TABLE: &str = "create table t (id int primary key, a text, secret text); ";
const CHANGES: &str = "insert into t select g, 'a', 's' from generate_series(1, 3) g; \
    update t set a = 'b', id = id + 10 where id < 3; delete from t where id = 3; \
    insert into t values (11, 'x', 'y'), (4, 'x', 'y') on conflict (id) do update set a = 'up'";

/// Per row or per statement, the log says the same.
pub async fn by_the_statement_the_same_is_logged(stage: Stage) {
    for old in ["full", "key", "none"] {
        for leave_out in ["", "secret"] {
            let mut logs = Vec::new();
            for each in ["row", "statement"] {
                stage
                    .sql(&format!(
                        "{TABLE} select rowcast.watch('t', old => '{old}', leave_out => '{{{leave_out}}}', each => '{each}'); \
                         {CHANGES}; truncate t"
                    ))
                    .await;
                let mut log = stage.raw().await;
                // Within a statement the order of different rows is the table's.
                log.sort_by_key(Value::to_string);
                logs.push(log);
                stage.sql("drop table t").await;
            }
            assert_eq!(logs[0], logs[1], "{old} {leave_out}");
            assert_eq!(logs[0].len(), 3 + 2 + 1 + 2 + 1);
        }
    }
}

pub async fn columns_may_have_any_name(stage: Stage) {
    let names = "n, o, a, b, c, k, r, v, w, new, old, data, cut, op, place, leaf, tg_op, new_rows, old_rows, \"N.*\"";
    let table = format!("create table t (id int primary key, {} text)", names.replace(", ", " text, "));
    let change =
        "insert into t (id, n, o, leaf) values (1, 'n', 'o', 'l'); update t set n = 'm', id = 2; delete from t";
    for old in ["full", "key", "none"] {
        for leave_out in ["", "v"] {
            let mut logs = Vec::new();
            for each in ["row", "statement"] {
                stage
                    .sql(&format!("{table}; select rowcast.watch('t', old => '{old}', leave_out => '{{{leave_out}}}', each => '{each}'); {change}"))
                    .await;
                logs.push(stage.raw().await);
                stage.sql("drop table t").await;
            }
            assert_eq!(logs[0][0]["data"]["n"], "n");
            assert_eq!(logs[0], logs[1], "{old} {leave_out}");
        }
    }
}

/// A plan that was made for one row serves many.
pub async fn many_rows_after_one_are_as_quick(stage: Stage) {
    for old in ["full", "key"] {
        stage
            .sql(&format!(
                "{TABLE} select rowcast.watch('t', old => '{old}', each => 'statement'); insert into t values (0); update t set a = 'a'; \
                 insert into t select g, 'a', 's' from generate_series(1, 5000) g; set statement_timeout = '10s'; update t set a = 'b'; reset statement_timeout; drop table t"
            ))
            .await;
        assert_eq!(stage.log().await.len(), 1 + 1 + 5000 + 5001);
    }
}

pub async fn only_what_is_too_large_is_looked_at(stage: Stage) {
    stage
        .sql(&format!(
            "{TABLE} select rowcast.watch('t', each => 'statement', max_change_bytes => 1024); \
             create or replace function rowcast.cut_change(inout data text, inout old text, key text, max_bytes int, out cut text) language plpgsql as \
             $$ begin raise 'called for %', data; end $$"
        ))
        .await;
    stage.sql("insert into t select g, 'a', 's' from generate_series(1, 100) g; update t set a = 'b'; delete from t where id > 1").await;
    assert_eq!(stage.log().await.len(), 100 + 100 + 99);
    let error = stage.refused("update t set a = repeat('x', 2000)").await;
    assert!(error.message().contains("called for"), "{error:?}");
}

pub async fn old_and_new_row_of_many_belong_together(stage: Stage) {
    stage
        .sql(&format!(
            "{TABLE} select rowcast.watch('t', each => 'statement'); insert into t select g, g::text from generate_series(1, 5000) g; \
             analyze t"
        ))
        .await;
    stage.log().await;
    stage.sql("update t set id = id + 100000 where id % 3 = 0").await;
    let log = stage.log().await;
    assert_eq!(log.len(), 1666);
    for change in log {
        let id = |row: &Value| row["id"].as_i64().unwrap();
        assert_eq!(id(&change["data"]), id(&change["old"]) + 100_000);
        assert_eq!(change["data"]["a"], change["old"]["a"]);
    }
}

pub async fn a_large_row_among_small_ones_is_cut_alone_and_keeps_its_place(stage: Stage) {
    stage.sql(&format!("{TABLE} select rowcast.watch('t', each => 'statement', max_change_bytes => 1024)")).await;
    let row = "case when g % 100 = 50 then repeat('x', 3000) else 'a' end";
    for count in [60, 1000] {
        stage
            .sql(&format!("insert into t select g, {row}, 's' from generate_series(1, {count}) g; delete from t"))
            .await;
        let mut log = stage.raw().await;
        log.truncate(count);
        for (change, id) in log.iter().zip(1..) {
            assert_eq!(change["data"]["id"], id);
            let (cut, a) = if id % 100 == 50 { (Some(&json!(["a"])), None) } else { (None, Some(&json!("a"))) };
            assert_eq!((change.get("cut"), change["data"].get("a")), (cut, a), "{id}");
        }
        assert_eq!(log.len(), count);
    }
}

/// Two foreign keys that cascade change a row twice in one statement.
pub async fn a_row_that_a_statement_changes_twice_ends_as_it_is(stage: Stage) {
    stage
        .sql(
            "create table up (id int primary key); \
             create table t (id int primary key, a int references up on update cascade, b int references up on update cascade, pad text); \
             create index on t (a); create index on t (b); \
             select rowcast.watch('t', each => 'statement'); insert into up select -g from generate_series(1, 30000) g",
        )
        .await;
    // The first of the two changes is large, the second is just not; and more than one hash table can
    // hold, with a plan that was made for less.
    for (count, pad) in [(100, "4000 + g"), (30000, "300")] {
        stage
            .sql(&format!("insert into t select g, -g, -g, repeat('x', {pad}) from generate_series(1, {count}) g"))
            .await;
        stage.sql("update up set id = -id where id >= -100; update up set id = -id where id < 0").await;
        let mut last = std::collections::HashMap::new();
        for change in stage.log().await {
            last.insert(change["data"]["id"].as_i64().unwrap(), change["data"].clone());
        }
        let wrong = last.values().filter(|row| row["a"] != row["id"] || row["b"] != row["id"]).count();
        assert_eq!((last.len(), wrong), (count, 0), "rows of {pad} bytes");
        stage.sql("truncate t; update up set id = -id").await;
        stage.log().await;
    }
}

pub async fn nothing_of_a_large_statement_stays_open(stage: Stage) {
    stage.sql(&format!("{TABLE} select rowcast.watch('t', each => 'statement')")).await;
    stage
        .sql("begin; insert into t select g from generate_series(1, 1000) g; update t set a = 'b'; delete from t")
        .await;
    assert_eq!(stage.value::<i64>("select count(*) from pg_cursors where statement not like '%pg_cursors%'").await, 0);
    stage.sql("commit").await;
    assert_eq!(stage.log().await.len(), 3000);
}

pub async fn a_watch_changes_from_rows_to_statements_and_back(stage: Stage) {
    stage.sql(TABLE).await;
    let row = |a: &str| json!({"id": 1, "a": a, "secret": null});
    for each in ["row", "statement", "row"] {
        stage.sql(&format!("select rowcast.watch('t', each => '{each}')")).await;
        stage.sql("insert into t values (1, 'a'); update t set a = 'b'; delete from t; truncate t").await;
        assert_eq!(
            stage.log().await,
            [insert(row("a")), update(row("a"), row("b")), delete(row("b")), truncate()],
            "{each}"
        );
    }
    stage.sql("select rowcast.watch('t', each => 'statement', ops => '{DELETE}')").await;
    stage.sql("insert into t values (1, 'a'); update t set a = 'b'; delete from t; truncate t").await;
    assert_eq!(stage.log().await, [delete(row("b"))]);
    let silent: i64 =
        stage.value("select count(*) from pg_trigger where tgname like '!rowcast%' and tgenabled <> 'A'").await;
    assert_eq!(silent, 0);
}

pub async fn where_statements_would_come_out_of_order_they_are_refused(stage: Stage) {
    stage
        .sql(
            "create table parts (id int) partition by list (id); create table parent (id int); create table child () inherits (parent); \
             create table busy (id int primary key, up int); create function f() returns trigger language plpgsql as 'begin return null; end'; \
             create trigger follow_up after insert on busy for each row execute function f(); \
             create table tidied (id int); create trigger tidy before update on tidied for each row execute function f(); \
             create table tree (id int primary key, up int references tree on delete cascade)",
        )
        .await;
    for (table, says) in [
        ("parts", "partitioned"),
        ("parent", "inherit"),
        ("child", "inherit"),
        ("busy", "follow_up"),
        ("tidied", "tidy"),
        ("tree", "tree_up_fkey"),
    ] {
        let error = stage.refused(&format!("select rowcast.watch('{table}', each => 'statement')")).await;
        assert!(
            error.message().contains(says) && error.hint().is_some_and(|hint| hint.contains("each => 'row'")),
            "{error:?}"
        );
    }
    let error = stage.refused("select rowcast.watch('parent', each => 'page')").await;
    assert!(
        error.message().contains("'page'") && error.hint().is_some_and(|hint| hint.contains("statement")),
        "{error:?}"
    );
}
