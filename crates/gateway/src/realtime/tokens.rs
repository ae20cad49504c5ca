use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use crate::{
    access::{Claims, Denied, key_print},
    limits::MessageRate,
};

/// How long the judgement of a token holds for those that are the same. A client shows a fresh one on each of its channels,
/// and its old one with each join after it was away, all at once; an application that was asked (`[auth] url`) is not to be
/// asked as often. No longer, so that a judgement of now is one of now.
const HOLDS: Duration = Duration::from_secs(2);

/// What a connection remembers of the tokens that it was shown. Nothing before the first: most have little room.
#[derive(Debug, Default)]
pub struct Tokens(Option<Box<Kept>>);

#[derive(Debug)]
struct Kept {
    free: MessageRate,
    last: Option<Judged>,
}

#[derive(Debug)]
struct Judged {
    /// Two tokens with the same print would have to be of one client, which has shown that it may what it gets.
    print: u64,
    at: Instant,
    claims: Result<Claims, Denied>,
}

impl Tokens {
    /// Whether one more may be shown that does not count as a message: as many in a second as there are channels.
    pub fn is_free(&mut self, channels: NonZeroU32) -> bool {
        self.kept().free.allow(Instant::now(), channels)
    }

    /// What came of this token a moment ago, if it was the last one.
    pub fn judged(&self, token: &str) -> Option<Result<Claims, Denied>> {
        let last = self.0.as_ref()?.last.as_ref()?;
        let holds = last.print == key_print(token)
            && last.at.elapsed() < HOLDS
            && !last.claims.as_ref().is_ok_and(Claims::has_expired);
        holds.then(|| last.claims.clone())
    }

    /// Notes what came of a token.
    pub fn note(&mut self, token: &str, claims: &Result<Claims, Denied>) {
        let judged = Judged { print: key_print(token), at: Instant::now(), claims: claims.clone() };
        self.kept().last = Some(judged);
    }

    fn kept(&mut self) -> &mut Kept {
        self.0.get_or_insert_with(|| Box::new(Kept { free: MessageRate::new(Instant::now()), last: None }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_judgement_holds_for_the_same_token() {
        let mut tokens = Tokens::default();
        assert!(tokens.judged("a").is_none());
        tokens.note("a", &Ok(Claims::anonymous()));
        assert!(tokens.judged("a").unwrap().is_ok() && tokens.judged("b").is_none());
        tokens.note("b", &Err(Denied::no_token()));
        assert!(tokens.judged("b").unwrap().is_err() && tokens.judged("a").is_none());
        tokens.kept().last.as_mut().unwrap().at -= HOLDS;
        assert!(tokens.judged("b").is_none());
    }

    #[test]
    fn each_channel_may_show_one_a_second() {
        let (mut tokens, three) = (Tokens::default(), NonZeroU32::new(3).unwrap());
        assert_eq!((0..10).filter(|_| tokens.is_free(three)).count(), 3);
    }
}
