use crate::numbered::number;

/// What a client has seen of one topic on which one [`crate::writer::Writer`] writes, checked as it
/// comes: nothing twice, nothing missing, all in order, except where the gateway said so.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// Changes.
    pub changes: u64,
    /// The number of the first change, and of the last.
    pub first: Option<u64>,
    /// The number of the last change.
    pub last: u64,
    /// The reasons of all resets.
    pub resets: Vec<String>,
    /// How often a connection was opened.
    pub connections: u32,
    /// How often it was resumed.
    pub resumed: u32,
    /// Numbers that did not come. On the native protocol all of them were before a reset.
    pub missed: u64,
    /// What should not have happened.
    pub wrong: Vec<String>,
    feed: String,
    offset: u64,
    /// A hole may follow.
    after_reset: bool,
}

impl Ledger {
    /// The cursor to resume from, once there is one.
    pub fn cursor(&self) -> Option<String> {
        (!self.feed.is_empty()).then(|| format!("{}.{}", self.feed, self.offset))
    }

    /// A frame of a plain endpoint, which has no way to tell of a hole.
    pub fn plain(&mut self, text: &str) {
        self.after_reset = true;
        match number(text) {
            Some(number) => self.change(number, text),
            None => self.wrong(format!("no change: {text}")),
        }
    }

    /// A frame of the native protocol.
    pub fn native(&mut self, text: &str) {
        // Most frames are these: read without a parser.
        if text.starts_with(r#"{"type":"change","#)
            && let Some((feed, offset)) = text.split_once(r#""cursor":""#).and_then(|(_, rest)| cursor(rest))
            && let Some(number) = number(text)
        {
            if feed != self.feed || offset != self.offset + 1 {
                self.wrong(format!("after {}.{}: {text}", self.feed, self.offset));
            }
            self.move_to(feed, offset);
            return self.change(number, text);
        }
        let frame: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
        let at = frame["cursor"].as_str().and_then(|text| text.split_once('.'));
        let at = at.and_then(|(feed, offset)| Some((feed, offset.parse::<u64>().ok()?)));
        match (frame["type"].as_str().unwrap_or_default(), at) {
            ("hello", _) => {}
            ("subscribed", Some((feed, offset))) if self.feed.is_empty() => self.move_to(feed, offset),
            ("subscribed", at) if frame["resumed"] == true => {
                self.resumed += 1;
                if at != Some((&self.feed, self.offset)) {
                    self.wrong(format!("not resumed from {}.{}: {text}", self.feed, self.offset));
                }
            }
            // A reset follows, which says why.
            ("subscribed", Some(_)) => {}
            ("reset", Some((feed, offset))) => {
                self.resets.push(frame["reason"].as_str().unwrap_or_default().to_owned());
                self.move_to(feed, offset);
                self.after_reset = true;
            }
            ("watermark" | "caught_up", Some(at)) if at == (&*self.feed, self.offset) => {}
            _ => self.wrong(format!("at {}.{}: {text}", self.feed, self.offset)),
        }
    }

    /// Notes down what should not have happened. The first few say enough.
    pub fn wrong(&mut self, what: String) {
        if self.wrong.len() < 5 {
            self.wrong.push(what);
        }
    }

    fn move_to(&mut self, feed: &str, offset: u64) {
        if self.feed != feed {
            feed.clone_into(&mut self.feed);
        }
        self.offset = offset;
    }

    fn change(&mut self, number: u64, text: &str) {
        let follows = self.first.is_none() || number == self.last + 1;
        let skips = self.after_reset && number > self.last;
        if !follows && !skips {
            self.wrong(format!("after number {}: {text}", self.last));
        }
        if !follows && skips {
            self.missed += number - self.last - 1;
        }
        self.first.get_or_insert(number);
        self.last = number;
        self.changes += 1;
        self.after_reset = false;
    }
}

fn cursor(text: &str) -> Option<(&str, u64)> {
    let (feed, offset) = text.split_once('"')?.0.split_once('.')?;
    Some((feed, offset.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(cursor: &str, number: u64) -> String {
        format!(
            r#"{{"type":"change","route":1,"cursor":"{cursor}","topic":"t","data":{{"id" : 9, "value" : {number}}},"at":""}}"#
        )
    }

    fn ledger(frames: &[String]) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.native(r#"{"type":"hello"}"#);
        ledger.native(r#"{"type":"subscribed","id":"a","cursor":"f.5","resumed":false}"#);
        frames.iter().for_each(|frame| ledger.native(frame));
        ledger
    }

    #[test]
    fn what_comes_in_order_is_right() {
        let seen = ledger(&[
            change("f.6", 40),
            change("f.7", 41),
            r#"{"type":"watermark","cursor":"f.7"}"#.into(),
            r#"{"type":"reset","id":"a","reason":"new_feed","cursor":"g.0"}"#.into(),
            change("g.1", 50),
            r#"{"type":"subscribed","id":"a","cursor":"g.1","resumed":true}"#.into(),
            change("g.2", 51),
        ]);
        assert_eq!((&seen.wrong, seen.changes, seen.first, seen.last), (&vec![], 4, Some(40), 51));
        assert_eq!((seen.resets, seen.missed, seen.resumed), (vec!["new_feed".to_owned()], 8, 1));
    }

    #[test]
    fn what_is_missing_or_comes_twice_is_noticed() {
        for wrong in [
            vec![change("f.7", 40)],
            vec![change("f.5", 40)],
            vec![change("g.6", 40)],
            vec![change("f.6", 40), change("f.6", 40)],
            vec![change("f.6", 40), change("f.7", 42)],
            vec![change("f.6", 40), change("f.7", 40)],
            vec![r#"{"type":"watermark","cursor":"f.6"}"#.into()],
            vec![r#"{"type":"error","code":"bad_json"}"#.into()],
            vec![r#"{"type":"subscribed","id":"a","cursor":"f.4","resumed":true}"#.into()],
            vec!["x".into()],
        ] {
            assert!(!ledger(&wrong).wrong.is_empty(), "{wrong:?}");
        }
        let mut plain = Ledger::default();
        [1, 2, 4].iter().for_each(|number| plain.plain(&format!(r#"{{"value" : {number}}}"#)));
        assert_eq!((plain.missed, plain.wrong.len()), (1, 0));
        plain.plain(r#"{"value" : 4}"#);
        assert_eq!((plain.missed, plain.wrong.len()), (1, 1));
    }
}
