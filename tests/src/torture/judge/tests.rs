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
    let resumed = |at, resumed| vec![subscribed(3, false), change(4), subscribed(at, resumed), change(5), change(6)];
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
        assert_eq!(verdict(0b11, false, after(unexplained.clone())), Err(Crime::UnexplainedReset), "{unexplained:?}");
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
