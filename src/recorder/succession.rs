//! The rule by which a trigger has taken the place of another one of its object: nobody says it, and the times of their
//! polls show it.

use time::{Duration, OffsetDateTime};

use super::TriggerHistory;

/// Calls within this time belong to one poll.
pub const ONE_POLL: std::time::Duration = std::time::Duration::from_secs(5);

/// The longest time between the last poll of a trigger and the first one of what took its place, while other triggers
/// of the object are asked for: three of KEDA's default polling intervals, or of its own.
pub const REPLACED_WITHIN: Duration = Duration::seconds(90);

/// The times at which KEDA asked for a trigger.
#[derive(Debug, Clone, Copy)]
pub struct Polls {
    /// The first one.
    pub first: OffsetDateTime,
    /// The last one.
    pub last: OffsetDateTime,
    /// The usual time between two; zero before the second.
    pub interval: Duration,
    /// False for a trigger that was refused.
    pub was_served: bool,
}

/// Returns the number of the trigger among `all` of an object whose place another one has taken, which is another
/// query, or other metadata; none if it may be one of several, or is so new that this is not known yet.
pub fn predecessor(polls: &Polls, all: &[Polls], now: OffsetDateTime) -> Option<usize> {
    let began = polls.first;
    if now <= began + ONE_POLL {
        return None;
    }
    // The first polls of several triggers come one after the other, and the autoscaler may ask once more with what
    // was before.
    let has_left = |other: &Polls| {
        let is_missed = other.last + other.interval / 2 < began || began + other.interval * 2 < now;
        other.was_served && is_missed && other.first + ONE_POLL < began && other.last < began + ONE_POLL
    };
    let mut left: Vec<(usize, &Polls)> = all.iter().enumerate().filter(|(_, other)| has_left(other)).collect();
    left.sort_by_key(|(_, other)| other.last);
    let (number, latest) = left.pop()?;
    if left.last().is_some_and(|(_, other)| other.last + ONE_POLL > latest.last) {
        return None;
    }
    let goes_on = all.iter().any(|other| other.first < began && other.last >= began);
    let is_soon = began - latest.last <= REPLACED_WITHIN.max(latest.interval * 3);
    (is_soon || !goes_on).then_some(number)
}

impl TriggerHistory {
    /// Returns the times at which KEDA asked for it.
    pub fn polls(&self) -> Polls {
        Polls {
            first: self.first_asked_at,
            last: self.last_asked_at,
            interval: Duration::saturating_seconds_f64(self.interval_seconds.unwrap_or_default()),
            was_served: self.target.is_some(),
        }
    }
}
