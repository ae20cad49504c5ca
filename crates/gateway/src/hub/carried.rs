//! Which source has the topics of a subscription, and what a client is told if none has.

use std::time::Duration;

use protocol::{Cursor, ErrorCode, Source, Topic};

use super::{Hub, PREFERRED, View, subscribe::Refusal};

/// What the feeds say of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carried {
    /// This source carries it.
    By(Source),
    /// None does.
    ByNone,
    /// No listener has told yet what it carries.
    Unknown,
}

/// How long after its start a gateway may still be about to learn what is watched: where the bus was
/// emptied too, the listener of the log may need a moment longer than that of the channels.
const SETTLING: Duration = Duration::from_secs(5);

/// Whether nothing can be said yet of a topic that no catalogue has, so long after the start.
pub(crate) fn is_too_early(topic: &str, has_log: bool, age: Duration) -> bool {
    let may_be_a_table = topic.contains('.');
    may_be_a_table && !has_log && age < SETTLING
}

impl Hub {
    /// Who carries a topic.
    pub fn carried(&self, topic: &str) -> Carried {
        match self.carriers.get(topic) {
            Some(source) => Carried::By(*source),
            None if self.feeds.is_empty() => Carried::Unknown,
            None if is_too_early(topic, self.feeds.contains_key(&Source::Log), self.started.elapsed()) => {
                Carried::Unknown
            }
            None => Carried::ByNone,
        }
    }

    /// The source that has all topics of a subscription. The feed that it goes on with decides, then
    /// which source loses nothing.
    pub(super) fn one_source(
        &self,
        topics: &[Topic],
        since: Option<&Cursor>,
        may_see: impl Fn(&str) -> bool,
    ) -> Result<Source, Refusal> {
        if topics.iter().any(|topic| self.carried(topic.as_str()) == Carried::Unknown) {
            let message = "no listener has announced its topics yet; try again in a moment";
            return Err(Refusal(ErrorCode::NotReady, message.into()));
        }
        let lacking = |topic: &&Topic| self.carried(topic.as_str()) == Carried::ByNone;
        if let Some(topic) = topics.iter().find(lacking) {
            let message = format!("no listener carries '{topic}'; there are: {}", self.topic_names(may_see));
            return Err(Refusal(ErrorCode::UnknownTopic, message));
        }
        let has_all =
            |(_, view): &(Source, &View)| topics.iter().all(|topic| view.catalogue.get(topic.as_str()).is_some());
        let those: Vec<(Source, &View)> = PREFERRED
            .into_iter()
            .filter_map(|source| Some((source, self.feeds.get(&source)?)))
            .filter(has_all)
            .collect();
        let goes_on = |(_, view): &&(Source, &View)| since.is_some_and(|since| since.feed == view.feed);
        let one = those.iter().find(goes_on).or(those.first());
        one.map(|(source, _)| *source).ok_or_else(|| {
            let by = |source| {
                let of_it = |topic: &&Topic| self.carried(topic.as_str()) == Carried::By(source);
                topics.iter().filter(of_it).map(Topic::as_str).collect::<Vec<_>>().join(", ")
            };
            let message = format!(
                "these topics are on two feeds, {} and {}; subscribe to those of each feed apart",
                by(Source::Log),
                by(Source::Notify)
            );
            Refusal(ErrorCode::MixedFeeds, message)
        })
    }

    /// Conflation is by key.
    pub(super) fn check_keys(&self, source: Source, topics: &[Topic]) -> Result<(), Refusal> {
        let infos = &self.feeds[&source].catalogue;
        let has_none = |topic: &&Topic| infos.get(topic.as_str()).is_none_or(|info| info.key.is_empty());
        let Some(topic) = topics.iter().find(has_none) else { return Ok(()) };
        let why = match source {
            Source::Notify => "is a NOTIFY channel, whose payloads have no key",
            Source::Log => "has no primary key",
        };
        let message = format!("'{topic}' {why} to conflate by; leave 'conflate' out to get every change");
        Err(Refusal(ErrorCode::NoKey, message))
    }

    fn topic_names(&self, may_see: impl Fn(&str) -> bool) -> String {
        names(self.carriers.keys().map(Topic::as_str).filter(|name| may_see(name)))
    }
}

/// Some topics in words.
pub(crate) fn names<'a>(topics: impl Iterator<Item = &'a str>) -> String {
    const SHOWN: usize = 20;
    let mut names: Vec<&str> = topics.collect();
    names.sort_unstable();
    names.dedup();
    let more = names.len().saturating_sub(SHOWN);
    names.truncate(SHOWN);
    match (names.is_empty(), more) {
        (true, _) => "none".into(),
        (false, 0) => names.join(", "),
        (false, more) => format!("{} and {more} more", names.join(", ")),
    }
}
