use std::time::Duration;

use e2e::eventually::eventually;
use tokio::time::sleep;

use crate::{
    load::Load,
    stage::{LATER, SOON, Stage, leads},
};

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_read_through_its_indexes_whatever_the_planner_knows_of_it() {
    let stage = Stage::alone(&["autovacuum=off"]).await;
    let mut listener = stage.listener().await;
    let follower = stage.follower();
    // Three leaves with 40,000 events each, and ticks.
    for leaf in 1..=3 {
        let load = Load::mixed(stage.url(), 2);
        sleep(Duration::from_millis(300)).await;
        load.stop().await;
        for _ in 0..8 {
            stage.sql("insert into b (n) select g from generate_series(1, 5000) g").await;
        }
        if leaf < 3 {
            let turned = stage.ask("select rowcast.turn_ring((select last_value >> 36 from rowcast.event_id))").await;
            assert_eq!(turned, leaf.to_string());
        }
    }
    stage.all_arrived(&follower, LATER).await;
    assert_eq!(listener.term().await.unwrap(), Some(0));
    stage.sql("vacuum analyze rowcast.event_0, rowcast.event_1, rowcast.event_2").await;
    stage.sql("analyze").await;
    let full = "select count(*) from pg_class where relname ~ '^event_[0-3]$' and reltuples > 20000";
    assert_eq!(stage.ask(full).await, "3");
    // From now on the server writes down how it does what it is asked.
    stage
        .sql(&format!(
            "alter database {0} set session_preload_libraries = 'auto_explain'; \
             alter database {0} set auto_explain.log_min_duration = 0",
            stage.database
        ))
        .await;
    listener.restart().unwrap();
    leads(&listener, true).await;
    // Both halves of a difference: who was in flight before, and who was not.
    let open = stage.connect().await;
    open.batch_execute("begin; update a set n = 77 where id = -1").await.unwrap();
    for n in 0..20 {
        stage.sql(&format!("insert into a (n) values ({n})")).await;
        sleep(Duration::from_millis(10)).await;
    }
    open.batch_execute("commit").await.unwrap();
    // One that is read in parts, and a bus that is filled again.
    stage.sql("insert into c (n) select g from generate_series(1, 20000) g").await;
    stage.all_arrived(&follower, LATER).await;
    stage.redis.command::<String>(&["FLUSHALL"]).await.unwrap();
    eventually("the bus is filled again", SOON, async || {
        let filled = stage.bus().reader(protocol::Source::Log).head().await.ok().flatten().map(|head| head.last);
        if filled == Some(follower.look(|seen| seen.last())) { Ok(()) } else { Err(filled) }
    })
    .await;
    listener.kill9().unwrap();

    let log = stage.postgres.log();
    // What the connections of this test did is not what is asked about.
    let plans: Vec<&str> =
        log.split("duration: ").filter(|plan| plan.contains("Query Text:") && plan.contains("rowcast.")).collect();
    let of = |part: &str| -> Vec<&str> { plans.iter().copied().filter(|plan| plan.contains(part)).collect() };
    for (statement, part) in [
        ("a look", "insert into rowcast.tick_"),
        ("a read", "id = $1 and events"),
        ("the transactions of a large tick", "group by xid order by max(id)"),
        ("some transactions", "any (($1::text[])::xid8[])"),
        ("a part of a transaction", "over (order by e.id)"),
    ] {
        let plans = of(part);
        assert!(!plans.is_empty(), "{statement}");
        for plan in plans {
            assert!(!scans_a_leaf(plan) && !plan.contains("Bitmap"), "{statement}: {plan}");
            for leaf in 0..4 {
                let scan = format!("using event_{leaf}_xid_id on event_{leaf}");
                // A difference has two halves.
                let halves = if plan.contains("union all") { 2 } else { 1 };
                assert!(plan.matches(&scan).count() >= halves, "{statement}: {plan}");
            }
        }
    }
    for (statement, part) in [
        ("ticks of before", "where id >= $1 order by id limit $2"),
        ("the tick that holds an offset", "order by first desc limit 1"),
        ("how far to go back", "order by id desc limit 2000"),
        ("where the log stands", "order by t.id desc limit 1"),
        ("the ring", "pg_total_relation_size"),
    ] {
        let plans = of(part);
        assert!(!plans.is_empty(), "{statement}");
        for plan in plans {
            assert!(!scans_a_leaf(plan), "{statement}: {plan}");
        }
    }
    // What is looked at says so: no look reads more than is new.
    let slowest = of("insert into rowcast.tick_")
        .iter()
        .filter_map(|plan| plan.split(' ').next()?.parse::<f64>().ok())
        .fold(0.0, f64::max);
    eprintln!("plans: {} looks, the slowest {slowest} ms", of("insert into rowcast.tick_").len());
}

fn scans_a_leaf(plan: &str) -> bool {
    (0..4).any(|leaf| ["event", "tick"].iter().any(|ring| plan.contains(&format!("Seq Scan on {ring}_{leaf}"))))
}
