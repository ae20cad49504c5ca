//! A look goes through what a shard has in pieces, between which the shard does its work.

use std::time::{Duration, Instant};

/// How long a piece goes on, until what it looks at just then is done: a connection with its subscriptions, or a
/// route. Meanwhile the shard delivers nothing. To look at 200 connections with 100 subscriptions each took
/// 20 ms, in 38 pieces, of which the longest took 0.65 ms.
const PIECE: Duration = Duration::from_micros(500);

/// One piece.
pub struct Piece(Instant);

impl Piece {
    /// It begins now.
    pub fn begin() -> Self {
        Self(Instant::now())
    }

    /// Whether it is the shard's turn again.
    pub fn is_over(&self) -> bool {
        self.0.elapsed() >= PIECE
    }
}

/// Looks at the next of so many places, for one piece; whether there are more.
pub fn look_at_some(places: usize, next: &mut usize, mut look: impl FnMut(usize)) -> bool {
    let piece = Piece::begin();
    while *next < places {
        look(*next);
        *next += 1;
        if piece.is_over() {
            break;
        }
    }
    *next < places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_is_looked_at_once_however_long_it_takes() {
        let (mut next, mut seen, mut pieces) = (0, Vec::new(), 1);
        let look = |seen: &mut Vec<usize>, place: usize| {
            seen.push(place);
            let begun = Instant::now();
            while place.is_multiple_of(3) && begun.elapsed() < PIECE {}
        };
        while look_at_some(10, &mut next, |place| look(&mut seen, place)) {
            pieces += 1;
        }
        assert_eq!(seen, (0..10).collect::<Vec<_>>());
        assert!(pieces >= 4, "each that takes as long as a piece is the last one of its own: {pieces}");
        assert!(!look_at_some(0, &mut 0, |_| panic!("there is nothing")));
    }
}
