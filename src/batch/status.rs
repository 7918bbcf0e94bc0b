//! The states of a clap and the outcomes of an attempt, as the tables' columns spell them.

use std::fmt;

/// The state of a clap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "UPPER")]
pub enum Status {
    /// A request without a clap: nobody has tried it yet. The tables never store this.
    Pending,
    /// An attempt is under way; or its worker has crashed, and its lease has not ended yet.
    Running,
    /// The last attempt failed, and another one is due later.
    Failed,
    /// The work is done.
    Success,
    /// Its attempts are spent, or an attempt failed for good. Only an operator's retry brings it back.
    Dead,
    /// An operator cancelled it.
    Cancelled,
}

impl Status {
    /// All states, in the order of a clap's life.
    pub const ALL: [Self; 6] = [Self::Pending, Self::Running, Self::Failed, Self::Success, Self::Dead, Self::Cancelled];

    /// Returns the text of the table's column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Running => "RUNNING",
            Self::Failed => "FAILED",
            Self::Success => "SUCCESS",
            Self::Dead => "DEAD",
            Self::Cancelled => "CANCELLED",
        }
    }

    /// Reads the text of the table's column.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }

    /// Returns whether no worker will touch the clap again.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Success | Self::Dead | Self::Cancelled)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The outcome of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// The attempt is under way.
    Running,
    /// The work was done.
    Success,
    /// The work failed.
    Failed,
    /// The worker vanished, and its lease expired.
    Lost,
    /// A signal from outside ended the attempt, and the worker gave the clap back.
    Interrupted,
    /// The worker stopped the work at an operator's request.
    Cancelled,
}

impl AttemptOutcome {
    /// All outcomes.
    pub const ALL: [Self; 6] =
        [Self::Running, Self::Success, Self::Failed, Self::Lost, Self::Interrupted, Self::Cancelled];

    /// Returns the text of the table's column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Success => "SUCCESS",
            Self::Failed => "FAILED",
            Self::Lost => "LOST",
            Self::Interrupted => "INTERRUPTED",
            Self::Cancelled => "CANCELLED",
        }
    }

    /// Reads the text of the table's column.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.as_str() == text)
    }
}

impl fmt::Display for AttemptOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_survives_its_text() {
        for status in Status::ALL {
            assert_eq!(Status::parse(status.as_str()), Some(status));
        }
        assert_eq!(Status::parse("running"), None);
    }

    #[test]
    fn every_outcome_survives_its_text() {
        for outcome in AttemptOutcome::ALL {
            assert_eq!(AttemptOutcome::parse(outcome.as_str()), Some(outcome));
        }
        assert_eq!(AttemptOutcome::parse("DEAD"), None);
    }
}
