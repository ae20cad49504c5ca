use std::time::Duration;

use protocol::{Backoff, config::Ingest};

use super::{database::Database, statement::Target};

/// Looks whether each ingest's table can be used, as soon as the database is there, and says in the
/// log which cannot. A warning and no error: a table may be created later, and the rest is served
/// meanwhile.
pub async fn warn_of_unusable_tables(ingests: &[Ingest], database: &Database) {
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
    for ingest in ingests {
        let explain = Target::new(ingest).explain();
        loop {
            match Box::pin(database.try_out(&explain)).await {
                Ok(Ok(())) => break,
                Ok(Err(problem)) => {
                    tracing::warn!(
                        path = ingest.path,
                        table = ingest.table,
                        "a POST to this path will fail until this is mended: {problem}"
                    );
                    break;
                }
                // Away: the first POST, and readiness, say so too.
                Err(problem) => {
                    tracing::debug!(path = ingest.path, "cannot look at the table yet: {problem}");
                    tokio::time::sleep(backoff.delay()).await;
                }
            }
        }
    }
}
