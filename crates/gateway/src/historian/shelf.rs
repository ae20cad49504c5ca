//! What was read last, and what was refused, for who comes a little later.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use protocol::Offset;

use super::Subject;
use crate::hit::Hit;

/// Bytes that are kept, about.
const SHELF_BYTES: usize = 32 * 1024 * 1024;

/// What an entry counts at least, so that their number is bounded too.
const LEAST_BYTES: usize = 64 * 1024;

/// How long something is kept that nobody asks for.
const KEPT: Duration = Duration::from_secs(5);

/// How long a refusal counts: until then nobody brings back what was lost.
const REFUSED: Duration = Duration::from_secs(1);

/// Stretches that were read. That they are complete does not change, whatever the bus still has.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Offsets after which something is no longer kept, a subject once.
    refused: HashMap<Subject, (Offset, Instant)>,
}

#[derive(Debug)]
struct Entry {
    subject: Subject,
    after: Offset,
    through: Offset,
    hits: Arc<Vec<Hit>>,
    bytes: usize,
    used: Instant,
}

impl Shelf {
    /// The stretch in which an offset lies, and how far it goes.
    pub(super) fn get(&mut self, subject: &Subject, after: Offset) -> Option<(Offset, Arc<Vec<Hit>>)> {
        let has_it = |it: &&mut Entry| it.after <= after && after < it.through && it.subject == *subject;
        let entry = self.entries.iter_mut().rfind(has_it)?;
        entry.used = Instant::now();
        Some((entry.through, Arc::clone(&entry.hits)))
    }

    pub(super) fn put(&mut self, subject: &Subject, after: Offset, through: Offset, hits: Arc<Vec<Hit>>) {
        if through <= after {
            return;
        }
        let bytes = hits.iter().map(|hit| hit.change.payload.len() + size_of::<Hit>()).sum::<usize>().max(LEAST_BYTES);
        let entry = Entry { subject: subject.clone(), after, through, hits, bytes, used: Instant::now() };
        self.bytes += bytes;
        self.entries.push_back(entry);
        while self.bytes > SHELF_BYTES {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= oldest.bytes;
        }
    }

    /// Notes that something after this offset is no longer kept.
    pub(super) fn refuse(&mut self, subject: &Subject, after: Offset) {
        self.refused.insert(subject.clone(), (after, Instant::now()));
    }

    /// Whether that has just been found of this offset, or of a later one.
    pub(super) fn is_refused(&self, subject: &Subject, after: Offset) -> bool {
        self.refused.get(subject).is_some_and(|(refused, at)| after <= *refused && at.elapsed() < REFUSED)
    }

    /// Throws away what nobody asks for any more.
    pub(super) fn sweep(&mut self) {
        self.refused.retain(|_, (_, at)| at.elapsed() < REFUSED);
        self.entries.retain(|entry| entry.used.elapsed() < KEPT);
        self.bytes = self.entries.iter().map(|entry| entry.bytes).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use protocol::{Change, Kind, Source, Topic};

    #[test]
    fn the_shelf_is_bounded_and_serves_who_lies_in_a_stretch() {
        let topic = Topic::new("t").unwrap();
        let subject = |source| Subject { source, feed: "f".parse().unwrap(), topics: vec![topic.clone()] };
        let log = subject(Source::Log);
        let payload = Bytes::from(vec![0; 1024 * 1024]);
        let stretch = |offset| {
            let change = Change { offset, at: 0, kind: Kind::Text, payload: payload.clone() };
            Arc::new(vec![Hit { topic: topic.clone(), change, row: None }])
        };
        let mut shelf = Shelf::default();
        shelf.put(&log, 10, 20, stretch(15));
        let through = |shelf: &mut Shelf, after| shelf.get(&log, after).map(|(through, _)| through);
        let found = [9, 10, 19, 20].map(|after| through(&mut shelf, after));
        assert_eq!(found, [None, Some(20), Some(20), None]);
        assert!(shelf.get(&subject(Source::Notify), 10).is_none());
        for n in 2..100 {
            shelf.put(&log, n * 10, n * 10 + 10, stretch(n * 10 + 5));
        }
        assert!(shelf.bytes <= SHELF_BYTES && shelf.entries.len() > 20, "{} bytes", shelf.bytes);
        assert_eq!([through(&mut shelf, 10), through(&mut shelf, 995)], [None, Some(1000)]);
        shelf.refuse(&log, 7);
        assert_eq!([6, 7, 8].map(|after| shelf.is_refused(&log, after)), [true, true, false]);
        assert!(!shelf.is_refused(&subject(Source::Notify), 7));
    }
}
