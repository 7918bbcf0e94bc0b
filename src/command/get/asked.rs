//! The triggers of an object, each with its outcome.

use super::{answers::Answers, failure::Failure};
use crate::manifest::Trigger;

/// A trigger with its outcome.
pub(super) struct Asked<'a> {
    /// Its place in the object, from 0.
    pub(super) index: usize,
    pub(super) trigger: Trigger<'a>,
    /// The address at which it was asked, if it was.
    pub(super) address: Option<String>,
    pub(super) outcome: Outcome,
}

/// The outcome of a trigger.
pub(super) enum Outcome {
    Answered(Answers),
    Failed(Failure),
    /// Nobody was asked, for this reason.
    NotAsked(&'static str),
}
