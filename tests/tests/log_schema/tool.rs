//! The tool that people use: `rowcast install` and the others.

use std::process::{Command, Output};

use e2e::{process::binary, redis::RedisServer};
use serde_json::{Value, json};

use crate::{Stage, insert, stage::run};

fn rowcast(stage: &Stage, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary("rowcast").unwrap());
    command.env_clear().env("DATABASE_URL", stage.server.url(&stage.database)).args(arguments).output().unwrap()
}

fn done(stage: &Stage, arguments: &[&str]) -> String {
    let output = rowcast(stage, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn failed(stage: &Stage, arguments: &[&str]) -> String {
    let output = rowcast(stage, arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test]
async fn the_tool_installs_watches_and_uninstalls() {
    let stage = Stage::new().await;
    let listener = stage.role("listener").await;
    stage
        .sql("drop schema rowcast cascade; create table t (id int primary key, secret text); create table u (id int)")
        .await;
    assert!(failed(&stage, &["watch", "t"]).contains("rowcast install"));
    done(&stage, &["install", "--listener-role", &listener]);
    run(&stage.session(Some(&listener)).await, "select * from rowcast.event").await;
    done(&stage, &["install"]);
    done(&stage, &["watch", "t", "--ops", "insert,delete", "--leave-out", "secret"]);
    done(&stage, &["watch", "u"]);
    let error = failed(&stage, &["watch", "t", "nowhere"]);
    assert!(error.contains("relation \"nowhere\" does not exist"), "{error}");
    stage.sql("insert into t values (1, 'x'); update t set id = 2; insert into u values (1)").await;
    assert_eq!(stage.log().await, [insert(json!({"id": 1})), insert(json!({"id": 1}))]);
    done(&stage, &["unwatch", "t", "public.u"]);
    assert_eq!(stage.value::<i64>("select count(*) from rowcast.watched").await, 0);
    done(&stage, &["uninstall"]);
    assert!(!stage.value::<bool>("select exists (select from pg_namespace where nspname = 'rowcast')").await);
}

#[tokio::test]
async fn the_tool_pauses_and_resumes() {
    let stage = Stage::new().await;
    stage.sql("create table t (id int primary key); select rowcast.watch('t'); insert into t values (1)").await;
    done(&stage, &["pause", "--discard"]);
    assert!(done(&stage, &["status"]).contains("PAUSED"));
    stage.sql("insert into t values (2)").await;
    done(&stage, &["resume"]);
    stage.sql("insert into t values (3)").await;
    assert_eq!(stage.value::<i64>("select count(*) from rowcast.event").await, 1);
}

#[tokio::test]
async fn the_tool_tells_how_log_and_bus_are() {
    let stage = Stage::new().await;
    let redis = RedisServer::start().await.unwrap();
    stage.sql("create table t (id int primary key, secret text); select rowcast.watch('t', leave_out => '{secret}'); insert into t values (1)").await;
    let text = done(&stage, &["status", "--redis-url", &redis.url()]);
    for part in [
        "capture     on, 1 table watched",
        "waiting     1 change ",
        "bus         holds no feed",
        "gateways    0",
        "public.t: INSERT, UPDATE, DELETE, TRUNCATE; key id; old full; without secret",
        "none: nothing goes out",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let subscriber = redis::Client::open(redis.url()).unwrap();
    let mut subscriber = subscriber.get_async_pubsub().await.unwrap();
    subscriber.subscribe("rowcast:{log}:feed").await.unwrap();
    let json: Value = serde_json::from_str(&done(&stage, &["status", "--json", "--redis-url", &redis.url()])).unwrap();
    assert_eq!((&json["bus"]["gateways"], &json["bus"]["head"]), (&json!(1), &Value::Null));
    assert_eq!(
        (&json["log"]["waiting"], &json["tables"][0]["topic"], &json["tables"][0]["columns"]),
        (&json!(1), &json!("public.t"), &json!(["id"]))
    );
}

#[tokio::test]
async fn the_tool_warns_of_partitions_whose_truncate_is_not_captured() {
    let stage = Stage::new().await;
    stage
        .sql(
            "create table t (id int, b int) partition by list (id); create table p1 partition of t for values in (1);
             create table u (id int, b int) partition by list (id); select rowcast.watch('t'), rowcast.watch('u', ops => '{INSERT}')",
        )
        .await;
    assert!(!done(&stage, &["status"]).contains("WARNING"));
    stage
        .sql(
            "create table p2 partition of t for values in (2) partition by list (b); create table q partition of p2 for values in (2);
             create table p3 partition of t for values in (3); alter table t detach partition p3;
             create table p4 partition of u for values in (4)",
        )
        .await;
    let listener = stage.role("listener").await;
    stage.sql(&format!("select rowcast.grant_listener('{listener}')")).await;
    let writer = stage.session(None).await;
    run(&writer, "begin; lock table q").await;
    let url = format!("postgres://{listener}@127.0.0.1:{}/{}", stage.server.port(), stage.database);
    let text = done(&stage, &["status", "--database-url", &url]);
    let warning = "WARNING     public.t: TRUNCATE of public.p2 and 1 more is not captured";
    assert!(text.contains(warning) && text.matches("WARNING").count() == 1, "{text}");
    let json: Value = serde_json::from_str(&done(&stage, &["status", "--json"])).unwrap();
    assert_eq!(json["tables"][0]["truncate_not_captured"], json!(["public.p2", "public.q"]));
    assert_eq!(json["tables"][1]["truncate_not_captured"], json!([]));
    run(&writer, "rollback").await;
    stage.sql("select rowcast.watch('t')").await;
    assert!(!done(&stage, &["status"]).contains("WARNING"));
    // A trigger that is there may be that of another table.
    stage.sql("select rowcast.watch('u'); alter table t detach partition p1; alter table u attach partition p1 for values in (1)").await;
    assert!(done(&stage, &["status"]).contains("WARNING     public.u: TRUNCATE of public.p1 is not captured"));
}

#[tokio::test]
async fn the_tool_does_not_wait_for_ever_for_a_table() {
    let stage = Stage::new().await;
    stage.sql("create table t (id int primary key)").await;
    let writer = stage.session(None).await;
    run(&writer, "begin; insert into t values (1)").await;
    let error = failed(&stage, &["watch", "t", "--lock-timeout-ms", "50"]);
    assert!(error.contains("Nothing was changed"), "{error}");
    assert_eq!(stage.value::<i64>("select count(*) from rowcast.watched").await, 0);
}

#[tokio::test]
async fn an_older_tool_does_not_touch_a_newer_schema() {
    let stage = Stage::new().await;
    stage.sql("update rowcast.state set version = 1000").await;
    assert!(failed(&stage, &["install"]).contains("newer rowcast"));
    assert!(failed(&stage, &["status"]).contains("newer rowcast"));
}
