//! What a connection is for.

use protocol::{Topic, config::Wrap};

use crate::realtime::Vsn;

/// What a connection is for.
#[derive(Debug, Clone)]
pub enum Door {
    /// The native protocol.
    Native,
    /// Supabase's protocol.
    Realtime {
        /// Its version.
        vsn: Vsn,
        /// The print of the client's apikey.
        apikey: Option<u64>,
    },
    /// A plain endpoint.
    Plain {
        /// Its topics.
        topics: Vec<Topic>,
        /// How payloads are sent.
        wrap: Wrap,
    },
}

impl Door {
    /// Its name in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Realtime { .. } => "realtime",
            Self::Plain { .. } => "plain",
        }
    }
}
