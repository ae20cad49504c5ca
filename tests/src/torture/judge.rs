use std::{collections::VecDeque, sync::Arc, time::Duration};

use super::{
    truth::Truth,
    violation::{Crime, Violation},
    witness::{Noted, Witness},
};

/// What is promised to be kept for who is away.
#[derive(Debug, Clone, Copy)]
pub struct Kept {
    /// For this long,
    pub time: Duration,
    /// or this many bytes.
    pub bytes: u64,
}

/// Holds what one subscription was told against the truth, as far as the truth is known.
#[derive(Debug)]
pub struct Judge {
    witness: Arc<Witness>,
    kept: Kept,
    /// What has not been judged, because the log has not been read so far.
    pending: VecDeque<Noted>,
    /// It has been told everything up to here; `None`: it has not subscribed.
    position: Option<u64>,
    /// A refused resume is followed by a reset, which says why.
    reset_must_follow: bool,
    /// A transaction whose last change it has, and has not been told so.
    open: Option<u64>,
    /// How many changes were right.
    deliveries: u64,
}

impl Judge {
    /// Of a subscription that has been told nothing yet.
    pub fn of(witness: Arc<Witness>, kept: Kept) -> Self {
        Self {
            witness,
            kept,
            pending: VecDeque::new(),
            position: None,
            reset_must_follow: false,
            open: None,
            deliveries: 0,
        }
    }

    /// Whether it has subscribed.
    pub fn has_begun(&self) -> bool {
        self.position.is_some()
    }

    /// How many changes it has got, all of them right.
    pub fn deliveries(&self) -> u64 {
        self.deliveries
    }

    /// Judges what has come since the last time, on this feed.
    pub fn judge(&mut self, feed: &str, truth: &Truth) -> Result<(), Violation> {
        self.pending.extend(self.witness.fetch());
        while let Some(next) = self.pending.front() {
            let known = match next {
                Noted::Change { offset, .. }
                | Noted::Conflated { offset }
                | Noted::TxEnd { offset, .. }
                | Noted::Watermark { offset }
                | Noted::Reset { offset, .. } => *offset <= truth.last(),
                _ => true,
            };
            if !known {
                return Ok(());
            }
            if let Some(next) = self.pending.pop_front() {
                self.weigh(&next, feed, truth)?;
            }
        }
        Ok(())
    }

    /// At the end, when everything is quiet: everything must have come.
    pub fn is_complete(&self, truth: &Truth) -> Result<(), Violation> {
        let (name, position) = (&self.witness.name, self.position.unwrap_or_default());
        if let Some(first) = self.pending.front() {
            let how = format!("{first:?}, but the log ends at {}", truth.last());
            return Err(Violation::new(Crime::Invented, name, how));
        }
        if self.position.is_none() || truth.next(self.witness.tables, position, truth.last()).is_some() {
            let how = format!(
                "it is at {:?}, and the log's last for it is {}",
                self.position,
                truth.last_of(self.witness.tables)
            );
            return Err(Violation::new(Crime::Stuck, name, how));
        }
        if let Some(open) = self.open {
            let how = format!("it was never told that transaction {open} is over");
            return Err(Violation::new(Crime::Split, name, how));
        }
        Ok(())
    }

    fn weigh(&mut self, noted: &Noted, feed: &str, truth: &Truth) -> Result<(), Violation> {
        let crime = |crime, how: String| Err(Violation::new(crime, &self.witness.name, how));
        if self.reset_must_follow && !matches!(noted, Noted::Reset { .. } | Noted::Forgot) {
            return crime(Crime::Protocol, format!("resumed:false must be followed by a reset, not by {noted:?}"));
        }
        if matches!(noted, Noted::Subscribed { .. } | Noted::Reset { .. } | Noted::Forgot) {
            // Who comes in the middle of a transaction goes by the next one's first change.
            self.open = None;
        }
        match noted {
            Noted::Forgot => (self.position, self.reset_must_follow) = (None, false),
            Noted::Subscribed { feed: its, offset, resumed } => match self.position {
                Some(_) if !resumed => {
                    self.reset_must_follow = true;
                }
                Some(position) if its != feed || *offset != position => {
                    return crime(Crime::Protocol, format!("resumed from {its}.{offset}, asked for {feed}.{position}"));
                }
                None if its != feed || *resumed => {
                    return crime(
                        Crime::Protocol,
                        format!("subscribed at {its}.{offset}, resumed: {resumed}, on feed {feed}"),
                    );
                }
                _ => self.position = Some(*offset),
            },
            // What it has built is compared in the end.
            Noted::Conflated { offset } => match self.position {
                Some(position) if *offset < position => {
                    return crime(Crime::Inversion, format!("conflated up to {offset}, after {position}"));
                }
                _ => {
                    self.position = Some(*offset);
                    self.deliveries += 1;
                }
            },
            Noted::TxEnd { offset, tx } => return self.weigh_end(*offset, *tx, truth),
            Noted::Change { offset, digest, tx_end } => return self.weigh_change(*offset, *digest, *tx_end, truth),
            Noted::Watermark { offset } => {
                let position = self.position.unwrap_or_default();
                if let Some(missing) = truth.next(self.witness.tables, position, *offset) {
                    return crime(
                        Crime::Loss,
                        format!("a watermark of {offset}, but after {position} {missing} has not come"),
                    );
                }
                self.position = Some(position.max(*offset));
            }
            Noted::Reset { reason, feed: its, offset, at_ms } => {
                let position = self.position.unwrap_or_default();
                let bytes = truth.bytes(position, *offset);
                // Histories are kept by the age of changes, not by how long somebody was away.
                let missed_ms = truth.record(position + 1).map(|record| u64::from(record.at_s) * 1000);
                let age = Duration::from_millis(missed_ms.map_or(0, |missed_ms| at_ms.saturating_sub(missed_ms)));
                // What is just at the edge may be kept or not.
                let long = age >= self.kept.time.mul_f64(0.8) || bytes >= self.kept.bytes / 2;
                let explained = match reason.as_str() {
                    "history_trimmed" => long || self.witness.slow,
                    "too_slow" => self.witness.slow,
                    _ => false,
                };
                if !explained || its != feed || *offset < position {
                    return crime(
                        Crime::UnexplainedReset,
                        format!(
                            "{reason} to {its}.{offset} at {feed}.{position}; what it missed is {} ms old and has {bytes} bytes",
                            age.as_millis()
                        ),
                    );
                }
                (self.position, self.reset_must_follow) = (Some(*offset), false);
            }
            Noted::Odd(what) => return crime(Crime::Protocol, what.clone()),
        }
        Ok(())
    }

    fn weigh_change(&mut self, offset: u64, digest: u64, tx_end: bool, truth: &Truth) -> Result<(), Violation> {
        let (name, tables) = (&self.witness.name, self.witness.tables);
        let Some(position) = self.position else {
            return Err(Violation::new(Crime::Protocol, name, format!("a change, {offset}, before it was subscribed")));
        };
        let expected = truth.next(tables, position, u64::MAX);
        let after = format!("expected {expected:?} after {position}, got {offset}");
        let Some(record) = truth.record(offset) else {
            return Err(Violation::new(Crime::Invented, name, after));
        };
        let crime = if offset <= position {
            Some(Crime::Duplicate)
        } else if record.table & tables == 0 {
            Some(Crime::Invented)
        } else {
            let missing = truth.next(tables, position, offset - 1);
            missing.map(|missing| self.crime_of_missing(missing, [position, offset], truth))
        };
        if let Some(crime) = crime {
            return Err(Violation::new(crime, name, after));
        }
        if record.digest != digest {
            let how = format!("{offset} of transaction {} is not what the log says", record.xid);
            return Err(Violation::new(Crime::WrongPayload, name, how));
        }
        let crime = if self.open.is_some_and(|open| open != record.xid) {
            Some("came, and nobody told that the transaction before it was over")
        } else if tx_end && record.later & tables != 0 {
            Some("is called the transaction's last, and is not")
        } else {
            None
        };
        if let Some(crime) = crime {
            let how = format!("{offset} of transaction {} {crime}", record.xid);
            return Err(Violation::new(Crime::Split, name, how));
        }
        // Of what this subscription gets: the transaction may go on in tables that it has not asked for.
        self.open = (!tx_end && record.later & tables == 0).then_some(record.xid);
        self.position = Some(offset);
        self.deliveries += 1;
        Ok(())
    }

    /// The end of a transaction whose last change was not marked as such.
    fn weigh_end(&mut self, offset: u64, tx: u64, truth: &Truth) -> Result<(), Violation> {
        let position = self.position.unwrap_or_default();
        let xid = |offset: u64| truth.record(offset).map(|record| record.xid);
        let is_last = xid(offset) == Some(tx) && (offset == truth.last() || xid(offset + 1) != Some(tx));
        let missing = truth.next(self.witness.tables, position, offset);
        if offset < position || !is_last || missing.is_some() || self.open.is_some_and(|open| open != tx) {
            let how = format!(
                "transaction {tx} ends at {offset}, it says; at {position}, open is {:?}, missing {missing:?}",
                self.open
            );
            return Err(Violation::new(Crime::Split, &self.witness.name, how));
        }
        (self.position, self.open) = (Some(offset), None);
        Ok(())
    }

    /// A change has not come between these two.
    fn crime_of_missing(&self, missing: u64, around: [u64; 2], truth: &Truth) -> Crime {
        let comes_later = |noted: &Noted| matches!(noted, Noted::Change { offset, .. } if *offset == missing);
        let xid = |offset: u64| truth.record(offset).map(|record| record.xid);
        if self.pending.iter().any(comes_later) {
            Crime::Inversion
        } else if around.iter().any(|&offset| xid(offset) == xid(missing)) {
            Crime::Split
        } else {
            Crime::Loss
        }
    }
}

#[cfg(test)]
mod tests;
