//! What comes from the database.

use e2e::{
    site::Site,
    socket::{Frame, Socket},
};
use serde_json::{Value, json};

/// NOTIFY takes no more.
const LONGEST: usize = 7_999;

/// Connects to a plain endpoint, and waits until it is served: the gateway says nothing itself.
async fn plain(site: &Site, path: &str) -> Socket {
    let mut socket = Socket::open(site.address(), path).await.unwrap();
    // Answered after the subscription.
    socket.send_raw(&[0x89, 0x80, 0, 0, 0, 0]).await.unwrap();
    assert_eq!(socket.next().await.unwrap(), Frame::Pong);
    socket
}

async fn native(site: &Site, topics: &str) -> Socket {
    let mut socket = Socket::open(site.address(), "/rowcast").await.unwrap();
    socket.send(&format!(r#"{{"type":"subscribe","topics":[{topics}]}}"#)).await.unwrap();
    for kind in ["hello", "subscribed"] {
        assert_eq!(json_frame(&mut socket).await["type"], kind);
    }
    socket
}

async fn text(socket: &mut Socket) -> String {
    match socket.next().await.unwrap() {
        Frame::Text(text) => text.to_owned(),
        other => panic!("{other:?}"),
    }
}

async fn json_frame(socket: &mut Socket) -> Value {
    serde_json::from_str(&text(socket).await).unwrap()
}

#[tokio::test]
async fn a_payload_that_is_not_json_is_text_and_what_follows_is_as_ever() {
    let site = Site::start().await.unwrap();
    let mut plain_one = plain(&site, "/ws/table/").await;
    let mut wrapped = plain(&site, "/ws/sensors/").await;
    let mut native = native(&site, r#""human_detection_events","sensor_updates""#).await;
    let sql = site.sql().await.unwrap();
    for payload in [r#"Größe: "7\8""#, "{\"half\": ", "", "NaN", r#"{"a" : 1.50}"#] {
        let is_json = serde_json::from_str::<Value>(payload).is_ok();
        let string = json!(payload).to_string();
        let as_json = if is_json { payload } else { &string };
        for channel in ["human_detection_events", "sensor_updates"] {
            sql.execute("select pg_notify($1, $2)", &[&channel, &payload]).await.unwrap();
            let change = text(&mut native).await;
            assert!(change.contains(&format!(r#""topic":"{channel}","data":{as_json},"at":"#)), "{change}");
        }
        assert_eq!(text(&mut plain_one).await, payload);
        assert_eq!(text(&mut wrapped).await, format!(r#"{{"data":{as_json}}}"#));
    }
}

#[tokio::test]
async fn the_longest_payload_arrives_and_a_longer_one_fails_the_insert_alone() {
    let site = Site::start().await.unwrap();
    let mut client = plain(&site, "/ws/sensor_updates/").await;
    let sql = site.sql().await.unwrap();
    let insert = async |id: i64, padding: usize| {
        let insert = "insert into sensor_readings(id, sensor_id, value, \"timestamp\", metadata)
                      values ($1, 'sensor1', 1, '2026-01-01', jsonb_build_object('padding', repeat('x', $2::int)))";
        sql.execute(insert, &[&id, &(padding as i32)]).await
    };
    insert(1, 0).await.unwrap();
    let around = text(&mut client).await.len();

    insert(2, LONGEST - around).await.unwrap();
    let longest = text(&mut client).await;
    assert_eq!(longest.len(), LONGEST);
    assert_eq!(serde_json::from_str::<Value>(&longest).unwrap()["metadata"]["padding"], "x".repeat(LONGEST - around));

    let refused = insert(3, LONGEST - around + 1).await.unwrap_err();
    assert_eq!(refused.code().map(|code| code.code()), Some("22023"), "{refused:?}");
    insert(4, 0).await.unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text(&mut client).await).unwrap()["id"], 4);
    let stored = sql.query("select id from sensor_readings order by id", &[]).await.unwrap();
    let stored: Vec<i64> = stored.iter().map(|row| row.get(0)).collect();
    assert_eq!(stored, [1, 2, 4]);
}

#[tokio::test]
async fn a_topic_that_nobody_configured_is_refused_and_the_connection_goes_on() {
    let site = Site::start().await.unwrap();
    let mut client = native(&site, r#""sensor_updates""#).await;
    client.send(r#"{"type":"subscribe","id":"x","topics":["sensor_updates","sensor_update"]}"#).await.unwrap();
    let error = json_frame(&mut client).await;
    assert_eq!((&error["type"], &error["id"], &error["code"]), (&json!("error"), &json!("x"), &json!("unknown_topic")));
    let message = error["message"].as_str().unwrap_or_default();
    assert!(message.contains("'sensor_update'") && message.contains("sensor_updates, "), "{message}");
    site.execute("insert into sensor_readings(sensor_id, value) values ('sensor1', 1)").await.unwrap();
    assert_eq!(json_frame(&mut client).await["data"]["value"], 1);
    match Socket::open(site.address(), "/ws/sensor_update/").await.unwrap_err() {
        e2e::socket::Refusal::Http(404, answer) => assert!(answer.contains(r#""error":"unknown_topic""#), "{answer}"),
        other => panic!("{other:?}"),
    }
}
