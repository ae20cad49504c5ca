use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::{AsyncConnectionConfig, ErrorKind, RedisError, ServerErrorKind, aio::MultiplexedConnection};
use tokio::sync::OnceCell;

use super::{CONNECT_TIMEOUT, address::Address};
use crate::BusError;

/// Within this time an answer has come, or the connection is thought dead: a half-open socket says
/// nothing at all.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);

/// A connection for commands that is built when it is needed and dropped at the first sign of
/// trouble; nothing is sent twice. Not redis-rs's `ConnectionManager`, which gives up for ever
/// after six attempts and keeps a half-open socket. Cheap to clone; clones share the connection.
#[derive(Clone)]
pub(super) struct Link {
    shared: Arc<Shared>,
}

struct Shared {
    address: Address,
    /// What it is for, for the log.
    source: &'static str,
    user: &'static str,
    attempt: Mutex<Arc<Attempt>>,
    losses: Losses,
    /// Whether the log says that the connection is lost.
    lost: AtomicBool,
}

/// One attempt at a connection: all that need one wait for it together, and share its result.
#[derive(Default)]
struct Attempt {
    connected: OnceCell<Result<MultiplexedConnection, BusError>>,
    /// The count of [`Losses`] when it was made.
    losses: u64,
}

/// How often this process has seen a connection to this Redis die. A connection from before the
/// last time is not trusted: it may be half-open as well, and would cost a timeout just when a gap
/// is to be repaired.
#[derive(Clone, Default)]
pub(super) struct Losses(Arc<AtomicU64>);

impl Losses {
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Link {
    /// `user` is who has it, for the log.
    pub(super) fn new(address: Address, losses: Losses, source: &'static str, user: &'static str) -> Self {
        let (attempt, lost) = (Mutex::default(), AtomicBool::new(false));
        Self { shared: Arc::new(Shared { address, source, user, attempt, losses, lost }) }
    }

    /// Runs commands on the connection.
    pub(super) async fn run<T>(
        &self,
        commands: impl AsyncFnOnce(&mut MultiplexedConnection) -> Result<T, RedisError>,
    ) -> Result<T, BusError> {
        let attempt = self.attempt();
        let connected = attempt.connected.get_or_init(|| self.connect()).await;
        let mut connection = match connected {
            Ok(connection) => connection.clone(),
            Err(error) => {
                self.forget(&attempt, error);
                return Err(error.clone());
            }
        };
        if self.shared.lost.swap(false, Ordering::Relaxed) {
            tracing::info!(source = self.shared.source, user = self.shared.user, "Redis is back");
        }
        // The client's own limit is per command; this one covers also what it does not think of.
        let answered = tokio::time::timeout(RESPONSE_TIMEOUT * 2, commands(&mut connection)).await;
        match answered {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                let (said, renew) = judge(&error);
                if renew {
                    self.forget(&attempt, &said);
                }
                Err(said)
            }
            Err(_) => {
                let said = BusError::Unavailable("no answer".into());
                self.forget(&attempt, &said);
                Err(said)
            }
        }
    }

    fn attempt(&self) -> Arc<Attempt> {
        let losses = self.shared.losses.count();
        let mut current = self.current();
        if current.losses != losses {
            *current = Arc::new(Attempt { losses, ..Attempt::default() });
        }
        current.clone()
    }

    /// The next call makes a new attempt, unless somebody else has done so already.
    fn forget(&self, attempt: &Arc<Attempt>, why: &BusError) {
        {
            let mut current = self.current();
            if !Arc::ptr_eq(&current, attempt) {
                return;
            }
            *current = Arc::new(Attempt { losses: attempt.losses, ..Attempt::default() });
        }
        if !self.shared.lost.swap(true, Ordering::Relaxed) {
            tracing::warn!(source = self.shared.source, user = self.shared.user, %why, "Redis is lost");
        }
    }

    fn current(&self) -> MutexGuard<'_, Arc<Attempt>> {
        self.shared.attempt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self) -> Result<MultiplexedConnection, BusError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
        let connecting = self.shared.address.client.get_multiplexed_async_connection_with_config(&config);
        match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(connected) => connected.map_err(|error| judge(&error).0),
            Err(_) => Err(BusError::Unavailable("no connection in time".into())),
        }
    }
}

/// What an error is to the caller, and whether the connection is to be replaced.
fn judge(error: &RedisError) -> (BusError, bool) {
    let text = error.to_string();
    match error.kind() {
        // A replica, or a master that was: the name may lead to another server by now.
        ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown) => {
            (BusError::Unavailable(text), true)
        }
        ErrorKind::Server(ServerErrorKind::BusyLoading | ServerErrorKind::TryAgain | ServerErrorKind::ClusterDown) => {
            (BusError::Unavailable(text), false)
        }
        ErrorKind::Server(_) => (BusError::Refused(text), false),
        // What our own scripts say, and what redis-rs has no name for.
        ErrorKind::Extension if error.code() == Some("MALFORMED") => (BusError::Malformed(text), false),
        ErrorKind::Extension => (BusError::Refused(text), false),
        ErrorKind::AuthenticationFailed => (BusError::Refused(text), true),
        ErrorKind::UnexpectedReturnType => (BusError::Malformed(text), false),
        _ => (BusError::Unavailable(text), true),
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("source", &self.shared.source).field("user", &self.shared.user).finish()
    }
}
