//! What the processes of rowcast share: the settings file, logging, signals, systemd, and
//! connections to PostgreSQL.
//!
//! A binary's life: parse flags, [`logging::start`], [`shutdown::on_signals`], its library's `run`,
//! and [`exit::code`] of what came back.

#![warn(missing_docs)]

pub mod config_file;
pub mod crypto;
pub mod exit;
pub mod logging;
pub mod postgres;
pub mod settings;
pub mod shutdown;
pub mod systemd;
mod tls;

pub use settings::SettingsError;
