//! The state of a trigger, as people see it.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Refused, Thresholds, TriggerLabels};
use crate::fault::Fault;

/// KEDA's default polling interval.
const POLLING_INTERVAL: Duration = Duration::from_secs(30);

/// The number of polls that must be missing before a trigger counts as silent.
const MISSING_POLLS: u32 = 4;

/// The most bytes of a refusal's text that are remembered, so that 2,000 triggers keep a megabyte at most.
const LONGEST_TEXT: usize = 512;

/// The state of one trigger, as far as it is known. Several triggers of one object on one query are one.
#[derive(Debug, Clone)]
pub struct TriggerState {
    /// Its names.
    pub labels: Arc<TriggerLabels>,
    /// True if it has been served at least once.
    pub was_served: bool,
    /// The time of its latest request.
    pub asked_at: Instant,
    /// The longest of the latest pauses between two polls; zero before the second.
    pub rhythm: Duration,
    /// The value that KEDA was told; none if it was told an error.
    pub value: Option<f64>,
    /// The time since which KEDA is told that.
    pub value_since: Option<Instant>,
    /// The latest other value.
    pub value_before: Option<f64>,
    /// The activity that KEDA was told.
    pub is_active: Option<bool>,
    /// The numbers that its answers are judged by; several if it is several triggers that differ in them.
    pub thresholds: Vec<Thresholds>,
    /// The triggers that it is, in the order in which they first asked; empty if it was only refused.
    pub variants: Vec<VariantState>,
    /// The latest change of its metadata.
    pub changed: Option<Changed>,
    /// The answers by code.
    pub codes: Vec<(&'static str, u64)>,
    /// The latest refusal, until the trigger is answered.
    pub refusal: Option<RefusalTold>,
    /// The fault that KEDA was told last, until there is a reading.
    pub fault: Option<FaultTold>,
    /// The time since which every answer was a good one.
    pub answered_since: Option<Instant>,
}

/// One of the triggers of an object on one query, which differ in their metadata.
#[derive(Debug, Clone, Copy)]
pub struct VariantState {
    /// The time of its latest request.
    pub asked_at: Instant,
    /// The value that KEDA was told; none if it was told an error.
    pub value: Option<f64>,
    /// The activity that KEDA was told.
    pub is_active: Option<bool>,
    /// The number that decided about it; none if a stream has told it.
    pub activity: Option<f64>,
    /// The numbers that its value is made with and its answers are judged by.
    pub numbers: Numbers,
    /// The fault that KEDA was told last, until there is a reading.
    pub fault: Option<FaultTold>,
}

impl VariantState {
    /// Returns whether one poll told a value that starts nothing, because it is inactive.
    pub fn is_held(&self) -> bool {
        let is_inactive = self.is_active == Some(false) && self.activity.is_some();
        is_inactive && self.value.is_some_and(|value| value > 0.0)
    }
}

/// The numbers of a trigger's metadata, or of its query where the metadata has none.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Numbers {
    /// The target and the activation.
    pub thresholds: Option<Thresholds>,
    /// The divisor of the value.
    pub divide_by: Option<f64>,
}

/// The first request with other metadata than before.
#[derive(Debug, Clone)]
pub struct Changed {
    /// Its time.
    pub at: Instant,
    /// The numbers of the trigger that it replaced; none if it is not known which of several that was.
    pub before: Option<Numbers>,
    /// Its own numbers.
    pub after: Numbers,
    /// The numbers that answers are judged by since then.
    pub thresholds: Thresholds,
    /// The names of the keys that changed, shortened.
    pub keys: Arc<str>,
}

/// A refusal that KEDA was told.
#[derive(Debug, Clone)]
pub struct RefusalTold {
    /// The status code's name.
    pub code: &'static str,
    /// The status's text, shortened.
    pub text: Arc<str>,
    /// The time of the first.
    pub since: Instant,
}

/// A fault that KEDA was told.
#[derive(Debug, Clone, Copy)]
pub struct FaultTold {
    /// The status code's name.
    pub code: &'static str,
    /// The fault.
    pub fault: Fault,
    /// The time since which there is a fault.
    pub since: Instant,
}

impl TriggerState {
    /// Returns whether KEDA has missed four polls, by the trigger's own interval.
    pub fn is_silent(&self, now: Instant) -> bool {
        self.is_missed(self.asked_at, now)
    }

    /// Returns whether KEDA has missed four polls, by the trigger's own interval, of those that it could make since
    /// `from`.
    pub fn is_missed(&self, from: Instant, now: Instant) -> bool {
        now.saturating_duration_since(self.asked_at.max(from)) > silent_after(self.rhythm)
    }
}

/// Returns the pause after which a trigger with this interval counts as silent.
pub(super) fn silent_after(rhythm: Duration) -> Duration {
    rhythm.max(POLLING_INTERVAL) * MISSING_POLLS
}

impl RefusalTold {
    pub(super) fn new(refused: Refused<'_>, since: Instant) -> Self {
        Self { code: refused.code, text: shortened(refused.message).into(), since }
    }

    /// Returns whether it is the same refusal again.
    pub(super) fn is(&self, refused: Refused<'_>) -> bool {
        self.code == refused.code && *self.text == *shortened(refused.message)
    }
}

fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(LONGEST_TEXT)]
}
