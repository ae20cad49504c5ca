//! The one cryptography that TLS uses in this process.

use std::sync::Once;

/// Makes ring the process's provider for rustls. Call it before anything uses TLS; a second call
/// does nothing. Explicit, because with several providers linked in rustls panics rather than
/// choose one.
pub fn install() {
    static ONCE: Once = Once::new();
    // An error says that somebody has installed one already.
    ONCE.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
}
