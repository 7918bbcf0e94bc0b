//! The fingerprint of a trigger's metadata: it says which keys have changed, and keeps no value.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    sync::LazyLock,
};

use crate::{recorder::shortened_list, terminal::text::plural};

/// The most bytes of the names of keys that have changed, as they are told.
pub(super) const LONGEST_LIST: usize = 200;

/// The names of all keys, in alphabetical order, each with a hash of its value.
///
/// Only a trigger that is served has one, so that the names are those that the configuration knows.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Fingerprint(Box<[(Box<str>, u64)]>);

impl Fingerprint {
    pub(super) fn of(metadata: &HashMap<String, String>) -> Self {
        /// The keys of the hash are random, so that nobody can make two values look the same.
        static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        let hashed = |(key, value): (&String, &String)| (key.as_str().into(), HASHER.hash_one(value));
        let mut keys: Vec<(Box<str>, u64)> = metadata.iter().map(hashed).collect();
        keys.sort_unstable();
        Self(keys.into())
    }

    /// Returns the keys whose values differ, and those that only one of the two has, in alphabetical order.
    pub(super) fn changed<'a>(&'a self, before: &'a Self) -> Vec<&'a str> {
        let mut keys: Vec<&str> = self.not_in(before).chain(before.not_in(self)).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Names the keys of metadata that is refused which differ from the nearest of those before; none if no key does, so
    /// that a reload is the reason. Keys that are new are counted and not named, because they may be anything.
    pub(super) fn refused_change<'a>(&self, before: impl Iterator<Item = &'a Self>) -> Option<String> {
        let change = |before: &'a Self| {
            let is_new = |(key, _): &&(Box<str>, u64)| before.0.iter().all(|(known, _)| known != key);
            let gone = before.0.iter().filter(|entry| self.0.binary_search(entry).is_err());
            let keys: Vec<&str> = gone.map(|(key, _)| &**key).collect();
            (keys, self.0.iter().filter(is_new).count())
        };
        let (mut keys, new) = before.map(change).min_by_key(|(keys, new)| keys.len() + new)?;
        let new = Some(plural(new, "new key", "new keys")).filter(|_| new > 0);
        keys.extend(new.as_deref());
        (!keys.is_empty()).then(|| shortened_list(&keys.join(", "), LONGEST_LIST))
    }

    fn not_in<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |entry| other.0.binary_search(entry).is_err()).map(|(key, _)| &**key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Fingerprint {
        Fingerprint::of(&pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn keys_that_came_that_went_and_that_have_another_value_are_named_once() {
        let before = of(&[("query", "jobs"), ("divideBy", "1"), ("param.region", "eu"), ("rounding", "ceil")]);
        let after = of(&[("query", "jobs"), ("divideBy", "100"), ("param.region", "eu"), ("activityColumn", "n")]);
        assert_eq!(after.changed(&before), ["activityColumn", "divideBy", "rounding"]);
        assert_eq!(before.changed(&after), after.changed(&before));
        assert!(after.changed(&after.clone()).is_empty());
        assert!(Fingerprint::default().changed(&of(&[])).is_empty());
        let refused = of(&[("query", "jobs"), ("divedBy", "1"), ("param.region", "us"), ("rounding", "ceil")]);
        let told = refused.refused_change([&Fingerprint::default(), &before].into_iter());
        assert_eq!(told.as_deref(), Some("divideBy, param.region, 1 new key"));
        assert_eq!(before.refused_change([&before, &after].into_iter()), None);
        assert_eq!(refused.refused_change([].into_iter()), None);
    }
}
