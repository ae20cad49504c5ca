use service::SettingsError;

/// Why a listener stopped. What can mend itself (a database or a bus that is away) never stops it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
}
