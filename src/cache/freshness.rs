//! The rules for how long a reading may be served. The clock is an argument.

use std::time::Duration;

use tokio::time::Instant;

use super::shards::Shard;
use crate::{query::Query, reading::Reading};

/// The shortest time between two statements because of `next_change`.
const CHANGE_INTERVAL: Duration = Duration::from_secs(1);

/// The shortest time between two statements because of watchers.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// The times after an invalidation at which readings become stale again.
///
/// A row may become visible a little after the notification that announces it: its transaction
/// commits beside the one that notifies (docs/notify.md).
pub(super) const REREAD_AFTER: [Duration; 3] = [Duration::ZERO, Duration::from_millis(100), Duration::from_secs(1)];

/// The rules of one cached query at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// The greatest age of a reading, unless notifications allow more.
    pub(super) max_age: Duration,
    /// The rules of the notification channel, where the query listens.
    pub(super) channel: Option<ChannelRules>,
}

/// The state of a query's notification channel, as far as rules depend on it.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChannelRules {
    /// The greatest age of a reading that no notification has invalidated; `None` while notifications may get lost.
    pub(super) resync: Option<Duration>,
    /// The latest notification, loss or return of LISTEN: a reading that was sent before it is stale.
    pub(super) invalidated_at: Instant,
}

impl Rules {
    /// Returns the rules of a query for the reading of each of its databases as they are now, in their order.
    pub(super) fn of_each(query: &Query, shards: &[Shard]) -> impl Iterator<Item = Self> {
        let hears = |shard: &Shard| shard.channel.as_ref().is_none_or(|channel| channel.borrow().is_healthy);
        let resync = query.notify.as_ref().and_then(|notify| notify.resync);
        // No notification means no change only if the notifications of every database are known to arrive.
        let resync = resync.filter(|_| shards.iter().all(hears));
        let max_age = query.max_age;
        shards.iter().map(move |shard| {
            let invalidated_at = shard.channel.as_ref().map(|channel| channel.borrow().invalidated_at);
            Self { max_age, channel: invalidated_at.map(|invalidated_at| ChannelRules { resync, invalidated_at }) }
        })
    }

    /// Returns the greatest age of a reading that nothing invalidates.
    fn bound(&self) -> Duration {
        self.channel.and_then(|channel| channel.resync).unwrap_or(self.max_age)
    }

    /// Returns the moment from which a reading is stale.
    pub(super) fn stale_from(&self, reading: &Reading) -> Instant {
        self.due_by(reading, self.bound())
    }

    /// Returns whether a call may be answered with this reading.
    pub(super) fn is_fresh(&self, reading: &Reading, now: Instant) -> bool {
        now < self.stale_from(reading)
    }

    /// Returns when a watched query is due for its next statement, after a reading or a failed attempt that began at
    /// `began_at`.
    pub(super) fn due(&self, reading: Option<&Reading>, began_at: Instant) -> Instant {
        match reading {
            Some(reading) => self.due_by(reading, self.bound().max(WATCH_INTERVAL)),
            None => began_at + WATCH_INTERVAL,
        }
    }

    /// Returns whether a reading is stale whatever its age: a notification invalidates it, or its numbers have changed
    /// by the clock.
    pub(super) fn is_outdated(&self, reading: &Reading, now: Instant) -> bool {
        self.outdated_from(reading).is_some_and(|from| from <= now)
    }

    /// Returns the earliest of three: the reading is `age` old, a notification invalidates it, its numbers change by
    /// the clock.
    fn due_by(&self, reading: &Reading, age: Duration) -> Instant {
        let by_age = reading.sent_at + age;
        self.outdated_from(reading).map_or(by_age, |from| from.min(by_age))
    }

    /// Returns the earlier of two: a notification invalidates the reading, its numbers change by the clock.
    fn outdated_from(&self, reading: &Reading) -> Option<Instant> {
        let sent_at = reading.sent_at;
        let by_clock = reading.changes_at.map(|at| at.max(sent_at + CHANGE_INTERVAL));
        let rereads = self.channel.iter().flat_map(|channel| REREAD_AFTER.map(|after| channel.invalidated_at + after));
        let by_reread = rereads.filter(|reread| *reread >= sent_at).min();
        by_clock.into_iter().chain(by_reread).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::{Numbers, Rows};

    const SECOND: Duration = Duration::from_secs(1);

    fn reading(sent_at: Instant, changes_at: Option<Instant>) -> Reading {
        Reading {
            rows: Rows::One(Numbers { value: 1.0, activity: None }),
            sent_at,
            changes_at,
            stalled: None,
            short_keys: None,
        }
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
    fn while_notifications_arrive_a_reading_lives_until_resync() {
        let sent = Instant::now();
        let marked = sent - 2 * SECOND;
        let healthy =
            Rules { max_age: SECOND, channel: Some(ChannelRules { resync: Some(5 * SECOND), invalidated_at: marked }) };
        assert!(healthy.is_fresh(&reading(sent, None), sent + 4 * SECOND));
        assert!(!healthy.is_fresh(&reading(sent, None), sent + 5 * SECOND));
        let deaf = Rules { max_age: SECOND, channel: Some(ChannelRules { resync: None, invalidated_at: marked }) };
        assert!(!deaf.is_fresh(&reading(sent, None), sent + SECOND));
    }

    #[test]
    fn an_invalidation_makes_earlier_readings_stale() {
        let sent = Instant::now();
        let rules =
            Rules { max_age: SECOND, channel: Some(ChannelRules { resync: Some(5 * SECOND), invalidated_at: sent }) };
        assert!(!rules.is_fresh(&reading(sent, None), sent));
        let later = sent + 2 * SECOND;
        assert!(rules.is_fresh(&reading(later, None), later));
    }

    #[test]
    fn an_invalidation_counts_again_after_a_tenth_of_a_second_and_after_one() {
        let invalidated_at = Instant::now();
        let rules = Rules { max_age: SECOND, channel: Some(ChannelRules { resync: Some(9 * SECOND), invalidated_at }) };
        let due = |after: u64| {
            rules.due(Some(&reading(invalidated_at + Duration::from_millis(after), None)), invalidated_at)
                - invalidated_at
        };
        assert_eq!(due(0), Duration::ZERO);
        assert_eq!(due(1), Duration::from_millis(100));
        assert_eq!(due(101), SECOND);
        assert_eq!(due(1_001), 9 * SECOND + Duration::from_millis(1_001));
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
    fn a_watched_cached_query_is_read_every_max_age_and_at_most_once_a_second() {
        let sent = Instant::now();
        let due = |max_age| Rules { max_age, channel: None }.due(Some(&reading(sent, None)), sent) - sent;
        assert_eq!(due(Duration::ZERO), SECOND);
        assert_eq!(due(5 * SECOND), 5 * SECOND);
        let after_a_failure = Rules { max_age: 45 * SECOND, channel: None }.due(None, sent) - sent;
        assert_eq!(after_a_failure, SECOND);
    }
}
