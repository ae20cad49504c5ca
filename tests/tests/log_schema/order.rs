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

/// Rows of one transaction come to be where others of it were, and the check of a key locks them before their turn.
pub async fn a_place_that_is_used_again_is_another_row(stage: Stage) {
    let row = |id: i32, up: Option<i32>, v: &str| json!({"id": id, "up": up, "v": v});
    stage.sql("create table t (id int primary key, up int references t, v text)").await;
    let fill = "insert into t values (10, null, 'a'), (11, null, 'b'); update t set v = v || 1 where id = 11;";
    let filled =
        [insert(row(10, None, "a")), insert(row(11, None, "b")), update(row(11, None, "b"), row(11, None, "b1"))];
    let locked = "insert into t values (1, 2, 'one'), (2, null, 'two');";
    let expected = [insert(row(1, Some(2), "one")), insert(row(2, None, "two"))];
    let rewrite = "alter table t alter v type varchar using v";
    for ops in ["INSERT,UPDATE,DELETE,TRUNCATE", "INSERT,UPDATE,DELETE"] {
        stage.sql(&format!("select rowcast.watch('t', ops => '{{{ops}}}')")).await;
        for (before, again) in [
            ("", "truncate t"),
            // In place.
            ("truncate t;", "truncate t"),
            ("", "savepoint s; truncate t"),
            ("", &format!("delete from t; {rewrite}")),
            ("", "delete from t; cluster t using t_pkey"),
        ] {
            stage.sql(&format!("begin; {before} {fill} {again}; {locked} commit")).await;
            let mut log = stage.log().await;
            log.retain(|change| change["op"] != "T" && change["op"] != "D");
            assert_eq!(log[..3], filled, "{ops} {before} {again}");
            assert_eq!(log[3..], expected, "{ops} {before} {again}");
            stage.sql("truncate t; alter table t alter v type text").await;
            stage.log().await;
        }
    }
}

/// The cmin of a row that is made and replaced in one transaction is a number of the pair of commands; that of a
/// row which is only locked is the number of its command. In the same place, the two may meet.
pub async fn a_place_and_a_number_that_are_used_again_are_another_row(stage: Stage) {
    stage
        .sql(
            "create table t (id int primary key, up int references t); create table other (n int, v int);
             create function many_pairs() returns void language plpgsql as $$ begin
               for i in 1..20 loop insert into other select g from generate_series(1, 20) g; end loop;
               for i in 1..20 loop update other set v = 1 where n = i; end loop;
             end $$;
             create function meet() returns void language plpgsql as $$
             declare
               pair int := (select substring(replaced from '/([0-9]+)[(]')::int from rowcast.event where xid = pg_current_xact_id() and op = 'U');
               command int;
             begin
               truncate t;
               loop
                 insert into other values (0) returning cmin::text::int into command;
                 exit when command >= coalesce(pair, 0) - 1;
               end loop;
               insert into t values (1, 2), (2, null);
             end $$",
        )
        .await;
    let row = |id: i32, up: Option<i32>| json!({"id": id, "up": up});
    for (ops, before) in [("INSERT,UPDATE,DELETE,TRUNCATE", "truncate t;"), ("INSERT,UPDATE,DELETE", "")] {
        stage.sql(&format!("select rowcast.watch('t', ops => '{{{ops}}}')")).await;
        // The number is remembered by the log until the second TRUNCATE.
        stage.sql(&format!("begin; {before} select many_pairs(); insert into t values (10), (11); update t set up = 11 where id = 11; select meet(); commit")).await;
        let mut log = stage.log().await;
        log.retain(|change| change["op"] != "T");
        assert_eq!(
            log[2..],
            [update(row(11, None), row(11, Some(11))), insert(row(1, Some(2))), insert(row(2, None))],
            "{ops}"
        );
        stage.sql("truncate t; truncate other").await;
        stage.log().await;
    }
}

/// A table that is emptied has nothing to do with another whose changes have still to be logged.
pub async fn a_truncate_does_not_part_changes_of_other_tables(stage: Stage) {
    let todo = "update t set a = a || 1 where id <> 1; truncate u";
    stage.sql(&format!("{TABLE} create table u (id int); select rowcast.watch('u'); insert into t values (1, 'a', $q${todo}$q$), (2, 'b', null)")).await;
    let expected = [insert(row(1, "a", Some(todo))), insert(row(2, "b1", None)), json!({"op": "T"})];
    assert_eq!(stage.log().await, expected);
}
