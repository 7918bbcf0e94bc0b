//! The work of one attempt: a program for each row, or the seed's own wait.

use tokio::time::{Instant, sleep_until};

use super::{
    ended::Ended,
    program::{self, Program},
};
use crate::batch::store::{Attempt, Request};

/// The exit code of a wait that fails.
const FAILED: i32 = 1;

/// The exit code of a process that died of SIGTERM, as in a shell.
const TERMINATED: i32 = 128 + 15;

/// The work for each row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// Waits for the row's `duration_seconds`, then ends as configured.
    Wait(Ending),
    /// Runs a program.
    Run(Program),
}

/// The end of the seed's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// The value of `FINAL_STATE`.
    pub final_state: FinalState,
    /// The value of `FAIL_FIRST`: how many attempts of each clap fail first.
    pub fail_first: u32,
}

/// A value of `FINAL_STATE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "UPPER")]
pub enum FinalState {
    /// The work succeeds.
    Success,
    /// The work fails, each time.
    Failed,
}

/// Work under way. Dropping it kills it.
#[derive(Debug)]
pub enum Running {
    /// The seed's wait.
    Wait {
        /// The time at which the wait is over.
        until: Instant,
        /// The outcome at that time.
        ended: Ended,
    },
    /// A child process.
    Program(program::Child),
}

impl Work {
    /// Starts the work on a claim.
    ///
    /// # Errors
    /// The operating system's error, if no process can be started.
    pub fn start(&self, attempt: &Attempt, request: &Request) -> std::io::Result<Running> {
        Ok(match self {
            Self::Wait(ending) => {
                Running::Wait { until: Instant::now() + request.duration, ended: ending.outcome(attempt) }
            }
            Self::Run(program) => Running::Program(program.start(attempt, request)?),
        })
    }
}

impl Running {
    /// Waits until the work has ended.
    ///
    /// # Cancel safety
    /// Safe: the outcome is kept for the next call.
    pub async fn ended(&mut self) {
        match self {
            Self::Wait { until, .. } => sleep_until(*until).await,
            Self::Program(child) => child.ended().await,
        }
    }

    /// Returns the outcome, with the last output that arrives before `by`. Call it once, after [`Running::ended`].
    pub async fn last_words(&mut self, by: Instant) -> Ended {
        match self {
            Self::Wait { ended, .. } => ended.clone(),
            Self::Program(child) => child.last_words(by).await,
        }
    }

    /// Asks the work to stop: SIGTERM. The seed's wait stops at once.
    pub fn terminate(&mut self) {
        match self {
            Self::Wait { until, ended } => {
                *until = Instant::now();
                *ended = Ended::wait(TERMINATED, "stopped".to_owned());
            }
            Self::Program(child) => child.terminate(),
        }
    }

    /// Stops the work: SIGKILL.
    pub fn kill(&mut self) {
        match self {
            Self::Wait { .. } => self.terminate(),
            Self::Program(child) => child.kill(),
        }
    }
}

impl Ending {
    fn outcome(self, attempt: &Attempt) -> Ended {
        let iteration = u32::try_from(attempt.iteration).unwrap_or(0);
        if iteration <= self.fail_first {
            let error = format!("FAIL_FIRST={}: attempt {iteration} fails", self.fail_first);
            return Ended::wait(FAILED, error);
        }
        match self.final_state {
            FinalState::Success => Ended::wait(0, String::new()),
            FinalState::Failed => Ended::wait(FAILED, "FINAL_STATE=FAILED".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::store::FencingToken;

    fn exit_codes(ending: Ending) -> Vec<i32> {
        let attempt = |iteration| Attempt {
            id: 1,
            iteration,
            max_attempts: 5,
            token: FencingToken::draw(),
            request: None,
            job_attempts: 1,
        };
        (1..=5).map(|iteration| ending.outcome(&attempt(iteration)).exit_code).collect()
    }

    #[test]
    fn fail_first_fails_that_many_attempts_and_no_more() {
        assert_eq!(exit_codes(Ending { final_state: FinalState::Success, fail_first: 3 }), [1, 1, 1, 0, 0]);
        assert_eq!(exit_codes(Ending { final_state: FinalState::Success, fail_first: 0 }), [0; 5]);
        assert_eq!(exit_codes(Ending { final_state: FinalState::Failed, fail_first: 0 }), [1; 5]);
    }
}
