//! Whose turn it is: places that are gone through again and again, until each has had a turn since
//! something new came.

/// Goes round the places `0..len` of a list that grows at its end and shrinks by `swap_remove`.
#[derive(Debug, Default)]
pub(super) struct Round {
    next: usize,
    /// How many places have not had a turn.
    remaining: usize,
}

impl Round {
    /// Something new has come: each of so many places is to have a turn from now on.
    pub fn begin(&mut self, len: usize) {
        self.remaining = len;
    }

    /// Whether each has had its turn.
    pub fn is_over(&self) -> bool {
        self.remaining == 0
    }

    /// The next place, of so many.
    pub fn next(&mut self, len: usize) -> Option<usize> {
        self.remaining = self.remaining.checked_sub(1)?;
        if self.next >= len {
            self.next = 0;
        }
        let place = self.next;
        self.next += 1;
        (place < len).then_some(place)
    }

    /// A place was added at the end, which the round may pass on its way.
    pub fn grown(&mut self) {
        self.remaining += usize::from(!self.is_over());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Event {
        News,
        Join,
        Leave(prop::sample::Index),
        Turn,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            1 => Just(Event::News),
            3 => Just(Event::Join),
            3 => any::<prop::sample::Index>().prop_map(Event::Leave),
            6 => Just(Event::Turn),
        ]
    }

    proptest! {
        #[test]
        fn when_a_round_is_over_each_has_had_a_turn(events in prop::collection::vec(event(), 1..200)) {
            let mut round = Round::default();
            // Whether each has had a turn since the last news.
            let mut served: Vec<bool> = Vec::new();
            for event in events {
                match event {
                    Event::News => {
                        served.fill(false);
                        round.begin(served.len());
                    }
                    Event::Join => {
                        served.push(true);
                        round.grown();
                    }
                    Event::Leave(_) if served.is_empty() => {}
                    Event::Leave(place) => {
                        let place = place.index(served.len());
                        served.swap_remove(place);
                        // As the stream does: the round may have passed its new place.
                        if served.get(place) == Some(&false) {
                            round.begin(served.len());
                        }
                    }
                    Event::Turn => {
                        if let Some(place) = round.next(served.len()) {
                            served[place] = true;
                        }
                    }
                }
                prop_assert!(!round.is_over() || served.iter().all(|served| *served), "{served:?} {round:?}");
            }
        }
    }
}
