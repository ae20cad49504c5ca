use std::{
    fs,
    sync::{Arc, Weak},
};

use e2e::{
    log::CHANGES,
    postgres::{Durability, PostgresServer},
};
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;
use tokio_postgres::{Client, NoTls, error::DbError};

pub const SETTINGS: &[&str] = &["max_prepared_transactions=5"];

/// Of each transaction all, in the order of their ends.
const TAKE: &str = "select l.op::text, l.topic, l.key, l.data, l.old, l.cut from \
    (select e.*, max(e.id) over (partition by e.xid) as last from {changes} e where e.id > $1) l order by l.last, l.id, l.place";

/// A database with the schema, and a session of the superuser.
pub struct Stage {
    pub server: Arc<PostgresServer>,
    pub database: String,
    pub client: Client,
    taken: Mutex<i64>,
}

impl Stage {
    /// On the system's PostgreSQL.
    pub async fn new() -> Self {
        static SHARED: Mutex<Weak<PostgresServer>> = Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        let server = match shared.upgrade() {
            Some(server) => server,
            None => Arc::new(PostgresServer::start_with(Durability::Fast, SETTINGS).await.unwrap()),
        };
        *shared = Arc::downgrade(&server);
        drop(shared);
        Self::on(server).await
    }

    pub async fn on(server: Arc<PostgresServer>) -> Self {
        let database = server.create_database().await.unwrap();
        let client = server.connect(&database).await.unwrap();
        let stage = Self { server, database, client, taken: Mutex::new(0) };
        stage.install().await;
        stage.sql("set time zone 'UTC'").await;
        stage
    }

    pub async fn install(&self) {
        for sql in files() {
            self.sql(&format!("set client_min_messages = warning; {sql}; reset client_min_messages")).await;
        }
    }

    /// Another session; with a role, as that.
    pub async fn session(&self, role: Option<&str>) -> Client {
        let url = match role {
            None => self.server.url(&self.database),
            Some(role) => format!("postgres://{role}@127.0.0.1:{}/{}", self.server.port(), self.database),
        };
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        client
    }

    /// Makes a role that can log in, of a name that no other test uses, and returns the name.
    pub async fn role(&self, kind: &str) -> String {
        let name = format!("{kind}_{}", self.database);
        self.sql(&format!("create role {name} login")).await;
        name
    }

    pub async fn version(&self) -> u32 {
        self.value::<String>("show server_version_num").await.parse::<u32>().unwrap() / 10_000
    }

    pub async fn sql(&self, sql: &str) {
        run(&self.client, sql).await;
    }

    /// Statements that must fail.
    pub async fn refused(&self, sql: &str) -> DbError {
        refused(&self.client, sql).await
    }

    pub async fn value<T: for<'a> tokio_postgres::types::FromSql<'a>>(&self, sql: &str) -> T {
        self.client.query_one(sql, &[]).await.unwrap_or_else(|e| panic!("{sql}: {e:?}")).get(0)
    }

    /// What has been logged since the last call, as [`insert`] and the others write it. A key, a
    /// cut, or another topic than the tables' own are left to [`Stage::raw`].
    pub async fn log(&self) -> Vec<Value> {
        let mut changes = self.raw().await;
        for change in &mut changes {
            let change = change.as_object_mut().unwrap();
            change.remove("topic");
            change.remove("key");
        }
        changes
    }

    /// The same, with all that a change has.
    pub async fn raw(&self) -> Vec<Value> {
        let mut taken = self.taken.lock().await;
        let rows = self.client.query(&TAKE.replace("{changes}", CHANGES), &[&*taken]).await.unwrap();
        *taken = self.value("select last_value - (not is_called)::int from rowcast.event_id").await;
        let read = |text: Option<String>| text.map(|text| serde_json::from_str(&text).unwrap());
        let names = ["op", "topic", "key", "data", "old", "cut"];
        rows.iter()
            .map(|row| {
                let (op, topic): (String, String) = (row.get(0), row.get(1));
                let rest: Vec<Option<Value>> = (2..6).map(|i| read(row.get(i))).collect();
                let values = [Some(json!(op)), Some(json!(topic))].into_iter().chain(rest);
                let object: Map<String, Value> =
                    names.iter().zip(values).filter_map(|(name, value)| Some(((*name).to_owned(), value?))).collect();
                Value::Object(object)
            })
            .collect()
    }
}

pub async fn run(client: &Client, sql: &str) {
    client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
}

pub async fn refused(client: &Client, sql: &str) -> DbError {
    match client.batch_execute(sql).await {
        Ok(()) => panic!("not refused: {sql}"),
        Err(error) => error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error:?}")).clone(),
    }
}

/// The files of the schema, in order.
pub fn files() -> Vec<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../sql/rowcast");
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read_to_string(path).unwrap()).collect()
}

pub fn insert(data: Value) -> Value {
    json!({"op": "I", "data": data})
}

pub fn update(old: Value, data: Value) -> Value {
    json!({"op": "U", "data": data, "old": old})
}

pub fn delete(old: Value) -> Value {
    json!({"op": "D", "old": old})
}

pub fn truncate() -> Value {
    json!({"op": "T"})
}
