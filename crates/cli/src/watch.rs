//! `rowcast watch`, `unwatch`, `pause`, `resume`.

use clap::Parser;
use tokio_postgres::types::ToSql;

use crate::{schema, server::Server, tail::say};

/// Make the changes of tables durable, so that clients can follow them.
///
/// Again, it changes the options, and takes notice of new columns, keys and partitions.
#[derive(Parser)]
pub struct Watch {
    #[command(flatten)]
    server: Server,

    /// The tables, as in SQL: orders, public.orders, "Odd Name".
    #[arg(required = true, value_name = "TABLE")]
    tables: Vec<String>,

    /// Which changes, comma-separated.
    #[arg(
        long,
        value_delimiter = ',',
        ignore_case = true,
        default_value = "INSERT,UPDATE,DELETE,TRUNCATE",
        value_name = "OPS"
    )]
    ops: Vec<String>,

    /// Columns that must never leave the table, comma-separated.
    #[arg(long, value_delimiter = ',', value_name = "COLUMNS")]
    leave_out: Vec<String>,

    /// What is kept of the old row: full, key or none.
    #[arg(long, default_value = "full", value_name = "WHAT")]
    old: String,

    /// A change that is larger, as JSON, goes without its largest values.
    #[arg(long, default_value_t = 4 * 1024 * 1024, value_name = "BYTES")]
    max_change_bytes: i32,

    /// When the trigger runs: for each row, or for each statement.
    ///
    /// By the statement costs less than half for tables that are written many rows at a time. It is
    /// refused for partitioned tables and for those with AFTER ROW triggers of their own.
    #[arg(long, default_value = "row", value_name = "WHAT")]
    each: String,
}

impl Watch {
    /// Does it: all tables, or none.
    pub async fn run(self) -> anyhow::Result<()> {
        let mut client = self.server.connect().await?;
        schema::require(&client).await?;
        let ops: Vec<String> = self.ops.iter().map(|op| op.to_ascii_uppercase()).collect();
        let mut topics = Vec::new();
        let transaction = client.transaction().await?;
        for table in &self.tables {
            let watch = "select rowcast.watch($1::text::regclass, $2, $3, $4, $5, $6)";
            let options: [&(dyn ToSql + Sync); 6] =
                [table, &ops, &self.leave_out, &self.old, &self.max_change_bytes, &self.each];
            let row = transaction.query_one(watch, &options).await.map_err(schema::said)?;
            topics.push(row.get::<_, String>(0));
        }
        transaction.commit().await.map_err(schema::said)?;
        for topic in topics {
            say(&format!("{topic} is watched; see it: rowcast tail {topic}"));
        }
        Ok(())
    }
}

/// End the watch of tables. What is in the log stays until it is too old.
#[derive(Parser)]
pub struct Unwatch {
    #[command(flatten)]
    server: Server,

    /// The tables, or their topics; those of tables that were dropped, too.
    #[arg(required = true, value_name = "TABLE")]
    tables: Vec<String>,
}

impl Unwatch {
    /// Does it: all tables, or none.
    pub async fn run(self) -> anyhow::Result<()> {
        let mut client = self.server.connect().await?;
        schema::require(&client).await?;
        let transaction = client.transaction().await?;
        for table in &self.tables {
            transaction.execute("select rowcast.unwatch($1::text)", &[table]).await.map_err(schema::said)?;
        }
        transaction.commit().await.map_err(schema::said)?;
        for table in &self.tables {
            say(&format!("{table} is no longer watched"));
        }
        Ok(())
    }
}

/// Stop to capture changes, at once: the way out when a disk fills.
///
/// What changes from now on is lost to clients, and `rowcast resume` tells them to reset.
#[derive(Parser)]
pub struct Pause {
    #[command(flatten)]
    server: Server,

    /// Throw the log away too, which frees its space.
    #[arg(long)]
    discard: bool,
}

impl Pause {
    /// Does it.
    pub async fn run(self) -> anyhow::Result<()> {
        let client = self.server.connect().await?;
        schema::require(&client).await?;
        client.batch_execute("select rowcast.pause()").await.map_err(schema::said)?;
        say("changes are no longer captured, until: rowcast resume");
        if self.discard {
            client.batch_execute("select rowcast.discard()").await.map_err(schema::said)?;
            say("the log is empty");
        }
        Ok(())
    }
}

/// Capture changes again, in a new feed: every client is told to reset.
#[derive(Parser)]
pub struct Resume {
    #[command(flatten)]
    server: Server,
}

impl Resume {
    /// Does it.
    pub async fn run(self) -> anyhow::Result<()> {
        let client = self.server.connect().await?;
        schema::require(&client).await?;
        client.batch_execute("select rowcast.resume()").await.map_err(schema::said)?;
        say("changes are captured");
        Ok(())
    }
}
