//! What follows from a standstill of the process, so that no database is blamed for it.

use std::time::Duration;

use time::OffsetDateTime;

use super::story::{State, Story};
use crate::{
    recorder::{History, Incident, TriggerHistory},
    terminal::text::span,
};

/// The time after a standstill in which calls still fail because of it: deadlines have passed, and sessions are opened
/// again.
const AFTERMATH: Duration = Duration::from_secs(5);

/// A time in which the process stood still.
#[derive(Clone, Copy)]
struct Standstill {
    from: OffsetDateTime,
    until: OffsetDateTime,
    seconds: u64,
}

impl Story<'_> {
    /// Says that the process stood still at the moment, or when the error began that a trigger had been told; in a
    /// report about now, within the time that is shown.
    pub(super) fn told_of_standstill(&self, states: &[State<'_>], history: &History) -> Option<String> {
        let began_in =
            |standstill: &Standstill| states.iter().filter_map(State::failed).any(|(at, ..)| standstill.explains(at));
        let is_of_moment = |standstill: &Standstill| {
            let begins_at = if self.is_now { history.from } else { self.begins_at };
            standstill.from <= self.at && begins_at <= standstill.until + AFTERMATH || began_in(standstill)
        };
        let Standstill { from, until, seconds } = standstills(history).rev().find(is_of_moment)?;
        Some(format!(
            "The process itself stood still for {}, from {} to {}: it had no CPU, or was paused. Nobody got an answer from it then, and \
             what failed right after it says nothing about the databases. Look at the CPU limit of the pod, and at its node.",
            span(Duration::from_secs(seconds).as_secs_f64()),
            self.time(from),
            self.time(until)
        ))
    }

    /// Returns whether the process stood still at the moment, so that nobody was told anything.
    pub(super) fn is_in_standstill(&self, history: &History) -> bool {
        standstills(history).any(|standstill| standstill.from <= self.begins_at && self.at <= standstill.until)
    }

    /// Returns whether an error that a trigger had been told follows from a standstill.
    pub(super) fn is_of_standstill(&self, state: &State<'_>, history: &History) -> bool {
        state.failed().is_some_and(|(at, ..)| self.passes(at, state.trigger, history))
    }

    /// Returns whether what failed at a time follows from a standstill and says nothing more: the trigger had hardly
    /// been asked for again by the moment. What still fails later has another cause, too.
    pub(super) fn passes(&self, failed_at: OffsetDateTime, trigger: &TriggerHistory, history: &History) -> bool {
        let interval = time::Duration::saturating_seconds_f64(trigger.interval_seconds.unwrap_or_default());
        let mut standstills = standstills(history).filter(|standstill| standstill.explains(failed_at));
        standstills.any(|standstill| self.at <= standstill.until + AFTERMATH + interval)
    }
}

impl Standstill {
    fn explains(self, failed_at: OffsetDateTime) -> bool {
        (self.from..=self.until + AFTERMATH).contains(&failed_at)
    }
}

/// Returns the times in which the process stood still, in their order.
fn standstills(history: &History) -> impl DoubleEndedIterator<Item = Standstill> {
    history.incidents.iter().filter_map(|happening| match happening.incident {
        Incident::Standstill { seconds } => {
            let until = happening.at;
            Some(Standstill { from: until - Duration::from_secs(seconds), until, seconds })
        }
        _ => None,
    })
}
