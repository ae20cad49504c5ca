use std::{ops::RangeInclusive, time::Duration};

/// Chance that comes out the same again: SplitMix64, so that a seed means the same in every build.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The dice of one party of a run: its sequence depends on nobody else.
    pub fn of(seed: u64, who: &str, number: usize) -> Self {
        let mut dice = Self(seed);
        for byte in who.bytes().map(u64::from).chain([number as u64 + 1]) {
            dice.0 ^= byte.wrapping_mul(0x0100_0000_01b3);
            dice.0 = dice.roll();
        }
        dice
    }

    /// 64 bits.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number of the range.
    pub fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        range.start() + self.roll() % (range.end() - range.start() + 1)
    }

    /// A duration of so many milliseconds.
    pub fn millis(&mut self, range: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.within(range))
    }

    /// True this often.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.within(1..=100) <= percent
    }

    /// One of several.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.within(0..=of.len() as u64 - 1) as usize]
    }

    /// Any order.
    pub fn shuffle<T>(&mut self, all: &mut [T]) {
        for last in (1..all.len()).rev() {
            all.swap(last, self.within(0..=last as u64) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_again_and_each_party_its_own() {
        let rolls = |seed, who, number| {
            let mut dice = Dice::of(seed, who, number);
            (0..20).map(|_| dice.within(1..=6)).collect::<Vec<_>>()
        };
        assert_eq!(rolls(7, "writer", 1), rolls(7, "writer", 1));
        for other in [rolls(8, "writer", 1), rolls(7, "client", 1), rolls(7, "writer", 2)] {
            assert_ne!(rolls(7, "writer", 1), other);
        }
        assert!((1..=6).all(|side| rolls(7, "writer", 1).contains(&side)));
    }
}
