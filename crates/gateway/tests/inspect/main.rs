//! The inspector, over real sockets.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod lists;
mod protection;
mod stage;
#[path = "../support/mod.rs"]
mod support;
mod truths;
mod why;
