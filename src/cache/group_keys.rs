//! The keys of a grouped query: those that readings have had, and those that triggers ask for in vain.
//!
//! Stored as hashes, so that neither a table with ever new keys nor a trigger with a long one takes
//! memory. Of two keys with the same hash (one pair in 2^64) the later goes unnoticed.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// The most keys that are remembered as seen: twice as many as one reading may have. Beyond it a key that
/// comes and goes may be reported as never seen.
const SEEN: usize = 20_000;

/// The most keys that are remembered as asked for in vain.
const UNSEEN: usize = 10_000;

/// The most unseen keys that are logged: a trigger with ever new keys must not fill the log.
const LOGGED: usize = 100;

/// The time after which a key that no trigger asks for is forgotten, as a cached query is.
const IDLE: Duration = Duration::from_secs(600);

/// The meaning of a key that is missing from a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MissingKey {
    /// A reading has had it before.
    Known,
    /// No reading has had it, and this is the first call for it.
    FirstInVain,
    /// No reading has had it. That is logged already, or too many others are.
    InVain,
}

/// The keys of one query.
#[derive(Debug, Default)]
pub(super) struct GroupKeys {
    hasher: RandomState,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    seen: HashSet<u64>,
    /// Each with the time of the latest call for it.
    unseen: HashMap<u64, Instant>,
}

impl GroupKeys {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Records the keys of a reading.
    pub(super) fn saw<'a>(&self, keys: impl Iterator<Item = &'a Box<str>>) {
        let mut state = self.lock();
        for key in keys {
            let hash = self.hasher.hash_one(&**key);
            if state.seen.len() < SEEN {
                state.seen.insert(hash);
            }
            if !state.unseen.is_empty() {
                state.unseen.remove(&hash);
            }
        }
    }

    /// Records that a trigger asked for a key which the latest reading does not have, and returns what that means.
    pub(super) fn missed(&self, key: &str, now: Instant) -> MissingKey {
        let hash = self.hasher.hash_one(key);
        let mut state = self.lock();
        if let Some(asked_at) = state.unseen.get_mut(&hash) {
            *asked_at = now;
            return MissingKey::InVain;
        }
        if state.seen.contains(&hash) {
            return MissingKey::Known;
        }
        if state.unseen.len() >= UNSEEN {
            return MissingKey::InVain;
        }
        state.unseen.insert(hash, now);
        if state.unseen.len() > LOGGED { MissingKey::InVain } else { MissingKey::FirstInVain }
    }

    /// Returns whether a trigger has asked for this key and no reading has had it.
    pub(super) fn is_unseen(&self, key: &str) -> bool {
        self.lock().unseen.contains_key(&self.hasher.hash_one(key))
    }

    /// Returns the number of keys that are asked for in vain.
    pub(super) fn unseen(&self, now: Instant) -> usize {
        let mut state = self.lock();
        state.unseen.retain(|_, asked_at| now.duration_since(*asked_at) < IDLE);
        state.unseen.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saw(keys: &GroupKeys, key: &str) {
        keys.saw([Box::from(key)].iter());
    }

    #[test]
    fn a_key_is_told_once_until_it_is_seen() {
        let (keys, now) = (GroupKeys::new(), Instant::now());
        assert_eq!(keys.missed("maill", now), MissingKey::FirstInVain);
        assert_eq!(keys.missed("maill", now), MissingKey::InVain);
        assert_eq!(keys.unseen(now), 1);
        saw(&keys, "maill");
        assert_eq!(keys.unseen(now), 0);
        assert_eq!(keys.missed("maill", now), MissingKey::Known);
    }

    #[test]
    fn a_queue_that_has_run_empty_is_known() {
        let (keys, now) = (GroupKeys::new(), Instant::now());
        saw(&keys, "mail");
        assert_eq!(keys.missed("mail", now), MissingKey::Known);
        assert_eq!(keys.unseen(now), 0);
    }

    #[test]
    fn a_key_that_nobody_asks_for_any_more_is_forgotten() {
        let (keys, now) = (GroupKeys::new(), Instant::now());
        keys.missed("maill", now);
        assert_eq!(keys.unseen(now + IDLE), 0);
    }

    #[test]
    fn a_hundred_thousand_keys_take_bounded_memory_and_a_hundred_lines() {
        let (keys, now) = (GroupKeys::new(), Instant::now());
        let told =
            (0..100_000).filter(|number| keys.missed(&number.to_string(), now) == MissingKey::FirstInVain).count();
        assert_eq!((told, keys.unseen(now)), (LOGGED, UNSEEN));
        (0..100_000).for_each(|number| saw(&keys, &format!("seen-{number}")));
        assert!(keys.lock().seen.len() <= SEEN);
    }
}
