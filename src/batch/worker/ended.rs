//! The end of the work of one attempt.

/// The exit code of a program that cannot be executed, as in a shell.
pub const CANNOT_EXECUTE: u8 = 126;

/// The end of an attempt's work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The exit code, or 128 + n for signal n.
    pub exit_code: i32,
    /// The reason of a failure, for people.
    pub error: String,
    /// True if the program could not even be started.
    pub never_started: bool,
}

impl Ended {
    /// The end of work that was never started.
    pub fn not_started(error: String) -> Self {
        Self { exit_code: CANNOT_EXECUTE.into(), error, never_started: true }
    }

    /// The end of a wait.
    pub(super) fn wait(exit_code: i32, error: String) -> Self {
        Self { exit_code, error, never_started: false }
    }
}
