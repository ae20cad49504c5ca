use std::fmt;

/// Where the changes of a run come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Origin {
    /// The recipe's trigger, which notifies.
    Notify,
    /// A watched table.
    Log,
}

impl Origin {
    /// The table that the writer fills.
    pub fn table(self) -> &'static str {
        match self {
            Self::Notify => "sensor_readings",
            Self::Log => "logged_readings",
        }
    }

    /// Where clients get its changes.
    pub fn path(self) -> &'static str {
        match self {
            Self::Notify => "/ws/sensor_updates/",
            Self::Log => "/ws/public.logged_readings/",
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Notify => "NOTIFY",
            Self::Log => "the log",
        })
    }
}
