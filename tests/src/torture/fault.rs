use std::{fmt, time::Duration};

/// Who is struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Victim {
    /// The listener that leads when it happens.
    Leader,
    /// The other one.
    Standby,
    /// A gateway, by its number.
    Gateway(usize),
    /// The bus.
    Redis,
    /// The database.
    Postgres,
    /// The network between the writers and the database.
    Writers,
}

/// What happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Blow {
    /// SIGKILL; started again after a while.
    Kill,
    /// SIGTERM; started again after a while.
    Term,
    /// SIGSTOP, then SIGCONT: it wakes up and believes what it believed before.
    Freeze,
    /// Its connections to PostgreSQL stay open, and nothing passes any more.
    StallPostgres,
    /// Its connections to PostgreSQL end.
    CutPostgres,
    /// Its connections to Redis stay open, and nothing passes any more.
    StallRedis,
    /// Its connections to Redis end.
    CutRedis,
    /// The connections of its clients stay open, and nothing passes any more.
    StallClients,
    /// The connections of its clients end.
    CutClients,
    /// FLUSHALL.
    Flush,
    /// Killed, and started without its data.
    Empty,
    /// Killed, and started without the last part of its data.
    Rewind,
    /// Shut down at once and started again, which recovers as after a crash.
    Crash,
    /// SIGKILL to the postmaster alone, and started again.
    KillPostmaster,
    /// All sessions but the harness's own are ended.
    Terminate,
}

/// From when on a recovery is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimedFrom {
    /// From the blow: another one of its kind is there to take over.
    Blow,
    /// From when the victim is back.
    Back,
    /// Not at all: nobody is between writers and clients.
    Never,
}

/// One entry of the schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Since the start of the schedule.
    pub at: Duration,
    /// To whom.
    pub victim: Victim,
    /// What.
    pub blow: Blow,
    /// Until it is undone.
    pub lasts: Duration,
}

/// Every kind of fault; the number of a gateway is drawn each time.
pub const KINDS: [(Victim, Blow); 34] = {
    use {Blow::*, Victim::*};
    [
        (Leader, Kill),
        (Leader, Term),
        (Leader, Freeze),
        (Leader, StallPostgres),
        (Leader, CutPostgres),
        (Leader, StallRedis),
        (Leader, CutRedis),
        (Standby, Kill),
        (Standby, Term),
        (Standby, Freeze),
        (Standby, StallPostgres),
        (Standby, CutPostgres),
        (Gateway(0), Kill),
        (Gateway(0), Kill),
        (Gateway(0), Term),
        (Gateway(0), Freeze),
        (Gateway(0), StallRedis),
        (Gateway(0), StallRedis),
        (Gateway(0), CutRedis),
        (Gateway(0), StallClients),
        (Gateway(0), CutClients),
        (Redis, Kill),
        (Redis, Term),
        (Redis, Freeze),
        (Redis, Flush),
        (Redis, Empty),
        (Redis, Rewind),
        (Postgres, Crash),
        (Postgres, Crash),
        (Postgres, KillPostmaster),
        (Postgres, Freeze),
        (Postgres, Terminate),
        (Writers, StallPostgres),
        (Writers, CutPostgres),
    ]
};

impl Fault {
    /// What it is called in reports: the same for all gateways.
    pub fn kind(&self) -> String {
        match self.victim {
            Victim::Gateway(_) => format!("{} gateway", self.blow),
            victim => format!("{} {victim}", self.blow),
        }
    }

    /// From when on its recovery is timed.
    pub fn timed_from(&self) -> TimedFrom {
        use {Blow::*, Victim::*};
        match (self.victim, self.blow) {
            (Writers, _) => TimedFrom::Never,
            // Who has no Redis does not hand over, whether it leads or serves clients.
            (Redis | Postgres, _) | (_, StallRedis | CutRedis) => TimedFrom::Back,
            _ => TimedFrom::Blow,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:7.3} s  {} {}, {} ms", self.at.as_secs_f64(), self.blow, self.victim, self.lasts.as_millis())
    }
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leader => f.write_str("leader"),
            Self::Standby => f.write_str("standby"),
            Self::Gateway(number) => write!(f, "gateway-{number}"),
            Self::Redis => f.write_str("redis"),
            Self::Postgres => f.write_str("postgres"),
            Self::Writers => f.write_str("writers"),
        }
    }
}

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill -9",
            Self::Term => "term",
            Self::Freeze => "freeze",
            Self::StallPostgres => "stall postgres of",
            Self::CutPostgres => "cut postgres of",
            Self::StallRedis => "stall redis of",
            Self::CutRedis => "cut redis of",
            Self::StallClients => "stall clients of",
            Self::CutClients => "cut clients of",
            Self::Flush => "flush",
            Self::Empty => "empty",
            Self::Rewind => "rewind",
            Self::Crash => "crash",
            Self::KillPostmaster => "kill -9 postmaster of",
            Self::Terminate => "terminate sessions of",
        })
    }
}
