use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{Stage, delete, insert, update};

/// A table, and a trigger of the user's that runs what the row says.
const TABLE: &str = "create table t (id int primary key, a text, todo text);
    create function doing() returns trigger language plpgsql as $$ begin
      if tg_op = 'DELETE' then execute coalesce(old.todo, ''); else execute coalesce(new.todo, ''); end if; return new; end $$;
    create trigger aaa after insert or update or delete on t for each row when (pg_trigger_depth() < 1) execute function doing();
    select rowcast.watch('t');";

fn row(id: i32, a: &str, todo: Option<&str>) -> Value {
    json!({"id": id, "a": a, "todo": todo})
}

/// What a client has that applies changes strictly: nothing is inserted twice, and what is updated
/// or deleted is there, as it was.
fn applied(changes: &[Value]) -> BTreeMap<String, Value> {
    let mut rows = BTreeMap::new();
    for change in changes {
        let (old, new) = (change.get("old"), change.get("data"));
        if let Some(old) = old {
            assert_eq!(rows.remove(&old["id"].to_string()).as_ref(), Some(old), "{change} in {changes:#?}");
        }
        if let Some(new) = new {
            assert_eq!(rows.insert(new["id"].to_string(), new.clone()), None, "{change} in {changes:#?}");
        }
    }
    rows
}

async fn table(stage: &Stage) -> BTreeMap<String, Value> {
    let text: String = stage.value("select coalesce(json_agg(t), '[]')::text from t").await;
    let rows: Vec<Value> = serde_json::from_str(&text).unwrap();
    rows.into_iter().map(|row| (row["id"].to_string(), row)).collect()
}

pub async fn what_a_trigger_does_comes_after_what_fired_it(stage: Stage) {
    let todo = "update t set a = 'seen' where id in (1, 2)";
    stage
        .sql(&format!("{TABLE} insert into t values (2, 'b', null); insert into t values (1, 'a', $q${todo}$q$)"))
        .await;
    let log = stage.log().await;
    assert_eq!(log[..2], [insert(row(2, "b", None)), insert(row(1, "a", Some(todo)))]);
    assert_eq!(log[2..].len(), 2);
    assert_eq!(applied(&log), table(&stage).await);
}

pub async fn a_row_that_is_changed_before_its_turn_is_one_change(stage: Stage) {
    let todo = "update t set a = a || 1 where id <> 1";
    stage.sql(&format!("{TABLE} insert into t values (1, 'a', $q${todo}$q$), (2, 'b', null)")).await;
    assert_eq!(stage.log().await, [insert(row(1, "a", Some(todo))), insert(row(2, "b1", None))]);
    stage.sql("update t set a = 'x'").await;
    let (first, second) = (row(1, "a", Some(todo)), row(2, "b1", None));
    assert_eq!(stage.log().await, [update(first, row(1, "x", Some(todo))), update(second, row(2, "x1", None))]);
    assert_eq!(stage.value::<i64>("select count(*) from rowcast.event").await, 4);
}

pub async fn a_row_that_is_deleted_before_its_turn_never_was(stage: Stage) {
    let todo = "delete from t where id <> 1";
    stage.sql(&format!("{TABLE} insert into t values (1, 'a', $q${todo}$q$), (2, 'b', null)")).await;
    assert_eq!(stage.log().await, [insert(row(1, "a", Some(todo)))]);
    stage.sql("insert into t values (2, 'b', null)").await;
    stage.log().await;
    stage.sql("update t set a = 'x'").await;
    let first = update(row(1, "a", Some(todo)), row(1, "x", Some(todo)));
    assert_eq!(stage.log().await, [first, delete(row(2, "b", None))], "it is deleted as clients know it");
}

pub async fn a_before_trigger_that_changes_earlier_rows_is_in_order(stage: Stage) {
    stage
        .sql(
            "create table t (id int primary key, newest bool default true);
             create function older() returns trigger language plpgsql as $$ begin update t set newest = false where newest; return new; end $$;
             create trigger b before insert on t for each row execute function older();
             select rowcast.watch('t'); insert into t(id) values (1), (2), (3)",
        )
        .await;
    let log = stage.log().await;
    assert_eq!(applied(&log), table(&stage).await);
    assert_eq!(log.len(), 3, "{log:?}");
}

pub async fn random_triggers_end_in_what_the_table_has(stage: Stage) {
    stage
        .sql(
            "create table t (id int primary key, v int, other int);
             create function doing() returns trigger language plpgsql as $$
             declare k int := (random() * 11)::int;
             begin
               if pg_trigger_depth() > 3 then return null; end if;
               begin
                 case (random() * 5)::int
                   when 0 then update t set v = v + 1 where id between k and k + 3;
                   when 1 then delete from t where id = k;
                   when 2 then update t set id = id + 100 where id = k and not exists (select from t x where x.id = k + 100);
                   when 3 then insert into t values (k, 0, 0) on conflict (id) do update set v = t.v + 1;
                   else null;
                 end case;
                 if random() < 0.2 then raise 'undo'; end if;
               exception when raise_exception then null;
               end;
               return null;
             end $$;
             create trigger zzz after insert or update on t for each row execute function doing();
             select rowcast.watch('t')",
        )
        .await;
    let mut all = Vec::new();
    let statements = [
        "insert into t select i, 0, 0 from generate_series(0, 10) i on conflict (id) do update set v = t.v + 10",
        "update t set v = v + 100",
        "begin; update t set other = v where id < 8; savepoint s; update t set v = -v; rollback to s; update t set other = other + 1; commit",
        "delete from t where id > 6",
    ];
    stage.sql("select setseed(0.5)").await;
    for turn in 0..60 {
        stage.sql(statements[turn % statements.len()]).await;
        all.extend(stage.log().await);
        assert_eq!(applied(&all), table(&stage).await, "turn {turn}");
    }
    assert!(all.len() > 300);
}

pub async fn rows_locked_by_foreign_keys_are_logged_once(stage: Stage) {
    // The check of the first row's key locks the second, before it is its turn.
    stage.sql("create table t (id int primary key, up int references t); select rowcast.watch('t'); insert into t values (1, 2), (2, null); update t set up = 1 where id = 2").await;
    let log = stage.log().await;
    let row = |id: i32, up: Option<i32>| json!({"id": id, "up": up});
    assert_eq!(log, [insert(row(1, Some(2))), insert(row(2, None)), update(row(2, None), row(2, Some(1)))]);
}
