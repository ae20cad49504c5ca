use std::process::Command;

use serde_json::json;

use crate::{
    Stage, insert,
    stage::{files, refused},
};

/// All that is in the database and is not PostgreSQL's own.
const OBJECTS: &str = "select string_agg(o, E'\\n' order by o) from (
    select 'schema ' || nspname from pg_namespace where nspname !~ '^pg_' union all
    select 'class ' || oid::regclass from pg_class where oid >= 16384 and relnamespace <> 'pg_toast'::regnamespace union all
    select 'function ' || oid::regprocedure from pg_proc where oid >= 16384 union all
    select 'type ' || oid::regtype from pg_type where oid >= 16384 union all
    select 'trigger ' || tgname from pg_trigger where oid >= 16384 union all
    select 'default ' || oid from pg_default_acl) o(o)";

pub async fn it_can_be_installed_twice(stage: Stage) {
    stage.sql("create table t (id int primary key); select rowcast.watch('t'); insert into t values (1)").await;
    let state = "select (select s::text from rowcast.state s) || (select count(*) from rowcast.tick)";
    let before: String = stage.value(state).await;
    stage.install().await;
    stage.sql("insert into t values (2)").await;
    assert_eq!(stage.log().await, [insert(json!({"id": 1})), insert(json!({"id": 2}))]);
    assert_eq!(stage.value::<String>(state).await, before, "the feed goes on");
}

pub async fn psql_installs_it(stage: Stage) {
    stage.sql("drop schema rowcast cascade").await;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../sql/rowcast");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let mut psql = Command::new("psql");
    psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &stage.server.url(&stage.database)]);
    for path in &paths {
        psql.arg("-f").arg(path);
    }
    for _ in 0..2 {
        let done = psql.output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    stage.sql("create table t (id int); select rowcast.watch('t'); insert into t values (1)").await;
    assert_eq!(stage.value::<i64>("select count(*) from rowcast.event").await, 1);
}

pub async fn uninstalling_leaves_no_trace(stage: Stage) {
    let uninstall = include_str!("../../../sql/uninstall.sql");
    stage.sql(uninstall).await;
    stage.sql("create table t (id int primary key) partition by list (id); create table p partition of t for values in (1); create table u (id int)").await;
    let before: String = stage.value(OBJECTS).await;
    stage.install().await;
    stage.sql("select rowcast.watch('t'), rowcast.watch('u'); insert into t values (1); insert into u values (1); drop table u; create table u (id int)").await;
    stage.sql(uninstall).await;
    stage.sql(uninstall).await;
    assert_eq!(stage.value::<String>(OBJECTS).await, before);
    stage.sql("update t set id = 1; truncate t").await;
}

pub async fn an_upgrade_writes_the_functions_anew(stage: Stage) {
    stage.sql("create table t (id int); select rowcast.watch('t')").await;
    let body = "select prosrc from pg_proc where proname = 'capture public.t'";
    let good: String = stage.value(body).await;
    stage.sql("create or replace function rowcast.\"capture public.t\"() returns trigger language plpgsql as 'begin return null; end'; update rowcast.state set version = 0").await;
    stage.install().await;
    assert_eq!(stage.value::<String>(body).await, good);
    assert_eq!(stage.value::<i32>("select version from rowcast.state").await, 2);
}

pub async fn a_log_of_version_1_goes_on_after_the_upgrade(stage: Stage) {
    stage
        .sql(
            "create table t (id int); select rowcast.watch('t', each => 'statement'); insert into t values (1); \
             alter table rowcast.event drop column changes; alter table rowcast.event alter data set storage extended; \
             alter table rowcast.event_2 replica identity default; update rowcast.state set version = 1",
        )
        .await;
    stage.install().await;
    stage.sql("insert into t values (2), (3)").await;
    assert_eq!(stage.log().await, [1, 2, 3].map(|id| insert(json!({"id": id}))));
    let compressed = "select count(*) from pg_attribute where attrelid::regclass::text ~ '^rowcast.event(_[0-3])?$' \
        and attname in ('data', 'old') and attstorage <> 'e'";
    assert_eq!(stage.value::<i64>(compressed).await, 0);
    let identity = "select relreplident = 'f' from pg_class where oid = 'rowcast.event_2'::regclass";
    assert!(stage.value::<bool>(identity).await);
}

pub async fn a_newer_schema_is_not_touched(stage: Stage) {
    stage.sql("update rowcast.state set version = 1000").await;
    let error = stage.refused(&files()[0]).await;
    assert_eq!(
        (error.code().code(), error.message()),
        ("55000", "the schema rowcast has version 1000, and these files are version 2")
    );
    assert_eq!(error.hint(), Some("Install with the newer rowcast."));
}

pub async fn everything_has_a_comment(stage: Stage) {
    let bare: Option<String> = stage
        .value(
            "select string_agg(o.name, ', ') from (
               select 'schema' as name where obj_description('rowcast'::regnamespace, 'pg_namespace') is null union all
               select c.oid::regclass::text from pg_class c where c.relnamespace = 'rowcast'::regnamespace and c.relkind in ('r', 'S') and obj_description(c.oid, 'pg_class') is null union all
               select c.oid::regclass || '.' || a.attname from pg_class c, pg_attribute a where c.relnamespace = 'rowcast'::regnamespace and c.relkind = 'r' and c.relname !~ '_[0-3]$'
                 and a.attrelid = c.oid and a.attnum > 0 and c.relname <> 'state' and col_description(c.oid, a.attnum) is null union all
               select p.oid::regprocedure::text from pg_proc p where p.pronamespace = 'rowcast'::regnamespace and obj_description(p.oid, 'pg_proc') is null) o",
        )
        .await;
    assert_eq!(bare, None);
}

pub async fn another_role_does_not_install_over_it(stage: Stage) {
    let other = stage.role("other").await;
    let error = refused(&stage.session(Some(&other)).await, &files()[0]).await;
    assert_eq!(
        (error.code().code(), error.message()),
        ("42501", format!("the schema rowcast belongs to postgres, and this is {other}").as_str())
    );
    assert_eq!(error.hint(), Some("Install as that role: set role postgres."));
}
