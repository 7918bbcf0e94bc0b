//! The results of a query's attempts, for the status page: the latest reading, the fault, and the last hour.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    fault::Fault,
    reading::{Numbers, Reading, Rows},
};

/// The number of minutes that are remembered. Each takes 16 bytes, so that a query takes a kilobyte.
const MINUTES: usize = 60;

const MINUTE: Duration = Duration::from_secs(60);

/// The time for which a value is remembered.
const HISTORY: Duration = Duration::from_secs(60 * 60);

/// The state of a query, as far as it is known.
#[derive(Debug, Clone, Default)]
pub struct QueryState {
    /// The latest good reading, whatever its parameters.
    pub latest: Option<LatestReading>,
    /// The latest fault and since when there are faults; none if the latest attempt was good.
    pub fault: Option<(Fault, Instant)>,
    /// The greatest value of each of the last 60 minutes, oldest first; none for a minute without a reading. Empty for
    /// a query that has more than one value.
    pub history: Vec<Option<f64>>,
    /// The time within these minutes at which a reload changed the query or its database.
    pub changed_at: Option<Instant>,
}

/// A good reading.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LatestReading {
    /// The numbers of a query with one value.
    pub numbers: Option<Numbers>,
    /// The number of keys of a grouped query.
    pub keys: Option<usize>,
    /// The number of keys that a budget leaves fewer Jobs than they have rows.
    pub short_keys: Option<usize>,
    /// The number of rows of a preset that nobody gets until a person or another process does something.
    pub stalled: Option<f64>,
    /// The time at which its statement was sent.
    pub sent_at: Instant,
    /// The time from sending the statement to its answer.
    pub took: Duration,
}

/// The record of one query.
#[derive(Debug)]
pub(super) struct Record {
    /// True if it has one value: no parameters and no groups.
    has_one_value: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    latest: Option<LatestReading>,
    fault: Option<(Fault, Instant)>,
    minutes: VecDeque<Option<f64>>,
    /// The beginning of the newest minute.
    minute_began_at: Instant,
    changed_at: Option<Instant>,
}

impl Record {
    pub(super) fn new(has_one_value: bool) -> Self {
        let (minutes, minute_began_at) = (VecDeque::new(), Instant::now());
        let state = State { latest: None, fault: None, minutes, minute_began_at, changed_at: None };
        Self { has_one_value, state: Mutex::new(state) }
    }

    /// Goes on with the minutes of the query as it was before a reload changed it: what the change did is seen in them.
    pub(super) fn follow(&self, before: &Self, now: Instant) {
        if !(self.has_one_value && before.has_one_value) {
            return;
        }
        let before = before.lock();
        let (minutes, minute_began_at) = (before.minutes.clone(), before.minute_began_at);
        drop(before);
        if minutes.iter().any(Option::is_some) {
            let mut state = self.lock();
            (state.minutes, state.minute_began_at, state.changed_at) = (minutes, minute_began_at, Some(now));
        }
    }

    /// Records a good reading. It ends the fault, unless the query `still_fails` with other parameters.
    pub(super) fn read(&self, reading: &Reading, now: Instant, still_fails: bool) {
        let (numbers, keys) = match &reading.rows {
            Rows::One(numbers) => (Some(*numbers).filter(|_| self.has_one_value), None),
            Rows::ByKey(rows) => (None, Some(rows.len())),
        };
        let took = now.saturating_duration_since(reading.sent_at);
        let mut state = self.lock();
        let Reading { short_keys, stalled, sent_at, .. } = *reading;
        state.latest = Some(LatestReading { numbers, keys, short_keys, stalled, sent_at, took });
        if !still_fails {
            state.fault = None;
        }
        if let Some(numbers) = numbers {
            state.begin_minutes(now);
            if let Some(greatest) = state.minutes.back_mut() {
                *greatest = Some(greatest.map_or(numbers.value, |greatest| greatest.max(numbers.value)));
            }
        }
    }

    /// Records a failed attempt.
    pub(super) fn failed(&self, fault: Fault, now: Instant) {
        let mut state = self.lock();
        let since = state.fault.map_or(now, |(_, since)| since);
        state.fault = Some((fault, since));
    }

    /// Clears the fault. Nobody asks for the failing parameters any more.
    pub(super) fn mended(&self) {
        self.lock().fault = None;
    }

    pub(super) fn state(&self, now: Instant) -> QueryState {
        let mut state = self.lock();
        state.begin_minutes(now);
        let history = if self.has_one_value { state.minutes.iter().copied().collect() } else { Vec::new() };
        let changed_at = state.changed_at.filter(|changed_at| now < *changed_at + HISTORY);
        QueryState { latest: state.latest, fault: state.fault, history, changed_at }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Adds the minutes that have begun since the last call.
    fn begin_minutes(&mut self, now: Instant) {
        if self.minutes.is_empty() {
            self.minutes.resize(MINUTES, None);
            self.minute_began_at = now;
        }
        let mut begun = 0;
        while now >= self.minute_began_at + MINUTE {
            begun += 1;
            if begun > MINUTES {
                self.minute_began_at = now;
                return;
            }
            self.minute_began_at += MINUTE;
            self.minutes.pop_front();
            self.minutes.push_back(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(value: f64) -> Reading {
        let rows = Rows::One(Numbers { value, activity: None });
        Reading { rows, sent_at: Instant::now(), changes_at: None, stalled: None, short_keys: None }
    }

    #[tokio::test(start_paused = true)]
    async fn each_minute_has_its_greatest_value_and_a_minute_without_a_reading_none() {
        let record = Record::new(true);
        for value in [3.0, 7.0, 5.0] {
            record.read(&reading(value), Instant::now(), false);
        }
        tokio::time::advance(2 * MINUTE).await;
        record.read(&reading(1.0), Instant::now(), false);
        let history = record.state(Instant::now()).history;
        assert_eq!(history.len(), MINUTES);
        assert_eq!(history[57..], [Some(7.0), None, Some(1.0)]);
        assert!(history[..57].iter().all(Option::is_none));

        tokio::time::advance(58 * MINUTE).await;
        assert_eq!(record.state(Instant::now()).history[..2], [None, Some(1.0)]);
        tokio::time::advance(1_000_000 * MINUTE).await;
        assert!(record.state(Instant::now()).history.iter().all(Option::is_none));
    }

    #[tokio::test(start_paused = true)]
    async fn the_minutes_go_on_over_a_reload_with_its_time_and_nothing_else_does() {
        let before = Record::new(true);
        before.read(&reading(7.0), Instant::now(), false);
        before.failed(Fault::StatementTimeout, Instant::now());
        tokio::time::advance(MINUTE).await;
        let (record, reloaded_at) = (Record::new(true), Instant::now());
        record.follow(&before, reloaded_at);
        tokio::time::advance(MINUTE).await;
        record.read(&reading(1.0), Instant::now(), false);
        let state = record.state(Instant::now());
        assert_eq!((&state.history[57..], state.changed_at), (&[Some(7.0), None, Some(1.0)][..], Some(reloaded_at)));
        assert_eq!(state.fault, None);
        tokio::time::advance(HISTORY).await;
        assert_eq!(record.state(Instant::now()).changed_at, None);

        for (one, other) in [(true, false), (false, true)] {
            let (record, before) = (Record::new(one), Record::new(other));
            before.read(&reading(7.0), Instant::now(), false);
            record.follow(&before, Instant::now());
            assert_eq!(record.state(Instant::now()).changed_at, None, "its values are those of parameters or keys");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_fault_lasts_from_the_first_failure_until_nothing_fails() {
        let record = Record::new(true);
        let began_at = Instant::now();
        record.failed(Fault::StatementTimeout, began_at);
        tokio::time::advance(MINUTE).await;
        record.failed(Fault::BreakerOpen, Instant::now());
        assert_eq!(record.state(Instant::now()).fault, Some((Fault::BreakerOpen, began_at)));
        record.read(&reading(1.0), Instant::now(), true);
        assert_eq!(record.state(Instant::now()).fault, Some((Fault::BreakerOpen, began_at)));
        record.read(&reading(1.0), Instant::now(), false);
        assert_eq!(record.state(Instant::now()).fault, None);
    }

    #[test]
    fn a_query_with_several_values_shows_none_and_has_no_history() {
        let record = Record::new(false);
        record.read(&reading(3.0), Instant::now(), false);
        let state = record.state(Instant::now());
        assert_eq!(state.latest.map(|latest| latest.numbers), Some(None));
        assert!(state.history.is_empty());
    }
}
