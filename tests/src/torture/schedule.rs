use std::time::Duration;

use super::{
    dice::Dice,
    fault::{Blow, Fault, KINDS, Victim},
};

/// Faults with an end this long before the run's: what they broke is to be in order again.
const QUIET_END: Duration = Duration::from_secs(5);
/// The first fault comes when everything has flowed for a moment.
const FIRST: Duration = Duration::from_secs(3);
/// This many of a hundred faults happen while another one lasts. The others have the stage alone,
/// so that a time of recovery is that of one fault.
const OVERLAPPING: u64 = 30;

/// The faults of a run. Nothing but the seed decides. Kinds are dealt from a deck, so that each
/// comes before any comes twice.
pub fn schedule(seed: u64, length: Duration, gateways: usize, only: &[String], except: &[String]) -> Vec<Fault> {
    let mut dice = Dice::of(seed, "faults", 0);
    let (mut deck, mut faults) = (Vec::new(), Vec::new());
    let mut at = FIRST;
    loop {
        if deck.is_empty() {
            deck = KINDS.to_vec();
            deck.retain(|&(victim, blow)| {
                let kind = Fault { at, victim, blow, lasts: Duration::ZERO }.kind();
                let named = |names: &[String]| names.iter().any(|part| kind.contains(part.as_str()));
                (only.is_empty() || named(only)) && !named(except)
            });
            dice.shuffle(&mut deck);
        }
        let Some((mut victim, blow)) = deck.pop() else { return faults };
        if let Victim::Gateway(_) = victim {
            victim = Victim::Gateway(dice.within(0..=gateways as u64 - 1) as usize);
        }
        let fault = Fault { at, victim, blow, lasts: lasts(&mut dice, victim, blow) };
        let end = at + fault.lasts;
        if end + QUIET_END > length {
            return faults;
        }
        faults.push(fault);
        at = if dice.percent(OVERLAPPING) {
            at + fault.lasts.mul_f64(dice.within(0..=80) as f64 / 100.0) + dice.millis(50..=400)
        } else {
            end + dice.millis(1_200..=2_500)
        };
    }
}

fn lasts(dice: &mut Dice, victim: Victim, blow: Blow) -> Duration {
    match (victim, blow) {
        (Victim::Postgres, Blow::Freeze) => dice.millis(500..=4_000),
        (Victim::Redis | Victim::Postgres, Blow::Kill | Blow::Term | Blow::Empty | Blow::Rewind | Blow::Crash) => {
            dice.millis(0..=4_000)
        }
        (_, Blow::Kill | Blow::Term | Blow::KillPostmaster) => dice.millis(300..=5_000),
        (_, Blow::Freeze | Blow::StallPostgres | Blow::StallRedis | Blow::StallClients) => dice.millis(2_000..=10_000),
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn kinds_of<const N: usize>(kinds: [&str; N]) -> HashSet<String> {
        kinds.map(str::to_owned).into()
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn the_seed_alone_decides() {
        assert_eq!(schedule(1, HOUR, 3, &[], &[]), schedule(1, HOUR, 3, &[], &[]));
        assert_ne!(schedule(1, HOUR, 3, &[], &[]), schedule(2, HOUR, 3, &[], &[]));
        // A longer run begins like a short one.
        let short = schedule(1, HOUR / 60, 3, &[], &[]);
        assert!(short.len() > 5);
        assert!(schedule(1, HOUR, 3, &[], &[]).starts_with(&short));
    }

    #[test]
    fn every_kind_comes_and_all_end_in_time() {
        let faults = schedule(3, HOUR / 3, 3, &[], &[]);
        let kinds: HashSet<_> = faults.iter().map(Fault::kind).collect();
        let all: HashSet<_> =
            KINDS.map(|(victim, blow)| Fault { at: HOUR, victim, blow, lasts: HOUR }.kind()).into_iter().collect();
        assert_eq!(kinds, all);
        assert!(faults.len() > 150, "{}", faults.len());
        assert!(faults.windows(2).all(|pair| pair[0].at <= pair[1].at));
        assert!(faults.iter().all(|fault| fault.at + fault.lasts + QUIET_END <= HOUR / 3));
        assert!((0..3).all(|number| faults.iter().any(|fault| fault.victim == Victim::Gateway(number))));
    }

    #[test]
    fn some_kinds_alone_can_be_asked_for() {
        let faults = schedule(3, HOUR / 10, 3, &["flush".into(), "leader".into()], &["redis of".into(), "term".into()]);
        let kinds: HashSet<_> = faults.iter().map(Fault::kind).collect();
        assert_eq!(
            kinds,
            kinds_of([
                "flush redis",
                "kill -9 leader",
                "freeze leader",
                "stall postgres of leader",
                "cut postgres of leader"
            ])
        );
    }
}
