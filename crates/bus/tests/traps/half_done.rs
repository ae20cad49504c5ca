//! Errors in the middle of a script.

use bus::{BusError, Event, History, RedisBus, RedisSettings};
use e2e::redis::RedisServer;

use crate::{follower::Follower, words::*, *};

/// All keys with what they hold.
async fn contents(server: &RedisServer) -> Vec<(String, Vec<u8>)> {
    let mut keys: Vec<String> = server.command(&["KEYS", "*"]).await.unwrap();
    keys.sort_unstable();
    let mut contents = Vec::new();
    for key in keys {
        let value = server.command(&["DUMP", &key]).await.unwrap();
        contents.push((key, value));
    }
    contents
}

/// That nothing was sent: the next that comes is a watermark which is published now.
async fn nothing_was_sent(publisher: &mut Publisher, follower: &mut Follower, last: u64) {
    let watermark = Batch::watermark(feed("aaa"), 5, last, 77_000);
    assert_eq!(publisher.publish(&watermark).await.unwrap(), Answer::Applied);
    assert_eq!(follower.subscription.next().await, Event::Batch(watermark));
}

#[tokio::test]
async fn a_key_of_another_type_on_the_second_topic_leaves_nothing_written() {
    let server = RedisServer::start().await.unwrap();
    let bus = bus_at(server.port());
    let mut publisher = bus.publisher(SOURCE);
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    publisher.publish(&batch("aaa", 5, 0, &["a"])).await.unwrap();
    let mut follower = Follower::new(&bus, &["a"]);
    follower.until(1).await;
    server.command::<()>(&["SET", "test:{notify}:h:aaa:b", "x"]).await.unwrap();
    let before = contents(&server).await;
    let next = batch("aaa", 5, 1, &["a", "b", "a"]);
    let refused = publisher.publish(&next).await;
    assert!(matches!(&refused, Err(BusError::Refused(why)) if why.contains("h:aaa:b")), "{refused:?}");
    assert_eq!(contents(&server).await, before);
    nothing_was_sent(&mut publisher, &mut follower, 1).await;
    server.command::<()>(&["DEL", "test:{notify}:h:aaa:b"]).await.unwrap();
    assert_eq!(publisher.publish(&next).await.unwrap(), Answer::Applied);
    assert_eq!(follower.subscription.next().await, Event::Batch(next));
}

#[tokio::test]
async fn a_redis_without_memory_takes_a_batch_whole_or_not_at_all() {
    let server = RedisServer::start_with(&["--maxmemory-policy", "noeviction"]).await.unwrap();
    let bus = bus_at(server.port());
    let (mut publisher, reader) = (bus.publisher(SOURCE), bus.reader(SOURCE));
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    let mut follower = Follower::new(&bus, &["a", "b"]);
    follower.until(0).await;
    // From far too little, through the sizes where the limit is met half-way through the script,
    // to enough: the batch needs about three times its own size.
    let payload = "x".repeat(300_000);
    let (mut last, mut refused, mut applied) = (0, 0, 0);
    for spare in (0..40).map(|n| n * 100_000) {
        let info: String = server.command(&["INFO", "memory"]).await.unwrap();
        let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
        let limit = used.parse::<u64>().unwrap() + spare;
        let before = contents(&server).await;
        server.command::<()>(&["CONFIG", "SET", "maxmemory", &limit.to_string()]).await.unwrap();
        let next = batch_of("aaa", 5, last, ["a", "b", "a"].map(|name| (name, payload.as_str())));
        let answer = publisher.publish(&next).await;
        server.command::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await.unwrap();
        match answer {
            Ok(answer) => {
                assert_eq!(answer, Answer::Applied);
                last = next.last;
                applied += 1;
                assert_eq!(follower.subscription.next().await, Event::Batch(next));
            }
            Err(BusError::Refused(why)) => {
                assert!(why.contains("maxmemory"), "{why}");
                assert_eq!(contents(&server).await, before);
                refused += 1;
                nothing_was_sent(&mut publisher, &mut follower, last).await;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(refused > 0 && applied > 0, "{refused} refused, {applied} applied");
    let a = reader.history(&feed("aaa"), &topic("a"), last - 3).await.unwrap();
    assert_eq!(offsets(a, last - 3), [last - 2, last]);
}

#[tokio::test]
async fn a_redis_that_forgot_the_scripts_gets_them_again() {
    let server = RedisServer::start().await.unwrap();
    let mut publisher = bus_at(server.port()).publisher(SOURCE);
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    for after in 0..3 {
        server.command::<()>(&["SCRIPT", "FLUSH"]).await.unwrap();
        let next = batch("aaa", 5, after, &["a"]);
        assert_eq!(publisher.publish(&next).await.unwrap(), Answer::Applied);
        assert_eq!(publisher.publish(&next).await.unwrap(), Answer::Already);
    }
    server.command::<()>(&["SCRIPT", "FLUSH"]).await.unwrap();
    assert_eq!(publisher.begin(&term("aaa", 6, 3)).await.unwrap(), Answer::Applied);
}

#[tokio::test]
async fn a_user_without_a_right_that_publish_needs_does_not_begin() {
    let server = RedisServer::start().await.unwrap();
    let user = ["ACL", "SETUSER", "rowcast", "on", ">secret", "~test:*", "+@all"];
    server.command::<()>(&[&user[..], &["resetchannels"]].concat()).await.unwrap();
    let url = format!("redis://rowcast:secret@127.0.0.1:{}", server.port());
    let settings = RedisSettings { url, namespace: "test".into(), retention: Retention::default() };
    let mut publisher = RedisBus::new(settings).unwrap().publisher(SOURCE);
    let refused = publisher.begin(&term("aaa", 5, 0)).await;
    assert!(matches!(&refused, Err(BusError::Refused(why)) if why.contains("PUBLISH")), "{refused:?}");
    assert_eq!(contents(&server).await, []);
    server.command::<()>(&[&user[..], &["&test:*", "-xadd"]].concat()).await.unwrap();
    let refused = publisher.begin(&term("aaa", 5, 0)).await;
    assert!(matches!(&refused, Err(BusError::Refused(why)) if why.contains("XADD")), "{refused:?}");
    assert_eq!(contents(&server).await, []);
    server.command::<()>(&[&user[..], &["&test:*", "+xadd"]].concat()).await.unwrap();
    assert_eq!(publisher.begin(&term("aaa", 5, 0)).await.unwrap(), Answer::Applied);
    assert_eq!(publisher.publish(&batch("aaa", 5, 0, &["a"])).await.unwrap(), Answer::Applied);
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_not_repeated() {
    let server = RedisServer::start().await.unwrap();
    server.command::<()>(&["ACL", "SETUSER", "rowcast", "on", ">right", "~*", "&*", "+@all"]).await.unwrap();
    let url = format!("redis://rowcast:s3cr3t@127.0.0.1:{}", server.port());
    let settings = RedisSettings { url, namespace: "test".into(), retention: Retention::default() };
    assert!(!format!("{settings:?}").contains("s3cr3t"));
    let bus = RedisBus::new(settings).unwrap();
    let error = bus.reader(SOURCE).head().await.unwrap_err();
    assert!(matches!(error, BusError::Refused(_)), "{error:?}");
    let all = format!("{error} {error:?} {bus:?} {:?} {:?}", bus.publisher(SOURCE), bus.subscribe(SOURCE));
    assert!(!all.contains("s3cr3t"), "{all}");
}

#[tokio::test]
async fn a_history_that_somebody_else_wrote_to_begins_anew() {
    let server = RedisServer::start().await.unwrap();
    let bus = bus_at(server.port());
    let (mut publisher, reader) = (bus.publisher(SOURCE), bus.reader(SOURCE));
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    publisher.publish(&batch("aaa", 5, 0, &["a"])).await.unwrap();
    server.command::<()>(&["XADD", "test:{notify}:h:aaa:a", "9-0", "x", "y"]).await.unwrap();
    let history = reader.history(&feed("aaa"), &topic("a"), 0).await;
    assert!(matches!(history, Err(BusError::Malformed(_))), "{history:?}");
    assert_eq!(publisher.publish(&batch("aaa", 5, 1, &["a"])).await.unwrap(), Answer::Applied);
    assert_eq!(reader.history(&feed("aaa"), &topic("a"), 0).await.unwrap(), History::Trimmed);
    assert_eq!(offsets(reader.history(&feed("aaa"), &topic("a"), 1).await.unwrap(), 1), [2]);
}

#[tokio::test]
async fn histories_expire_and_the_head_does_not() {
    let server = RedisServer::start().await.unwrap();
    let bus = bus_with(server.port(), Retention { ms: 5_000, ..Retention::default() });
    let mut publisher = bus.publisher(SOURCE);
    publisher.begin(&term("aaa", 5, 0)).await.unwrap();
    publisher.publish(&batch("aaa", 5, 0, &["a", "b"])).await.unwrap();
    for name in ["a", "b"] {
        let ms: i64 = server.command(&["PTTL", &format!("test:{{notify}}:h:aaa:{name}")]).await.unwrap();
        assert!((60_000..=65_000).contains(&ms), "{ms}");
    }
    assert_eq!(server.command::<i64>(&["PTTL", "test:{notify}:head"]).await.unwrap(), -1);
    // The histories of a feed that was replaced go at once.
    publisher.begin(&term("bbb", 6, 0)).await.unwrap();
    assert_eq!(server.command::<Vec<String>>(&["KEYS", "*"]).await.unwrap(), ["test:{notify}:head"]);
}
