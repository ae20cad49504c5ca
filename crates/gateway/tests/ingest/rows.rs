//! What is stored, and what is answered.

use serde_json::json;

use crate::app::{App, TABLES, THINGS};

const SENSORS: &str = r#"
    [[ingest]]
    path = "/api/sensors/"
    table = "sensor_readings"
    columns = ["sensor_id", "value", "metadata"]
    message = "Sensor reading created successfully"
"#;

#[tokio::test]
async fn the_sensors_recipe_gets_the_answer_that_it_expects() {
    let app = App::start(include_str!("../../../../sql/examples/sensors.sql"), SENSORS).await;
    // A database whose zone is another one.
    let zone =
        "do $$ begin execute format('alter database %I set timezone = %L', current_database(), 'Asia/Kolkata'); end $$";
    app.database.batch_execute(zone).await.unwrap();
    let body = r#"{"sensor_id": "sensor1", "value": 25.5, "metadata": {"unit": "celsius", "location": "room1"}}"#;
    let answer = app.post("/api/sensors/", body).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert!(answer.head.contains("content-type: application/json"), "{answer:?}");
    let stored = app
        .database
        .query_one(
            "select \"timestamp\" at time zone 'UTC' = $1::text::timestamptz at time zone 'UTC' from sensor_readings",
            &[&answer.json()["timestamp"].as_str()],
        )
        .await
        .unwrap();
    assert!(stored.get::<_, bool>(0));
    let timestamp = answer.json()["timestamp"].as_str().unwrap().to_owned();
    assert!(timestamp.ends_with("+00:00") && timestamp.len() >= 25, "{timestamp}");
    let expected = format!(
        "{{\"id\":1,\"sensor_id\":\"sensor1\",\"value\":25.5,\"timestamp\":\"{timestamp}\",\
         \"metadata\":{{\"unit\": \"celsius\", \"location\": \"room1\"}},\"message\":\"Sensor reading created successfully\"}}"
    );
    assert_eq!(answer.body, expected);
}

#[tokio::test]
async fn columns_that_are_not_sent_get_their_defaults() {
    let app = App::of_things().await;
    assert_eq!(app.post("/api/things/", "{}").await.json()["name"], "unnamed");
    let row = app.post("/api/things/", r#"{"count": 7}"#).await.json();
    assert_eq!((&row["id"], &row["name"], &row["count"]), (&json!(2), &json!("unnamed"), &json!(7)));
    app.post("/api/things/", r#"{"name": null}"#).await.is(422, "bad_row", "'name' is missing or null");
}

#[tokio::test]
async fn values_arrive_as_they_were_written() {
    let app = App::of_things().await;
    let body = r#"{"amount": 9007199254740993.1000, "day": "2025-11-16", "at": "2025-11-16T12:00:00+02:00",
                   "tags": ["a", null, "b\"c"], "data": {"n": 9007199254740993, "deep": [[]]}, "count": null}"#;
    let answer = app.post("/api/things/", body).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    for piece in [
        "\"amount\":9007199254740993.1000,",
        "\"day\":\"2025-11-16\"",
        "\"at\":\"2025-11-16T10:00:00+00:00\"",
        "\"tags\":[\"a\",null,\"b\\\"c\"]",
        "9007199254740993, \"deep\": [[]]",
    ] {
        let found =
            answer.body.contains(piece) || piece.contains("deep") && answer.body.contains("\"n\": 9007199254740993");
        assert!(found, "{piece}: {}", answer.body);
    }
}

#[tokio::test]
async fn what_looks_like_sql_is_a_value() {
    let app = App::of_things().await;
    let evil = "'); drop table things; --";
    let answer = app.post("/api/things/", &json!({ "code": evil }).to_string()).await;
    assert_eq!((answer.status, &answer.json()["code"]), (201, &json!(evil)));
    let answer = app.post("/api/things/", &json!({ "name\") values (1); drop table things; --": 1 }).to_string()).await;
    answer.is(422, "unknown_column", "drop table");
    assert_eq!(app.count("things").await, 1);
}

#[tokio::test]
async fn any_name_that_postgresql_takes_is_a_name_here() {
    let app = App::start(
        r#"create schema "My Schema";
           create table "My Schema"."ta""ble'$1" ("stored" int, "input" int, "se;lect" int, "Größe" int, "message" text);
           create table public.many (stored int, message text default 'from the table') partition by list (stored);
           create table many_1 partition of many for values in (1);"#,
        r#"
        [[ingest]]
        path = "/odd"
        table = "My Schema.ta\"ble'$1"
        columns = ["stored", "input", "se;lect", "Größe"]
        [[ingest]]
        path = "/many"
        table = "many"
        columns = ["stored"]
        message = "from the configuration"
        "#,
    )
    .await;
    let answer = app.post("/odd", r#"{"Größe": 4, "se;lect": 3, "input": 2, "stored": 1}"#).await;
    assert_eq!(answer.body, r#"{"stored":1,"input":2,"se;lect":3,"Größe":4,"message":null}"#);
    let answer = app.post("/many", r#"{"stored": 1}"#).await;
    assert_eq!(answer.body, r#"{"stored":1,"message":"from the table"}"#, "the row's own column wins");
    app.post("/many", r#"{"stored": 2}"#).await.is(422, "bad_row", "no partition");
}

#[tokio::test]
async fn a_burst_of_posts_shares_four_connections() {
    let app = App::of_things().await;
    let mut burst = tokio::task::JoinSet::new();
    for n in 0..100 {
        let address = app.address;
        burst.spawn(async move {
            crate::app::post(address, "/api/things/", &format!("{{\"code\": \"{n}\"}}")).await.status
        });
    }
    while let Some(status) = burst.join_next().await {
        assert_eq!(status.unwrap(), 201);
    }
    assert_eq!(app.count("things").await, 100);
    let used = "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'rowcast-gateway'";
    let used: i64 = app.database.query_one(used, &[]).await.unwrap().get(0);
    assert!((1..=4).contains(&used), "{used}");
}

#[tokio::test]
async fn a_client_that_leaves_half_way_harms_nobody() {
    use tokio::io::AsyncWriteExt;

    let app = App::start(TABLES, THINGS).await;
    for _ in 0..20 {
        let mut socket = tokio::net::TcpStream::connect(app.address).await.unwrap();
        let head = "POST /api/things/ HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
        socket.write_all(head.as_bytes()).await.unwrap();
    }
    for _ in 0..20 {
        assert_eq!(app.post("/api/things/", "{}").await.status, 201);
    }
}
