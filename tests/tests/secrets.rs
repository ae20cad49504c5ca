//! What must never stand in a log, however much is logged.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use e2e::{ports::Port, process::Process, redis::RedisServer};
use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

const SECRET: &str = "a-secret-of-more-than-thirty-two-bytes-of-the-log-test";

#[tokio::test]
async fn tokens_query_strings_and_passwords_never_reach_a_log() {
    let redis = RedisServer::start().await.unwrap();
    let mut commands = redis::Client::open(redis.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    let set = redis::cmd("CONFIG").arg(&["SET", "requirepass", "redispassword"]).exec_async(&mut commands).await;
    set.unwrap();
    let url = format!("redis://:redispassword@127.0.0.1:{}", redis.port());
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("rowcast.toml");
    std::fs::write(
        &config,
        "[[ingest]]\npath = \"/api/a/\"\ntable = \"a\"\ncolumns = [\"x\"]\n\
         [auth]\norigins = [\"http://app.test\"]\n\
         [auth.jwt]\nalgorithms = [\"HS256\"]\naudience = \"a\"\nissuer = \"i\"\nsecret_env = \"TEST_SECRET\"\ncookie = \"session\"\n",
    )
    .unwrap();
    let port = Port::take().unwrap();
    let bind = format!("127.0.0.1:{}", port.number());
    let arguments = [
        "--bind",
        &bind,
        "--redis-url",
        &url,
        "--config",
        config.to_str().unwrap(),
        "--database-url",
        "postgres://me:databasepassword@127.0.0.1:1/none",
        "--inspect",
    ];
    let environment =
        [("RUST_LOG", "trace"), ("TEST_SECRET", SECRET), ("ROWCAST_INSPECT_TOKEN", "inspectortoken.aaaa.bbbb")];
    let gateway = Process::start_with("gateway", &arguments, &environment).unwrap().at(port).ready().await.unwrap();
    for (path, header) in [
        ("/rowcast?token=querytoken.aaaa.bbbb&other=querystring", None),
        ("/rowcast", Some(("authorization", "Bearer headertoken.aaaa.bbbb"))),
        ("/rowcast", Some(("cookie", "session=cookietoken.aaaa.bbbb; other=cookievalue"))),
        ("/ws/a/?token=querytoken.aaaa.bbbb", None),
    ] {
        let mut request = format!("ws://{bind}{path}").into_client_request().unwrap();
        if let Some((name, value)) = header {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        assert!(tokio_tungstenite::connect_async(request).await.is_err(), "none of these is a token");
    }
    let (mut socket, _) = tokio_tungstenite::connect_async(format!("ws://{bind}/rowcast")).await.unwrap();
    socket.send(Message::text(r#"{"type":"auth","token":"messagetoken.aaaa.bbbb"}"#)).await.unwrap();
    for _ in 0..2 {
        socket.next().await.unwrap().unwrap();
    }
    for (token, status) in [("inspectortoken.aaaa.bbbb", "200"), ("othertoken.aaaa.bbbb", "401")] {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut socket = tokio::net::TcpStream::connect(&bind).await.unwrap();
        let head = "GET /inspect/api/overview HTTP/1.1\r\nConnection: close\r\n";
        let request = format!("{head}Host: {bind}\r\nAuthorization: Bearer {token}\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
    let log = gateway.log();
    assert!(log.contains("DEBUG"), "everything is logged: {log}");
    for secret in [
        "querytoken",
        "querystring",
        "headertoken",
        "cookietoken",
        "cookievalue",
        "messagetoken",
        "inspectortoken",
        "othertoken",
        "redispassword",
        "databasepassword",
        SECRET,
    ] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret}");
    }
}
