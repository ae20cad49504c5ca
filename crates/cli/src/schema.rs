//! The schema `rowcast`, carried in the binary: the files of `sql/rowcast`, in their order.

use anyhow::{Context, ensure};
use service::postgres::describe;
use tokio_postgres::Client;

/// The version that this tool installs, and the newest that it can talk to.
pub const VERSION: i32 = 2;

/// One watch, unwatch or installation at a time: what the functions take too.
const LOCK: i64 = 32_210_705_904_137_077;

macro_rules! files {
    ($($name:literal)*) => { &[$(($name, include_str!(concat!("../../../sql/rowcast/", $name)))),*] };
}

/// Name and text of each file.
pub const FILES: &[(&str, &str)] = files! {
    "00_schema.sql" "10_state.sql" "20_watched.sql" "30_event.sql" "40_tick.sql" "50_feed.sql" "60_ring.sql"
    "70_fold.sql" "71_cut.sql" "72_capture.sql" "73_triggers.sql" "74_statement.sql" "80_watch.sql" "85_status.sql" "86_pause.sql"
    "87_listener.sql" "99_installed.sql"
};

const UNINSTALL: &str = include_str!("../../../sql/uninstall.sql");

/// Installs or upgrades, all or nothing, and returns the version that was there before.
pub async fn install(client: &mut Client, listener_role: Option<&str>) -> anyhow::Result<Option<i32>> {
    let before = version(client).await?;
    let transaction = client.transaction().await.map_err(said)?;
    // "… already exists, skipping" is of no use to anybody.
    let quiet = format!("set local client_min_messages = warning; select pg_catalog.pg_advisory_xact_lock({LOCK})");
    transaction.batch_execute(&quiet).await.map_err(said)?;
    for (name, sql) in FILES {
        transaction.batch_execute(sql).await.map_err(said).with_context(|| format!("sql/rowcast/{name}"))?;
    }
    if let Some(role) = listener_role {
        let grant = "select rowcast.grant_listener($1::text::name)";
        transaction.execute(grant, &[&role]).await.map_err(said).with_context(|| format!("--listener-role {role}"))?;
    }
    transaction.commit().await.map_err(said)?;
    Ok(before)
}

/// Whether a role's own schema, `"$user"` in its search_path, would be ours.
pub async fn has_a_role_of_its_name(client: &Client) -> anyhow::Result<bool> {
    let sql = "select exists (select from pg_catalog.pg_roles r where r.rolname = 'rowcast' and r.rolcanlogin
        and not exists (select from pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) c
            where s.setrole = r.oid and c like 'search\\_path=%'))";
    Ok(client.query_one(sql, &[]).await.map_err(said)?.get(0))
}

/// Whether the role that is used here is a superuser.
pub async fn is_superuser(client: &Client) -> anyhow::Result<bool> {
    let sql = "select r.rolsuper from pg_catalog.pg_roles r where r.rolname = current_user";
    Ok(client.query_one(sql, &[]).await.map_err(said)?.get(0))
}

/// Takes the schema away, the triggers with it. Whether there was one.
pub async fn uninstall(client: &Client) -> anyhow::Result<bool> {
    let there = version(client).await?.is_some();
    let sql = format!("set client_min_messages = warning; {UNINSTALL}");
    client.batch_execute(&sql).await.map_err(said)?;
    Ok(there)
}

/// The version that is installed.
pub async fn version(client: &Client) -> anyhow::Result<Option<i32>> {
    let row =
        client.query_one("select pg_catalog.to_regclass('rowcast.state') is not null", &[]).await.map_err(said)?;
    if !row.get::<_, bool>(0) {
        return Ok(None);
    }
    let row = client.query_opt("select version from rowcast.state", &[]).await.map_err(said)?;
    Ok(row.map(|row| row.get(0)))
}

/// Fails unless the schema is there, in a version that this tool knows.
pub async fn require(client: &Client) -> anyhow::Result<()> {
    let version = version(client).await?.context("the schema rowcast is not in this database: rowcast install")?;
    ensure!(
        version <= VERSION,
        "the schema rowcast has version {version}, and this tool knows {VERSION}: take the newer rowcast"
    );
    Ok(())
}

/// What the server said, with what to do about a lock that was not to be had.
pub fn said(error: tokio_postgres::Error) -> anyhow::Error {
    let text = describe(&error);
    match error.code() {
        Some(&tokio_postgres::error::SqlState::LOCK_NOT_AVAILABLE) => anyhow::anyhow!(
            "{text}: a transaction that is still open uses the table. Nothing was changed; try again later, or \
             wait longer with --lock-timeout-ms (ROWCAST_LOCK_TIMEOUT_MS)"
        ),
        _ => anyhow::anyhow!(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_schema_is_carried_in_order() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../sql/rowcast");
        let mut there: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        there.sort();
        assert_eq!(FILES.iter().map(|(name, _)| *name).collect::<Vec<_>>(), there);
    }

    #[test]
    fn the_version_is_that_of_the_files() {
        let (_, last) = FILES.last().unwrap();
        assert!(last.contains(&format!("set version = {VERSION};")));
        assert!(FILES[0].1.contains(&format!("installed > {VERSION} then")));
    }
}
