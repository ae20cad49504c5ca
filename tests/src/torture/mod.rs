//! The torture test: everything real, everything struck again and again, and at the end each
//! client's sequence held against the log, and its state against the tables.
//!
//! ```text
//! writers ─▶ PostgreSQL ─▶ two listeners ─▶ Redis ─▶ three gateways ─▶ clients ─▶ witnesses ─┐
//!                │    └─────────────────── log reader ─▶ truth ─────────────────────────▶ judges
//! ```
//!
//! Between any two of them is a [`crate::proxy::Proxy`]. The [`schedule`] of faults comes from the
//! seed alone. The [`judge`] knows nothing of the product's code: it reads the log with its own SQL.

pub mod change;
pub mod client;
pub mod counters;
pub mod dice;
pub mod fault;
pub mod judge;
pub mod line;
pub mod log_reader;
pub mod manner;
pub mod options;
pub mod recovery;
pub mod replica;
pub mod report;
pub mod run;
pub mod schedule;
pub mod sightings;
pub mod stage;
pub mod statement;
pub mod strikes;
pub mod table;
pub mod terms;
pub mod truth;
pub mod violation;
pub mod witness;
pub mod writer;

pub use options::Options;
pub use report::Report;
pub use run::{Failure, run};
