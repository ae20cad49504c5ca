use std::{num::NonZeroU32, time::Duration};

use protocol::{ErrorCode, message::json};
use serde_json::Value;

use super::{
    binding::shorten,
    broadcast::Broadcast,
    channel::{Channel, is_channel, name_of},
    join::{Join, NO_PRESENCE, token_of},
    message::{Content, MAX_NAME_BYTES, Message, Payload, Ref, SOCKET_TOPIC, Vsn},
    tokens::Tokens,
};
use crate::{
    access::{Claims, key_print},
    hub::{ConnKey, Expiry, Joining, Refusal},
    session::Sessions,
};

const OK: &str = r#"{"status":"ok","response":{}}"#;

const NOT_SENT: &str = r#"{"status":"error","response":{"reason":"NotReady: the bus is away, or has more to do than it can: this broadcast may not have been sent"}}"#;

/// Why a broadcast that is to be kept is refused.
pub const NOT_KEPT: &str = "a broadcast is sent and not kept: 'persist' and the like are not served here";

/// What a message of a client is acted on with.
pub struct Talk<'a> {
    /// What the sessions share.
    pub shared: &'a Sessions,
    /// The connection.
    pub key: ConnKey,
    /// The version that it speaks.
    pub vsn: Vsn,
    /// What its request was let in with.
    pub claims: Option<&'a Claims>,
    /// The print of its apikey, which many clients send as a token too.
    pub apikey: Option<u64>,
    /// What it remembers of tokens.
    pub tokens: &'a mut Tokens,
}

/// A refusal as its client hears it: `Code: text`.
struct Why(ErrorCode, String);

impl From<String> for Why {
    /// It begins with its code.
    fn from(text: String) -> Self {
        let is_it = |code: &&ErrorCode| text.split(':').next() == Some(&*camel(**code));
        Self(ErrorCode::ALL.iter().find(is_it).copied().unwrap_or(ErrorCode::BadMessage), text)
    }
}

impl From<Refusal> for Why {
    fn from(Refusal(code, message): Refusal) -> Self {
        Self(code, format!("{}: {message}", camel(code)))
    }
}

/// The event of a broadcast has a name, which a binary frame has room for.
pub fn check_event(event: &str) -> Result<(), Refusal> {
    match event.len() {
        1..=MAX_NAME_BYTES => Ok(()),
        length => {
            let text = format!("'event' of a broadcast has {length} bytes; it must have 1 to {MAX_NAME_BYTES}");
            Err(Refusal(ErrorCode::BadMessage, text))
        }
    }
}

/// A broadcast is not kept: `persist` may be there, if it is not wanted.
pub fn check_not_kept(persist: &Value) -> Result<(), Refusal> {
    match persist {
        Value::Null | Value::Bool(false) => Ok(()),
        _ => Err(Refusal(ErrorCode::Unsupported, NOT_KEPT.into())),
    }
}

/// What is to be done with a broadcast of a binary frame besides: what may be there, if it is not wanted.
fn check_meta(meta: &str) -> Result<(), Refusal> {
    if meta.is_empty() {
        return Ok(());
    }
    let keys: serde_json::Map<String, Value> = serde_json::from_str(meta).map_err(|e| {
        let text = format!("'meta' of a broadcast is '{}'; it must be an object of JSON: {e}", shorten(meta));
        Refusal(ErrorCode::BadMessage, text)
    })?;
    keys.values().try_for_each(check_not_kept)
}

/// A code as Supabase writes its own.
fn camel(code: ErrorCode) -> String {
    let capital = |word: &str| word[..1].to_ascii_uppercase() + &word[1..];
    code.as_str().split('_').map(capital).collect()
}

/// An answer that refuses.
pub fn refused(vsn: Vsn, message: &Message, reason: &str) -> String {
    let payload = format!(r#"{{"status":"error","response":{{"reason":{}}}}}"#, json(reason));
    let Message { join_ref, reference, topic, .. } = message;
    vsn.write(join_ref, reference, topic, "phx_reply", &payload)
}

impl Talk<'_> {
    /// Acts on a message, and says what was wrong with it.
    pub async fn act_on(&mut self, message: Result<Message, String>) {
        match message {
            Ok(message) => {
                if let Err(why) = self.act(&message).await {
                    self.refuse(&message, why);
                }
            }
            Err(what) => {
                // There is nothing that it could be an answer to.
                let none = Message {
                    join_ref: Ref::default(),
                    reference: Ref::default(),
                    topic: SOCKET_TOPIC.into(),
                    event: "".into(),
                    payload: Payload::Json(Value::Null),
                };
                self.refuse(&none, Refusal(ErrorCode::BadMessage, what).into());
            }
        }
    }

    /// Refuses a message that came too fast.
    pub fn too_many(&self, message: &Message, most: NonZeroU32) {
        let reason = format!("more than {most} messages a second; this one was not acted on, send it again later");
        self.refuse(message, Refusal(ErrorCode::RateLimited, reason).into());
    }

    /// Whether a message is a token for a channel that is joined, which each of them may have once a second without that it
    /// counts as a message: a client sends a fresh one on all of its channels at once.
    pub fn is_free(&mut self, message: &Message) -> bool {
        let channels =
            message.is_token().then(|| self.shared.hub.with(|hub| hub.channels_beside(self.key, &message.topic)));
        channels.flatten().is_some_and(|channels| self.tokens.is_free(channels))
    }

    fn refuse(&self, message: &Message, Why(code, reason): Why) {
        self.shared.metrics.error(code);
        self.say(&refused(self.vsn, message, &reason));
    }

    fn say(&self, text: &str) {
        self.shared.hub.with(|hub| hub.send_text(self.key, text));
    }

    async fn act(&mut self, message: &Message) -> Result<(), Why> {
        let Message { join_ref, reference, topic, event, payload } = message;
        match (&**event, payload) {
            ("heartbeat", _) if **topic == *SOCKET_TOPIC => {
                self.say(&self.vsn.write(&Ref::default(), reference, topic, "phx_reply", OK));
                Ok(())
            }
            ("phx_join", Payload::Json(payload)) => {
                let joined = self.join(message, payload).await;
                if joined.is_err() {
                    self.not_joined(topic);
                }
                joined
            }
            ("phx_leave", _) => {
                self.shared.hub.with(|hub| hub.leave_channel(self.key, topic, join_ref, reference));
                Ok(())
            }
            _ if self.shared.hub.with(|hub| hub.channel(self.key, topic).is_none()) => {
                // As Phoenix has it.
                Err(Why(ErrorCode::UnknownId, "unmatched topic".into()))
            }
            ("access_token", Payload::Json(payload)) => self.access_token(topic, payload).await,
            ("broadcast", payload) => self.broadcast(message, payload),
            ("presence", _) => Err(Refusal(ErrorCode::Unsupported, NO_PRESENCE.into()).into()),
            (other, _) => {
                let text = format!("'{}' is not an event that is served here", shorten(other));
                Err(Refusal(ErrorCode::Unsupported, text).into())
            }
        }
    }

    async fn join(&mut self, message: &Message, payload: &Value) -> Result<(), Why> {
        let topic = &message.topic;
        if !is_channel(topic) || topic.len() > MAX_NAME_BYTES {
            let text = format!(
                "'{}' is not a channel: that is 'realtime:' and a name, of at most {MAX_NAME_BYTES} bytes",
                shorten(topic)
            );
            return Err(Refusal(ErrorCode::UnknownTopic, text).into());
        }
        let mut join = Join::of(topic, payload)?;
        let claims = self.claims_of(join.token.take()).await?;
        // Phoenix's own clients number a join as any other message.
        let join_ref = message.join_ref.or(&message.reference).clone();
        let joining = Joining { topic: topic.clone(), join_ref, reference: message.reference.clone(), join, claims };
        Ok(self.shared.hub.with(|hub| hub.join_channel(self.key, joining))?)
    }

    /// A second join takes the place of the first, whatever becomes of it. A connection whose own token has expired is of no use
    /// to one that shows none: it ends when it has no other channel, for its client comes back with a fresh session.
    fn not_joined(&self, topic: &str) {
        self.shared.hub.with(|hub| {
            hub.close_channel(self.key, topic);
            if self.claims.is_some_and(Claims::has_expired) && !hub.has_channels(self.key) {
                hub.expire_in(self.key, Some((Duration::ZERO, Expiry::Token)));
            }
        });
    }

    /// What a client may that shows this token, or none: then it is what its request came with.
    async fn claims_of(&mut self, token: Option<String>) -> Result<Claims, Why> {
        match token.filter(|token| self.is_token(token)) {
            Some(token) => self.verify(&token).await,
            None => {
                let text = match self.claims {
                    Some(claims) if !claims.has_expired() => return Ok(claims.clone()),
                    Some(_) => "the token of the connection has expired: setAuth() with a fresh one, or connect anew",
                    None => "no token came: setAuth() with one before subscribe()",
                };
                Err(Refusal(ErrorCode::Unauthorized, text.into()).into())
            }
        }
    }

    /// Whether this is a token that counts. A client that nobody has signed in at sends its apikey in place of one.
    fn is_token(&self, token: &str) -> bool {
        self.shared.access.takes_tokens() && self.apikey != Some(key_print(token))
    }

    async fn verify(&mut self, token: &str) -> Result<Claims, Why> {
        let judged = match self.tokens.judged(token) {
            Some(judged) => judged,
            None => {
                let judged = self.shared.access.verify(token).await;
                self.tokens.note(token, &judged);
                judged
            }
        };
        judged.map_err(|denied| {
            let code = match denied.code {
                ErrorCode::BadToken => ErrorCode::Unauthorized,
                other => other,
            };
            Refusal(code, denied.message).into()
        })
    }

    /// Sends a broadcast. Who has asked for it is told when the bus has it.
    fn broadcast(&self, message: &Message, payload: &Payload) -> Result<(), Why> {
        let topic = &message.topic;
        let (event, content) = match payload {
            Payload::Broadcast { event, content, meta } => {
                check_meta(meta)?;
                (event.clone(), content.clone())
            }
            Payload::Json(payload) => {
                check_not_kept(&payload["persist"])?;
                let event = payload["event"].as_str().unwrap_or_default();
                let empty = Value::Object(serde_json::Map::new());
                let content = payload.get("payload").unwrap_or(&empty).to_string();
                (event.into(), Content::Json(content.into()))
            }
        };
        check_event(&event)?;
        let (may, own, ack, sender) = self.shared.hub.with(|hub| {
            let channel = hub.channel(self.key, topic);
            let of_it = |is: fn(&Channel) -> bool| channel.is_some_and(is);
            (of_it(Channel::may_broadcast), of_it(|it| it.own), of_it(|it| it.ack), hub.sender(self.key))
        });
        if !may {
            let text = format!("the token's claim 'broadcast' does not cover '{}'", name_of(topic));
            return Err(Refusal(ErrorCode::Unauthorized, text).into());
        }
        let broadcast = Broadcast { except: (!own).then_some(sender), topic: topic.clone(), event, content };
        if !ack {
            self.shared.outbound.send(&broadcast);
            return Ok(());
        }
        // Nothing else that the client says waits for it: it takes its connection for dead if a heartbeat is not answered.
        let (sent, vsn, key) = (self.shared.outbound.send_all(&[broadcast]), self.vsn, self.key);
        let (hub, metrics) = (self.shared.hub.clone(), self.shared.metrics.clone());
        let (join_ref, reference, topic) = (message.join_ref.clone(), message.reference.clone(), topic.clone());
        tokio::task::spawn_local(async move {
            let answer = match sent.await {
                true => OK,
                false => {
                    metrics.error(ErrorCode::NotReady);
                    NOT_SENT
                }
            };
            hub.with(|hub| hub.send_text(key, &vsn.write(&join_ref, &reference, &topic, "phx_reply", answer)));
        });
        Ok(())
    }

    /// A fresh token for a channel, or none: nobody is signed in any more, and what the connection came with counts. There is
    /// no answer to a good one; with a bad one the channel ends.
    async fn access_token(&mut self, topic: &str, payload: &Value) -> Result<(), Why> {
        let claims = self.claims_of(token_of(payload.get("access_token"))?).await;
        self.shared.hub.with(|hub| match claims {
            Ok(claims) => hub.renew_channel(self.key, topic, claims),
            // Nobody can judge it now: the one before counts until it ends.
            Err(Why(ErrorCode::NotReady, _)) => {}
            Err(Why(_, reason)) => hub.revoke_channel(self.key, topic, &reason),
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_written_as_supabase_writes_its_own() {
        assert_eq!(camel(ErrorCode::UnknownTopic), "UnknownTopic");
        let Why(code, text) = Why::from("BadCursor: 'resume'".to_owned());
        assert_eq!((code, &*text), (ErrorCode::BadCursor, "BadCursor: 'resume'"));
        for code in ErrorCode::ALL {
            assert_eq!(Why::from(Refusal(*code, "x".into())).0, Why::from(format!("{}: x", camel(*code))).0);
        }
    }
}
