//! The numbers that the latest GetMetrics of each trigger used, for a limited time.
//!
//! There is one table for all cached queries, because callers choose how many triggers there are. It keeps the numbers
//! of the trigger's own row: a reading of a grouped query has up to 4 MiB of keys.

use std::{
    collections::HashMap,
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::reading::Numbers;

/// The number of polls that are remembered for their whole life, however many more come: six times those of the 600
/// calls a second that KEDA makes at most. It is what a table of 512 KiB holds, and there are two.
pub(super) const POLLS: usize = 7 * 1024;

/// The number of polls that each table has room for from the start, so that the calls of a small cluster allocate
/// nothing.
const FEW: usize = 64;

/// The polls of all triggers.
#[derive(Debug)]
pub(super) struct LastPolls {
    life: Duration,
    tables: Mutex<Tables>,
}

/// The polls by trigger. The older table is dropped as a whole once the newer one is as old as a poll may get, or full.
#[derive(Debug)]
struct Tables {
    newer: HashMap<u64, Poll>,
    older: HashMap<u64, Poll>,
    /// The time at which the newer table was empty.
    began_at: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Poll {
    /// The number of the cached query: a reload may give the trigger another one.
    query: u64,
    /// None if the reading had no row for the trigger.
    numbers: Option<Numbers>,
    at: Instant,
}

impl LastPolls {
    /// Creates the table of polls that are remembered for `life`.
    pub(super) fn new(life: Duration) -> Self {
        let [newer, older] = [(), ()].map(|()| HashMap::with_capacity(FEW));
        let tables = Tables { newer, older, began_at: Instant::now() };
        Self { life, tables: Mutex::new(tables) }
    }

    /// Remembers the numbers that a trigger was told of a cached query.
    pub(super) fn remember(&self, trigger: u64, query: u64, numbers: Option<Numbers>, now: Instant) {
        let mut tables = self.lock();
        let tables = &mut *tables;
        if tables.newer.len() >= POLLS || now.duration_since(tables.began_at) >= self.life {
            mem::swap(&mut tables.newer, &mut tables.older);
            tables.newer.clear();
            tables.began_at = now;
        }
        tables.newer.insert(trigger, Poll { query, numbers, at: now });
    }

    /// Returns the numbers of the trigger's latest poll, unless that is too long ago or an attempt has failed since.
    #[expect(clippy::option_option, reason = "a poll without a row is not the same as no poll")]
    pub(super) fn of(
        &self,
        trigger: u64,
        query: u64,
        now: Instant,
        failed_at: Option<Instant>,
    ) -> Option<Option<Numbers>> {
        let tables = self.lock();
        let poll = tables.newer.get(&trigger).or_else(|| tables.older.get(&trigger))?;
        let is_young = now.duration_since(poll.at) < self.life;
        let holds = poll.query == query && is_young && failed_at.is_none_or(|failed_at| failed_at < poll.at);
        holds.then_some(poll.numbers)
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(2);
    const QUERY: u64 = 1;

    fn numbers(value: u32) -> Option<Numbers> {
        Some(Numbers { value: value.into(), activity: None })
    }

    #[test]
    fn as_many_polls_as_there_is_room_for_are_remembered_for_their_life_and_then_the_oldest_give_way() {
        let (polls, start) = (LastPolls::new(LIFE), Instant::now());
        let most = u64::try_from(POLLS).unwrap();
        let remembered = |trigger: u64, now| polls.of(trigger, QUERY, now, None).is_some();
        for trigger in 0..100 * most {
            polls.remember(trigger, QUERY, numbers(3), start);
            if trigger % 1_000 == 0 {
                assert!((trigger.saturating_sub(most - 1)..=trigger).all(|latest| remembered(latest, start)));
            }
        }
        assert!(!remembered(98 * most - 1, start), "the oldest give way");
        let tables = polls.lock();
        assert!(tables.newer.len() <= POLLS && tables.older.len() <= POLLS);
        assert!(tables.newer.capacity() <= POLLS && tables.older.capacity() <= POLLS, "{}", tables.newer.capacity());
    }

    #[test]
    fn a_poll_is_remembered_for_its_life_whenever_the_tables_change() {
        let (polls, start) = (LastPolls::new(LIFE), Instant::now());
        let step = Duration::from_millis(100);
        for number in 0..100 {
            let now = start + step * number;
            polls.remember(number.into(), QUERY, numbers(number), now);
            for age in 0..number.min(30) {
                let expected = (step * age < LIFE).then(|| numbers(number - age));
                assert_eq!(polls.of((number - age).into(), QUERY, now, None), expected, "after {age} steps");
            }
        }
    }

    #[test]
    fn a_poll_without_a_row_is_remembered_and_one_of_another_query_or_before_a_failure_is_none() {
        let (polls, now) = (LastPolls::new(LIFE), Instant::now());
        polls.remember(7, QUERY, None, now);
        assert_eq!(polls.of(7, QUERY, now, None), Some(None));
        assert_eq!(polls.of(7, QUERY + 1, now, None), None);
        assert_eq!(polls.of(7, QUERY, now, Some(now)), None);
    }
}
