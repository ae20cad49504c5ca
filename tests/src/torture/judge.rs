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
mod tests {
    use super::*;
    use crate::torture::{
        table::Tables,
        truth::tests::{event, tick},
    };

    const KEPT: Kept = Kept { time: Duration::from_secs(60), bytes: 1 << 20 };
    /// The changes are this old, by the clock of a reset.
    const YOUNG: Duration = Duration::from_secs(5);

    /// Offsets 1 and 2 are transactions of their own, 3 to 5 are one, 6 is one on the second table.
    fn truth() -> Truth {
        let mut truth = Truth::after(0);
        let xids = [(10, 0), (11, 0), (12, 0), (12, 0), (12, 0), (13, 1)];
        let events = (1..).zip(xids).map(|(id, (xid, table))| event(id, xid, table, id as u64)).collect();
        truth.extend(&[tick(1, "10:10:", "14:14:", 1, 6)], events).unwrap();
        truth
    }

    fn change(offset: u64) -> Noted {
        let digest = truth().record(offset).map_or(0, |record| record.digest);
        Noted::Change { offset, digest, tx_end: ![3, 4].contains(&offset) }
    }

    fn subscribed(offset: u64, resumed: bool) -> Noted {
        Noted::Subscribed { feed: "f".into(), offset, resumed }
    }

    fn reset(reason: &str, offset: u64, age: Duration) -> Noted {
        let at_ms = 1_000_000_000 + age.as_millis() as u64;
        Noted::Reset { reason: reason.into(), feed: "f".into(), offset, at_ms }
    }

    /// The verdict on a subscription to these tables that was told this, up to the end.
    fn verdict(tables: Tables, slow: bool, told: Vec<Noted>) -> Result<u64, Crime> {
        let witness = Arc::new(Witness::new("client 1".into(), tables, slow));
        let mut judge = Judge::of(Arc::clone(&witness), KEPT);
        let truth = truth();
        // One by one and all at once must come to the same.
        told.into_iter().for_each(|noted| witness.note(noted));
        let judged = judge.judge("f", &truth).and_then(|()| judge.is_complete(&truth));
        judged.map(|()| judge.deliveries()).map_err(|violation| violation.crime)
    }

    /// Subscribed to both tables from the start.
    fn told(changes: &[u64]) -> Result<u64, Crime> {
        let changes = changes.iter().map(|&offset| change(offset));
        verdict(0b11, false, [subscribed(0, false)].into_iter().chain(changes).collect())
    }

    #[test]
    fn the_whole_log_in_order_is_right() {
        assert_eq!(told(&[1, 2, 3, 4, 5, 6]), Ok(6));
        assert_eq!(verdict(0b10, false, vec![subscribed(3, false), change(6)]), Ok(1));
        assert_eq!(verdict(0b01, false, vec![subscribed(3, false), change(4), change(5)]), Ok(2));
    }

    #[test]
    fn a_loss_is_noticed_where_the_next_change_comes_and_at_the_end() {
        assert_eq!(told(&[1, 3, 4, 5, 6]), Err(Crime::Loss));
        assert_eq!(told(&[2, 3, 4, 5, 6]), Err(Crime::Loss));
        assert_eq!(told(&[1, 2, 3, 4, 5]), Err(Crime::Stuck));
        assert_eq!(told(&[]), Err(Crime::Stuck));
        assert_eq!(verdict(0b11, false, vec![]), Err(Crime::Stuck));
        let watermark = Noted::Watermark { offset: 2 };
        assert_eq!(verdict(0b11, false, vec![subscribed(0, false), change(1), watermark]), Err(Crime::Loss));
    }

    #[test]
    fn a_duplicate_is_noticed_at_once_and_after_a_resume() {
        assert_eq!(told(&[1, 2, 2, 3, 4, 5, 6]), Err(Crime::Duplicate));
        assert_eq!(told(&[1, 2, 3, 4, 5, 6, 1]), Err(Crime::Duplicate));
        let again = vec![subscribed(0, false), change(1), change(2), subscribed(2, true), change(2)];
        assert_eq!(verdict(0b11, false, again), Err(Crime::Duplicate));
    }

    #[test]
    fn an_inversion_is_noticed() {
        assert_eq!(told(&[2, 1, 3, 4, 5, 6]), Err(Crime::Inversion));
        assert_eq!(told(&[1, 2, 4, 3, 5, 6]), Err(Crime::Inversion));
    }

    #[test]
    fn a_split_transaction_is_noticed() {
        assert_eq!(told(&[1, 2, 3, 5, 6]), Err(Crime::Split));
        assert_eq!(told(&[1, 2, 3, 4, 6]), Err(Crime::Split));
        let ended_early = vec![subscribed(2, false), Noted::Change { offset: 3, digest: digest(3), tx_end: true }];
        assert_eq!(verdict(0b11, false, ended_early), Err(Crime::Split));
        let unmarked = |offset| Noted::Change { offset, digest: digest(offset), tx_end: false };
        assert_eq!(verdict(0b11, false, vec![subscribed(4, false), unmarked(5), change(6)]), Err(Crime::Split));
        assert_eq!(verdict(0b11, false, vec![subscribed(5, false), unmarked(6)]), Err(Crime::Split));
        let end = |offset, tx| Noted::TxEnd { offset, tx };
        let told = |end| verdict(0b11, false, vec![subscribed(3, false), change(4), unmarked(5), end, change(6)]);
        assert_eq!(told(end(5, 12)), Ok(3));
        assert_eq!(told(end(4, 12)), Err(Crime::Split));
        assert_eq!(told(end(5, 11)), Err(Crime::Split));
        assert_eq!(told(end(6, 13)), Err(Crime::Split));
        let early = vec![subscribed(2, false), change(3), end(5, 12), change(4), change(5), change(6)];
        assert_eq!(verdict(0b11, false, early), Err(Crime::Split));
    }

    fn digest(offset: u64) -> u64 {
        truth().record(offset).unwrap().digest
    }

    #[test]
    fn a_wrong_payload_is_noticed() {
        let wrong = Noted::Change { offset: 1, digest: digest(2), tx_end: true };
        assert_eq!(verdict(0b11, false, vec![subscribed(0, false), wrong]), Err(Crime::WrongPayload));
    }

    #[test]
    fn a_change_that_nobody_made_or_asked_for_is_noticed() {
        assert_eq!(told(&[1, 2, 3, 4, 5, 6, 7]), Err(Crime::Invented));
        assert_eq!(verdict(0b01, false, vec![subscribed(5, false), change(6)]), Err(Crime::Invented));
    }

    #[test]
    fn a_resume_goes_on_where_it_was_and_nowhere_else() {
        let resumed =
            |at, resumed| vec![subscribed(3, false), change(4), subscribed(at, resumed), change(5), change(6)];
        assert_eq!(verdict(0b11, false, resumed(4, true)), Ok(3));
        assert_eq!(verdict(0b11, false, resumed(3, true)), Err(Crime::Protocol));
        assert_eq!(verdict(0b11, false, resumed(5, true)), Err(Crime::Protocol));
        assert_eq!(verdict(0b11, false, resumed(4, false)), Err(Crime::Protocol));
        // Who forgets is as new.
        let forgets = vec![subscribed(3, false), Noted::Forgot, subscribed(5, false), change(6)];
        assert_eq!(verdict(0b11, false, forgets), Ok(1));
    }

    #[test]
    fn a_reset_without_a_good_reason_is_noticed() {
        let after = |reset| vec![subscribed(0, false), change(1), reset, change(6)];
        let hour = Duration::from_secs(3600);
        assert_eq!(verdict(0b11, false, after(reset("history_trimmed", 5, hour))), Ok(2));
        assert_eq!(verdict(0b11, true, after(reset("too_slow", 5, YOUNG))), Ok(2));
        for unexplained in [
            reset("history_trimmed", 5, YOUNG),
            reset("too_slow", 5, YOUNG),
            reset("new_feed", 5, hour),
            reset("unknown_cursor", 5, hour),
            Noted::Reset { reason: "history_trimmed".into(), feed: "g".into(), offset: 5, at_ms: u64::MAX },
        ] {
            assert_eq!(
                verdict(0b11, false, after(unexplained.clone())),
                Err(Crime::UnexplainedReset),
                "{unexplained:?}"
            );
        }
        // After a reset nothing may be missing again.
        let loss = vec![subscribed(0, false), reset("history_trimmed", 3, hour), change(5), change(6)];
        assert_eq!(verdict(0b11, false, loss), Err(Crime::Split));
    }

    #[test]
    fn what_the_protocol_does_not_allow_is_noticed() {
        assert_eq!(verdict(0b11, false, vec![change(1)]), Err(Crime::Protocol));
        assert_eq!(verdict(0b11, false, vec![Noted::Odd("x".into())]), Err(Crime::Protocol));
    }
}
