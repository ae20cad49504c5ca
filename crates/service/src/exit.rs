//! How a process ends.

use std::{io::Write, process::ExitCode};

use crate::SettingsError;

/// The exit code of what a process's `run` returned: 0, 2 if settings cannot be used, else 1. An
/// error is written to standard error, with its causes.
pub fn code(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    let settings = error.chain().any(|cause| cause.is::<SettingsError>());
    // Not by the log: RUST_LOG may have turned it off, and this must be seen. If standard error is
    // gone too, the code is all that is left to say.
    drop(writeln!(std::io::stderr(), "error: {error:#}"));
    ExitCode::from(if settings { 2 } else { 1 })
}
