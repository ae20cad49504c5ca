use std::fmt;

/// What must not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Crime {
    /// A change did not come.
    Loss,
    /// A change came again.
    Duplicate,
    /// A change came after a later one.
    Inversion,
    /// A transaction did not come whole.
    Split,
    /// A change is not what the log says.
    WrongPayload,
    /// A change that the log does not have.
    Invented,
    /// A client was told that it may have missed something, for no good reason.
    UnexplainedReset,
    /// The state made of the changes is not the table.
    WrongState,
    /// The log itself is not in order: ticks that leave something out, or disagree.
    BrokenLog,
    /// A frame that the protocol does not know, or a refusal.
    Protocol,
    /// Something did not come to its end.
    Stuck,
    /// A process ended that nobody had ended.
    Died,
}

/// One of them, with what is needed to understand it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// What.
    pub crime: Crime,
    /// To whom: a client, or the log.
    pub who: String,
    /// What was expected, and what came.
    pub how: String,
}

impl Violation {
    /// One.
    pub fn new(crime: Crime, who: impl Into<String>, how: impl Into<String>) -> Self {
        Self { crime, who: who.into(), how: how.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}: {}", self.crime, self.who, self.how)
    }
}

impl std::error::Error for Violation {}
