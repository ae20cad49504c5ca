use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use protocol::TopicPattern;
use serde::Deserialize;

/// The last second of the year 9999. A claim may say more, `SystemTime` may not.
const END_OF_TIME_S: f64 = 253_402_300_799.0;

/// What a client may do, and until when. Cheap to clone, and a word of each connection.
#[derive(Debug, Clone)]
pub struct Claims(Option<Arc<Granted>>);

#[derive(Debug)]
struct Granted {
    topics: Vec<TopicPattern>,
    ingest: Vec<TopicPattern>,
    broadcast: Vec<TopicPattern>,
    expires_at: Option<SystemTime>,
    subject: Option<String>,
}

fn covers(patterns: &[TopicPattern], name: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(name))
}

impl Claims {
    /// A gateway without `[auth]`: everything, for as long as it likes.
    pub fn anonymous() -> Self {
        Self(None)
    }

    /// Whether it may subscribe to the topic.
    pub fn may_subscribe(&self, topic: &str) -> bool {
        self.0.as_ref().is_none_or(|granted| covers(&granted.topics, topic))
    }

    /// The names and globs that it may subscribe to; `None`: to everything.
    pub fn topics(&self) -> Option<Vec<String>> {
        self.0.as_ref().map(|granted| granted.topics.iter().map(ToString::to_string).collect())
    }

    /// Whether it may POST to the path of an `[[ingest]]`.
    pub fn may_ingest(&self, path: &str) -> bool {
        self.0.as_ref().is_none_or(|granted| covers(&granted.ingest, path))
    }

    /// Whether it may send broadcasts on a channel of this name, and gets those of others.
    pub fn may_broadcast(&self, channel: &str) -> bool {
        self.0.as_ref().is_none_or(|granted| covers(&granted.broadcast, channel))
    }

    /// When the connection must end unless a newer token comes: `exp` plus the leeway, so that a
    /// token that was let in is not thrown out in the same second. `None`: never.
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.0.as_ref()?.expires_at
    }

    /// Whether that is over.
    pub fn has_expired(&self) -> bool {
        self.expires_at().is_some_and(|at| at <= SystemTime::now())
    }

    /// Whom the token is about, where it says so.
    pub fn subject(&self) -> Option<&str> {
        self.0.as_ref()?.subject.as_deref()
    }
}

/// The claims that rowcast reads, in a token's payload and in the application's answer. Other keys
/// are somebody else's business.
#[derive(Deserialize)]
pub(super) struct RawClaims {
    exp: Option<f64>,
    sub: Option<String>,
    topics: Option<Vec<TopicPattern>>,
    ingest: Option<Vec<TopicPattern>>,
    broadcast: Option<Vec<TopicPattern>>,
}

impl RawClaims {
    /// An absent list grants nothing.
    pub(super) fn into_claims(self, leeway: Duration) -> Claims {
        Claims(Some(Arc::new(Granted {
            topics: self.topics.unwrap_or_default(),
            ingest: self.ingest.unwrap_or_default(),
            broadcast: self.broadcast.unwrap_or_default(),
            expires_at: self.exp.map(|exp| {
                let since_epoch = Duration::from_secs_f64(exp.clamp(0.0, END_OF_TIME_S));
                SystemTime::UNIX_EPOCH + since_epoch + leeway
            }),
            subject: self.sub,
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(json: &str) -> Claims {
        serde_json::from_str::<RawClaims>(json).unwrap().into_claims(Duration::from_secs(10))
    }

    #[test]
    fn an_absent_list_grants_nothing() {
        let claims = claims(r#"{"sub":"ada"}"#);
        assert!(
            !claims.may_subscribe("orders") && !claims.may_ingest("/api/orders/") && !claims.may_broadcast("floor")
        );
        assert_eq!((claims.subject(), claims.expires_at()), (Some("ada"), None));
    }

    #[test]
    fn names_and_globs_grant_what_they_cover_and_no_more() {
        let claims = claims(
            r#"{"topics":["public.*","db_changes"],"ingest":["/api/sensors/"],"broadcast":["floor:*"],"other":1}"#,
        );
        assert!(claims.may_broadcast("floor:1") && !claims.may_broadcast("floor"));
        assert!(claims.may_subscribe("public.orders") && claims.may_subscribe("db_changes"));
        assert!(!claims.may_subscribe("private.orders") && !claims.may_subscribe("db_changes2"));
        assert!(claims.may_ingest("/api/sensors/") && !claims.may_ingest("/api/profiles/"));
    }

    #[test]
    fn an_expiry_has_the_leeway_and_no_number_breaks_it() {
        let at = |s: u64| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(s));
        assert_eq!(claims(r#"{"exp":100}"#).expires_at(), at(110));
        assert_eq!(claims(r#"{"exp":-5}"#).expires_at(), at(10));
        assert!(claims(r#"{"exp":1e300}"#).expires_at() > at(200_000_000_000));
        assert!(claims(&format!(r#"{{"exp":{}}}"#, u64::MAX)).expires_at().is_some());
    }

    #[test]
    fn anonymous_clients_may_do_everything() {
        let claims = Claims::anonymous();
        assert!(claims.may_subscribe("x") && claims.may_ingest("/y") && claims.expires_at().is_none());
    }
}
