use std::{fmt::Debug, time::Duration};

use tokio::time::{Instant, sleep, timeout_at};

const POLL_EVERY: Duration = Duration::from_millis(10);

/// Asks until the answer is `Ok`, and returns what it holds. `Err` is the state as it is so far:
/// past the deadline, the panic shows the last one.
pub async fn eventually<T, S: Debug>(what: &str, within: Duration, mut ask: impl AsyncFnMut() -> Result<T, S>) -> T {
    let deadline = Instant::now() + within;
    let mut last = None;
    loop {
        match timeout_at(deadline, ask()).await {
            Ok(Ok(done)) => return done,
            Ok(Err(state)) => last = Some(state),
            Err(_) => {}
        }
        assert!(Instant::now() < deadline, "not within {within:?}: {what}; last seen: {last:?}");
        sleep(POLL_EVERY).await;
    }
}
