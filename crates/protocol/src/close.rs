//! WebSocket close codes: one table, each with what the client should do next.

/// What a client should do after a close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reconnect {
    /// It meant to leave.
    No,
    /// Trying again the same way gives the same answer: mend the client first.
    AfterMending,
    /// Get a fresh token, then connect.
    AfterNewToken,
    /// Connect again after a jittered delay, and resume.
    Yes,
}

/// Why the gateway closed a connection. The code doubles as a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Close {
    /// The client asked for it, or is one of Supabase that has had no channel for long.
    Normal,
    /// The client broke RFC 6455.
    ProtocolError,
    /// A binary frame where only text is spoken.
    Unsupported,
    /// A text frame that is not UTF-8.
    InvalidText,
    /// A client frame or message above the limit.
    TooBig,
    /// The gateway is leaving.
    Restart,
    /// The client read too slowly: its socket took nothing for too long, or it is on a plain
    /// endpoint, where no `reset` can be told, and what it has not read is no longer kept.
    TryAgainLater,
    /// No token came in time, or the token has expired.
    Unauthorized,
    /// The claims no longer cover what this connection is for.
    Forbidden,
    /// It went on sending more messages than it may.
    RateLimited,
}

impl Close {
    /// Every close code that the gateway sends.
    pub const ALL: [Self; 10] = [
        Self::Normal,
        Self::ProtocolError,
        Self::Unsupported,
        Self::InvalidText,
        Self::TooBig,
        Self::Restart,
        Self::TryAgainLater,
        Self::Unauthorized,
        Self::Forbidden,
        Self::RateLimited,
    ];

    const fn row(self) -> (u16, &'static str, Reconnect) {
        match self {
            Self::Normal => (1000, "normal", Reconnect::No),
            Self::ProtocolError => (1002, "protocol_error", Reconnect::AfterMending),
            Self::Unsupported => (1003, "unsupported", Reconnect::AfterMending),
            Self::InvalidText => (1007, "invalid_text", Reconnect::AfterMending),
            Self::TooBig => (1009, "too_big", Reconnect::AfterMending),
            Self::Restart => (1012, "restart", Reconnect::Yes),
            Self::TryAgainLater => (1013, "try_again_later", Reconnect::Yes),
            Self::Unauthorized => (4401, "unauthorized", Reconnect::AfterNewToken),
            Self::Forbidden => (4403, "forbidden", Reconnect::AfterNewToken),
            Self::RateLimited => (4429, "rate_limited", Reconnect::AfterMending),
        }
    }

    /// The code on the wire.
    pub const fn code(self) -> u16 {
        self.row().0
    }

    /// The name in metrics, and the reason on the wire where nothing better is known.
    pub const fn name(self) -> &'static str {
        self.row().1
    }

    /// What the client should do next.
    pub const fn reconnect(self) -> Reconnect {
        self.row().2
    }
}
