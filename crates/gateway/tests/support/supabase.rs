//! What tests of Supabase's protocol say and hear.

use std::time::SystemTime;

use bus::{Answer, Term};
use jsonwebtoken::{EncodingKey, Header, encode};
use protocol::{Catalogue, Source, Topic};
use serde_json::{Value, json};

use super::{Client, TestFeed, TestGateway};

pub const TWO: &str = "/realtime/v1/websocket?apikey=any-key&vsn=2.0.0";
pub const ONE: &str = "/socket/websocket?apikey=any-key";

const SECRET: &str = "a secret of more than thirty-two bytes, for tests";

/// A gateway that takes tokens as [`token`] makes them, and the file with its secret.
pub async fn with_tokens(flags: &[&str]) -> (TestGateway, tempfile::NamedTempFile) {
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), SECRET).unwrap();
    let config = format!(
        "[auth.jwt]\nalgorithms = [\"HS256\"]\naudience = \"rowcast\"\nissuer = \"tests\"\nleeway_s = 0\nsecret_file = \"{}\"\n",
        secret.path().display()
    );
    (TestGateway::start(flags, &config).await, secret)
}

/// A token with these claims too.
pub fn token(rest: &Value) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let mut claims = json!({"aud": "rowcast", "iss": "tests", "exp": now + 60});
    claims.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
}

/// The payload of a join, with a token.
pub fn with_token(mut payload: Value, token: &str) -> Value {
    payload["access_token"] = json!(token);
    payload
}

/// Shows a token on a channel.
pub async fn show(client: &mut Client, topic: &str, token: Option<&str>) {
    client.send(&json!(["1", "7", topic, "access_token", {"access_token": token}]).to_string()).await;
}

/// A feed of tables with the columns id (int8) and note (text).
pub async fn log(gateway: &TestGateway, tables: &[&str]) -> TestFeed {
    let feed = TestFeed::begin_with(&gateway.bus, Source::Log, catalogue(tables)).await;
    gateway.until_it_carries(tables[0]).await;
    feed
}

/// The same feed carries these tables from now on.
pub async fn rewatch(gateway: &TestGateway, feed: &mut TestFeed, tables: &[&str]) {
    feed.catalogue = catalogue(tables);
    let (id, after) = (feed.id.clone(), feed.batcher.last());
    feed.epoch += 1_000_000;
    let term = Term { feed: id.clone(), epoch: feed.epoch, after, at: 1, catalogue: feed.catalogue.clone() };
    assert_eq!(feed.publisher.begin(&term).await.unwrap(), Answer::Applied);
    feed.batcher = protocol::Batcher::new(id, feed.epoch, after);
    gateway.until_it_carries(tables[0]).await;
}

fn catalogue(tables: &[&str]) -> Catalogue {
    let mut catalogue = Catalogue::of_channels(tables.iter().map(|name| Topic::new(name).unwrap()));
    for info in &mut catalogue.topics {
        info.key = vec!["id".into()];
        info.columns = vec!["id".into(), "note".into()];
        info.types = vec!["int8".into(), "text".into()];
    }
    catalogue
}

pub fn orders(event: &str) -> Value {
    json!({"event": event, "schema": "public", "table": "orders"})
}

pub fn config(bindings: &[Value]) -> Value {
    let (broadcast, presence) = (json!({"ack": false, "self": false}), json!({"key": "", "enabled": false}));
    json!({"config": {"broadcast": broadcast, "presence": presence, "postgres_changes": bindings, "private": false}})
}

/// Joins as join 1, in the second version, and gives the answer.
pub async fn join(client: &mut Client, topic: &str, payload: &Value) -> Value {
    client.send(&json!(["1", "1", topic, "phx_join", payload]).to_string()).await;
    client.json().await
}

/// The ids that a join was answered with.
pub fn ids(reply: &Value) -> Vec<u64> {
    assert_eq!(reply[4]["status"], "ok", "{reply}");
    reply[4]["response"]["postgres_changes"].as_array().unwrap().iter().map(|it| it["id"].as_u64().unwrap()).collect()
}

pub async fn subscribed(client: &mut Client) -> Value {
    let system = client.json().await;
    assert_eq!((&system[3], &system[4]["message"]), (&json!("system"), &json!("Subscribed to PostgreSQL")), "{system}");
    system
}

/// Whether nothing comes before the answer to a heartbeat.
pub async fn is_quiet(client: &mut Client) -> bool {
    client.send(r#"[null,"h","phoenix","heartbeat",{}]"#).await;
    client.json().await == json!([null, "h", "phoenix", "phx_reply", {"status": "ok", "response": {}}])
}

pub fn reason(reply: &Value) -> &str {
    assert_eq!((&reply[3], &reply[4]["status"]), (&json!("phx_reply"), &json!("error")), "{reply}");
    reply[4]["response"]["reason"].as_str().unwrap()
}
