//! Rows by POST, against a real PostgreSQL.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod app;
mod away;
#[path = "../access/logged.rs"]
mod logged;
mod refusals;
mod rows;
mod strangers;
