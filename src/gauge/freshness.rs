//! When a reading may still be served. Pure: the clock is an argument.

use std::time::Duration;

use tokio::time::Instant;

use crate::reading::Reading;

/// A reading whose next change has come is read again for it no more often than this.
const CHANGE_INTERVAL: Duration = Duration::from_secs(1);

/// A watched gauge is read again no more often than this on its own account.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// The rules of one gauge at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// How old a reading may be served while nothing better is known.
    pub(super) max_age: Duration,
    /// What notifications add, where the query listens.
    pub(super) channel: Option<Channel>,
}

/// What is known of a query's notification channel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Channel {
    /// How old an unmarked reading may be served while notifications are known to arrive; none while they are not.
    pub(super) resync: Option<Duration>,
    /// The latest notification, loss or return of LISTEN: what was sent before is stale.
    pub(super) marked_at: Instant,
}

impl Rules {
    /// How old a reading may get if nothing marks it.
    fn bound(&self) -> Duration {
        self.channel.and_then(|channel| channel.resync).unwrap_or(self.max_age)
    }

    /// Until when a reading may be served: from that moment on it is stale.
    pub(super) fn stale_from(&self, reading: &Reading) -> Instant {
        if self.channel.is_some_and(|channel| reading.sent_at <= channel.marked_at) {
            return reading.sent_at;
        }
        let by_age = reading.sent_at + self.bound();
        match reading.changes_at {
            Some(at) => by_age.min(at.max(reading.sent_at + CHANGE_INTERVAL)),
            None => by_age,
        }
    }

    /// Whether a call may be answered with this reading.
    pub(super) fn is_fresh(&self, reading: &Reading, now: Instant) -> bool {
        now < self.stale_from(reading)
    }

    /// When a watched gauge is due for its next statement, after a reading or a failed attempt sent at `sent_at`.
    pub(super) fn due(&self, reading: Option<&Reading>, sent_at: Instant) -> Instant {
        let by_age = sent_at + self.bound().max(WATCH_INTERVAL);
        match reading {
            Some(reading) => match reading.changes_at {
                Some(at) => by_age.min(at.max(reading.sent_at + CHANGE_INTERVAL)),
                None => by_age,
            },
            None => sent_at + WATCH_INTERVAL,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::{Numbers, Rows};

    const SECOND: Duration = Duration::from_secs(1);

    fn reading(sent_at: Instant, changes_at: Option<Instant>) -> Reading {
        Reading { rows: Rows::One(Numbers { value: 1.0, activity: None }), sent_at, changes_at }
    }

    #[test]
    fn a_reading_younger_than_max_age_is_shared() {
        let sent = Instant::now();
        let rules = Rules { max_age: SECOND, channel: None };
        assert!(rules.is_fresh(&reading(sent, None), sent));
        assert!(rules.is_fresh(&reading(sent, None), sent + SECOND / 2));
        assert!(!rules.is_fresh(&reading(sent, None), sent + SECOND));
    }

    #[test]
    fn with_no_max_age_only_overlapping_calls_share() {
        let sent = Instant::now();
        let rules = Rules { max_age: Duration::ZERO, channel: None };
        assert!(!rules.is_fresh(&reading(sent, None), sent));
    }

    #[test]
    fn while_notifications_arrive_an_unmarked_reading_lives_until_resync() {
        let sent = Instant::now();
        let marked = sent - SECOND;
        let healthy = Rules { max_age: SECOND, channel: Some(Channel { resync: Some(5 * SECOND), marked_at: marked }) };
        assert!(healthy.is_fresh(&reading(sent, None), sent + 4 * SECOND));
        assert!(!healthy.is_fresh(&reading(sent, None), sent + 5 * SECOND));
        let deaf = Rules { max_age: SECOND, channel: Some(Channel { resync: None, marked_at: marked }) };
        assert!(!deaf.is_fresh(&reading(sent, None), sent + SECOND));
    }

    #[test]
    fn a_mark_makes_what_was_sent_before_it_stale() {
        let sent = Instant::now();
        let rules = Rules { max_age: SECOND, channel: Some(Channel { resync: Some(5 * SECOND), marked_at: sent }) };
        assert!(!rules.is_fresh(&reading(sent, None), sent));
        assert!(rules.is_fresh(&reading(sent + SECOND, None), sent + SECOND));
    }

    #[test]
    fn a_change_by_the_clock_ends_a_reading_but_not_more_than_once_a_second() {
        let sent = Instant::now();
        let rules = Rules { max_age: 10 * SECOND, channel: None };
        assert!(!rules.is_fresh(&reading(sent, Some(sent + 3 * SECOND)), sent + 3 * SECOND));
        assert!(rules.is_fresh(&reading(sent, Some(sent)), sent + SECOND / 2));
        assert!(!rules.is_fresh(&reading(sent, Some(sent)), sent + SECOND));
    }

    #[test]
    fn a_watched_gauge_is_read_every_max_age_and_at_most_once_a_second() {
        let sent = Instant::now();
        let due = |max_age| Rules { max_age, channel: None }.due(Some(&reading(sent, None)), sent) - sent;
        assert_eq!(due(Duration::ZERO), SECOND);
        assert_eq!(due(5 * SECOND), 5 * SECOND);
        let after_a_failure = Rules { max_age: 45 * SECOND, channel: None }.due(None, sent) - sent;
        assert_eq!(after_a_failure, SECOND);
    }
}
