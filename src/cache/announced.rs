//! Finds changes that no notification announced: the trigger that notifies is gone, is switched off, or never was
//! there.
//!
//! A reading that is only taken because the one before has grown old should bring the same numbers. If it does not, a
//! notification may still be on its way, so that the next reading decides.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    freshness::REREAD_AFTER,
    shards::{Parts, Shard},
};
use crate::{
    metrics::Metrics,
    reading::{ChannelState, Reading},
    recorder::Incident,
};

/// A change that a reading found, and that a notification may yet announce.
#[derive(Debug, Clone, Copy)]
pub(super) struct UnconfirmedChange {
    /// The time at which the reading before the change was sent.
    sent_at: Instant,
}

/// The record of whether the changes of one query are announced.
#[derive(Debug, Default)]
pub(super) struct Announced(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The time since which changes come without a notification.
    unannounced_since: Option<Instant>,
    told_at: Option<Instant>,
    is_told: bool,
}

/// The time for which the log does not say again that changes come without notifications: where one of several tables
/// notifies, that is so now and again.
const PAUSE: Duration = Duration::from_secs(3_600);

impl Announced {
    /// Returns the time since which changes come without a notification, if they do.
    pub(super) fn unannounced_since(&self) -> Option<Instant> {
        self.lock().unannounced_since
    }

    /// Notes whether the changes between two readings of each database were announced. `unconfirmed` are the
    /// changes of the same cached query that nothing has announced yet, one for each database.
    pub(super) fn compare(
        &self,
        shards: &[Shard],
        (before, after): (&Parts, &Parts),
        unconfirmed: &mut [Option<UnconfirmedChange>],
        metrics: &Metrics,
    ) {
        for (shard, ((before, after), unconfirmed)) in shards.iter().zip(before.iter().zip(after).zip(unconfirmed)) {
            let (Some(channel), Some(before), Some(after)) = (&shard.channel, before, after) else { continue };
            if before.sent_at == after.sent_at {
                continue;
            }
            let channel = *channel.borrow();
            let is_confirmed = unconfirmed.take().is_some_and(|earlier| earlier.is_confirmed(channel));
            *unconfirmed = unconfirmed_change(before, after, channel);
            let (query, database) = (&shard.labels.query, &shard.labels.database);
            if is_confirmed {
                metrics.unannounced_changes.get_or_create(&shard.labels).inc();
                if self.note_unannounced(Instant::now()) {
                    tracing::warn!(
                        %query,
                        %database,
                        "a change came without a notification: is the table's NOTIFY trigger gone or disabled? \
                         clapometer notify-sql makes it again"
                    );
                    let (query, database) = (query.clone(), database.clone());
                    metrics.recorder.happened(Incident::Unannounced { query, database });
                }
            } else if channel.invalidated_at >= before.sent_at && before.rows != after.rows && self.note_announced() {
                tracing::info!(%query, %database, "changes are announced by notifications again");
            }
        }
    }

    /// Notes a change that no notification announced. Returns whether to say so.
    fn note_unannounced(&self, now: Instant) -> bool {
        let mut state = self.lock();
        if state.unannounced_since.is_some() {
            return false;
        }
        state.unannounced_since = Some(now);
        state.is_told = state.told_at.is_none_or(|at| now >= at + PAUSE);
        if state.is_told {
            state.told_at = Some(now);
        }
        state.is_told
    }

    /// Notes a change that was announced. Returns whether to say so.
    fn note_announced(&self) -> bool {
        let mut state = self.lock();
        state.unannounced_since = None;
        std::mem::take(&mut state.is_told)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Compares a reading of one database with the one before it. Returns a change that no notification has announced yet.
fn unconfirmed_change(before: &Reading, after: &Reading, channel: ChannelState) -> Option<UnconfirmedChange> {
    let [.., last_reread] = REREAD_AFTER;
    let is_by_clock = before.changes_at.is_some_and(|at| at <= after.sent_at);
    let is_settled = channel.invalidated_at + last_reread < before.sent_at;
    (channel.is_healthy && is_settled && !is_by_clock && before.rows != after.rows)
        .then_some(UnconfirmedChange { sent_at: before.sent_at })
}

impl UnconfirmedChange {
    /// Returns whether no notification has come since the reading before the change.
    fn is_confirmed(self, channel: ChannelState) -> bool {
        channel.is_healthy && channel.invalidated_at < self.sent_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::{Numbers, Rows};

    const SECOND: Duration = Duration::from_secs(1);

    fn reading(value: f64, sent_at: Instant) -> Reading {
        let rows = Rows::One(Numbers { value, activity: None });
        Reading { rows, sent_at, changes_at: None, stalled: None, short_keys: None }
    }

    #[test]
    fn a_change_waits_if_nothing_announced_it_and_is_confirmed_if_nothing_does_until_the_next_reading() {
        let began_at = Instant::now();
        let at = |seconds: u32| began_at + seconds * SECOND;
        let heard = |seconds| ChannelState { is_healthy: true, invalidated_at: at(seconds) };
        let found = |before: &Reading, channel| unconfirmed_change(before, &reading(2.0, at(70)), channel);
        let before = reading(1.0, at(10));
        let change = found(&before, heard(0)).expect("a change without a notification");
        assert!(change.is_confirmed(heard(0)));
        assert!(!change.is_confirmed(heard(71)), "the notification came late");
        assert!(!change.is_confirmed(ChannelState { is_healthy: false, ..heard(0) }));
        assert!(found(&before, heard(60)).is_none(), "it was announced");
        assert!(found(&before, heard(9)).is_none(), "a row may become visible a second after its notification");
        assert!(found(&before, ChannelState { is_healthy: false, ..heard(0) }).is_none());
        assert!(found(&reading(2.0, at(10)), heard(0)).is_none(), "nothing changed");
        assert!(found(&Reading { changes_at: Some(at(69)), ..before }, heard(0)).is_none(), "by the clock");
    }

    #[test]
    fn changes_without_notifications_are_told_once_an_hour_and_their_end_once() {
        let (announced, now) = (Announced::default(), Instant::now());
        assert!(!announced.note_announced());
        assert!(announced.note_unannounced(now) && !announced.note_unannounced(now + SECOND));
        assert_eq!(announced.unannounced_since(), Some(now));
        assert!(announced.note_announced() && !announced.note_announced());
        assert_eq!(announced.unannounced_since(), None);
        assert!(!announced.note_unannounced(now + 2 * SECOND) && !announced.note_announced());
        assert!(announced.note_unannounced(now + PAUSE));
    }
}
