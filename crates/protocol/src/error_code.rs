//! The codes that a client sees in `error` and `reset`: one table each.

use std::fmt;

macro_rules! codes {
    ($(#[$outer:meta])* $name:ident { $($(#[$inner:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$outer])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$inner])* $variant,)* }

        impl $name {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The code as it stands in a message and in metrics.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

codes! {
    /// Why a message was refused. The connection stays open unless a close code follows.
    ErrorCode {
        /// The frame is not JSON.
        BadJson = "bad_json",
        /// The JSON is not a message: `type` is missing or unknown, a key has the wrong type or value.
        BadMessage = "bad_message",
        /// A key that no version of this protocol knows.
        UnknownKey = "unknown_key",
        /// A key of the protocol that this gateway does not serve.
        Unsupported = "unsupported",
        /// The name cannot be a topic.
        BadTopic = "bad_topic",
        /// No listener carries this topic.
        UnknownTopic = "unknown_topic",
        /// `since` is not a cursor.
        BadCursor = "bad_cursor",
        /// Conflation is by key, and the topic has none.
        NoKey = "no_key",
        /// The topics of one subscription are on several feeds.
        MixedFeeds = "mixed_feeds",
        /// A live subscription already has this id.
        DuplicateId = "duplicate_id",
        /// No live subscription has this id.
        UnknownId = "unknown_id",
        /// No listener has announced its topics yet, or the bus is away. Try again later.
        NotReady = "not_ready",
        /// No token, and one is needed.
        Unauthorized = "unauthorized",
        /// The token was refused.
        BadToken = "bad_token",
        /// The claims do not cover this topic.
        Forbidden = "forbidden",
        /// More subscriptions than a connection may have.
        TooManySubscriptions = "too_many_subscriptions",
        /// More messages than a connection may send in a second.
        RateLimited = "rate_limited",
    }
}

codes! {
    /// Why a subscription could not be continued: something may have been missed.
    ResetReason {
        /// The numbering began anew: notifications may have been lost between the feeds.
        NewFeed = "new_feed",
        /// The changes after the cursor are no longer kept.
        HistoryTrimmed = "history_trimmed",
        /// The cursor is ahead of everything that the feed holds.
        UnknownCursor = "unknown_cursor",
        /// The client read too slowly, and what it has not read is no longer kept for it.
        TooSlow = "too_slow",
    }
}
