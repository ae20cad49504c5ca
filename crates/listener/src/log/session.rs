//! The connection that holds the log's lock: ticks, reads, and the doorbell.

use std::{
    future::poll_fn,
    sync::Arc,
    time::{Duration, Instant},
};

use service::{
    postgres::{Connection, PostgresSettings, describe},
    systemd::Pulse,
};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_postgres::{
    AsyncMessage, Client, Row, Statement,
    error::SqlState,
    types::{ToSql, Type},
};

use crate::session::{Lost, PATIENCE};

/// What `rowcast install` has to have installed.
pub(crate) const SCHEMA_VERSION: i32 = 2;

/// So that a leader that nobody can reach does not keep the lock: PostgreSQL ends its session.
/// Ticks are durable before anything of them is published, so their commits wait for the disk.
/// The statements are written for index probes; a planner that has analysed the log while it was
/// small, or large, must not have second thoughts. With an empty search path functions and operators
/// are PostgreSQL's own. What limits the users of a database would end a look that finds much, each
/// time anew.
const SETTINGS: &str = "set synchronous_commit = on; set lock_timeout = '2s'; set search_path = ''; \
    set idle_session_timeout = '3s'; set tcp_keepalives_idle = 1; set tcp_keepalives_interval = 1; \
    set tcp_keepalives_count = 2; set tcp_user_timeout = 3000; set default_transaction_isolation = 'read committed'; \
    set default_transaction_read_only = off; set statement_timeout = 0; \
    select pg_catalog.set_config(name, '0', false) from pg_catalog.pg_settings where name = 'transaction_timeout'; \
    set enable_seqscan = off; set enable_bitmapscan = off; set jit = off; set max_parallel_workers_per_gather = 0; \
    set plan_cache_mode = force_generic_plan; set work_mem = '32MB'";

const ABOUT: &str = "select pg_catalog.pg_is_in_recovery(), pg_catalog.pg_backend_pid(), \
    pg_catalog.to_regclass('rowcast.state') is not null, \
    pg_catalog.current_setting('max_prepared_transactions')::int > 0";

/// One connection of the log source.
pub(crate) struct LogSession {
    client: Client,
    postgres: PostgresSettings,
    pump: JoinHandle<()>,
    /// Why the pump ended, once it has.
    ended: watch::Receiver<Option<String>>,
    /// A writer has rung.
    rung: Arc<Notify>,
    backend: i32,
    /// A long answer is no reason to be restarted.
    pulse: Pulse,
    /// Whether NOTIFY in a trigger could make somebody's PREPARE TRANSACTION fail.
    pub(crate) prepares: bool,
}

impl LogSession {
    /// Connects, and checks that there is a log.
    pub(crate) async fn open(postgres: &PostgresSettings, pulse: &Pulse) -> Result<Self, Lost> {
        let (client, connection) = postgres.connect().await?;
        let rung = Arc::new(Notify::new());
        let (ended_sender, ended) = watch::channel(None);
        let ring = Arc::clone(&rung);
        let pump = tokio::spawn(async move {
            let reason = pump(connection, &ring).await;
            // Nobody to hear it: the session has been given up already.
            drop(ended_sender.send(Some(reason)));
        });
        let mut session = Self {
            client,
            postgres: postgres.clone(),
            pump,
            ended,
            rung,
            backend: 0,
            pulse: pulse.clone(),
            prepares: false,
        };
        session.prepare_session().await?;
        Ok(session)
    }

    async fn prepare_session(&mut self) -> Result<(), Lost> {
        let about = self.query_one(ABOUT, &[]).await?;
        if about.get(0) {
            return Err(Lost::InRecovery);
        }
        self.backend = about.get(1);
        self.prepares = about.get(3);
        if !about.get::<_, bool>(2) {
            return Err(Lost::NotInstalled);
        }
        let state = self.query_one("select version from rowcast.state", &[]).await?;
        let version: i32 = state.get(0);
        if version != SCHEMA_VERSION {
            return Err(Lost::OtherVersion { installed: version, wanted: SCHEMA_VERSION });
        }
        self.execute(SETTINGS).await
    }

    /// Makes a statement ready, with these parameter types.
    pub(crate) async fn prepare(&self, sql: &str, types: &[Type]) -> Result<Statement, Lost> {
        self.answer(self.client.prepare_typed(sql, types)).await
    }

    /// The rows of a prepared statement.
    pub(crate) async fn query(
        &self,
        statement: &Statement,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Lost> {
        self.answer(self.client.query(statement, parameters)).await
    }

    /// The one row of a statement that is not used often.
    pub(crate) async fn query_one(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Row, Lost> {
        self.answer(self.client.query_one(sql, parameters)).await
    }

    /// The row of a statement that is not used often, if there is one.
    pub(crate) async fn query_opt(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Option<Row>, Lost> {
        self.answer(self.client.query_opt(sql, parameters)).await
    }

    /// The rows of a statement that is not used often.
    pub(crate) async fn query_all(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Lost> {
        self.answer(self.client.query(sql, parameters)).await
    }

    /// Statements without an answer.
    pub(crate) async fn execute(&self, sql: &str) -> Result<(), Lost> {
        self.answer(self.client.batch_execute(sql)).await
    }

    /// The server's process for this session.
    pub(crate) fn backend(&self) -> i32 {
        self.backend
    }

    /// Waits until a writer rings.
    pub(crate) async fn rung(&self) {
        self.rung.notified().await;
    }

    /// Waits until the connection ends; why.
    pub(crate) async fn ended(&self) -> Lost {
        let mut ended = self.ended.clone();
        let reason = match ended.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone(),
            Err(_) => None,
        };
        Lost::Ended(reason.unwrap_or_else(|| "its task is gone".into()))
    }

    /// Ends the session: politely if the server still reads, else at once.
    pub(crate) async fn close(self) {
        drop(self.client);
        let mut pump = self.pump;
        if timeout(Duration::from_millis(500), &mut pump).await.is_err() {
            pump.abort();
        }
    }

    /// Another connection, with the same settings, for reading what is too large for this one.
    pub(crate) async fn reader(&self) -> Result<(Client, JoinHandle<()>), Lost> {
        let (client, connection) = self.postgres.connect().await?;
        let task = tokio::spawn(async move {
            let quiet = Notify::new();
            let reason = pump(connection, &quiet).await;
            tracing::debug!(reason, "a reading connection has ended");
        });
        // It may wait for us, while the bus takes what was read before.
        let set = format!("{SETTINGS}; set idle_session_timeout = 0; set tcp_user_timeout = 0");
        client.batch_execute(&set).await.map_err(|e| Lost::Failed(describe(&e)))?;
        Ok((client, task))
    }

    /// An answer, as long as the server may still be at work on it.
    async fn answer<T>(&self, future: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, Lost> {
        tokio::pin!(future);
        let started = Instant::now();
        loop {
            match timeout(PATIENCE, &mut future).await {
                Ok(result) => return result.map_err(|e| self.why(&e)),
                // A tick after a long outage counts millions of changes, and takes its time.
                Err(_) if self.is_at_work().await => {
                    self.pulse.beat();
                    tracing::warn!(
                        seconds = started.elapsed().as_secs(),
                        "PostgreSQL is at work on a large step of the log"
                    );
                }
                Err(_) => return Err(Lost::Silent),
            }
        }
    }

    /// Asks by another connection whether the server is at work for this one.
    async fn is_at_work(&self) -> bool {
        let ask = async {
            let (client, connection) = self.postgres.connect().await.ok()?;
            let task = tokio::spawn(connection);
            let sql = "select state = 'active' and coalesce(wait_event_type, '') not in ('Client', 'Lock') \
                 from pg_catalog.pg_stat_activity where pid = $1";
            let row = client.query_opt(sql, &[&self.backend]).await.ok()?;
            task.abort();
            row.and_then(|row| row.get::<_, Option<bool>>(0))
        };
        matches!(timeout(PATIENCE, ask).await, Ok(Some(true)))
    }

    /// If the connection ended, the pump knows why; the query only knows that it did.
    fn why(&self, error: &tokio_postgres::Error) -> Lost {
        match (&*self.ended.borrow(), error.code()) {
            (Some(reason), _) if error.is_closed() => Lost::Ended(reason.clone()),
            (_, Some(&SqlState::UNIQUE_VIOLATION)) => Lost::NotLeader,
            (_, Some(&SqlState::UNDEFINED_TABLE | &SqlState::INVALID_SCHEMA_NAME)) => Lost::NotInstalled,
            _ => Lost::Failed(describe(error)),
        }
    }
}

/// Drives a connection until it ends; why it did.
async fn pump(mut connection: Connection, rung: &Notify) -> String {
    loop {
        match poll_fn(|cx| connection.poll_message(cx)).await {
            Some(Ok(AsyncMessage::Notification(_))) => rung.notify_one(),
            Some(Ok(AsyncMessage::Notice(notice))) => tracing::debug!("PostgreSQL: {}", notice.message()),
            Some(Ok(_)) => {}
            Some(Err(error)) => return describe(&error),
            None => return "closed".into(),
        }
    }
}
