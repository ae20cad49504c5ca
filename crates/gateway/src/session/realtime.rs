use super::Session;
use crate::{
    door::Door,
    realtime::{Message, Talk},
    ws::Incoming,
};

impl Session {
    /// What a message of a client of Supabase is acted on with.
    pub(super) fn talk(&mut self) -> Option<Talk<'_>> {
        let Door::Realtime { vsn, apikey } = self.door else { return None };
        let (claims, tokens) = (self.claims.as_ref(), &mut self.tokens);
        Some(Talk { shared: &self.shared, key: self.key, vsn, claims, apikey, tokens })
    }

    /// What a client of Supabase says.
    pub(super) fn message_of(&self, incoming: &Incoming) -> Option<Result<Message, String>> {
        let Door::Realtime { vsn, .. } = self.door else { return None };
        Message::of(vsn, incoming)
    }

    /// Whether a message does not count.
    pub(super) fn is_free(&mut self, message: Option<&Result<Message, String>>) -> bool {
        let message = message.and_then(|message| message.as_ref().ok());
        self.talk().zip(message).is_some_and(|(mut talk, message)| talk.is_free(message))
    }
}
