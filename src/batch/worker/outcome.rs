//! The outcome of a Job, and its exit code: the table that Kubernetes' podFailurePolicy is written against.

use std::{fmt, time::Duration};

use crate::batch::{CONFIGURATION, UNAVAILABLE, status::Status, store::Attempt};

/// The outcome of a Job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The work is done, and recorded as done.
    Success,
    /// No clap is due and no request waits.
    NothingToDo,
    /// This Job had a clap before; a Job gets only one.
    AlreadySettled {
        /// The clap's id.
        id: i64,
        /// The clap's state.
        status: Status,
    },
    /// The attempt failed, and another one follows.
    Failed {
        /// The Job that makes the next attempt.
        retry_by: RetryBy,
        /// The reason.
        error: String,
    },
    /// The clap is dead: its attempts are spent, or it failed for good.
    Dead {
        /// The reason of the last failure.
        error: String,
    },
    /// An operator cancelled the clap.
    Cancelled,
    /// A signal asked the worker to stop, and it gave back what it held.
    Interrupted,
    /// The database could not be reached, or did not let the request be read, and nothing is held.
    Unreachable(String),
    /// The lease or the database was lost. Another worker finds out how the attempt ends.
    Lost(String),
    /// The tables, the permissions or the program are not as they must be.
    Misconfigured(String),
}

/// The Job that retries a failed clap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum RetryBy {
    /// A new Job retries it when the clap is due; until then no Job occupies one of KEDA's places.
    Queue,
    /// The same Job's next pod retries it after Kubernetes' back-off; until then the clap stays reserved.
    Job,
}

impl Outcome {
    /// Returns the process's exit code. The parser of the command line itself exits with 2 for wrong usage.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Success | Self::NothingToDo | Self::AlreadySettled { .. } => 0,
            Self::Failed { retry_by: RetryBy::Job, .. } => 1,
            Self::Failed { retry_by: RetryBy::Queue, .. } => 10,
            Self::Dead { .. } => 11,
            Self::Cancelled => 12,
            Self::Unreachable(_) => UNAVAILABLE,
            Self::Lost(_) => 75,
            Self::Misconfigured(_) => CONFIGURATION,
            Self::Interrupted => 143,
        }
    }

    /// Returns the name that the report has.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Success => "SUCCESS",
            Self::NothingToDo => "NOTHING_TO_DO",
            Self::AlreadySettled { .. } => "ALREADY_SETTLED",
            Self::Failed { .. } => "FAILED",
            Self::Dead { .. } => "DEAD",
            Self::Cancelled => "CANCELLED",
            Self::Interrupted => "INTERRUPTED",
            Self::Unreachable(_) => "UNREACHABLE",
            Self::Lost(_) => "LOST",
            Self::Misconfigured(_) => "MISCONFIGURED",
        }
    }
}

/// Writes a sentence for people.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Success => f.write_str("done"),
            Self::NothingToDo => f.write_str("nothing to do: no clap is due and no request waits"),
            Self::AlreadySettled { id, status } => write!(f, "this Job had its clap: {id}, now {status}"),
            Self::Failed { retry_by: RetryBy::Queue, error } => write!(f, "{error}; a new Job follows when it is due"),
            Self::Failed { retry_by: RetryBy::Job, error } => write!(f, "{error}; this Job's next pod tries again"),
            Self::Dead { error } => write!(f, "{error}; nobody will try again"),
            Self::Cancelled => f.write_str("cancelled by an operator"),
            Self::Interrupted => f.write_str("interrupted; nothing is held"),
            Self::Unreachable(reason) => write!(f, "the database cannot be reached: {reason}"),
            Self::Lost(reason) => write!(f, "stopped: {reason}"),
            Self::Misconfigured(reason) => f.write_str(reason),
        }
    }
}

/// The last line of a Job.
#[derive(Debug)]
pub struct Report {
    /// The Job's outcome.
    pub outcome: Outcome,
    /// The attempt, if there was one.
    pub attempt: Option<Attempt>,
    /// The time since the process started.
    pub took: Duration,
}

/// The keys of the report, in their order.
#[derive(serde::Serialize)]
struct Line {
    outcome: &'static str,
    exit_code: u8,
    clap: Option<i64>,
    iteration: Option<i32>,
    max_attempts: Option<i16>,
    session_id: Option<i64>,
    seconds: f64,
    message: String,
}

impl Report {
    /// Returns one JSON document on one line.
    pub fn json(&self) -> String {
        let Self { outcome, attempt, took } = self;
        let attempt = attempt.as_ref();
        let line = Line {
            outcome: outcome.name(),
            exit_code: outcome.exit_code(),
            clap: attempt.map(|attempt| attempt.id),
            iteration: attempt.map(|attempt| attempt.iteration),
            max_attempts: attempt.map(|attempt| attempt.max_attempts),
            session_id: attempt.map(|attempt| attempt.token.get()),
            seconds: (took.as_secs_f64() * 1000.0).round() / 1000.0,
            message: outcome.to_string(),
        };
        serde_json::to_string(&line).expect("a structure of texts and finite numbers always serialises")
    }

    /// Returns one line for people.
    pub fn sentence(&self) -> String {
        let took = self.took.as_secs_f64();
        let (name, code) = (self.outcome.name(), self.outcome.exit_code());
        match &self.attempt {
            Some(Attempt { id, iteration, .. }) => {
                format!("{name}  clap {id}, attempt {iteration}, {took:.1} s, exit {code}: {}", self.outcome)
            }
            None => format!("{name}  {took:.1} s, exit {code}: {}", self.outcome),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_that_the_pod_failure_policy_is_written_against() {
        let error = String::new;
        let table = [
            (Outcome::Success, 0),
            (Outcome::NothingToDo, 0),
            (Outcome::AlreadySettled { id: 1, status: Status::Dead }, 0),
            (Outcome::Failed { retry_by: RetryBy::Job, error: error() }, 1),
            (Outcome::Failed { retry_by: RetryBy::Queue, error: error() }, 10),
            (Outcome::Dead { error: error() }, 11),
            (Outcome::Cancelled, 12),
            (Outcome::Unreachable(error()), 69),
            (Outcome::Lost(error()), 75),
            (Outcome::Misconfigured(error()), 78),
            (Outcome::Interrupted, 143),
        ];
        for (outcome, code) in table {
            assert_eq!(outcome.exit_code(), code, "{outcome:?}");
        }
    }
}
