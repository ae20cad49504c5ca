//! Supabase's protocol, frame by frame.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod support;

use protocol::Op;
use serde_json::{Value, json};
use support::{
    TestGateway, row,
    supabase::{ONE, TWO, config, ids, is_quiet, join, log, orders, reason, subscribed},
};

#[tokio::test]
async fn a_channel_is_joined_gets_its_changes_and_is_left() {
    let gateway = TestGateway::start(&[], "").await;
    let mut feed = log(&gateway, &["public.orders", "public.refunds"]).await;
    let mut client = gateway.connect(TWO).await;
    let bindings = [
        orders("INSERT"),
        orders("*"),
        json!({"event": "DELETE", "schema": "public", "table": "refunds", "filter": null}),
    ];
    let reply = join(&mut client, "realtime:floor", &config(&bindings)).await;
    let ids = ids(&reply);
    let with_id = |(binding, id): (&Value, &u64)| {
        let mut binding = binding.clone();
        binding["id"] = json!(id);
        binding
    };
    let echo: Vec<Value> = bindings.iter().zip(&ids).map(with_id).collect();
    assert_eq!(
        reply,
        json!(["1", "1", "realtime:floor", "phx_reply", {"status": "ok", "response": {"postgres_changes": echo}}])
    );
    let system = json!({"extension": "postgres_changes", "status": "ok", "message": "Subscribed to PostgreSQL", "channel": "floor"});
    assert_eq!(client.json().await, json!(["1", null, "realtime:floor", "system", system]));

    feed.send_row("public.orders", &row(Op::Insert, (1, 1), r#"{"id":1,"note":"a"}"#, "")).await;
    feed.send_row("public.refunds", &row(Op::Insert, (2, 2), r#"{"id":9}"#, "")).await;
    feed.send_row("public.orders", &row(Op::Update, (3, 3), r#"{"id":1,"note":"b"}"#, r#"{"id":1,"note":"a"}"#)).await;
    feed.send_row("public.refunds", &row(Op::Delete, (4, 4), "", r#"{"id":9}"#)).await;
    feed.send_row("public.orders", &row(Op::Truncate, (5, 5), "", "")).await;
    let data = |table: &str, of: &str, rest: Value| {
        let mut data = json!({"schema": "public", "table": table, "type": of, "errors": null,
            "commit_timestamp": "1970-01-01T00:00:00.000000Z",
            "columns": [{"name": "id", "type": "int8"}, {"name": "note", "type": "text"}]});
        data.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        data
    };
    let (a, b) = (json!({"id": 1, "note": "a"}), json!({"id": 1, "note": "b"}));
    for (ids, data) in [
        (json!([ids[0], ids[1]]), data("orders", "INSERT", json!({"record": a}))),
        (json!([ids[1]]), data("orders", "UPDATE", json!({"record": b, "old_record": a}))),
        (json!([ids[2]]), data("refunds", "DELETE", json!({"old_record": {"id": 9}}))),
        (json!([ids[1]]), data("orders", "TRUNCATE", json!({}))),
    ] {
        let change = json!([null, null, "realtime:floor", "postgres_changes", {"ids": ids, "data": data}]);
        assert_eq!(client.json().await, change);
    }
    assert!(is_quiet(&mut client).await);

    client.send(r#"["1","5","realtime:floor","phx_leave",{}]"#).await;
    let ok = json!({"status": "ok", "response": {}});
    assert_eq!(client.json().await, json!(["1", "5", "realtime:floor", "phx_reply", ok]));
    assert_eq!(client.json().await, json!(["1", "1", "realtime:floor", "phx_close", {}]));
    feed.insert("public.orders", r#"{"id":2}"#).await;
    assert!(is_quiet(&mut client).await);
    // Again: the same ids, which are those of every gateway.
    let again = join(&mut client, "realtime:floor", &config(&bindings)).await;
    assert_eq!(support::supabase::ids(&again), ids);
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn the_first_version_says_the_same_in_objects() {
    let gateway = TestGateway::start(&[], "").await;
    let mut feed = log(&gateway, &["public.orders"]).await;
    let mut client = gateway.connect(ONE).await;
    let payload = config(&[orders("*")]);
    client
        .send(
            &json!({"topic": "realtime:floor", "event": "phx_join", "payload": payload, "ref": "1", "join_ref": "1"})
                .to_string(),
        )
        .await;
    let reply = client.json().await;
    let id = &reply["payload"]["response"]["postgres_changes"][0]["id"];
    assert_eq!(
        (&reply["event"], &reply["ref"], reply.get("join_ref")),
        (&json!("phx_reply"), &json!("1"), None),
        "{reply}"
    );
    assert_eq!(client.json().await["payload"]["message"], "Subscribed to PostgreSQL");
    feed.insert("public.orders", r#"{"id":1}"#).await;
    let change = client.json().await;
    assert_eq!(
        (&change["event"], &change["ref"], &change["payload"]["ids"]),
        (&json!("postgres_changes"), &Value::Null, &json!([id])),
        "{change}"
    );
    client.send(r#"{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"2"}"#).await;
    assert_eq!(
        client.json().await,
        json!({"topic": "phoenix", "event": "phx_reply", "payload": {"status": "ok", "response": {}}, "ref": "2"})
    );
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn several_channels_and_a_second_join_of_one() {
    let gateway = TestGateway::start(&[], "").await;
    let mut feed = log(&gateway, &["public.orders", "public.refunds"]).await;
    let mut client = gateway.connect(TWO).await;
    ids(&join(&mut client, "realtime:a", &config(&[orders("*")])).await);
    subscribed(&mut client).await;
    ids(&join(&mut client, "realtime:b", &config(&[json!({"event": "*", "schema": "public"})])).await);
    subscribed(&mut client).await;
    // As a client does that has lost its answer.
    client.send(&json!(["7", "7", "realtime:a", "phx_join", config(&[orders("DELETE")])]).to_string()).await;
    assert_eq!(client.json().await, json!(["1", "1", "realtime:a", "phx_close", {}]));
    ids(&client.json().await);
    assert_eq!(subscribed(&mut client).await[0], "7");
    feed.insert("public.orders", r#"{"id":1}"#).await;
    feed.insert("public.refunds", r#"{"id":2}"#).await;
    for table in ["orders", "refunds"] {
        let change = client.json().await;
        assert_eq!((&change[2], &change[4]["data"]["table"]), (&json!("realtime:b"), &json!(table)), "{change}");
    }
    assert!(is_quiet(&mut client).await);
    // To leave the first join comes late: it has ended, and the second goes on.
    client.send(r#"["1","8","realtime:a","phx_leave",{}]"#).await;
    let ok = json!({"status": "ok", "response": {}});
    assert_eq!(client.json().await, json!(["1", "8", "realtime:a", "phx_reply", ok]));
    assert!(is_quiet(&mut client).await);
    feed.send_row("public.orders", &row(Op::Delete, (9, 9), "", r#"{"id":1}"#)).await;
    let mut got = [client.json().await, client.json().await].map(|change| change[2].to_string());
    got.sort();
    assert_eq!(got, [r#""realtime:a""#, r#""realtime:b""#]);
    // A join takes the place of the one before, even if it is refused.
    client.send(&json!(["9", "9", "realtime:a", "phx_join", {"config": []}]).to_string()).await;
    assert_eq!(client.json().await, json!(["7", "7", "realtime:a", "phx_close", {}]));
    assert!(reason(&client.json().await).starts_with("BadMessage: "));
    client.send(&json!(["7", "7", "realtime:a", "phx_join", config(&[orders("DELETE")])]).to_string()).await;
    ids(&client.json().await);
    subscribed(&mut client).await;
    // Who does not count his messages leaves what there is.
    for (channel, reference) in [("realtime:a", json!(null)), ("realtime:b", json!("of-its-own"))] {
        client.send(&json!([reference, "9", channel, "phx_leave", {}]).to_string()).await;
        assert_eq!(client.json().await, json!([reference, "9", channel, "phx_reply", ok]));
        assert_eq!(client.json().await[3], "phx_close");
    }
    gateway.shutdown.cancel();
}

#[tokio::test]
async fn what_cannot_be_served_is_refused_in_the_answer_and_the_socket_stays() {
    let gateway = TestGateway::start(&["--max-subscriptions", "1"], "").await;
    let mut client = gateway.connect(TWO).await;
    let early = join(&mut client, "realtime:a", &config(&[orders("*")])).await;
    assert!(reason(&early).starts_with("NotReady: "), "{early}");
    let _feed = log(&gateway, &["public.orders"]).await;
    let _channels = gateway.feed(&["public.channel"]).await;
    let binding = |rest: Value| config(&[rest]);
    let misspelt = binding(json!({"event": "*", "schema": "public", "table": "ordres"}));
    // This connection was there before, and its shard may hear of them a moment later than others do.
    let knows_both = async {
        while !reason(&join(&mut client, "realtime:a", &misspelt).await).contains("public.channel, public.orders") {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(support::PATIENCE, knows_both).await.unwrap();
    for (topic, payload, named) in [
        (
            "realtime:a",
            misspelt,
            "UnknownTopic: no listener carries 'public.ordres'; there are: public.channel, public.orders",
        ),
        (
            "realtime:a",
            binding(json!({"event": "*", "schema": "public", "table": "channel"})),
            "UnknownTopic: 'public.channel' is a NOTIFY channel",
        ),
        (
            "realtime:a",
            binding(json!({"event": "*", "schema": "private"})),
            "UnknownTopic: no table of private.* is watched",
        ),
        (
            "realtime:a",
            binding(json!({"event": "*", "schema": "public", "table": "orders", "filter": "id=eq.1"})),
            "Unsupported: 'filter'",
        ),
        (
            "realtime:a",
            binding(json!({"event": "MOVE", "schema": "public"})),
            "BadMessage: 'event' of a binding is 'MOVE'",
        ),
        ("realtime:a", json!({"config": {"presence": {"key": "", "enabled": true}}}), "Unsupported: presence"),
        ("floor", config(&[]), "UnknownTopic: 'floor' is not a channel"),
        ("realtime:", config(&[]), "UnknownTopic: 'realtime:'"),
    ] {
        let reply = join(&mut client, topic, &payload).await;
        assert_eq!((&reply[0], &reply[1], &reply[2]), (&json!("1"), &json!("1"), &json!(topic)));
        assert!(reason(&reply).starts_with(named), "{reply}");
    }
    for (frame, named) in [
        (r#"["1","2","realtime:a","access_token",{"access_token":"x"}]"#, "unmatched topic"),
        (r#"["1","2","realtime:a","broadcast",{"type":"broadcast","event":"x"}]"#, "unmatched topic"),
        ("rubbish", "BadMessage: not a message of vsn 2.0.0"),
        (r#"{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"2"}"#, "BadMessage: not a message of vsn 2.0.0"),
    ] {
        client.send(frame).await;
        let reply = client.json().await;
        assert!(reason(&reply).starts_with(named), "{reply}");
    }
    ids(&join(&mut client, "realtime:a", &config(&[orders("*")])).await);
    subscribed(&mut client).await;
    let more = join(&mut client, "realtime:b", &config(&[orders("*")])).await;
    assert!(reason(&more).starts_with("TooManySubscriptions: this connection has 1 channels"), "{more}");
    client.send(r#"["1","2","realtime:a","presence",{"type":"presence","event":"track"}]"#).await;
    let presence = client.json().await;
    assert!(reason(&presence).starts_with("Unsupported: presence"), "{presence}");
    client.send(r#"["9","2","realtime:none","phx_leave",{}]"#).await;
    assert_eq!(client.json().await[4]["status"], "ok");
    assert!(is_quiet(&mut client).await);
    gateway.shutdown.cancel();
}
