use std::time::Duration;

use e2e::{
    eventually::eventually,
    postgres::{Durability, PostgresServer},
    process::Process,
};
use tokio_postgres::NoTls;

use crate::stage::{SOON, Stage, leads};

/// Waits until a listener gives this reason for not being ready.
async fn says(listener: &Process, why: &str) {
    eventually("the reason", SOON, async || {
        let (status, body) = listener.get("/readyz").await.map_err(|e| e.to_string())?;
        if status == 503 && body.contains(why) { Ok(()) } else { Err(body) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_who_holds_the_leaders_lock_is_named() {
    let stage = Stage::new().await;
    let role = format!("stranger_{}", stage.database);
    stage.sql(&format!("create role {role} login")).await;
    let url = stage.url().replace("postgres@", &format!("{role}@"));
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut held = 0;
    // All that a listener may want.
    let leader = stage.listener().await;
    leads(&leader, true).await;
    let locks = "select (classid::bigint << 32 | objid::bigint)::text from pg_locks \
                 where locktype = 'advisory' and objsubid = 1 and database = (select oid from pg_database where datname = current_database())";
    let rows = stage.connect().await.query(locks, &[]).await.unwrap();
    let keys: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    drop(leader);
    while held < keys.len() {
        let sql = format!("select pg_advisory_lock({})", keys[held]);
        client.batch_execute(&sql).await.unwrap();
        held += 1;
    }
    let listener = stage.listener_with(&[]);
    says(&listener, &format!("of role {role}")).await;
    connection.abort();
    leads(&listener, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_is_upgraded_while_it_is_read_is_noticed() {
    let stage = Stage::new().await;
    let listener = stage.listener().await;
    leads(&listener, true).await;
    let version = stage.ask("select version from rowcast.state").await;
    stage.sql("update rowcast.state set version = 99").await;
    says(&listener, "version 99").await;
    stage.sql(&format!("update rowcast.state set version = {version}")).await;
    leads(&listener, true).await;
    let follower = stage.follower();
    stage.sql("insert into a (word) values ('after')").await;
    stage.all_is_right(&follower, SOON).await;
}

// Before PostgreSQL 15 "char" takes any byte, and row_to_json passes it on.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[tokio::test(flavor = "multi_thread")]
async fn a_byte_that_is_no_text_stops_nothing() {
    let server = PostgresServer::start_version(14, &[]).await.unwrap();
    let stage = Stage::on(server).await;
    let listener = stage.listener().await;
    let follower = stage.follower();
    stage.sql("create table raw (id int primary key, one \"char\"); select rowcast.watch('raw')").await;
    stage.sql("insert into raw values (1, (-1)::\"char\"), (2, 'x')").await;
    let seen = follower.until("both rows", Duration::from_secs(30), |seen| seen.last() >= 302).await;
    let rows: Vec<String> = seen
        .changes
        .iter()
        .rev()
        .take(2)
        .map(|got| String::from_utf8(got.change.row().unwrap().data.to_vec()).unwrap())
        .collect();
    assert_eq!(rows, ["{\"id\":2,\"one\":\"x\"}", "{\"id\":1,\"one\":\"\u{fffd}\"}"]);
    assert_eq!(listener.metric("leader{source=\"log\"}").await.unwrap(), 1.0);
}

#[tokio::test]
async fn a_database_whose_texts_are_not_all_utf8_is_refused() {
    let server = PostgresServer::start_with(Durability::Fast, &[]).await.unwrap();
    for (encoding, is_taken) in
        [("UTF8", true), ("LATIN1", true), ("LATIN9", true), ("WIN1252", false), ("EUC_JP", false)]
    {
        let name = format!("of_{}", encoding.to_lowercase());
        let sql = format!("create database {name} encoding '{encoding}' template template0 locale 'C'");
        server.execute("postgres", &sql).await.unwrap();
        let installed = server.execute(&name, &Stage::<PostgresServer>::schema()).await;
        assert_eq!(installed.is_ok(), is_taken, "{encoding}: {installed:?}");
        if let Err(refused) = installed {
            assert!(format!("{refused:?}").contains("do not exist in UTF-8"), "{refused:?}");
        }
    }
}
