//! `rowcast status`: how the log is, and what of it the gateways have.

use std::{
    io::Write,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bus::{Reader, RedisBus, RedisSettings, Retention};
use clap::Parser;
use protocol::Source;
use serde::{Deserialize, Serialize};

use crate::{schema, server::Server};

/// One reading, as the database puts it: its clock, the row of `rowcast.status()`, and what is watched. A trigger for
/// TRUNCATE is not copied to new partitions, and a partition may bring that of another table. (`pg_partition_tree` would
/// wait for who has a partition locked.)
const READ: &str = "select pg_catalog.json_build_object('now', pg_catalog.clock_timestamp(), 'log', \
    (select pg_catalog.row_to_json(s) from rowcast.status() s), 'tables', \
    (select coalesce(pg_catalog.json_agg(pg_catalog.row_to_json(t) order by t.topic), '[]') from (\
      select w.*, array(\
        with recursive part(relation) as (\
          select c.oid from pg_catalog.pg_class c where c.oid = w.relation and 'TRUNCATE' = any (w.ops) \
          union all \
          select c.oid from part p join pg_catalog.pg_inherits i on i.inhparent = p.relation and not i.inhdetachpending \
            join pg_catalog.pg_class c on c.oid = i.inhrelid and c.relispartition) \
        select n.nspname || '.' || c.relname \
          from part p join pg_catalog.pg_class c on c.oid = p.relation join pg_catalog.pg_namespace n on n.oid = c.relnamespace \
         where not exists (select from pg_catalog.pg_trigger t join pg_catalog.pg_proc f on f.oid = t.tgfoid \
             where t.tgrelid = c.oid and t.tgname = '!rowcast_truncate' \
               and f.proname in ('capture ' || w.topic, 'capture ' || pg_catalog.md5(w.topic))) order by 1) as truncate_not_captured \
        from rowcast.watched w) t))::text";

/// Show how the log is: the feed, what is watched, what waits, who listens.
///
/// With --redis-url, also what the bus holds and how many gateways listen to it. The listener's
/// role may ask too.
#[derive(Parser)]
pub struct Status {
    #[command(flatten)]
    server: Server,

    /// Redis, to see what it holds.
    #[arg(long, env = "REDIS_URL", hide_env_values = true, value_name = "URL")]
    redis_url: Option<String>,

    /// The namespace of listener and gateways.
    #[arg(long, env = "ROWCAST_NAMESPACE", default_value = "rowcast", value_name = "NAME")]
    namespace: String,

    /// Print one line of JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Deserialize, Serialize)]
struct Report {
    now: String,
    log: Log,
    tables: Vec<Table>,
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    bus: Option<OnBus>,
}

#[derive(Deserialize, Serialize)]
struct Log {
    version: i32,
    feed: String,
    feed_reason: String,
    feed_began: String,
    paused_at: Option<String>,
    watched: u64,
    generation: i64,
    last_tick: Option<i64>,
    last_offset: Option<u64>,
    last_tick_at: Option<String>,
    waiting: u64,
    waiting_since: Option<String>,
    waiting_s: Option<f64>,
    log_bytes: u64,
    log_since: Option<String>,
    log_s: Option<f64>,
    oldest_xid: serde_json::Value,
    oldest_transaction: Option<String>,
    oldest_transaction_s: Option<f64>,
    listeners: Vec<Listener>,
    queue_usage: f64,
}

#[derive(Deserialize, Serialize)]
struct Listener {
    pid: i32,
    name: String,
    address: Option<String>,
    leader: bool,
}

#[derive(Deserialize, Serialize)]
struct Table {
    topic: String,
    relation: String,
    ops: Vec<String>,
    leave_out: Vec<String>,
    old: String,
    max_change_bytes: i32,
    each: String,
    columns: Vec<String>,
    key: Vec<String>,
    since: String,
    /// Partitions that have no trigger for it, though TRUNCATE is watched.
    truncate_not_captured: Vec<String>,
}

/// What the bus holds of the log.
#[derive(Serialize)]
struct OnBus {
    head: Option<OnBusHead>,
    gateways: u64,
}

#[derive(Serialize)]
struct OnBusHead {
    feed: String,
    epoch: u64,
    last: u64,
    /// Of the database's clock, in µs since 1970.
    at: i64,
    /// By this machine's clock.
    age_s: f64,
    /// Changes that have a tick and are not on the bus; none where the feeds differ.
    behind: Option<u64>,
}

impl Status {
    /// Does it.
    pub async fn run(self) -> anyhow::Result<()> {
        let client = self.server.connect().await?;
        schema::require(&client).await?;
        let text: String = client.query_one(READ, &[]).await.map_err(schema::said)?.get(0);
        let mut report: Report = serde_json::from_str(&text)?;
        if let Some(url) = &self.redis_url {
            report.bus = Some(self.on_bus(url, &report.log).await?);
        }
        let mut out = std::io::stdout().lock();
        match self.json {
            true => writeln!(out, "{}", serde_json::to_string(&report)?)?,
            false => write!(out, "{}", report.text())?,
        }
        Ok(())
    }

    async fn on_bus(&self, url: &str, log: &Log) -> anyhow::Result<OnBus> {
        let settings =
            RedisSettings { url: url.into(), namespace: self.namespace.clone(), retention: Retention::default() };
        let reader: Reader = RedisBus::new(settings)?.reader(Source::Log);
        let head = reader.head().await?.map(|head| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let behind = log.last_offset.filter(|_| head.feed.as_str() == log.feed);
            OnBusHead {
                feed: head.feed.to_string(),
                epoch: head.epoch,
                last: head.last,
                at: head.at,
                age_s: now.saturating_sub(Duration::from_micros(head.at.cast_unsigned())).as_secs_f64(),
                behind: behind.map(|offset| offset.saturating_sub(head.last)),
            }
        });
        Ok(OnBus { head, gateways: reader.subscribers().await? })
    }
}

impl Report {
    fn text(&self) -> String {
        let log = &self.log;
        let mut out = String::new();
        let mut line = |name: &str, text: String| out.push_str(&format!("{name:<11} {text}\n"));
        line("schema", format!("version {}", log.version));
        line("feed", format!("{}, begun {} ({})", log.feed, log.feed_began, log.feed_reason));
        line(
            "capture",
            match &log.paused_at {
                Some(at) => format!("PAUSED since {at}: changes are lost until rowcast resume"),
                None => format!("on, {} watched", count(log.watched, "table")),
            },
        );
        let ticked = log.last_tick_at.as_deref().unwrap_or("never");
        line("offset", format!("{} (last change numbered {ticked})", log.last_offset.unwrap_or_default()));
        line(
            "waiting",
            match log.waiting_s {
                Some(s) => format!("{} not numbered yet, for {s:.1} s", count(log.waiting, "change")),
                None => "nothing".into(),
            },
        );
        let age = log.log_s.map_or_else(|| "empty".into(), |s| format!("oldest change {s:.0} s ago"));
        line("log", format!("{}, {age}, generation {}", bytes(log.log_bytes), log.generation));
        line(
            "in flight",
            match log.oldest_transaction_s {
                Some(s) => format!("oldest transaction for {s:.1} s (xid {})", log.oldest_xid),
                None => "no transaction that writes".into(),
            },
        );
        line("listeners", listeners(&log.listeners));
        line("queue", format!("{:.0} % of that of NOTIFY", log.queue_usage * 100.0));
        if let Some(bus) = &self.bus {
            line(
                "bus",
                match &bus.head {
                    None => "holds no feed".into(),
                    Some(head) => {
                        let behind = match head.behind {
                            None => "another feed".into(),
                            Some(0) => "all of it".into(),
                            Some(n) => format!("{} behind", count(n, "change")),
                        };
                        format!("{}.{}, {behind}, complete up to {:.1} s ago", head.feed, head.last, head.age_s)
                    }
                },
            );
            line("gateways", bus.gateways.to_string());
        }
        for table in &self.tables {
            line("table", table.text());
            if let Some(warning) = table.warning() {
                line("WARNING", warning);
            }
        }
        out
    }
}

impl Table {
    fn text(&self) -> String {
        let key = if self.key.is_empty() { "no key".into() } else { format!("key {}", self.key.join(", ")) };
        let mut text = format!("{}: {}; {key}; old {}", self.topic, self.ops.join(", "), self.old);
        if self.each == "statement" {
            text.push_str("; by the statement");
        }
        if !self.leave_out.is_empty() {
            text.push_str("; without ");
            text.push_str(&self.leave_out.join(", "));
        }
        text
    }

    fn warning(&self) -> Option<String> {
        let (first, more) = self.truncate_not_captured.split_first()?;
        let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
        Some(format!(
            "{}: TRUNCATE of {first}{more} is not captured: watch the table again, with its options",
            self.topic
        ))
    }
}

fn listeners(all: &[Listener]) -> String {
    if all.is_empty() {
        return "none: nothing goes out".into();
    }
    let one = |l: &Listener| {
        let place = l.address.as_deref().map(|a| format!(" from {a}")).unwrap_or_default();
        format!("session {}{place}{}", l.pid, if l.leader { " (leader)" } else { "" })
    };
    all.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn count(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn bytes(n: u64) -> String {
    match n {
        0..1_048_576 => format!("{} kB", n / 1024),
        _ => format!("{:.1} MB", n as f64 / 1_048_576.0),
    }
}
