//! The store of all cached queries, within limits.

use std::{
    collections::HashMap,
    hash::{Hash, Hasher},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{CachedQuery, PIN, QuerySource, Shared, last_poll::LastPolls};
use crate::{
    fault::{Fault, Limit},
    metrics::Metrics,
    query::Value,
    shutdown::Supervisor,
};

/// The time after which a cached query that no call uses is dropped.
const IDLE: Duration = Duration::from_secs(600);

/// The pause between two searches for idle cached queries.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// The limit of all cached queries. A trigger may write 64 KiB of parameters, and if a grouped query has parameters,
/// each of them brings another reading with all its keys. The reading of one without parameters is there once, whoever
/// asks, and is not counted.
const CAPACITY: Quota = Quota { entries: 10_000, bytes: 8 * 1024 * 1024, readings: 48 * 1024 * 1024 };

/// The limit of one namespace, so that one tenant cannot push out the cached queries of others.
const NAMESPACE_CAPACITY: Quota =
    Quota { entries: CAPACITY.entries / 4, bytes: CAPACITY.bytes / 4, readings: CAPACITY.readings / 2 };

/// The number of cached queries that are evicted at once, because finding the longest unused ones takes a scan of all.
const EVICTED_AT_ONCE: usize = 64;

/// All cached queries, by query and parameters.
pub struct QueryCache {
    store: Arc<SharedStore>,
    metrics: Arc<Metrics>,
    last_polls: Arc<LastPolls>,
}

/// The store, in which a cached query counts its readings.
#[derive(Default)]
pub(super) struct SharedStore(Mutex<Store>);

#[derive(Default)]
struct Store {
    by_key: HashMap<Arc<CacheKey>, Entry>,
    by_namespace: HashMap<String, Quota>,
    all: Quota,
    /// The number of the next cached query.
    next_number: u64,
}

/// A number of cached queries, of bytes of their parameters, and of bytes of the keys in their readings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Quota {
    entries: usize,
    bytes: usize,
    readings: usize,
}

impl Quota {
    /// Returns whether one more fits, with this many bytes.
    fn has_room(self, within: Self, bytes: usize) -> bool {
        self.entries < within.entries && self.bytes + bytes <= within.bytes
    }

    fn add(&mut self, bytes: usize) {
        self.entries += 1;
        self.bytes += bytes;
    }

    fn take(&mut self, bytes: usize, readings: usize) {
        self.entries -= 1;
        self.bytes -= bytes;
        self.readings -= readings;
    }
}

struct Entry {
    cached: Arc<CachedQuery>,
    /// The namespace of the first call, whose quota it takes.
    namespace: String,
    /// The bytes of the keys in its readings.
    readings: usize,
}

/// A query and its parameters. The query counts by identity, which a reload that does not change it preserves.
#[derive(Clone)]
pub struct CacheKey {
    /// The query.
    pub source: Arc<QuerySource>,
    /// The values of its parameters, in the order of the query.
    pub parameters: Vec<Value>,
}

impl CacheKey {
    fn bytes(&self) -> usize {
        self.parameters.iter().map(Value::bytes).sum()
    }
}

impl PartialEq for CacheKey {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.source, &other.source) && self.parameters == other.parameters
    }
}

impl Eq for CacheKey {}

impl Hash for CacheKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.source).hash(state);
        self.parameters.hash(state);
    }
}

impl QueryCache {
    /// Makes an empty cache. Must be called in a runtime, for the sweep of idle entries.
    pub fn new(metrics: Arc<Metrics>, supervisor: &Supervisor) -> Arc<Self> {
        let last_polls = Arc::new(LastPolls::new(PIN));
        let cache = Arc::new(Self { store: Arc::default(), metrics, last_polls });
        supervisor.spawn("cache sweep", sweep(Arc::downgrade(&cache)));
        cache
    }

    /// Returns the cached query of a query and its parameters, and makes it if there is none.
    ///
    /// # Errors
    /// [`Fault::Exhausted`] if there is no room, because all cached queries (or all of the namespace)
    /// are watched or in flight; otherwise the longest unused is evicted.
    pub fn get_or_insert(&self, key: &CacheKey, namespace: &str) -> Result<Arc<CachedQuery>, Fault> {
        let mut store = self.lock();
        if let Some(entry) = store.by_key.get(key) {
            if entry.namespace != namespace {
                entry.cached.leave_tenants_queue();
            }
            // So that it is not evicted before the call uses it.
            entry.cached.touch();
            return Ok(Arc::clone(&entry.cached));
        }
        let bytes = key.bytes();
        while !store.quota_of(namespace).has_room(NAMESPACE_CAPACITY, bytes) {
            if !store.make_room(EVICTED_AT_ONCE, |entry| entry.namespace == namespace) {
                return Err(Fault::Exhausted(Limit::NamespaceQuota));
            }
        }
        while !store.all.has_room(CAPACITY, bytes) {
            if !store.make_room(EVICTED_AT_ONCE, |_| true) {
                return Err(Fault::Exhausted(Limit::Cache));
            }
        }
        let key = Arc::new(key.clone());
        let cached = CachedQuery::new(Arc::clone(&key), store.next_number, namespace, self.shared());
        store.next_number += 1;
        let entry = Entry { cached: Arc::clone(&cached), namespace: namespace.to_owned(), readings: 0 };
        store.by_key.insert(key, entry);
        store.by_namespace.entry(namespace.to_owned()).or_default().add(bytes);
        store.all.add(bytes);
        store.publish(&self.metrics);
        Ok(cached)
    }

    /// Drops the cached queries of all queries but these.
    pub fn keep_only(&self, queries: &[Arc<QuerySource>]) {
        let mut store = self.lock();
        store.remove(|key, _| !queries.iter().any(|query| Arc::ptr_eq(query, &key.source)));
        store.publish(&self.metrics);
    }

    fn shared(&self) -> Shared {
        let (metrics, last_polls) = (Arc::clone(&self.metrics), Arc::clone(&self.last_polls));
        Shared { metrics, last_polls, store: Arc::downgrade(&self.store) }
    }

    fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock()
    }
}

impl SharedStore {
    /// Counts the readings of a cached query, which take the place of those that it has. Other readings of grouped
    /// queries give way, the longest unused first, but none that a poll may still be pinned to.
    ///
    /// # Errors
    /// [`Fault::Exhausted`] if there is no room, because the others are in use. Then nothing is counted or dropped.
    pub(super) fn hold_readings(&self, cached: &CachedQuery, bytes: usize, metrics: &Metrics) -> Result<(), Fault> {
        let mut store = self.lock();
        // One that was dropped meanwhile goes with the calls that wait for it.
        let Some(namespace) = store.count_readings(cached, 0) else { return Ok(()) };
        let over = |used: Quota, within: Quota| (used.readings + bytes).saturating_sub(within.readings);
        let excess = over(store.quota_of(&namespace), NAMESPACE_CAPACITY);
        if !store.free_readings(excess, |entry| entry.namespace == namespace) {
            return Err(Fault::Exhausted(Limit::NamespaceQuota));
        }
        let excess = over(store.all, CAPACITY);
        if !store.free_readings(excess, |_| true) {
            return Err(Fault::Exhausted(Limit::Cache));
        }
        store.count_readings(cached, bytes);
        store.publish(metrics);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Store> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    fn publish(&self, metrics: &Metrics) {
        metrics.gauges.set(i64::try_from(self.by_key.len()).unwrap_or(i64::MAX));
    }

    /// Returns what a namespace uses.
    fn quota_of(&self, namespace: &str) -> Quota {
        self.by_namespace.get(namespace).copied().unwrap_or_default()
    }

    /// Counts so many bytes for the readings of a cached query, and returns its namespace.
    fn count_readings(&mut self, cached: &CachedQuery, bytes: usize) -> Option<String> {
        let entry = self.by_key.get_mut(&*cached.key).filter(|entry| entry.cached.number == cached.number)?;
        let before = mem::replace(&mut entry.readings, bytes);
        self.all.readings = self.all.readings - before + bytes;
        if let Some(quota) = self.by_namespace.get_mut(&entry.namespace) {
            quota.readings = quota.readings - before + bytes;
        }
        Some(entry.namespace.clone())
    }

    /// Drops the longest unused of those that may go, so many `at_once`. Returns false if there are none.
    fn make_room(&mut self, at_once: usize, may_go: impl Fn(&Entry) -> bool) -> bool {
        let mut candidates = self.unused(may_go);
        if candidates.len() > at_once {
            candidates.select_nth_unstable_by_key(at_once, |(used_at, _)| *used_at);
            candidates.truncate(at_once);
        }
        for (_, key) in &candidates {
            self.forget(key);
        }
        !candidates.is_empty()
    }

    /// Drops the longest unused of those that may go, until so many bytes of readings are free. Returns false, and
    /// drops none, if they have less.
    fn free_readings(&mut self, mut excess: usize, may_go: impl Fn(&Entry) -> bool) -> bool {
        if excess == 0 {
            return true;
        }
        let mut candidates = self.unused(|entry| entry.readings > 0 && may_go(entry));
        candidates.retain(|(used_at, _)| used_at.elapsed() >= PIN);
        let readings = |key: &CacheKey| self.by_key.get(key).map_or(0, |entry| entry.readings);
        if candidates.iter().map(|(_, key)| readings(key)).sum::<usize>() < excess {
            return false;
        }
        candidates.sort_unstable_by_key(|(used_at, _)| *used_at);
        for (_, key) in candidates {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(self.by_key.get(&*key).map_or(0, |entry| entry.readings));
            self.forget(&key);
        }
        true
    }

    /// Returns those that may go and are neither watched nor in flight, each with the time at which it was last used.
    fn unused(&self, may_go: impl Fn(&Entry) -> bool) -> Vec<(Instant, Arc<CacheKey>)> {
        let entries = self.by_key.iter().filter(|(_, entry)| may_go(entry));
        entries.filter_map(|(key, entry)| Some((entry.cached.unused_since()?, Arc::clone(key)))).collect()
    }

    fn remove(&mut self, goes: impl Fn(&CacheKey, &Entry) -> bool) {
        let keys: Vec<Arc<CacheKey>> =
            self.by_key.iter().filter(|(key, entry)| goes(key, entry)).map(|(key, _)| Arc::clone(key)).collect();
        for key in keys {
            self.forget(&key);
        }
    }

    fn forget(&mut self, key: &CacheKey) {
        let Some(entry) = self.by_key.remove(key) else { return };
        let bytes = key.bytes();
        self.all.take(bytes, entry.readings);
        if let Some(quota) = self.by_namespace.get_mut(&entry.namespace) {
            quota.take(bytes, entry.readings);
            if quota.entries == 0 {
                self.by_namespace.remove(&entry.namespace);
            }
        }
    }
}

impl CachedQuery {
    /// Notes that a call is about to use it.
    fn touch(&self) {
        self.lock().used_at = Instant::now();
    }

    /// Returns when it was last used; none while it is watched or in flight.
    fn unused_since(&self) -> Option<Instant> {
        let state = self.lock();
        (state.watchers.count == 0 && !state.in_flight).then_some(state.used_at)
    }
}

/// Drops idle cached queries until the cache is gone.
async fn sweep(cache: Weak<QueryCache>) {
    loop {
        sleep(SWEEP_INTERVAL).await;
        let Some(cache) = cache.upgrade() else { return };
        let mut store = cache.lock();
        store.remove(|_, entry| entry.cached.unused_since().is_some_and(|since| since.elapsed() >= IDLE));
        store.publish(&cache.metrics);
    }
}
