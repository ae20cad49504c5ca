use serde_json::json;

use crate::{Stage, delete, insert, update};

pub async fn every_type_comes_out_as_json(stage: Stage) {
    stage
        .sql(
            "create domain posint as int check (value > 0);
             create type mood as enum ('sad', 'ok');
             create type place as (x int, y text);
             create table t (id bigint primary key, d posint, m mood, p place, a int[], aa text[][], n numeric, f float8, b bytea, j json, jb jsonb,
               ts timestamptz, dt date, iv interval, u uuid, o bool, c char(3), mm mood[], pp place[], empty text);
             select rowcast.watch('t');
             insert into t values (9007199254740993, 7, 'ok', (1, 'a\"b'), '{1,null,3}', '{{x,y},{z,w}}', 'NaN', 'infinity', '\\x00ff', '{\"k\": [1, 2]}', '{\"k\": null}',
               '2026-01-02 03:04:05.678901+00', 'infinity', '1 day', '00000000-0000-0000-0000-000000000001', true, 'x', '{sad,ok}', array[(1, 'q')::place], null)",
        )
        .await;
    let row = json!({
        "id": 9_007_199_254_740_993_i64, "d": 7, "m": "ok", "p": {"x": 1, "y": "a\"b"}, "a": [1, null, 3], "aa": [["x", "y"], ["z", "w"]],
        "n": "NaN", "f": "Infinity", "b": "\\x00ff", "j": {"k": [1, 2]}, "jb": {"k": null}, "ts": "2026-01-02T03:04:05.678901+00:00",
        "dt": "infinity", "iv": "1 day", "u": "00000000-0000-0000-0000-000000000001", "o": true, "c": "x  ", "mm": ["sad", "ok"],
        "pp": [{"x": 1, "y": "q"}], "empty": null,
    });
    assert_eq!(stage.log().await, [insert(row.clone())]);
    stage.sql("delete from t").await;
    assert_eq!(stage.log().await, [delete(row)]);
}

pub async fn a_row_of_a_megabyte_comes_out_whole(stage: Stage) {
    stage.sql("create table t (id int primary key, big text, n int); select rowcast.watch('t')").await;
    // Not compressible, and so out of line.
    stage.sql("insert into t select 1, string_agg(md5(i::text), ''), 1 from generate_series(1, 32768) i").await;
    let big: String = stage.value("select big from t").await;
    assert_eq!(big.len(), 1 << 20);
    let row = |n: i32| json!({"id": 1, "big": big, "n": n});
    assert_eq!(stage.log().await, [insert(row(1))]);
    stage.sql("update t set n = 2").await;
    assert_eq!(stage.log().await, [update(row(1), row(2))], "what did not change is there too");
}

pub async fn generated_columns_come_out_as_they_are_or_not_at_all(stage: Stage) {
    stage.sql("create table t (id int primary key, a int, b int generated always as (a * 2) stored); select rowcast.watch('t'); insert into t values (1, 2)").await;
    assert_eq!(stage.log().await, [insert(json!({"id": 1, "a": 2, "b": 4}))]);
    if stage.version().await >= 18 {
        stage.sql("create table v (id int primary key, a int, b int generated always as (a * 2) virtual, c int); select rowcast.watch('v'); insert into v values (1, 2, default, 3)").await;
        assert_eq!(stage.log().await, [insert(json!({"id": 1, "a": 2, "c": 3}))]);
        let columns: Vec<String> = stage.value("select columns from rowcast.watched where topic = 'public.v'").await;
        assert_eq!(columns, ["id", "a", "c"]);
    }
}

pub async fn names_are_what_they_are(stage: Stage) {
    stage
        .sql(
            r#"create schema "Größe, ""x""";
               create table "Größe, ""x"""."täble %s 'q'" ("id ""1""" int primary key, "new" text, "data" text, "{key}" text, "%1$s" text);
               select rowcast.watch('"Größe, ""x"""."täble %s ''q''"', old => 'key', leave_out => '{new}');
               insert into "Größe, ""x"""."täble %s 'q'" values (1, 'a', 'b', 'c', 'd');
               update "Größe, ""x"""."täble %s 'q'" set "id ""1""" = 2"#,
        )
        .await;
    let topic = r#"Größe, "x".täble %s 'q'"#;
    let row = |id: i32| json!({"id \"1\"": id, "data": "b", "{key}": "c", "%1$s": "d"});
    let key = json!(["id \"1\""]);
    let expected = [
        json!({"op": "I", "topic": topic, "key": key, "data": row(1)}),
        json!({"op": "U", "topic": topic, "key": key, "data": row(2), "old": {"id \"1\"": 1}}),
    ];
    assert_eq!(stage.raw().await, expected);
    // Longer than the name of a function.
    let long = "ü".repeat(31);
    stage.sql(&format!(r#"create schema "{long}"; create table "{long}"."{long}" (id int); select rowcast.watch('"{long}"."{long}"'); insert into "{long}"."{long}" values (1)"#)).await;
    assert_eq!(stage.raw().await[0]["topic"], format!("{long}.{long}"));
}

pub async fn without_a_key_whole_rows_come_out(stage: Stage) {
    stage.sql("create table t (a int, b text); select rowcast.watch('t'); insert into t values (1, 'x'), (1, 'x'); update t set b = 'y'; delete from t").await;
    let (x, y) = (json!({"a": 1, "b": "x"}), json!({"a": 1, "b": "y"}));
    let expected = [
        insert(x.clone()),
        insert(x.clone()),
        update(x.clone(), y.clone()),
        update(x, y.clone()),
        delete(y.clone()),
        delete(y),
    ];
    let raw = stage.raw().await;
    assert!(raw.iter().all(|change| change.get("key").is_none()));
    let plain: Vec<_> = raw
        .into_iter()
        .map(|mut change| {
            change.as_object_mut().unwrap().remove("topic");
            change
        })
        .collect();
    assert_eq!(plain, expected);
}

pub async fn the_key_is_in_its_own_order(stage: Stage) {
    stage.sql("create table t (a int, b int, c int, primary key (c, a) include (b)); select rowcast.watch('t'); insert into t values (1, 2, 3)").await;
    assert_eq!(stage.raw().await[0]["key"], json!(["c", "a"]));
    let key: Vec<String> = stage.value("select key from rowcast.watched").await;
    assert_eq!(key, ["c", "a"]);
}

pub async fn settings_of_the_writer_count(stage: Stage) {
    stage.sql("create table t (id int primary key, b bytea, i interval, f float8, ts timestamptz); select rowcast.watch('t')").await;
    stage.sql("set bytea_output = escape; set intervalstyle = iso_8601; set extra_float_digits = 0; set time zone 'Asia/Tokyo'").await;
    stage.sql("insert into t values (1, '\\x41', '1 day', 0.1::float8 + 0.2::float8, '2026-01-02 03:04:05+00')").await;
    let row = json!({"id": 1, "b": "A", "i": "P1D", "f": 0.3, "ts": "2026-01-02T12:04:05+09:00"});
    assert_eq!(stage.log().await, [insert(row)]);
}
