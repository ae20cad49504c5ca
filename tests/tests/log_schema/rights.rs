use serde_json::json;

use crate::{
    Stage, insert,
    stage::{files, refused, run},
};

const TABLE: &str = "create table t (id int primary key); select rowcast.watch('t');";

pub async fn strangers_neither_read_nor_forge(stage: Stage) {
    let stranger = stage.role("stranger").await;
    // Rights to all else, and to tables of its own.
    stage
        .sql(&format!(
            "{TABLE} create schema own authorization {stranger}; grant all on t to {stranger}; insert into t values (1)"
        ))
        .await;
    let client = stage.session(Some(&stranger)).await;
    run(&client, "create table own.x (id int)").await;
    for sql in [
        "select * from rowcast.event",
        "select * from rowcast.event_0",
        "select * from rowcast.tick",
        "select * from rowcast.state",
        "select * from rowcast.watched",
        "select * from rowcast.status()",
        "insert into rowcast.event_0 (id, topic, op) values (1, 'public.t', 'D')",
        "select nextval('rowcast.event_id')",
        "select rowcast.watch('own.x')",
        "select rowcast.unwatch('public.t')",
        "select rowcast.pause()",
        "select rowcast.begin_feed('x')",
        "select rowcast.empty_leaf(0, pg_current_snapshot())",
        "create trigger x after insert on own.x for each row execute function rowcast.\"capture public.t\"()",
    ] {
        assert_eq!(refused(&client, sql).await.code().code(), "42501", "{sql}");
    }
    // Not even with the schema open.
    stage.sql(&format!("grant usage on schema rowcast to {stranger}")).await;
    for sql in [
        "select * from rowcast.event_3",
        "insert into rowcast.tick_0 (id, prev, snapshot, first, events) values (9, '1:1:', '1:1:', 1, 0)",
        "update rowcast.state set feed = 'x'",
        "select rowcast.turn_ring(0)",
        "select rowcast.fold('I', 'x', null, null, null)",
        "create trigger x after insert on own.x for each row execute function rowcast.\"capture public.t\"()",
    ] {
        assert_eq!(refused(&client, sql).await.code().code(), "42501", "{sql}");
    }
    let open: i64 = stage.value("select count(*) from pg_proc p where p.pronamespace = 'rowcast'::regnamespace and has_function_privilege('public', p.oid, 'execute')").await;
    assert_eq!(open, 0);
}

pub async fn default_privileges_open_nothing(stage: Stage) {
    let reader = stage.role("reader").await;
    stage.sql("drop schema rowcast cascade").await;
    for what in ["tables", "sequences", "functions", "schemas"] {
        stage.sql(&format!("alter default privileges grant all on {what} to {reader}")).await;
    }
    stage.sql("create schema rowcast").await;
    stage.install().await;
    for sql in [
        "select * from rowcast.event",
        "insert into rowcast.event_0 (id, topic, op) values (1, 't', 'D')",
        "select rowcast.pause()",
        "create table rowcast.x (id int)",
    ] {
        assert_eq!(refused(&stage.session(Some(&reader)).await, sql).await.code().code(), "42501", "{sql}");
    }
}

pub async fn default_privileges_open_nothing_later(stage: Stage) {
    let (reader, listener) = (stage.role("reader").await, stage.role("listener").await);
    let open = async || -> Option<String> {
        stage
            .value(&format!(
                "select string_agg(p.oid::regprocedure::text, ', ') from pg_proc p where p.pronamespace = 'rowcast'::regnamespace
                   and has_function_privilege('{reader}', p.oid, 'execute')"
            ))
            .await
    };
    stage.sql(&format!("{TABLE} select rowcast.grant_listener('{listener}')")).await;
    stage.sql(&format!("alter default privileges grant all on functions to {reader} with grant option")).await;
    stage.sql("create table u (id int primary key); select rowcast.watch('u')").await;
    assert_eq!(open().await, None);
    // As it was left by a watch that did not look, and a function that the version before did not have.
    stage
        .sql(&format!(
            "grant execute on function rowcast.\"capture public.u\"() to {reader}; drop function rowcast.fold(\"char\", text, text, text, text)"
        ))
        .await;
    stage.install().await;
    assert_eq!(open().await, None);
    run(&stage.session(Some(&listener)).await, "select * from rowcast.status(), rowcast.event").await;
}

pub async fn a_role_without_privileges_installs_and_watches(stage: Stage) {
    let owner = stage.role("owner").await;
    let database = &stage.database;
    stage.sql(&format!("drop schema rowcast cascade; grant create on database {database} to {owner}; create schema own authorization {owner}")).await;
    let client = stage.session(Some(&owner)).await;
    for _ in 0..2 {
        for sql in files() {
            run(&client, &sql).await;
        }
    }
    run(&client, "create table own.t (id int primary key); select rowcast.watch('own.t'); insert into own.t values (1); select rowcast.pause(); select rowcast.discard(); select rowcast.resume(); insert into own.t values (2); select * from rowcast.status()").await;
    assert_eq!(stage.log().await, [insert(json!({"id": 2}))]);
    run(&client, "select rowcast.unwatch('own.t'); drop schema rowcast cascade").await;
}

pub async fn writers_need_no_right_to_the_log(stage: Stage) {
    let writer = stage.role("writer").await;
    stage.sql(&format!("{TABLE} grant insert on t to {writer}")).await;
    run(&stage.session(Some(&writer)).await, "insert into t values (1)").await;
    assert_eq!(stage.log().await, [insert(json!({"id": 1}))]);
}

/// No right to the log's sequence: an error is better than the id of another thing.
pub async fn lastval_fails_and_what_to_use_instead_does_not(stage: Stage) {
    let writer = stage.role("writer").await;
    for each in ["row", "statement"] {
        stage
            .sql(&format!(
                "create table t (id serial primary key, a text); select rowcast.watch('t', each => '{each}');
                 grant all on t, t_id_seq to {writer}"
            ))
            .await;
        let client = stage.session(Some(&writer)).await;
        run(&client, "insert into t default values").await;
        let error = refused(&client, "select lastval()").await;
        assert_eq!((error.code().code(), error.message()), ("42501", "permission denied for sequence event_id"));
        let id = async |sql: &str| client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0);
        assert_eq!(id("select currval(pg_get_serial_sequence('t', 'id'))").await, 1);
        assert_eq!(id("insert into t default values returning id::bigint").await, 2);
        stage.sql("drop table t").await;
    }
}

pub async fn the_listener_can_do_what_it_must_and_nothing_else(stage: Stage) {
    let listener = stage.role("listener").await;
    stage.sql(&format!("{TABLE} insert into t values (1); select rowcast.grant_listener('{listener}')")).await;
    let client = stage.session(Some(&listener)).await;
    for sql in [
        "listen rowcast_log",
        "select * from rowcast.state, rowcast.watched",
        "select * from rowcast.event",
        "select * from rowcast.event_2",
        "select last_value from rowcast.event_id",
        "insert into rowcast.tick_0 (id, prev, snapshot, first, events) select max(id) + 1, '1:1:', pg_current_snapshot(), 1, 1 from rowcast.tick",
        "select rowcast.begin_feed('went_back')",
        "select rowcast.cluster()",
        "select rowcast.keep_feed()",
        "select rowcast.turn_ring(0)",
        "select rowcast.empty_leaf(0, pg_current_snapshot())",
        "select * from rowcast.status()",
    ] {
        run(&client, sql).await;
    }
    for sql in [
        "select * from t",
        "insert into rowcast.event_0 (id, topic, op) values (1, 'public.t', 'D')",
        "select nextval('rowcast.event_id')",
        "delete from rowcast.event",
        "delete from rowcast.tick_0",
        "update rowcast.tick_0 set first = 5",
        "update rowcast.state set feed = 'x'",
        "truncate rowcast.event_0",
        "insert into rowcast.watched select * from rowcast.watched",
        "select rowcast.watch('t')",
        "select rowcast.unwatch('public.t')",
        "select rowcast.pause()",
        "select rowcast.resume()",
        "select rowcast.discard()",
        "select rowcast.grant_listener('postgres')",
    ] {
        assert_eq!(refused(&client, sql).await.code().code(), "42501", "{sql}");
    }
}

pub async fn the_search_path_of_the_writer_is_not_trusted(stage: Stage) {
    let writer = stage.role("writer").await;
    for each in ["row", "statement"] {
        stage.sql(&format!("create table {each}s (id int primary key, a text);
            select rowcast.watch('{each}s', leave_out => '{{a}}', old => 'key', max_change_bytes => 1024, each => '{each}'); grant all on {each}s to {writer}")).await;
    }
    stage.sql(&format!("create table parts (id int) partition by list (id); create table part partition of parts for values in (1);
        select rowcast.watch('parts'); grant all on part to {writer}; create schema evil authorization {writer}")).await;
    let client = stage.session(Some(&writer)).await;
    // Whatever stands before pg_catalog would run with the rights of the schema's owner.
    run(
        &client,
        "create function evil.stolen() returns bool language plpgsql as $$ begin raise 'run as %', current_user; end $$;
         create function evil.octet_length(text) returns int language sql as 'select evil.stolen()::int';
         create function evil.nextval(regclass) returns bigint language sql as 'select evil.stolen()::int::bigint';
         do $$ declare pair text; o text; begin
           foreach pair in array '{text+text,int+int,bigint+bigint,bigint+int,\"\\\"char\\\"+\\\"char\\\"\",oid+oid,xid+xid,json+json}'::text[] loop
             execute format('create function evil.f(%s, %s) returns bool language sql as %L', split_part(pair, '+', 1), split_part(pair, '+', 2), 'select evil.stolen()');
             foreach o in array '{=,<>,<,>,<=,>=,+,||,&,>>}'::text[] loop
               execute format('create operator evil.%s (leftarg = %s, rightarg = %s, function = evil.f)', o, split_part(pair, '+', 1), split_part(pair, '+', 2));
             end loop;
           end loop; end $$",
    )
    .await;
    // Types are looked for in pg_temp first, unless the path names it.
    run(
        &client,
        "do $$ declare t name; begin
           foreach t in array '{bool,char,int2,int4,int8,json,jsonb,name,oid,regclass,xid,xid8,text}'::name[] loop
             execute format('create function pg_temp.f(%s) returns bool language sql as %L', format('pg_catalog.%I', t), 'select evil.stolen()');
             execute format('create domain pg_temp.%I as %s check (pg_temp.f(value))', t, format('pg_catalog.%I', t));
           end loop; end $$",
    )
    .await;
    for path in ["evil, pg_catalog, public", "pg_temp, evil, pg_catalog, public", "public"] {
        for table in ["rows", "statements"] {
            // A session compiles a function once: each time in a new place.
            run(&client, &format!("set search_path = {path}")).await;
            let changes = format!(
                "insert into {table} values (1, pg_catalog.repeat('x', 3000)); update {table} set id = 2; update {table} set a = 'b';
                 delete from {table}; insert into {table} values (3, 'a'), (4, 'b'); truncate {table}"
            );
            run(&client, &changes).await;
            assert_eq!(stage.log().await.len(), 7, "{table} {path}");
        }
        run(&client, "truncate part").await;
        assert_eq!(stage.log().await.len(), 1, "part {path}");
        stage.install().await;
    }
}

/// Who publishes all tables publishes these too, and PostgreSQL then wants to tell their rows apart.
pub async fn a_publication_of_all_tables_stops_nobody(stage: Stage) {
    let todo = "update t set a = 'x' where id = 2; delete from t where id = 3";
    stage
        .sql(&format!(
            "create table t (id int primary key, a text, todo text);
             create function doing() returns trigger language plpgsql as $$ begin execute coalesce(new.todo, ''); return null; end $$;
             create trigger doing after insert on t for each row execute function doing();
             set client_min_messages = error; create publication everything for all tables; reset client_min_messages;
             select rowcast.watch('t'); insert into t values (1, 'a', $q${todo}$q$), (2, 'b', null), (3, 'c', null)"
        ))
        .await;
    let row = |id: i32, a: &str, todo: Option<&str>| insert(json!({"id": id, "a": a, "todo": todo}));
    assert_eq!(stage.log().await, [row(1, "a", Some(todo)), row(2, "x", None)]);
    stage
        .sql("begin; insert into t values (4, 'd', null); update t set a = 'e' where id = 4; truncate t; commit")
        .await;
    assert_eq!(stage.log().await.len(), 3);
    let listener = stage.role("listener").await;
    stage.sql(&format!("select rowcast.grant_listener('{listener}')")).await;
    let client = stage.session(Some(&listener)).await;
    for sql in [
        "insert into rowcast.tick_0 (id, prev, snapshot, first, events) select max(id) + 1, '1:1:', pg_current_snapshot(), 1, 1 from rowcast.tick",
        "select rowcast.keep_feed()",
        "select rowcast.turn_ring(0)",
        "select rowcast.begin_feed('went_back')",
        "select rowcast.empty_leaf(0, pg_current_snapshot())",
    ] {
        run(&client, sql).await;
    }
    for sql in [
        "select rowcast.watch('t', ops => '{INSERT}', old => 'none')",
        "select rowcast.unwatch('public.t')",
        "drop table t; create table t (id int); select rowcast.watch('t')",
        "drop table t; create table t (id int); select rowcast.watch('t')",
        "select rowcast.pause()",
        "select rowcast.discard()",
        "select rowcast.resume()",
        "select rowcast.unwatch('public.t')",
    ] {
        stage.sql(sql).await;
    }
    stage.install().await;
}
