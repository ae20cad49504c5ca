//! A server with ingests, and requests to it, byte by byte.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use e2e::postgres::PostgresServer;
use gateway::{
    access::{Access, AccessSettings},
    ingest::{self, Database},
};
use protocol::config::{Config, Ingest};
use serde_json::Value;
use service::postgres::PostgresSettings;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_postgres::Client;

/// The tables of the tests, and the recipe's.
pub const TABLES: &str = r#"
    create table things (
      id int generated always as identity primary key,
      name varchar(10) not null default 'unnamed',
      count int,
      amount numeric,
      day date,
      at timestamptz,
      tags text[],
      data jsonb,
      parent int references things,
      code text unique,
      secret text default 'keep this here',
      check (count <> 13),
      exclude using gist (int4range(count, count + 1) with &&) where (count > 1000)
    );
    create function no_frogs() returns trigger language plpgsql as $$
    begin
      if new.name = 'frog' then raise exception 'no frogs, please'; end if;
      if new.name = 'ghost' then return null; end if;
      if new.name = 'long' then perform pg_notify('things', repeat('x', 8000)); end if;
      return new;
    end $$;
    create trigger no_frogs before insert on things for each row execute function no_frogs();
"#;

pub const THINGS: &str = r#"
    [[ingest]]
    path = "/api/things/"
    table = "things"
    columns = ["name", "count", "amount", "day", "at", "tags", "data", "parent", "code"]
"#;

pub struct App {
    pub address: SocketAddr,
    pub database: Client,
    // The last that uses it stops it.
    _postgres: Arc<PostgresServer>,
}

impl App {
    /// With tables, ingests and whatever else stands in the file.
    pub async fn start(sql: &str, config: &str) -> Self {
        let postgres = PostgresServer::shared().await.unwrap();
        let name = postgres.create_database().await.unwrap();
        let database = postgres.connect(&name).await.unwrap();
        database.batch_execute(sql).await.unwrap();
        let address = serve(config, Some(&postgres.url(&name))).await;
        Self { address, database, _postgres: postgres }
    }

    /// With `things` alone.
    pub async fn of_things() -> Self {
        Self::start(TABLES, THINGS).await
    }

    pub async fn post(&self, path: &str, body: &str) -> Answer {
        post(self.address, path, body).await
    }

    pub async fn count(&self, table: &str) -> i64 {
        self.database.query_one(&format!("select count(*) from {table}"), &[]).await.unwrap().get(0)
    }
}

pub fn ingests(config: &str) -> Vec<Ingest> {
    Config::parse(config).unwrap().ingests
}

pub fn database(url: &str) -> Database {
    Database::new(PostgresSettings::parse("--database-url", url, "rowcast-gateway").unwrap())
}

pub async fn serve(config: &str, url: Option<&str>) -> SocketAddr {
    let Config { ingests, auth, .. } = Config::parse(config).unwrap();
    let access = Access::new(AccessSettings { auth, ..Default::default() }).await.unwrap();
    let router = ingest::router(&ingests, url.map(database), access);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, service).await.unwrap() });
    address
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    pub fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or_default().to_owned()
    }

    /// Its status, code, and a word of its message.
    #[track_caller]
    pub fn is(&self, status: u16, code: &str, word: &str) {
        let json = self.json();
        assert_eq!((self.status, json["error"].as_str()), (status, Some(code)), "{self:?}");
        assert!(self.message().contains(word), "{word}: {self:?}");
        assert!(self.head.contains("content-type: application/json"), "{self:?}");
    }
}

pub async fn post(address: SocketAddr, path: &str, body: &str) -> Answer {
    post_with(address, path, "content-type: application/json\r\n", body.as_bytes()).await
}

/// A POST with these headers; the body's length is added.
pub async fn post_with(address: SocketAddr, path: &str, headers: &str, body: &[u8]) -> Answer {
    let host = if headers.lines().any(|line| line.starts_with("host:")) { "" } else { "host: localhost\r\n" };
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\n{host}connection: close\r\ncontent-length: {length}\r\n{headers}\r\n");
    send(address, &[head.as_bytes(), body].concat()).await
}

/// Raw bytes to the server, and all that comes back.
pub async fn send(address: SocketAddr, bytes: &[u8]) -> Answer {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let (mut reader, mut writer) = socket.split();
    let write = async {
        // A server that refuses a body need not read it.
        drop(writer.write_all(bytes).await);
        std::future::pending::<()>().await;
    };
    let mut answer = Vec::new();
    let read = async { drop(reader.read_to_end(&mut answer).await) };
    tokio::select! {
        () = write => {}
        read = tokio::time::timeout(Duration::from_secs(20), read) => read.expect("an answer within 20 s"),
    }
    let text = String::from_utf8(answer).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("{head}"));
    Answer { status, head: head.to_ascii_lowercase(), body: body.into() }
}
