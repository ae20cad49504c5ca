use crate::{Stage, stage::refused};

pub async fn what_cannot_be_watched_is_refused_with_the_way_out(stage: Stage) {
    let role = stage.role("owner").await;
    stage
        .sql(&format!(
            "create table t (id int primary key); create view v as select * from t; create materialized view mv as select * from t;
             create foreign data wrapper w; create server s foreign data wrapper w; create foreign table f (id int) server s;
             create temporary table tmp (id int); create unlogged table u (id int); create sequence sq;
             create table r (id int) partition by list (id); create table p partition of r for values in (1);
             create table \"c\u{7}d\" (id int);
             grant usage on schema rowcast to {role}; grant execute on all functions in schema rowcast to {role}; grant all on all tables in schema rowcast to {role}"
        ))
        .await;
    for (table, code, message, way) in [
        ("v", "42809", "public.v is a view: nothing is ever written to it", "Watch the tables that it reads."),
        ("mv", "42809", "public.mv is a view: nothing is ever written to it", "Watch the tables that it reads."),
        (
            "f",
            "42809",
            "public.f is a foreign table: what others write to it fires no trigger here",
            "in the database where it is",
        ),
        ("tmp", "42809", "tmp is a temporary table, and nobody else sees its rows", "permanent"),
        (
            "u",
            "42809",
            "public.u is unlogged: a crash empties it, and no trigger tells",
            "alter table public.u set logged;",
        ),
        ("sq", "42809", "public.sq is not a table", "Watch a table."),
        ("p", "42809", "public.p is a partition of public.r", "select rowcast.watch('public.r')"),
        ("pg_catalog.pg_class", "42809", "pg_class is a system table, and these have no triggers", "your own"),
        (
            "information_schema.sql_features",
            "42809",
            "information_schema.sql_features is a system table, and these have no triggers",
            "your own",
        ),
        ("rowcast.watched", "42809", "rowcast.watched belongs to rowcast itself", "your own"),
        ("\"c\u{7}d\"", "42602", "the name of public.\"c\u{7}d\" holds a control character", "Rename"),
    ] {
        let error = stage.refused(&format!("select rowcast.watch('{table}')")).await;
        assert_eq!((error.code().code(), error.message()), (code, message), "{table}");
        assert!(error.hint().unwrap().contains(way), "{table}: {:?}", error.hint());
    }
    let error = stage.refused("select rowcast.watch(null)").await;
    assert_eq!(error.message(), "there is no table to watch");

    let error = refused(&stage.session(Some(&role)).await, "select rowcast.watch('t')").await;
    assert_eq!(
        (error.code().code(), error.message()),
        ("42501", "only the owner of a table can watch it, and public.t belongs to postgres")
    );
    assert_eq!(error.hint(), Some(format!("As a role that may use both: grant postgres to {role}.").as_str()));
    // As PostgreSQL cuts names itself, 63 and 63 bytes with a dot are 127, which is allowed.
    let long = "x".repeat(63);
    stage
        .sql(&format!(
            "create schema {long}; create table {long}.{long} (id int); select rowcast.watch('{long}.{long}')"
        ))
        .await;
    assert_eq!(stage.value::<i64>("select count(*) from rowcast.watched").await, 1);
}

pub async fn wrong_options_are_refused_with_what_would_be_right(stage: Stage) {
    stage.sql("create table t (id int primary key, a text); create table k (a text)").await;
    for (options, code, message, way) in [
        (
            "'t', ops => '{INSERT,insert}'",
            "22023",
            "ops: 'insert' is not an operation",
            "INSERT, UPDATE, DELETE and TRUNCATE",
        ),
        ("'t', ops => '{}'", "22023", "ops: nothing is not an operation", "at least one"),
        ("'t', ops => '{INSERT,null}'", "22023", "ops: nothing is not an operation", "at least one"),
        ("'t', leave_out => '{b}'", "42703", "leave_out: public.t has no column 'b'", "It has: id, a."),
        ("'t', leave_out => '{xmin}'", "42703", "leave_out: public.t has no column 'xmin'", "It has: id, a."),
        (
            "'t', leave_out => '{id}'",
            "22023",
            "leave_out: 'id' is a column of the primary key, by which clients tell rows apart",
            "other columns",
        ),
        ("'t', old => 'all'", "22023", "old: 'all' is not known", "full (the old row), key (the old key) and none"),
        (
            "'k', old => 'key'",
            "22023",
            "old: public.k has no primary key, so there is no old key to keep",
            "full or none",
        ),
        ("'t', max_change_bytes => 100", "22023", "max_change_bytes: 100 is not from 1024 to 8388608", "4194304"),
        (
            "'t', max_change_bytes => 8388609",
            "22023",
            "max_change_bytes: 8388609 is not from 1024 to 8388608",
            "4194304",
        ),
        ("'t', max_change_bytes => null", "22023", "max_change_bytes: null is not from 1024 to 8388608", "4194304"),
    ] {
        let error = stage.refused(&format!("select rowcast.watch({options})")).await;
        assert_eq!((error.code().code(), error.message()), (code, message), "{options}");
        assert!(error.hint().unwrap().contains(way), "{options}: {:?}", error.hint());
    }
    assert_eq!(stage.value::<i64>("select count(*) from rowcast.watched").await, 0);
}
