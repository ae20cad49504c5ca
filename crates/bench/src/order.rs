use std::collections::BTreeSet;

/// Holes that are remembered one by one; a client that misses more is broken anyway.
const REMEMBERED: u64 = 10_000;

/// What went wrong, over all clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    pub missing: u64,
    pub repeated: u64,
    pub reordered: u64,
    /// Connections that ended during the run.
    pub cut_off: u64,
}

impl Faults {
    pub fn add(&mut self, other: Self) {
        self.missing += other.missing;
        self.repeated += other.repeated;
        self.reordered += other.reordered;
        self.cut_off += other.cut_off;
    }
}

/// What one client has seen of a dense numbering. Nothing is on the heap while all is well.
#[derive(Debug)]
pub struct Order {
    last: u64,
    holes: BTreeSet<u64>,
}

impl Order {
    /// Begins after a change.
    pub fn after(last: u64) -> Self {
        Self { last, holes: BTreeSet::new() }
    }

    /// The last change that was seen.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Takes note of a change.
    pub fn see(&mut self, id: u64, faults: &mut Faults) {
        if id == self.last + 1 {
            self.last = id;
        } else if id > self.last {
            self.holes.extend((self.last + 1..id).take(REMEMBERED as usize));
            faults.missing += id - self.last - 1;
            self.last = id;
        } else if self.holes.remove(&id) {
            faults.missing -= 1;
            faults.reordered += 1;
        } else {
            faults.repeated += 1;
        }
    }

    /// Counts what never came.
    pub fn end(&self, last: u64, faults: &mut Faults) {
        faults.missing += last.saturating_sub(self.last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(seen: &[u64], last: u64) -> (u64, u64, u64) {
        let (mut order, mut faults) = (Order::after(10), Faults::default());
        seen.iter().for_each(|&id| order.see(id, &mut faults));
        order.end(last, &mut faults);
        (faults.missing, faults.repeated, faults.reordered)
    }

    #[test]
    fn each_kind_of_fault_is_told_from_the_others() {
        assert_eq!(faults(&[11, 12, 13], 13), (0, 0, 0));
        assert_eq!(faults(&[11, 13], 15), (3, 0, 0));
        assert_eq!(faults(&[11, 12, 12, 13], 13), (0, 1, 0));
        assert_eq!(faults(&[11, 13, 12], 13), (0, 0, 1));
        assert_eq!(faults(&[12, 11, 11], 12), (0, 1, 1));
        assert_eq!(faults(&[], 12), (2, 0, 0));
    }
}
