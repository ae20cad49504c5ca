//! What is not there at the start.

use e2e::{
    clients::Client,
    eventually::eventually,
    process::Process,
    proxy::Proxy,
    redis::RedisServer,
    site::{BACK, CONFIG, DATABASE, SOON, postgres_with_examples},
    socket::{Refusal, Socket},
    writer::Writer,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_that_find_no_database_and_no_redis_say_so_and_work_as_soon_as_both_are_there() {
    let postgres = postgres_with_examples().await.unwrap();
    let redis = RedisServer::start().await.unwrap();
    let (to_postgres, to_redis) = (Proxy::to(postgres.port()).await.unwrap(), Proxy::to(redis.port()).await.unwrap());
    to_postgres.refuse();
    to_redis.refuse();
    let database_url = postgres.url_at(DATABASE, to_postgres.port());
    let redis_url = format!("redis://127.0.0.1:{}", to_redis.port());
    let mut listener = Process::listener(&database_url, &redis_url, &["--config", CONFIG]).unwrap();
    let mut gateway = Process::gateway(&database_url, &redis_url, &["--config", CONFIG]).unwrap();

    let red = async |process: &Process, reason: &str, logged: &str| {
        eventually("it is red, and says why", SOON, async || match (process.get("/readyz").await, process.log()) {
            (Ok((503, body)), log) if body.contains(reason) && log.contains(logged) => Ok(()),
            other => Err(other),
        })
        .await;
        assert_eq!(process.get("/healthz").await.unwrap().0, 200);
    };
    red(&listener, "PostgreSQL", "PostgreSQL is away").await;
    red(&gateway, "the bus cannot be reached", "").await;
    assert!(matches!(Socket::open(gateway.address(), "/rowcast").await, Err(Refusal::Http(503, _))));

    // One of them is not enough.
    to_postgres.forward();
    red(&listener, "bus", "the bus is away").await;
    red(&gateway, "the bus cannot be reached", "").await;

    to_redis.forward();
    let back = std::time::Instant::now();
    gateway.until_ready().await.unwrap();
    listener.until_ready().await.unwrap();
    assert!(back.elapsed() < BACK, "{:?}", back.elapsed());
    // The listener's feed may begin just now, and a gateway that is not up to date lets nobody in.
    let client = eventually("a client is let in", BACK, async || Client::plain(gateway.address()).await).await;
    let _writer = Writer::start(postgres.url(DATABASE), std::time::Duration::from_millis(20));
    eventually("rows arrive", BACK, async || if client.last() > 0 { Ok(()) } else { Err(client.seen()) }).await;
}
