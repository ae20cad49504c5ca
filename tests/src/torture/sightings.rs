use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::change::ChangeFrame;

/// Bytes of frames that are kept to compare with.
const WINDOW_BYTES: usize = 64 * 1024 * 1024;

/// Frames that somebody has read with a parser. Others get the same bytes, and compare: hundreds of
/// clients would spend the machine on parsing. Cheap to clone; clones share.
#[derive(Debug, Clone, Default)]
pub struct Sightings {
    window: Arc<Mutex<Window>>,
}

#[derive(Debug, Default)]
struct Window {
    first: u64,
    bytes: usize,
    /// By offset; a change that ends its transaction for one subscription need not for another.
    frames: VecDeque<[Option<Sighting>; 2]>,
}

#[derive(Debug, Clone)]
struct Sighting {
    /// What follows the addressee.
    text: Box<str>,
    digest: u64,
}

/// What is to be known of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// See [`super::change::Change::digest`].
    pub digest: u64,
    /// Whether it is called the last of its transaction.
    pub tx_end: bool,
}

impl Sightings {
    /// Looks at a whole frame, whose part after the addressee is `rest`. `Err` says what is wrong.
    pub fn see(&self, offset: u64, text: &str, rest: &str) -> Result<Seen, String> {
        if let Some(seen) = self.lock().find(offset, rest) {
            return Ok(seen);
        }
        let frame = ChangeFrame::parse(text)?;
        let seen = Seen { digest: frame.change().digest(), tx_end: frame.tx_end };
        self.lock().keep(offset, rest, seen);
        Ok(seen)
    }

    fn lock(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Window {
    fn find(&self, offset: u64, rest: &str) -> Option<Seen> {
        let place = self.frames.get(usize::try_from(offset.checked_sub(self.first)?).ok()?)?;
        let at = place.iter().position(|one| one.as_ref().is_some_and(|one| *one.text == *rest))?;
        Some(Seen { digest: place[at].as_ref()?.digest, tx_end: at == 1 })
    }

    fn keep(&mut self, offset: u64, rest: &str, seen: Seen) {
        if self.frames.is_empty() {
            self.first = offset;
        }
        let Some(place) = offset.checked_sub(self.first).and_then(|place| usize::try_from(place).ok()) else { return };
        // Who invents an offset far away does not get the memory for all before it.
        if place > self.frames.len() + 1_000_000 {
            return;
        }
        while self.frames.len() <= place {
            self.frames.push_back([None, None]);
        }
        self.bytes += rest.len();
        let before =
            self.frames[place][usize::from(seen.tx_end)].replace(Sighting { text: rest.into(), digest: seen.digest });
        self.bytes -= before.map_or(0, |before| before.text.len());
        while self.bytes > WINDOW_BYTES {
            let Some(oldest) = self.frames.pop_front() else { return };
            self.first += 1;
            self.bytes -= oldest.into_iter().flatten().map(|one| one.text.len()).sum::<usize>();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rest(offset: u64, n: u64, end: &str) -> String {
        format!(r#""cursor":"f.{offset}","topic":"t","op":"INSERT","data":{{"n":{n}}},"tx":"1",{end}"at":"x"}}"#)
    }

    fn see(sightings: &Sightings, offset: u64, rest: &str) -> Result<Seen, String> {
        sightings.see(offset, &format!(r#"{{"type":"change","route":7,{rest}"#), rest)
    }

    #[test]
    fn what_was_seen_is_known_again_and_what_differs_is_read_anew() {
        let sightings = Sightings::default();
        let first = see(&sightings, 5, &rest(5, 1, "")).unwrap();
        // Not even JSON: it was not parsed.
        assert_eq!(sightings.see(5, "{", &rest(5, 1, "")), Ok(first));
        assert!(sightings.see(5, "{", &rest(5, 2, "")).is_err());
        let end = see(&sightings, 5, &rest(5, 1, r#""tx_end":true,"#)).unwrap();
        assert_eq!(end, Seen { digest: first.digest, tx_end: true });
        assert_ne!(see(&sightings, 5, &rest(5, 2, "")).unwrap().digest, first.digest);
        // Before the window, and far beyond it.
        for offset in [4, 9, 1 << 40] {
            assert!(see(&sightings, offset, &rest(offset, 3, "")).is_ok());
        }
    }
}
