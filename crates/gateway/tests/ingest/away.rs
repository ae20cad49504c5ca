//! A database that is away, slow, or not as the configuration has it.

use std::time::{Duration, Instant};

use e2e::{
    postgres::{PostgresServer, Shutdown},
    proxy::Proxy,
};
use gateway::ingest;

use crate::{
    app::{App, TABLES, THINGS, database, ingests, post, serve},
    logged::Logged,
};

#[tokio::test]
async fn a_gateway_without_a_database_says_so() {
    let address = serve(THINGS, None).await;
    post(address, "/api/things/", "{}").await.is(503, "not_ready", "--database-url");
}

#[tokio::test]
async fn posts_work_again_as_soon_as_the_database_does() {
    let mut postgres = PostgresServer::start().await.unwrap();
    let name = postgres.create_database().await.unwrap();
    postgres.execute(&name, TABLES).await.unwrap();
    let address = serve(THINGS, Some(&postgres.url(&name))).await;
    assert_eq!(post(address, "/api/things/", "{}").await.status, 201);

    postgres.stop(Shutdown::Fast).await.unwrap();
    let start = Instant::now();
    let answer = post(address, "/api/things/", "{}").await;
    answer.is(503, "not_ready", "nothing was stored");
    assert!(answer.head.contains("\r\nretry-after: "), "{answer:?}");
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());

    postgres.restart(Shutdown::Fast).await.unwrap();
    let answer = post(address, "/api/things/", "{}").await;
    assert_eq!(answer.status, 201, "the first POST, and not only a later one: {answer:?}");
    postgres.restart(Shutdown::Immediate).await.unwrap();
    assert_eq!(post(address, "/api/things/", "{}").await.status, 201);
}

#[tokio::test]
async fn a_database_that_does_not_answer_is_not_waited_for_long() {
    let postgres = PostgresServer::shared().await.unwrap();
    let name = postgres.create_database().await.unwrap();
    postgres.execute(&name, TABLES).await.unwrap();
    let proxy = Proxy::to(postgres.port()).await.unwrap();
    let address = serve(THINGS, Some(&postgres.url_at(&name, proxy.port()))).await;
    assert_eq!(post(address, "/api/things/", "{}").await.status, 201);
    tokio::time::sleep(Duration::from_millis(1100)).await;

    proxy.stall();
    let start = Instant::now();
    post(address, "/api/things/", "{}").await.is(503, "not_ready", "nothing was stored");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let herd: Vec<_> =
        (0..50).map(|_| tokio::spawn(async move { post(address, "/api/things/", "{}").await.status })).collect();
    for answer in herd {
        assert_eq!(answer.await.unwrap(), 503);
    }
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "a queue that waits is not waited for twice: {:?}",
        start.elapsed()
    );

    proxy.cut();
    proxy.forward();
    assert_eq!(post(address, "/api/things/", "{}").await.status, 201);
}

#[tokio::test]
async fn a_table_that_is_locked_ends_in_an_answer() {
    let app = App::of_things().await;
    app.database.batch_execute("begin; lock table things in access exclusive mode").await.unwrap();
    let start = Instant::now();
    app.post("/api/things/", "{}").await.is(503, "not_ready", "took too long; nothing was stored");
    assert!((4..9).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    app.database.batch_execute("commit").await.unwrap();
    assert_eq!(app.count("things").await, 0);
    assert_eq!(app.post("/api/things/", "{}").await.status, 201);
}

#[tokio::test]
async fn a_table_or_column_that_is_not_there_concerns_nobody_else() {
    let more = format!(
        "{THINGS}
        [[ingest]]
        path = \"/no-table\"
        table = \"nothing\"
        columns = [\"a\"]
        [[ingest]]
        path = \"/no-column\"
        table = \"things\"
        columns = [\"name\", \"nmae\"]
        [[ingest]]
        path = \"/generated\"
        table = \"things\"
        columns = [\"id\"]"
    );
    let app = App::start(TABLES, &more).await;
    app.post("/no-table", "{\"a\": 1}").await.is(503, "not_ready", "nothing was stored");
    app.post("/no-column", "{\"nmae\": 1}").await.is(503, "not_ready", "nothing was stored");
    app.post("/generated", "{\"id\": 1}").await.is(503, "not_ready", "nothing was stored");
    assert_eq!(app.post("/no-column", "{\"name\": \"a\"}").await.status, 201, "what is there works");
    assert_eq!(app.post("/api/things/", "{}").await.status, 201);
    // Mended while the gateway runs.
    app.database.batch_execute("create table nothing (a int)").await.unwrap();
    assert_eq!(app.post("/no-table", "{\"a\": 1}").await.status, 201);
    app.database.batch_execute("alter table nothing alter a type text").await.unwrap();
    assert_eq!(app.post("/no-table", "{\"a\": \"x\"}").await.json()["a"], "x");
}

#[tokio::test]
async fn at_start_the_log_says_which_tables_cannot_be_used() {
    let postgres = PostgresServer::shared().await.unwrap();
    let name = postgres.create_database().await.unwrap();
    postgres.execute(&name, TABLES).await.unwrap();
    postgres
        .execute(&name, "create role clerk login; create table closed (a int); grant insert, select on things to clerk")
        .await
        .unwrap();
    let ingest = |path: &str, table: &str, column: &str| {
        format!("[[ingest]]\npath = \"{path}\"\ntable = \"{table}\"\ncolumns = [\"{column}\"]\n")
    };
    let config = [
        ingest("/good", "things", "name"),
        ingest("/no-table", "nothing", "a"),
        ingest("/no-column", "things", "nmae"),
        ingest("/no-right", "closed", "a"),
    ]
    .concat();
    let logged = Logged::start();
    let url = postgres.url(&name).replace("postgres@", "clerk@");
    ingest::warn_of_unusable_tables(&ingests(&config), &database(&url)).await;
    let log = logged.text();
    for words in [["/no-table", "42P01"], ["/no-column", "42703"], ["/no-right", "42501"]] {
        assert!(log.lines().any(|line| words.iter().all(|word| line.contains(word))), "{words:?}: {log}");
    }
    assert!(!log.contains("/good"), "{log}");
    postgres.execute(&name, "drop owned by clerk; drop role clerk").await.unwrap();
}
