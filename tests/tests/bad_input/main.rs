//! What goes in wrong: each with a clear answer, and no effect on others. What a gateway alone can
//! show is in its own tests.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod payloads;
mod posts;
mod settings;
mod starts;
mod strangers;
