use e2e::{
    eventually::eventually,
    postgres::{PostgresServer, Shutdown},
    process::Process,
    redis::RedisServer,
};

use crate::stage::{SOON, Stage};

const DATABASE: [&str; 2] = ["--database-url", "postgres://u:hunter2@127.0.0.1:1/d"];

#[tokio::test]
async fn settings_that_cannot_be_used_end_the_process_with_2_and_say_what_is_right() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (arguments, says) in [
        (vec![], vec!["--database-url", "DATABASE_URL"]),
        ([&DATABASE[..], &["--log-retention-ms", "5"]].concat(), vec!["ROWCAST_LOG_RETENTION_MS", "'5'", "1000"]),
        ([&DATABASE[..], &["--channels", "a", "--status-bind", "x"]].concat(), vec!["ROWCAST_STATUS_BIND", "'x'"]),
        ([&DATABASE[..], &["--config", "/nowhere.toml"]].concat(), vec!["/nowhere.toml"]),
        ([&DATABASE[..], &["--channels", "a", "--redis-url", "http://:hunter2@x"]].concat(), vec!["REDIS_URL"]),
        ([&DATABASE[..], &["--buffer-bytes", "many"]].concat(), vec!["--buffer-bytes", "many"]),
        ([&DATABASE[..], &["--chanels", "a"]].concat(), vec!["--chanels", "--channels"]),
        (
            [&DATABASE[..], &["--channels", "a", "--status-bind", &taken]].concat(),
            vec!["ROWCAST_STATUS_BIND", &taken, "in use"],
        ),
    ] {
        let mut process = Process::start("listener", &arguments).unwrap();
        assert_eq!(process.ended().await.unwrap(), Some(2), "{arguments:?}");
        let log = process.log();
        assert!(says.iter().all(|part| log.contains(part)) && !log.contains("hunter2"), "{arguments:?}: {log}");
    }
}

#[tokio::test]
async fn environment_variables_do_what_flags_do() {
    let environment = [("DATABASE_URL", DATABASE[1]), ("ROWCAST_CHANNELS", "a"), ("ROWCAST_STATUS_BIND", "y")];
    let mut process = Process::start_with("listener", &[], &environment).unwrap();
    assert_eq!(process.ended().await.unwrap(), Some(2));
    assert!(process.log().contains("'y'"), "{}", process.log());
}

#[tokio::test]
async fn the_help_shows_every_variable_and_no_secret() {
    let environment = [("DATABASE_URL", "postgres://u:hunter2@h/d"), ("REDIS_URL", "redis://:hunter2@h")];
    let mut process = Process::start_with("listener", &["--help"], &environment).unwrap();
    assert_eq!(process.ended().await.unwrap(), Some(0));
    let help = process.log();
    for name in ["DATABASE_URL", "REDIS_URL", "ROWCAST_CONFIG", "ROWCAST_BUFFER_BYTES", "67108864", "PgBouncer"] {
        assert!(help.contains(name), "{name}: {help}");
    }
    assert!(!help.contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_not_there_at_the_start_is_waited_for() {
    let mut postgres = PostgresServer::start().await.unwrap();
    let database = postgres.create_database().await.unwrap();
    let redis = RedisServer::start().await.unwrap();
    postgres.stop(Shutdown::Fast).await.unwrap();
    let url = postgres.url(&database).replace("postgres@", "postgres:hunter2@");
    let listener = Process::listener(&url, &redis.url(), &["--channels", "a"]).unwrap();
    eventually("red, and said", SOON, async || match (listener.get("/readyz").await, listener.log()) {
        (Ok((503, body)), log) if body.contains("refused") && log.contains("PostgreSQL is away") => Ok(()),
        other => Err(other),
    })
    .await;
    assert_eq!(listener.get("/healthz").await.unwrap().0, 200);
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!(listener.log().matches("PostgreSQL is").count(), 1, "once, not at each attempt");
    postgres.restart(Shutdown::Fast).await.unwrap();
    let listener = listener.ready().await.unwrap();
    assert!(listener.log().contains("PostgreSQL is back") && !listener.log().contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login_is_said_with_its_code_and_tried_again() {
    let stage = Stage::new().await;
    let url = stage.url().replace("postgres@", "somebody:hunter2@");
    let listener = Process::listener(&url, &stage.redis.url(), &["--channels", "a"]).unwrap();
    eventually("said", SOON, async || match listener.log() {
        log if log.contains("role \"somebody\" does not exist") && log.contains("28000") => Ok(()),
        log => Err(log),
    })
    .await;
    assert_eq!(listener.get("/readyz").await.unwrap().0, 503);
    stage.sql("create role somebody login").await;
    let listener = listener.ready().await.unwrap();
    assert!(!listener.log().contains("hunter2"));
}
