//! The few connections that ingests share.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use service::postgres::{PostgresSettings, describe};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout, timeout_at},
};
use tokio_postgres::{
    Client,
    types::{ToSql, Type},
};

use super::{
    refusal::{Kind, Refusal},
    row::Row,
    sqlstate,
    statement::Target,
};

/// Connections of one gateway. A single row takes well under a millisecond, and every gateway of a
/// fleet takes as many of the server's.
const CONNECTIONS: usize = 4;
/// How long a request waits for a connection, the connect included.
const WAIT: Duration = Duration::from_secs(3);
/// A connection that was idle for longer is tried before it is trusted.
const TRUSTED_FOR: Duration = Duration::from_secs(1);
const TRY_TIMEOUT: Duration = Duration::from_secs(1);
/// Longer than the server's own statement_timeout, which alone leaves no doubt what was stored.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(7);
/// row_to_json prints timestamptz in the session's zone.
const SESSION: &str = "set timezone = 'UTC'; set statement_timeout = '5s'; set client_min_messages = 'error'";

/// The database of the ingests. Connects when it is needed, again and again. Cheap to clone.
///
/// An own pool, because it is this small: a semaphore is the queue, and its order is fair.
#[derive(Clone)]
pub struct Database(Arc<Inner>);

struct Inner {
    settings: PostgresSettings,
    slots: Semaphore,
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    client: Client,
    since: Instant,
}

impl Database {
    /// Connects to nothing yet.
    pub fn new(settings: PostgresSettings) -> Self {
        Self(Arc::new(Inner { settings, slots: Semaphore::new(CONNECTIONS), idle: Mutex::default() }))
    }

    /// Stores a row and returns it as JSON. A statement of its own, unprepared: nothing to cache or
    /// to go stale when the table changes, and a pooler in transaction mode does not mind.
    pub(super) async fn store(&self, target: &Target, row: &Row) -> Result<String, Refusal> {
        let mut lease = self.0.lease().await.map_err(|problem| {
            tracing::warn!(database = %self.0.settings, "cannot store a row: {problem}");
            Refusal::new(Kind::NotReady, "the database is away; nothing was stored")
        })?;
        let sql = target.insert(&row.columns);
        let json: [(&(dyn ToSql + Sync), Type); 1] = [(&row.json, Type::TEXT)];
        let query = lease.client()?.query_typed(&sql, if row.columns.is_empty() { &[] } else { &json });
        match timeout(ANSWER_TIMEOUT, query).await {
            Ok(Ok(rows)) => {
                lease.give_back();
                match rows.first().map(|row| row.try_get::<_, String>(0)) {
                    Some(Ok(json)) => Ok(json),
                    // A trigger that returns null, or a rule.
                    None => Err(Refusal::new(Kind::BadRow, "the database did not keep the row")),
                    Some(Err(error)) => {
                        tracing::error!(path = target.path, "cannot read the stored row: {error}");
                        Err(Refusal::new(Kind::Internal, "the row was stored, but cannot be shown"))
                    }
                }
            }
            Ok(Err(error)) => Err(match error.as_db_error() {
                Some(db) => {
                    let (refusal, for_the_log) = sqlstate::refusal(db);
                    if for_the_log {
                        tracing::warn!(path = target.path, "cannot store a row: {}", without_detail(db));
                    }
                    lease.give_back();
                    refusal
                }
                None => unsure(target, &describe(&error)),
            }),
            Err(_) => Err(unsure(target, "no answer from the database")),
        }
    }

    /// Runs something that returns nothing of interest, for a look at start.
    pub(super) async fn try_out(&self, sql: &str) -> Result<Result<(), String>, String> {
        let mut lease = self.0.lease().await?;
        let client = lease.client().map_err(|_| "no connection".to_owned())?;
        match timeout(ANSWER_TIMEOUT, client.simple_query(sql)).await {
            Ok(Ok(_)) => {
                lease.give_back();
                Ok(Ok(()))
            }
            Ok(Err(error)) => match error.as_db_error().map(without_detail) {
                Some(problem) => {
                    lease.give_back();
                    Ok(Err(problem))
                }
                None => Err(describe(&error)),
            },
            Err(_) => Err("no answer".into()),
        }
    }
}

/// The connection went away between question and answer.
fn unsure(target: &Target, problem: &str) -> Refusal {
    tracing::warn!(path = target.path, "lost the database while it stored a row: {problem}");
    Refusal::new(Kind::Unsure, "the database went away while it stored the row: it may be stored or not")
}

/// A detail shows values of the row, which are nobody's business in a log.
fn without_detail(error: &tokio_postgres::error::DbError) -> String {
    format!("{} (SQLSTATE {})", error.message(), error.code().code())
}

impl Inner {
    async fn lease(&self) -> Result<Lease<'_>, String> {
        let deadline = Instant::now() + WAIT;
        let slot = match timeout_at(deadline, self.slots.acquire()).await {
            Ok(Ok(slot)) => slot,
            Ok(Err(closed)) => return Err(closed.to_string()),
            Err(_) => return Err(format!("all {CONNECTIONS} connections are busy")),
        };
        let client = match self.idle_client().await {
            Some(client) => client,
            None => timeout_at(deadline, Box::pin(self.connect()))
                .await
                .unwrap_or_else(|_| Err(format!("no connection within {} s", WAIT.as_secs())))?,
        };
        Ok(Lease { inner: self, client: Some(client), _slot: slot })
    }

    async fn idle_client(&self) -> Option<Client> {
        loop {
            // A statement of its own, so that the lock is not held while the connection is tried.
            let idle = self.idle().pop()?;
            if idle.client.is_closed() {
                continue;
            }
            if idle.since.elapsed() < TRUSTED_FOR {
                return Some(idle.client);
            }
            if let Ok(Ok(())) = timeout(TRY_TIMEOUT, idle.client.check_connection()).await {
                return Some(idle.client);
            }
            // A dead peer is dead for all of them.
            self.idle().clear();
        }
    }

    async fn connect(&self) -> Result<Client, String> {
        let (client, connection) = self.settings.connect().await.map_err(|e| e.to_string())?;
        // It ends with the client. Who waits for an answer hears of an error there.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!("a connection of the ingests ended: {}", describe(&error));
            }
        });
        client.batch_execute(SESSION).await.map_err(|e| describe(&e))?;
        Ok(client)
    }

    /// Held to push and pop, so it cannot be poisoned half way.
    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection in use. Unless it is given back it is closed: a request that was abandoned half way
/// leaves an answer on the way, or a server that does not answer.
struct Lease<'a> {
    inner: &'a Inner,
    client: Option<Client>,
    _slot: SemaphorePermit<'a>,
}

impl Lease<'_> {
    fn client(&mut self) -> Result<&Client, Refusal> {
        self.client.as_ref().ok_or_else(|| Refusal::new(Kind::Internal, "the connection was given back already"))
    }

    fn give_back(&mut self) {
        if let Some(client) = self.client.take().filter(|client| !client.is_closed()) {
            self.inner.idle().push(Idle { client, since: Instant::now() });
        }
    }
}
