use std::{ops::RangeInclusive, time::Duration};

use super::{
    dice::Dice,
    table::{PROBES, TABLES, Tables, WRITTEN},
};

/// How a client behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manner {
    /// In reports.
    pub name: &'static str,
    /// How long it stays, in milliseconds; `None`: as long as it can.
    pub stays: Option<RangeInclusive<u64>>,
    /// How long it is away then.
    pub naps: RangeInclusive<u64>,
    /// Of a hundred naps, after how many it has forgotten where it was.
    pub forgets: u64,
    /// It pauses this often, after this many changes.
    pub pauses: Option<(u64, RangeInclusive<u64>)>,
    /// With nothing heard for this long it asks for a sign of life; after as long again it gives up.
    pub patience: Duration,
    /// It builds the tables from the changes.
    pub builds: bool,
    /// Over how many milliseconds it has its changes conflated.
    pub conflates: Option<u64>,
    /// It reads `/sse`, and asks for no sign of life.
    pub reads_events: bool,
    /// What its subscriptions are for.
    pub subscriptions: Vec<Tables>,
}

const ALL: Tables = (1 << TABLES.len()) - 1;

impl Manner {
    /// One that has everything from the start, and builds the tables from it.
    pub fn builder(stays: bool) -> Self {
        Self {
            name: "builder",
            stays: (!stays).then_some(2_000..=9_000),
            naps: 0..=1_500,
            builds: true,
            ..Self::steady(ALL)
        }
    }

    /// One that builds the tables from what the changes of a while come to.
    pub fn conflater(stays: bool) -> Self {
        Self { name: "conflater", conflates: Some(150), ..Self::builder(stays) }
    }

    /// One that builds the tables from events.
    pub fn follower(stays: bool) -> Self {
        Self { name: "follower", ..Self::builder(stays).with_events() }
    }

    /// The same, as an `EventSource`. A watermark comes every 5 s.
    fn with_events(self) -> Self {
        Self { reads_events: true, patience: Duration::from_secs(12), ..self }
    }

    /// One that follows the probes, and notices at once when its gateway is silent.
    pub fn watcher() -> Self {
        Self { name: "watcher", patience: Duration::from_millis(600), ..Self::steady(1 << PROBES) }
    }

    /// One of the crowd.
    pub fn drawn(dice: &mut Dice, kept_for: Duration) -> Self {
        let subscriptions = (0..if dice.percent(20) { 2 } else { 1 }).map(|_| tables(dice)).collect();
        let steady = Self { subscriptions, ..Self::steady(0) };
        let drawn = match dice.within(0..=99) {
            0..=39 => steady,
            40..=64 => Self { name: "roamer", stays: Some(500..=10_000), naps: 0..=2_000, forgets: 10, ..steady },
            65..=79 => Self { name: "sleeper", stays: Some(500..=5_000), naps: 3_000..=9_000, ..steady },
            80..=83 => {
                let long = kept_for.as_millis() as u64;
                Self { name: "long sleeper", stays: Some(500..=5_000), naps: long * 3 / 2..=long * 2, ..steady }
            }
            84..=91 => Self { name: "newcomer", stays: Some(200..=3_000), naps: 0..=1_000, forgets: 100, ..steady },
            _ => Self { name: "slow reader", pauses: Some((50, 100..=1_500)), ..steady },
        };
        // A stream of events has one subscription.
        if drawn.subscriptions.len() == 1 && dice.percent(15) { drawn.with_events() } else { drawn }
    }

    fn steady(tables: Tables) -> Self {
        Self {
            name: "steady",
            stays: None,
            naps: 0..=0,
            forgets: 0,
            pauses: None,
            patience: Duration::from_secs(2),
            builds: false,
            conflates: None,
            reads_events: false,
            subscriptions: vec![tables],
        }
    }
}

/// One to three tables, now and then all.
fn tables(dice: &mut Dice) -> Tables {
    if dice.percent(5) {
        return ALL;
    }
    (0..dice.within(1..=3)).fold(0, |tables, _| tables | 1 << dice.pick(&WRITTEN))
}
