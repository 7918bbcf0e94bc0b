//! The gauges that are held, within limits.

use std::{
    collections::HashMap,
    hash::{Hash, Hasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use hashbrown::Equivalent;
use tokio::time::{Instant, sleep};

use super::{Gauge, Shared};
use crate::{
    fault::{Fault, Limit},
    metrics::Metrics,
    query::Value,
    shutdown::Supervisor,
};

/// A gauge nobody asked for in this time is dropped.
const IDLE: Duration = Duration::from_secs(600);

/// How often idle gauges are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Gauges at most. Their parameters are kept twice; a trigger may write 64 KiB of them.
const CAPACITY: Share = Share { gauges: 10_000, bytes: 16 * 1024 * 1024 };

/// Gauges of one namespace at most, so that one tenant cannot push out the others'.
const NAMESPACE_CAPACITY: Share = Share { gauges: CAPACITY.gauges / 4, bytes: CAPACITY.bytes / 4 };

/// How many make room at once: looking for the longest unused takes a walk over all.
const EVICTED_AT_ONCE: usize = 64;

/// All gauges, by query and parameters.
pub struct Gauges {
    held: Mutex<Held>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Held {
    by_key: hashbrown::HashMap<Key, Entry, RandomState>,
    by_namespace: HashMap<String, Share>,
    all: Share,
}

/// So many gauges, with so many bytes of parameters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Share {
    gauges: usize,
    bytes: usize,
}

impl Share {
    /// Whether one more fits, with so many bytes.
    fn has_room(self, within: Self, bytes: usize) -> bool {
        self.gauges < within.gauges && self.bytes + bytes <= within.bytes
    }

    fn add(&mut self, bytes: usize) {
        self.gauges += 1;
        self.bytes += bytes;
    }

    fn take(&mut self, bytes: usize) {
        self.gauges -= 1;
        self.bytes -= bytes;
    }
}

struct Entry {
    gauge: Arc<Gauge>,
    /// The namespace that asked first; it is counted there.
    namespace: String,
}

/// A query by its identity (a reload that does not change it keeps it) and its parameters.
#[derive(Clone)]
struct Key {
    shared: Arc<Shared>,
    parameters: Vec<Value<'static>>,
}

/// A key as it is looked up: nothing is copied for that.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    shared: &'a Arc<Shared>,
    parameters: &'a [Value<'a>],
}

impl Key {
    fn as_wanted(&self) -> Wanted<'_> {
        Wanted { shared: &self.shared, parameters: &self.parameters }
    }
}

impl PartialEq for Wanted<'_> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(self.shared, other.shared) && self.parameters == other.parameters
    }
}

impl Hash for Wanted<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(self.shared).hash(state);
        self.parameters.hash(state);
    }
}

impl Equivalent<Key> for Wanted<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        *self == key.as_wanted()
    }
}

impl Key {
    fn bytes(&self) -> usize {
        self.parameters.iter().map(Value::bytes).sum()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.as_wanted() == other.as_wanted()
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_wanted().hash(state);
    }
}

impl Gauges {
    /// Holds none yet. Must be called in a runtime, for the sweep of idle ones.
    pub fn new(metrics: Arc<Metrics>, supervisor: &Supervisor) -> Arc<Self> {
        let gauges = Arc::new(Self { held: Mutex::default(), metrics });
        supervisor.spawn("gauge sweep", sweep(Arc::downgrade(&gauges)));
        gauges
    }

    /// The gauge of a query and its parameters, made if there is none.
    ///
    /// # Errors
    /// [`Fault::Exhausted`] if there is no room, because all gauges (or all of the namespace's)
    /// are watched or in flight; otherwise the longest unused gives way.
    pub fn of(&self, shared: &Arc<Shared>, parameters: &[Value], namespace: &str) -> Result<Arc<Gauge>, Fault> {
        let mut held = self.lock();
        if let Some(entry) = held.by_key.get(&Wanted { shared, parameters }) {
            if entry.namespace != namespace {
                entry.gauge.share();
            }
            return Ok(Arc::clone(&entry.gauge));
        }
        let bytes = parameters.iter().map(Value::bytes).sum();
        while !held.of(namespace).has_room(NAMESPACE_CAPACITY, bytes) {
            if !held.make_room(|entry| entry.namespace == namespace) {
                return Err(Fault::Exhausted(Limit::NamespaceGauges));
            }
        }
        while !held.all.has_room(CAPACITY, bytes) {
            if !held.make_room(|_| true) {
                return Err(Fault::Exhausted(Limit::Gauges));
            }
        }
        let parameters: Vec<_> = parameters.iter().cloned().map(Value::into_owned).collect();
        let key = Key { shared: Arc::clone(shared), parameters: parameters.clone() };
        let gauge = Gauge::new(Arc::clone(shared), parameters, namespace, Arc::clone(&self.metrics));
        held.by_key.insert(key, Entry { gauge: Arc::clone(&gauge), namespace: namespace.to_owned() });
        held.by_namespace.entry(namespace.to_owned()).or_default().add(bytes);
        held.all.add(bytes);
        self.count(&held);
        Ok(gauge)
    }

    /// Lets go of the gauges whose query is not among these any more.
    pub fn keep_only(&self, queries: &[Arc<Shared>]) {
        let mut held = self.lock();
        held.remove(|key, _| !queries.iter().any(|query| Arc::ptr_eq(query, &key.shared)));
        self.count(&held);
    }

    fn count(&self, held: &Held) {
        self.metrics.gauges.set(i64::try_from(held.by_key.len()).unwrap_or(i64::MAX));
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// What is a namespace's.
    fn of(&self, namespace: &str) -> Share {
        self.by_namespace.get(namespace).copied().unwrap_or_default()
    }

    /// Drops the longest unused of those that may go; false if there are none.
    fn make_room(&mut self, may_go: impl Fn(&Entry) -> bool) -> bool {
        let mut candidates: Vec<(Instant, &Key)> = self
            .by_key
            .iter()
            .filter(|(_, entry)| may_go(entry))
            .filter_map(|(key, entry)| Some((entry.gauge.unused_since()?, key)))
            .collect();
        if candidates.len() > EVICTED_AT_ONCE {
            candidates.select_nth_unstable_by_key(EVICTED_AT_ONCE, |(used_at, _)| *used_at);
            candidates.truncate(EVICTED_AT_ONCE);
        }
        let evicted: Vec<Key> = candidates.into_iter().map(|(_, key)| key.clone()).collect();
        for key in &evicted {
            self.forget(key);
        }
        !evicted.is_empty()
    }

    fn remove(&mut self, goes: impl Fn(&Key, &Entry) -> bool) {
        let keys: Vec<Key> =
            self.by_key.iter().filter(|(key, entry)| goes(key, entry)).map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.forget(&key);
        }
    }

    fn forget(&mut self, key: &Key) {
        let Some(entry) = self.by_key.remove(key) else { return };
        let bytes = key.bytes();
        self.all.take(bytes);
        if let Some(share) = self.by_namespace.get_mut(&entry.namespace) {
            share.take(bytes);
            if share.gauges == 0 {
                self.by_namespace.remove(&entry.namespace);
            }
        }
    }
}

impl Gauge {
    /// Since when nobody has used it; none while it is watched or in flight.
    fn unused_since(&self) -> Option<Instant> {
        let state = self.lock();
        (state.watchers.count == 0 && !state.in_flight).then_some(state.used_at)
    }
}

/// Drops idle gauges until their holder is gone.
async fn sweep(gauges: Weak<Gauges>) {
    loop {
        sleep(SWEEP_INTERVAL).await;
        let Some(gauges) = gauges.upgrade() else { return };
        let mut held = gauges.lock();
        held.remove(|_, entry| entry.gauge.unused_since().is_some_and(|since| since.elapsed() >= IDLE));
        gauges.count(&held);
    }
}
