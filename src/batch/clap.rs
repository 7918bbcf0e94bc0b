//! The states of a clap and the moves between them; pure, and the same as the tables' CHECKs.

use std::fmt;

/// What a clap's row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
#[value(rename_all = "UPPER")]
pub enum Status {
    /// A request without a clap: nobody has tried yet. Never stored.
    Pending,
    /// An attempt is under way, or its worker crashed and the lease has still to tell.
    Running,
    /// The last attempt failed; another one is due later.
    Failed,
    /// Done.
    Success,
    /// The budget is spent, or an attempt failed for good. Only an operator's retry brings it back.
    Dead,
    /// An operator cancelled it.
    Cancelled,
}

impl Status {
    /// All of them, in the order of a clap's life.
    pub const ALL: [Self; 6] = [Self::Pending, Self::Running, Self::Failed, Self::Success, Self::Dead, Self::Cancelled];

    /// The text in the table's column.
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

    /// The state that a column's text means.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }

    /// Whether no worker will touch it again.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Success | Self::Dead | Self::Cancelled)
    }

    /// Whether a worker or an operator may move a clap from here to `next`.
    pub fn may_become(self, next: Self) -> bool {
        match self {
            Self::Pending => matches!(next, Self::Running | Self::Cancelled),
            Self::Running => next != Self::Pending,
            Self::Failed => matches!(next, Self::Running | Self::Cancelled | Self::Failed),
            Self::Dead | Self::Cancelled => next == Self::Failed,
            Self::Success => false,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How one attempt was booked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// Under way.
    Running,
    /// The work was done.
    Success,
    /// The work failed.
    Failed,
    /// The worker vanished: its lease expired.
    Lost,
    /// SIGTERM from outside; given back.
    Interrupted,
    /// Stopped on an operator's request.
    Cancelled,
}

impl AttemptOutcome {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Running, Self::Success, Self::Failed, Self::Lost, Self::Interrupted, Self::Cancelled];

    /// The text in the table's column.
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

    /// The outcome that a column's text means.
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
    fn success_is_final_and_the_dead_come_back_only_as_failed() {
        for next in Status::ALL {
            assert!(!Status::Success.may_become(next), "{next}");
            for last in [Status::Dead, Status::Cancelled] {
                assert_eq!(last.may_become(next), next == Status::Failed, "{last} -> {next}");
            }
            assert!(!next.may_become(Status::Pending), "only deleting the clap's row makes a request pending again");
        }
    }

    #[test]
    fn a_terminal_state_is_one_that_no_worker_leaves() {
        for status in Status::ALL {
            assert_eq!(status.is_terminal(), !status.may_become(Status::Running), "{status}");
        }
    }
}
