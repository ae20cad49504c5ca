use std::time::Duration;

use e2e::follower::Follower;
use tokio::time::sleep;

use crate::{
    load::Load,
    stage::{LATER, SOON, Stage},
};

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_transactions_of_all_kinds_arrive_whole_and_in_the_order_of_the_log() {
    let stage = Stage::new().await;
    let _listener = stage.listener().await;
    let follower = stage.follower();
    let load = Load::mixed(stage.url(), 6);
    let long = Load::start(
        stage.url(),
        2,
        "begin; insert into a (word) values ('long'); select pg_sleep(0.2); update b set n = n + 1 where id = -90; \
         select pg_sleep(0.2); insert into c (word) values ('long'); commit",
        Duration::ZERO,
    );
    let truncate = Load::start(
        stage.url(),
        1,
        "begin; truncate c; insert into c select g from generate_series(-100, -1) g; commit",
        Duration::from_millis(700),
    );
    sleep(Duration::from_secs(5)).await;
    for load in [load, long, truncate] {
        assert!(load.stop().await > 3);
    }
    let seen = stage.all_is_right(&follower, LATER).await;
    stage.assert_state(&seen).await;
    assert_eq!(seen.feeds.len(), 1);
    assert!(seen.changes.len() > 2_000, "{}", seen.changes.len());
    // Transactions are whole: each ends where its first change said that it would.
    let mut changes = seen.changes.iter().map(|got| (got.change.offset, got.change.row().unwrap()));
    let (mut transactions, mut tables) = (0, 0);
    while let Some((_, first)) = changes.next() {
        transactions += 1;
        for (offset, row) in changes.by_ref().take_while(|(offset, _)| *offset < first.tx_last) {
            tables += 1;
            assert_eq!((row.tx, row.tx_last), (first.tx, first.tx_last), "offset {offset}");
        }
    }
    assert!(transactions > 500 && tables > 500);
    eprintln!("order: {} changes, {transactions} transactions", seen.changes.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_stays_open_stalls_nobody_and_comes_when_it_commits() {
    let stage = Stage::new().await;
    let _listener = stage.listener().await;
    let follower = stage.follower();
    let open = stage.connect().await;
    open.batch_execute("begin; update a set n = 1 where id = -1; insert into b (word) values ('late')").await.unwrap();
    for n in 0..20 {
        stage.sql(&format!("insert into c (word) values ('{n}'); update b set n = {n} where id = -2")).await;
        // Not behind the open one: within a heartbeat's time.
        until_row(&follower, &format!(r#""n":{n},"#), Duration::from_millis(900)).await;
    }
    open.batch_execute("update a set n = 2 where id = -1; commit").await.unwrap();
    until_row(&follower, r#""word":"late""#, Duration::from_millis(900)).await;
    let seen = stage.all_is_right(&follower, SOON).await;
    stage.assert_state(&seen).await;
    let last: Vec<_> = seen.changes[seen.changes.len() - 3..].iter().map(|got| got.change.row().unwrap().tx).collect();
    assert!(
        last.iter().all(|tx| *tx == last[0]) && last[0] < seen.changes[seen.changes.len() - 4].change.row().unwrap().tx
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_transaction_stalls_nobody_and_comes_when_it_is_committed() {
    let stage = Stage::alone(&["max_prepared_transactions=4"]).await;
    let listener = stage.listener().await;
    let follower = stage.follower();
    let prepare = |name: &str, id: i32| {
        format!(
            "begin; update a set word = '{name}' where id = {id}; insert into b (word) values ('{name}'); prepare transaction '{name}'"
        )
    };
    for (name, id) in [("kept", -95), ("dropped", -96)] {
        stage.sql(&prepare(name, id)).await;
    }
    let load = Load::mixed(stage.url(), 2);
    sleep(Duration::from_secs(1)).await;
    load.stop().await;
    stage.all_is_right(&follower, LATER).await;
    assert_eq!(listener.metric("log_doorbell_armed").await.unwrap(), 0.0, "a ring would make PREPARE fail");
    stage.sql("rollback prepared 'dropped'").await;
    stage.sql("commit prepared 'kept'").await;
    until_row(&follower, r#""word":"kept"}"#, SOON).await;
    let seen = stage.all_is_right(&follower, SOON).await;
    stage.assert_state(&seen).await;
    let tx: Vec<_> = seen.changes[seen.changes.len() - 2..].iter().map(|got| got.change.row().unwrap()).collect();
    assert!(tx[0].tx == tx[1].tx && tx[0].tx_last == seen.last());
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_that_a_users_own_trigger_makes_come_after_the_change_that_fired_it() {
    let stage = Stage::new().await;
    stage
        .sql(
            "create function again() returns trigger language plpgsql as $$ begin
               update b set n = new.n + 1 where id = new.id and new.n < 4;
               insert into c (word) values ('by the trigger');
               return null; end $$;
             create trigger again after insert or update on b for each row execute function again();
             create function others() returns trigger language plpgsql as $$ begin
               update a set word = 'touched' where id = -3;
               return null; end $$;
             create trigger \"AAA first by name\" after insert on c for each row execute function others();",
        )
        .await;
    let _listener = stage.listener().await;
    let follower = stage.follower();
    let load = Load::start(
        stage.url(),
        4,
        "insert into b (word) values ('x'), ('y'); update b set n = 1 where id between -3 and -1; update b set n = 9 where id = -4",
        Duration::ZERO,
    );
    sleep(Duration::from_millis(1500)).await;
    assert!(load.stop().await > 10);
    let seen = stage.all_is_right(&follower, LATER).await;
    stage.assert_state(&seen).await;
    let tables = |name: &str| seen.changes.iter().filter(|got| got.topic.as_str() == name).count();
    assert!(tables("public.b") > 100 && tables("public.c") > 100 && tables("public.a") > 100);
}

async fn until_row(follower: &Follower, part: &str, within: Duration) {
    let has = |got: &e2e::follower::Got| {
        got.change.row().is_some_and(|row| String::from_utf8_lossy(&row.data).contains(part))
    };
    follower.until(part, within, |seen| seen.changes.iter().rev().take(100).any(has)).await;
}
