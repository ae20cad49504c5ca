//! What a query string asks for. Each mistake is named, with its value and what would be right.

use std::ops::RangeInclusive;

use axum::{extract::Query as Pairs, http::Uri};
use protocol::{
    Cursor, ErrorCode, Topic,
    message::{LATER, MAX_TOPICS},
};

use crate::hub::Refusal;

/// Parameters by their names.
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query string that may have these parameters, and a token. What nobody knows is refused:
    /// whoever asks for a filter must not get everything.
    pub fn of(uri: &Uri, known: &[&str]) -> Result<Self, Refusal> {
        let Ok(Pairs(pairs)) = Pairs::<Vec<(String, String)>>::try_from_uri(uri) else {
            return Err(bad("the query string cannot be read; it is name=value, with & between".into()));
        };
        let is_known = |name: &str| name == "token" || known.contains(&name);
        match pairs.iter().map(|(name, _)| name.as_str()).find(|name| !is_known(name)) {
            None => Ok(Self(pairs)),
            Some(name) if LATER.contains(&name) => {
                let message = format!("'{name}' is not served by this gateway; leave it out to get every change");
                Err(Refusal(ErrorCode::Unsupported, message))
            }
            Some(name) => {
                let message = format!("'{}' is not a parameter here; there are: {}", shorten(name), known.join(", "));
                Err(Refusal(ErrorCode::UnknownKey, message))
            }
        }
    }

    /// Each `topic`, sorted.
    pub fn topics(&self) -> Result<Vec<Topic>, Refusal> {
        let names: Vec<&str> = self.all("topic").collect();
        match names.len() {
            0 => return Err(bad("'topic' is missing: topic=NAME, once for each topic".into())),
            1..=MAX_TOPICS => {}
            count => return Err(bad(format!("'topic' comes {count} times; 1 to {MAX_TOPICS} are served at once"))),
        }
        let topic = |name| Topic::new(name).map_err(|e| Refusal(ErrorCode::BadTopic, format!("'topic': {e}")));
        let mut topics = names.into_iter().map(topic).collect::<Result<Vec<Topic>, Refusal>>()?;
        topics.sort();
        topics.dedup();
        Ok(topics)
    }

    /// The cursor to go on from.
    pub fn since(&self) -> Result<Option<Cursor>, Refusal> {
        self.one("since")?.map(|text| cursor("since", text)).transpose()
    }

    /// A number in this range.
    pub fn number(&self, name: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, Refusal> {
        let Some(text) = self.one(name)? else { return Ok(None) };
        match text.parse() {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            _ => {
                let (least, most) = (range.start(), range.end());
                let text = shorten(text);
                Err(bad(format!("'{name}' is '{text}'; it must be a whole number from {least} to {most}")))
            }
        }
    }

    /// A text; one that is empty is none.
    pub fn text(&self, name: &str) -> Result<Option<&str>, Refusal> {
        Ok(self.one(name)?.filter(|text| !text.is_empty()))
    }

    fn one(&self, name: &str) -> Result<Option<&str>, Refusal> {
        let mut all = self.all(name);
        match (all.next(), all.next()) {
            (_, Some(_)) => Err(bad(format!("'{name}' comes more than once; give it once"))),
            (one, None) => Ok(one),
        }
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(of, _)| of == name).map(|(_, value)| value.as_str())
    }
}

/// A cursor that came with this name.
pub fn cursor(name: &str, text: &str) -> Result<Cursor, Refusal> {
    text.parse().map_err(|e| Refusal(ErrorCode::BadCursor, format!("'{name}': {e}")))
}

fn bad(message: String) -> Refusal {
    Refusal(ErrorCode::BadMessage, message)
}

fn shorten(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Result<Query, Refusal> {
        Query::of(&format!("/sse?{text}").parse().unwrap(), &["topic", "since", "limit"])
    }

    #[test]
    fn topics_are_repeated_and_sorted() {
        let topics = query("topic=b&topic=a&topic=b&topic=x%2Cy").unwrap().topics().unwrap();
        assert_eq!(topics.iter().map(Topic::as_str).collect::<Vec<_>>(), ["a", "b", "x,y"]);
    }

    #[test]
    fn every_mistake_is_named() {
        let many = vec!["topic=a"; 101].join("&");
        let all = |text: &str| {
            let query = query(text)?;
            query.topics()?;
            query.since()?;
            query.number("limit", 1..=10)
        };
        for (text, code, named) in [
            ("", ErrorCode::BadMessage, "'topic' is missing"),
            (&many, ErrorCode::BadMessage, "101 times"),
            ("topic=", ErrorCode::BadTopic, "needs a name"),
            ("topic=a%0Ab", ErrorCode::BadTopic, "control"),
            ("topics=a", ErrorCode::UnknownKey, "'topics' is not a parameter here; there are: topic, since, limit"),
            ("topic=a&where=x", ErrorCode::Unsupported, "'where'"),
            ("topic=a&since=nonsense", ErrorCode::BadCursor, "'since': 'nonsense' is not a cursor"),
            ("topic=a&since=k.1&since=k.2", ErrorCode::BadMessage, "'since' comes more than once"),
            ("topic=a&limit=0", ErrorCode::BadMessage, "'limit' is '0'; it must be a whole number from 1 to 10"),
            ("topic=a&limit=many", ErrorCode::BadMessage, "'many'"),
            ("topic=a&limit=", ErrorCode::BadMessage, "''"),
        ] {
            let Refusal(of, message) = all(text).unwrap_err();
            assert!(of == code && message.contains(named), "{text}: {of} {message}");
        }
        assert_eq!(all("topic=a&since=k.1&limit=10&token=x"), Ok(Some(10)));
    }
}
