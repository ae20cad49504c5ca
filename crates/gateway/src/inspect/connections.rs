//! Connections: lists of them, and one.

use std::cmp::Reverse;

use axum::http::Uri;
use protocol::ErrorCode;
use serde_json::json;

use super::{Answer, Inspector, Refused, elsewhere, json, kernel::Kernel};
use crate::{
    hub::{ConnKey, ConnectionLook, Hub, Order, Rank, Refusal, Scan, Totals, look_at_some},
    query::Query,
};

/// Connections in an answer if nothing is said, and at most.
const LIMIT: (u64, u64) = (50, 200);

/// Most that may be passed over.
const MOST_SKIPPED: u64 = 10_000;

/// `GET /inspect/api/connections`
pub async fn serve(inspector: Inspector, uri: Uri) -> Answer {
    let query = Query::of(&uri, &["order", "search", "limit", "skip"])?;
    let (usual, most) = LIMIT;
    let limit = query.number("limit", 1..=most)?.unwrap_or(usual) as usize;
    let skip = query.number("skip", 0..=MOST_SKIPPED)?.unwrap_or(0) as usize;
    let order = match query.text("order")? {
        None | Some("lag") => Order::Lag,
        Some("new") => Order::New,
        Some("old") => Order::Old,
        Some(other) => {
            let message = format!("'order' is '{other}'; it must be lag, new or old");
            return Err(Refusal(ErrorCode::BadMessage, message).into());
        }
    };
    let scan = Scan::new(order, query.text("search")?, skip + limit);
    let scans = scan_all(&inspector, scan).await?;
    let found = elsewhere(move || Found::of(scans)).await?;
    let shown: Vec<(usize, ConnKey)> =
        found.keys.iter().skip(skip).take(limit).map(|(_, shard, key)| (*shard, *key)).collect();
    let looks = look_at(&inspector, shown).await?;
    json(move || {
        let connections = with_kernel(looks);
        json!({ "totals": found.totals, "matched": found.matched, "skip": skip, "connections": connections })
    })
    .await
}

/// What the shards have found together.
struct Found {
    totals: Totals,
    matched: usize,
    /// In order.
    keys: Vec<(Rank, usize, ConnKey)>,
}

impl Found {
    fn of(scans: Vec<Scan>) -> Self {
        let mut all = Self { totals: Totals::default(), matched: 0, keys: Vec::new() };
        for (shard, scan) in scans.into_iter().enumerate() {
            all.totals.add(&scan.totals);
            all.matched += scan.matched;
            all.keys.extend(scan.found.into_iter().map(|(rank, key)| (rank, shard, key)));
        }
        all.keys.sort_unstable_by_key(|(rank, shard, key)| (Reverse(*rank), *shard, key.place()));
        all
    }
}

/// `GET /inspect/api/left`
pub async fn serve_left(inspector: Inspector, uri: Uri) -> Answer {
    let query = Query::of(&uri, &["search", "limit"])?;
    let (usual, most) = LIMIT;
    let limit = query.number("limit", 1..=most)?.unwrap_or(usual) as usize;
    let search = query.text("search")?.map(str::to_owned);
    let left = inspector.0.shards.ask(|shard| {
        let search = search.clone();
        move |hub| Some(hub.look_at_those_who_left(shard, search.as_deref(), limit))
    });
    let left = left.await?;
    json(move || {
        let matched: usize = left.iter().map(|(_, matched)| matched).sum();
        let mut connections: Vec<ConnectionLook> = left.into_iter().flat_map(|(looks, _)| looks).collect();
        connections.sort_by_key(|look| Reverse(look.left));
        connections.truncate(limit);
        json!({ "matched": matched, "connections": connections })
    })
    .await
}

/// `GET /inspect/api/connection`
pub async fn serve_one(inspector: Inspector, uri: Uri) -> Answer {
    let query = Query::of(&uri, &["id"])?;
    let Some(name) = query.text("id")? else {
        return Err(
            Refusal(ErrorCode::BadMessage, "'id' is missing: the id of a connection, as in the lists".into()).into()
        );
    };
    let (shard, key) = parse("id", name)?;
    let look = inspector.0.shards.ask_one(shard, move |hub| {
        Some(hub.look_at_connection(shard, key).or_else(|| hub.look_at_one_that_left(shard, key)))
    });
    let look = look.await?.flatten().ok_or_else(|| gone(name))?;
    json(move || with_kernel(vec![look]).pop()).await
}

/// How all connections do.
pub async fn totals(inspector: &Inspector) -> Result<Totals, Refused> {
    let scans = scan_all(inspector, Scan::new(Order::Lag, None, 0)).await?;
    let mut totals = Totals::default();
    scans.iter().for_each(|scan| totals.add(&scan.totals));
    Ok(totals)
}

/// The shard and the connection of a name.
pub fn parse(parameter: &str, name: &str) -> Result<(usize, ConnKey), Refusal> {
    ConnKey::parse(name).ok_or_else(|| {
        let name: String = name.chars().take(60).collect();
        let message = format!("'{parameter}' is '{name}'; it must be the id of a connection, such as 0-17-42");
        Refusal(ErrorCode::BadMessage, message)
    })
}

/// What is said of a connection that nobody knows.
pub fn gone(name: &str) -> Refused {
    let message = format!(
        "'{name}' is no connection of this gateway, nor one of the last that have left it; it may have been another \
         gateway's, or one from before a restart"
    );
    Refused::Unknown("unknown_connection", message)
}

/// With the bytes of each that wait in the kernel.
pub fn with_kernel(mut looks: Vec<ConnectionLook>) -> Vec<ConnectionLook> {
    let Some(kernel) = Kernel::open() else { return looks };
    for look in &mut looks {
        look.kernel_bytes = look.local.zip(look.peer).and_then(|(local, peer)| kernel.unacknowledged(local, peer));
    }
    looks
}

async fn scan_all(inspector: &Inspector, scan: Scan) -> Result<Vec<Scan>, Refused> {
    let question = |shard| {
        let mut scan = scan.clone();
        move |hub: &Hub| (!hub.scan(shard, &mut scan)).then(|| scan.clone())
    };
    inspector.0.shards.ask(question).await
}

/// Those of a list that are still there, in its order.
async fn look_at(inspector: &Inspector, shown: Vec<(usize, ConnKey)>) -> Result<Vec<ConnectionLook>, Refused> {
    let looks = inspector.0.shards.ask(|shard| {
        let of_it = |(_, (of, _)): &(usize, &(usize, ConnKey))| *of == shard;
        let keys: Vec<(usize, ConnKey)> =
            shown.iter().enumerate().filter(of_it).map(|(place, (_, key))| (place, *key)).collect();
        let (mut next, mut looks) = (0, Vec::new());
        move |hub: &Hub| {
            let more = look_at_some(keys.len(), &mut next, |one| {
                let (place, key) = keys[one];
                looks.extend(hub.look_at_one_of_many(shard, key).map(|look| (place, look)));
            });
            (!more).then(|| std::mem::take(&mut looks))
        }
    });
    let mut looks: Vec<(usize, ConnectionLook)> = looks.await?.into_iter().flatten().collect();
    looks.sort_by_key(|(place, _)| *place);
    Ok(looks.into_iter().map(|(_, look)| look).collect())
}
