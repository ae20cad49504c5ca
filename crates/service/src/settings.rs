//! Settings that cannot be used.

use std::path::PathBuf;

/// A setting that stops the process at start, with exit code 2. The message names the flag and its
/// environment variable, the value, and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A value that cannot be used.
    #[error("{setting} = '{value}' cannot be used: it must be {right}")]
    Wrong {
        /// The flag with its environment variable: `--status-bind (ROWCAST_STATUS_BIND)`.
        setting: String,
        /// The value.
        value: String,
        /// What would be right.
        right: String,
    },
    /// A value that cannot be used, and that is not shown because it may hold a password.
    #[error("{setting} cannot be used: {problem} (the value is not shown: it may hold a password)")]
    Secret {
        /// The flag with its environment variable.
        setting: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A setting that is needed and was not given.
    #[error("{setting} is missing: {right}")]
    Missing {
        /// The flag with its environment variable.
        setting: String,
        /// What to give.
        right: String,
    },
    /// The settings file cannot be read, or holds something wrong.
    #[error("the settings file {}: {problem}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// An address cannot be listened on.
    #[error("{setting} = '{address}' cannot be listened on: {problem}")]
    Bind {
        /// The flag with its environment variable.
        setting: String,
        /// The address.
        address: String,
        /// What the system said.
        problem: std::io::Error,
    },
}
