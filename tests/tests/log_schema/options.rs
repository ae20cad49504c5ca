use serde_json::{Value, json};

use crate::{Stage, delete, insert, truncate, update};

const TABLE: &str = "create table t (id int primary key, a text, secret text); ";

pub async fn only_the_ops_asked_for_are_captured(stage: Stage) {
    let all = "insert into t values (1, 'a', 's'); update t set a = 'b'; delete from t; truncate t";
    stage.sql(&format!("{TABLE} select rowcast.watch('t', ops => '{{INSERT,TRUNCATE}}'); {all}")).await;
    let row = |a: &str| json!({"id": 1, "a": a, "secret": "s"});
    assert_eq!(stage.log().await, [insert(row("a")), truncate()]);
    stage.sql(&format!("select rowcast.watch('t', ops => '{{UPDATE,DELETE}}'); {all}")).await;
    assert_eq!(stage.log().await, [update(row("a"), row("b")), delete(row("b"))]);
    stage.sql(&format!("select rowcast.watch('t', ops => '{{TRUNCATE}}'); {all}")).await;
    assert_eq!(stage.log().await, [truncate()]);
    stage.sql(&format!("select rowcast.watch('t'); {all}")).await;
    assert_eq!(stage.log().await, [insert(row("a")), update(row("a"), row("b")), delete(row("b")), truncate()]);
}

pub async fn a_column_that_is_left_out_stays_out(stage: Stage) {
    stage
        .sql(&format!(
            "{TABLE} select rowcast.watch('t', leave_out => '{{secret}}'); insert into t values (1, 'a', 's')"
        ))
        .await;
    assert_eq!(stage.log().await, [insert(json!({"id": 1, "a": "a"}))]);
    stage.sql("alter table t rename secret to hidden; update t set hidden = 'x'; delete from t").await;
    let row = json!({"id": 1, "a": "a"});
    assert_eq!(stage.log().await, [update(row.clone(), row.clone()), delete(row)]);
    let columns: Vec<String> = stage.value("select columns from rowcast.watched").await;
    assert_eq!(columns, ["id", "a"]);
}

pub async fn a_column_that_is_left_out_and_made_anew_stays_out(stage: Stage) {
    for each in ["row", "statement"] {
        stage.sql(&format!("{TABLE} select rowcast.watch('t', leave_out => '{{secret}}', each => '{each}')")).await;
        stage.sql("alter table t drop secret; select rowcast.pause(); select rowcast.resume()").await;
        stage.install().await;
        stage
            .sql("alter table t add secret text; insert into t values (1, 'a', 's'); update t set a = 'b'; delete from t")
            .await;
        let row = |a: &str| json!({"id": 1, "a": a});
        assert_eq!(stage.log().await, [insert(row("a")), update(row("a"), row("b")), delete(row("b"))], "{each}");
        stage.sql("drop table t").await;
    }
}

pub async fn migrations_never_make_writes_fail(stage: Stage) {
    let change = "insert into t(id, more) values (1, 'm'); update t set more = 'n'; update t set id = 2; delete from t";
    for options in ["", ", leave_out => '{secret}'", ", old => 'key'", ", old => 'none'"] {
        stage
            .sql(&format!(
                "{TABLE} select rowcast.watch('t'{options}); insert into t values (1, 'a', 's'); delete from t;
                 alter table t rename a to aa; alter table t add more text; {change};
                 alter table t drop aa; {change};
                 alter table t alter id type bigint; {change};
                 alter table t rename id to nr; insert into t(nr, more) values (1, 'm'); update t set nr = 2; delete from t"
            ))
            .await;
        assert_eq!(stage.log().await.len(), 2 + 3 * 4 + 3, "{options}");
        stage.sql("alter table t drop nr; insert into t(more) values ('k'); select rowcast.watch('t'); update t set more = 'l'").await;
        let last = stage.log().await.pop().unwrap();
        assert_eq!(last["data"], json!({"secret": null, "more": "l"}), "watched again, it is as the table is now");
        stage.sql("drop table t").await;
    }
}

pub async fn of_the_old_row_is_kept_what_was_asked_for(stage: Stage) {
    let change =
        "insert into t values (1, 'a', 's'); update t set a = 'b'; update t set id = 2, a = 'c'; delete from t";
    let row = |id: i32, a: &str| json!({"id": id, "a": a, "secret": "s"});
    let only = |op: &str, data: Value| json!({"op": op, "data": data});
    stage.sql(&format!("{TABLE} select rowcast.watch('t'); {change}")).await;
    let full =
        [insert(row(1, "a")), update(row(1, "a"), row(1, "b")), update(row(1, "b"), row(2, "c")), delete(row(2, "c"))];
    assert_eq!(stage.log().await, full);
    stage.sql(&format!("select rowcast.watch('t', old => 'key'); {change}")).await;
    let key =
        [insert(row(1, "a")), only("U", row(1, "b")), update(json!({"id": 1}), row(2, "c")), delete(json!({"id": 2}))];
    assert_eq!(stage.log().await, key);
    stage.sql(&format!("select rowcast.watch('t', old => 'none'); {change}")).await;
    assert_eq!(
        stage.log().await,
        [insert(row(1, "a")), only("U", row(1, "b")), only("U", row(2, "c")), json!({"op": "D"})]
    );
}

pub async fn where_a_column_of_the_key_was_renamed_the_whole_old_row_is_kept(stage: Stage) {
    for each in ["row", "statement"] {
        for leave_out in ["", "secret"] {
            // Where columns are left out, one that is renamed is not delivered either.
            let row = |key: i32, v: &str| match leave_out {
                "" => json!({"a": 1, "c": key, "v": v, "secret": "s"}),
                _ => json!({"a": 1, "v": v}),
            };
            stage
                .sql(&format!(
                    "create table t (a int, b int, v text, secret text, primary key (a, b)); insert into t values (1, 2, 'v', 's');
                     select rowcast.watch('t', old => 'key', each => '{each}', leave_out => '{{{leave_out}}}'); alter table t rename b to c"
                ))
                .await;
            stage.sql("update t set v = 'w'; update t set c = 3; delete from t").await;
            let expected = [update(row(2, "v"), row(2, "w")), update(row(2, "w"), row(3, "w")), delete(row(3, "w"))];
            assert_eq!(stage.log().await, expected, "{each} {leave_out}");
            stage.sql("drop table t").await;
        }
    }
}

pub async fn a_change_that_is_too_large_goes_without_its_largest_values(stage: Stage) {
    stage.sql("create table t (id text primary key, a text, b text, c text); select rowcast.watch('t', max_change_bytes => 2000)").await;
    stage.sql("insert into t values ('k', repeat('a', 1500), repeat('b', 600), 'c')").await;
    let b = "b".repeat(600);
    let cut = |mut change: Value, names: &[&str]| {
        change["cut"] = json!(names);
        change
    };
    assert_eq!(stage.log().await, [cut(insert(json!({"id": "k", "b": b, "c": "c"})), &["a"])], "no more than must go");
    stage.sql("update t set a = 'a', b = repeat('b', 1000)").await;
    let small = |a: Option<&str>| match a {
        Some(a) => json!({"id": "k", "a": a, "c": "c"}),
        None => json!({"id": "k", "c": "c"}),
    };
    let a = "a".repeat(1500);
    assert_eq!(
        stage.log().await,
        [cut(update(json!({"id": "k", "c": "c", "a": a}), small(Some("a"))), &["b"])],
        "old and new are counted together"
    );
    stage.sql("update t set id = repeat('k', 2500), b = 'b'").await;
    let [last] = stage.log().await.try_into().unwrap();
    assert_eq!(
        (last["data"].clone(), last["old"].clone()),
        (json!({"id": "k".repeat(2500)}), json!({"id": "k"})),
        "the key stays"
    );
    // And the table is as the user wrote it.
    assert_eq!(stage.value::<i64>("select count(*) from t where a = 'a' and b = 'b' and length(id) = 2500").await, 1);
}

pub async fn watch_again_changes_the_options(stage: Stage) {
    stage.sql(TABLE).await;
    let count = "select count(*) from pg_trigger where tgrelid = 't'::regclass";
    for (times, options) in
        ["", "", ", leave_out => '{secret}', old => 'key', ops => '{INSERT,DELETE}', max_change_bytes => 5000", ""]
            .iter()
            .enumerate()
    {
        let topic: String = stage.value(&format!("select rowcast.watch('t'{options})")).await;
        assert_eq!(topic, "public.t");
        assert_eq!(stage.value::<i64>("select catalogue from rowcast.state").await, times as i64 + 1);
        let watched: String = stage
            .value("select concat_ws(' ', ops, leave_out, old, max_change_bytes, columns, key) from rowcast.watched")
            .await;
        let expected = match options.is_empty() {
            true => "{INSERT,UPDATE,DELETE,TRUNCATE} {} full 4194304 {id,a,secret} {id}",
            false => "{INSERT,DELETE} {secret} key 5000 {id,a} {id}",
        };
        assert_eq!(watched, expected);
        assert_eq!(stage.value::<i64>(count).await, if options.is_empty() { 2 } else { 1 });
    }
    stage.sql("insert into t values (1, 'a', 's')").await;
    assert_eq!(stage.log().await.len(), 1);
}

pub async fn a_renamed_table_keeps_its_topic(stage: Stage) {
    stage
        .sql(&format!(
            "{TABLE} select rowcast.watch('t'); alter table t rename to u; insert into u values (1, 'a', 's')"
        ))
        .await;
    assert_eq!(stage.raw().await[0]["topic"], "public.t");
    assert_eq!(stage.value::<String>("select rowcast.watch('u')").await, "public.t");
    stage.sql(TABLE).await;
    let error = stage.refused("select rowcast.watch('t')").await;
    assert_eq!(error.message(), "the topic public.t is that of the table public.u already");
    assert!(error.hint().unwrap().contains("rowcast.unwatch('public.t')"));
    stage.sql("select rowcast.unwatch('public.t'); select rowcast.watch('t'); select rowcast.watch('u')").await;
}

pub async fn unwatch_takes_name_and_topic(stage: Stage) {
    stage.sql("create schema s; create table s.t (id int); create table s.u (id int); create table s.v (id int)").await;
    stage.sql("select rowcast.watch('s.t'), rowcast.watch('s.u'), rowcast.watch('s.v'); set search_path = s").await;
    stage
        .sql("select rowcast.unwatch('t'); select rowcast.unwatch('s.u'); select rowcast.unwatch('v'::regclass)")
        .await;
    assert_eq!(stage.value::<i64>("select count(*) from rowcast.watched").await, 0);
    assert_eq!(stage.value::<i64>("select count(*) from pg_catalog.pg_trigger").await, 0);
    assert_eq!(stage.value::<i64>("select count(*) from pg_catalog.pg_proc where proname like 'capture %'").await, 0);
    let error = stage.refused("select rowcast.unwatch('t')").await;
    assert_eq!((error.code().code(), error.message()), ("42704", "t is not watched"));
    assert_eq!(stage.value::<i64>("select catalogue from rowcast.state").await, 6);
}

pub async fn a_table_that_was_dropped_can_be_watched_anew(stage: Stage) {
    stage.sql(&format!("{TABLE} select rowcast.watch('t'); drop table t; {TABLE} select rowcast.watch('t'); insert into t values (1, 'a', 's')")).await;
    assert_eq!(stage.log().await.len(), 1);
    stage.sql("drop table t; select rowcast.unwatch('public.t')").await;
    assert_eq!(stage.value::<i64>("select count(*) from rowcast.watched").await, 0);
}

pub async fn who_missed_changes_of_a_table_is_told(stage: Stage) {
    let feed = async || stage.value::<String>("select feed || ' ' || feed_reason from rowcast.state").await;
    let mut last = feed().await;
    stage.sql(TABLE).await;
    let unwatched = "select rowcast.unwatch('public.t')";
    let all = "select rowcast.watch('t')";
    for (sql, resets) in [
        (all, false),
        (all, false),
        ("select rowcast.watch('t', old => 'none', each => 'statement', leave_out => '{a}')", false),
        (all, false),
        ("create table u (id int); select rowcast.watch('u'); select rowcast.unwatch('u')", false),
        (unwatched, false),
        (all, true),
        (all, false),
        ("select rowcast.watch('t', ops => '{INSERT,DELETE}')", false),
        ("select rowcast.watch('t', ops => '{DELETE,INSERT}')", false),
        ("select rowcast.watch('t', ops => '{INSERT,DELETE,UPDATE}')", true),
        ("select rowcast.watch('t', ops => '{INSERT}')", false),
        ("select rowcast.watch('t', ops => '{TRUNCATE}')", true),
        (&format!("drop table t; {TABLE} {all}"), true),
        (&format!("drop table t; {unwatched}; {TABLE}"), false),
        (all, true),
        // Whoever is told once need not be told again.
        (unwatched, false),
        ("select rowcast.begin_feed('went_back')", true),
        (all, false),
        (unwatched, false),
        ("select rowcast.pause()", false),
        (all, false),
        ("select rowcast.resume()", true),
        (all, false),
        ("select rowcast.watch('u')", false),
    ] {
        stage.sql(sql).await;
        let now = feed().await;
        assert_eq!(now != last, resets, "{sql}");
        if resets && sql.contains("watch('") {
            assert!(now.ends_with(" rewatched"), "{sql}: {now}");
        }
        last = now;
    }
    assert_eq!(stage.value::<i64>("select count(*) from rowcast.unwatched").await, 0);
    // What is written uncaptured is before the new feed.
    for sql in [unwatched, "insert into t values (1)", all, "insert into t values (2)"] {
        stage.sql(sql).await;
    }
    let gap: bool = stage.value("select pg_visible_in_snapshot(t.xmin::text::xid8, b.snapshot) from t, rowcast.state s join rowcast.tick b on b.id = s.first_tick order by t.id limit 1").await;
    assert!(gap);
}
