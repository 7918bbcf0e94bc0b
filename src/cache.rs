//! The latest reading of each (query, parameters), shared by all triggers that use it.
//!
//! Any number of concurrent calls for one cached query cause one statement. A reading outlives the
//! calls that asked for it: the attempt is a task of its own, later calls join it, and its result
//! serves every call while it is fresh. Polls and streams read the same cached query.

mod announced;
mod freshness;
mod group_keys;
mod last_poll;
mod reader;
mod record;
mod shards;
mod source;
mod store;
mod watch;

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    sync::watch as cell,
    time::{Instant, timeout_at},
};

use self::{
    announced::UnconfirmedChange,
    freshness::Rules,
    last_poll::LastPolls,
    shards::{Failure, Parts},
    source::is_of_the_query,
    store::SharedStore,
};
pub use self::{
    reader::QueryReader,
    record::{LatestReading, QueryState},
    shards::sum,
    source::QuerySource,
    store::{CacheKey, QueryCache},
    watch::Watch,
};
use crate::{
    fault::Fault,
    metrics::{FaultLabels, Metrics, QueryLabels},
    reading::{Numbers, Reading, Rows, Tenant},
};

/// The time for which an IsActive is answered from the reading of the GetMetrics before it.
const PIN: Duration = Duration::from_secs(2);

/// The result of the latest attempt.
#[derive(Debug, Clone)]
struct Outcome {
    /// The number of the attempt, from 1; 0 if no attempt has ended yet.
    attempt: u64,
    /// The time at which it began.
    began_at: Instant,
    /// The time at which it ended.
    ended_at: Instant,
    /// The answers of the databases, each on its own.
    parts: Parts,
    /// The sum of the answers.
    result: Result<Arc<Reading>, Fault>,
}

/// The times of a call: its arrival and its deadline.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// The time of arrival. It is used as the present until the call has to wait.
    pub came_at: Instant,
    /// The time by which it is answered, with a fault if there is no reading.
    pub deadline: Instant,
}

/// The outcome of a lookup for a call.
enum Lookup {
    Fresh(Arc<Reading>),
    /// There is no fresh reading; this attempt brings the next.
    Next {
        outcomes: cell::Receiver<Outcome>,
        attempt: u64,
    },
}

/// A query with its parameters, and its latest reading.
pub struct CachedQuery {
    key: Arc<CacheKey>,
    /// Its number, which no other one has had.
    number: u64,
    metrics: Arc<Metrics>,
    last_polls: Arc<LastPolls>,
    store: Weak<SharedStore>,
    outcome: cell::Sender<Outcome>,
    /// The namespace in whose queue its readings wait for a connection.
    tenant: cell::Sender<Tenant>,
    state: Mutex<State>,
}

/// What all cached queries share.
struct Shared {
    metrics: Arc<Metrics>,
    last_polls: Arc<LastPolls>,
    store: Weak<SharedStore>,
}

struct State {
    /// The number of the latest attempt.
    attempt: u64,
    in_flight: bool,
    is_failing: bool,
    failed_at: Option<Instant>,
    used_at: Instant,
    /// The latest change of each database that no notification has announced yet.
    unconfirmed: Vec<Option<UnconfirmedChange>>,
    watchers: watch::Watchers,
}

impl CachedQuery {
    fn new(key: Arc<CacheKey>, number: u64, namespace: &str, shared: Shared) -> Arc<Self> {
        let Shared { metrics, last_polls, store } = shared;
        let now = Instant::now();
        let parts = vec![None; key.source.shards.len()];
        let nothing = Outcome { attempt: 0, began_at: now, ended_at: now, parts, result: Err(Fault::DeadlineExceeded) };
        let state = State {
            attempt: 0,
            in_flight: false,
            is_failing: false,
            failed_at: None,
            used_at: now,
            unconfirmed: vec![None; key.source.shards.len()],
            watchers: watch::Watchers::default(),
        };
        let (outcome, tenant) = (cell::Sender::new(nothing), cell::Sender::new(Some(namespace.into())));
        Arc::new(Self { key, number, metrics, last_polls, store, outcome, tenant, state: Mutex::new(state) })
    }

    /// Records that several namespaces use this query, so that its readings do not wait in the queue of the first one.
    /// A reading that is waiting there leaves that queue.
    fn leave_tenants_queue(&self) {
        self.tenant.send_if_modified(|tenant| tenant.take().is_some());
    }

    /// Returns the numbers for GetMetrics of `trigger`, from a fresh reading or the next one: those of its key, or of a
    /// query without keys. None if the reading does not have the key.
    ///
    /// # Errors
    /// The fault of the statement that was waited for, or [`Fault::DeadlineExceeded`] at the call's deadline.
    ///
    /// # Cancel safety
    /// Safe: the statement goes on without this call.
    pub async fn for_metrics(
        self: &Arc<Self>,
        trigger: u64,
        key: Option<&str>,
        call: Call,
    ) -> Result<Option<Numbers>, Fault> {
        let found = self.freshest(&mut self.lock(), call.came_at);
        let (reading, now) = match found {
            Lookup::Fresh(reading) => (reading, call.came_at),
            next => (next.reading(call.deadline).await?, Instant::now()),
        };
        let numbers = reading.rows.of(key).copied();
        self.last_polls.remember(trigger, self.number, numbers, now);
        Ok(numbers)
    }

    /// Returns the numbers for IsActive of `trigger`: within [`PIN`] those that its GetMetrics used, so
    /// that the two calls of a poll cannot disagree, unless an attempt has failed since.
    ///
    /// # Errors
    /// As [`CachedQuery::for_metrics`].
    pub async fn for_activity(
        self: &Arc<Self>,
        trigger: u64,
        key: Option<&str>,
        call: Call,
    ) -> Result<Option<Numbers>, Fault> {
        let found = {
            let mut state = self.lock();
            if let Some(numbers) = self.last_polls.of(trigger, self.number, call.came_at, state.failed_at) {
                state.used_at = call.came_at;
                return Ok(numbers);
            }
            self.freshest(&mut state, call.came_at)
        };
        Ok(found.reading(call.deadline).await?.rows.of(key).copied())
    }

    fn freshest(self: &Arc<Self>, state: &mut State, now: Instant) -> Lookup {
        state.used_at = now;
        if let Some(reading) = self.fresh(now) {
            return Lookup::Fresh(reading);
        }
        if state.in_flight {
            self.metrics.query_joined_calls.get_or_create(&self.key.source.labels).inc();
        } else {
            self.start_attempt(state);
        }
        Lookup::Next { outcomes: self.outcome.subscribe(), attempt: state.attempt }
    }

    fn fresh(&self, now: Instant) -> Option<Arc<Reading>> {
        let outcome = self.outcome.borrow();
        let reading = outcome.result.as_ref().ok()?;
        let source = &self.key.source;
        let mut parts = outcome.parts.iter().flatten().zip(Rules::of_each(source.query(), &source.shards));
        parts.all(|(part, rules)| rules.is_fresh(part, now)).then(|| Arc::clone(reading))
    }

    /// Returns the parts that the next attempt need not read again.
    ///
    /// A notification or a failure concerns one database, and the parts of the others are kept. If one of these is
    /// older than `max_age`, all databases are read: otherwise each would be read at its own times from then on.
    fn kept(&self, now: Instant) -> Parts {
        let outcome = self.outcome.borrow();
        let (query, shards) = (self.key.source.query(), &self.key.source.shards);
        let mut kept = Vec::with_capacity(outcome.parts.len());
        for (part, rules) in outcome.parts.iter().zip(Rules::of_each(query, shards)) {
            let part = part.as_ref().filter(|part| !rules.is_outdated(part, now));
            if part.is_some_and(|part| part.sent_at + query.max_age <= now) {
                return vec![None; outcome.parts.len()];
            }
            kept.push(part.cloned());
        }
        // Each part is good, but they cannot be added up: read all of them again.
        if kept.iter().all(Option::is_some) {
            kept.fill(None);
        }
        kept
    }

    /// Starts an attempt in a task of its own, so that it goes on when the calls that wait for it give up.
    fn start_attempt(self: &Arc<Self>, state: &mut State) {
        state.attempt += 1;
        state.in_flight = true;
        let cached = Arc::clone(self);
        let attempt = state.attempt;
        let tenant = self.tenant.subscribe();
        let kept = self.kept(Instant::now());
        let before = self.outcome.borrow().result.as_ref().ok().cloned();
        tokio::spawn(async move {
            let began_at = Instant::now();
            let CacheKey { source, parameters } = &*cached.key;
            let reading = AssertUnwindSafe(source.read(kept, before.as_deref(), parameters, &tenant, &cached.metrics))
                .catch_unwind();
            let (parts, sum) = reading.await.unwrap_or_else(|_| {
                let (labels, detail) = (source.labels.clone(), "the reading panicked".to_owned());
                (vec![None; source.shards.len()], Err(Failure { fault: Fault::Bug, detail, labels }))
            });
            let (parts, sum) = cached.within_quota(parts, sum);
            cached.finish_attempt(attempt, began_at, parts, sum);
        });
    }

    /// Counts the keys of readings that callers can multiply by parameters, and drops the readings if there is no room.
    fn within_quota(&self, parts: Parts, sum: Result<Arc<Reading>, Failure>) -> (Parts, Result<Arc<Reading>, Failure>) {
        let source = &self.key.source;
        if source.query().group_by.is_none() || self.key.parameters.is_empty() {
            return (parts, sum);
        }
        // The sum of one database is its reading.
        let added_up = sum.as_ref().ok().filter(|_| parts.len() > 1);
        let bytes = parts.iter().flatten().chain(added_up).map(|reading| reading.bytes()).sum();
        let store = self.store.upgrade();
        let held = store.map_or(Ok(()), |store| store.hold_readings(self, bytes, &self.metrics));
        match held {
            Ok(()) => (parts, sum),
            Err(fault) => {
                let detail = format!("its readings take {bytes} bytes, and the others are in use");
                (vec![None; parts.len()], Err(Failure { fault, detail, labels: source.labels.clone() }))
            }
        }
    }

    fn finish_attempt(&self, attempt: u64, began_at: Instant, parts: Parts, sum: Result<Arc<Reading>, Failure>) {
        let mut state = self.lock();
        state.in_flight = false;
        let ended_at = Instant::now();
        let result = match sum {
            Ok(reading) => {
                if std::mem::take(&mut state.is_failing) {
                    self.key.source.stopped_failing();
                }
                self.publish(&reading);
                Ok(reading)
            }
            Err(failure) => {
                state.failed_at = Some(ended_at);
                let QueryLabels { query, database } = failure.labels.clone();
                let labels = FaultLabels { query, database, reason: failure.fault.reason() };
                self.metrics.query_errors.get_or_create(&labels).inc();
                self.key.source.record_fault(failure.fault);
                if is_of_the_query(failure.fault) {
                    let was_failing = std::mem::replace(&mut state.is_failing, true);
                    self.key.source.mark_failing(&failure, was_failing);
                }
                Err(failure.fault)
            }
        };
        let source = &self.key.source;
        if !source.is_retired() && source.expects_every_change() {
            let before = &self.outcome.borrow().parts;
            source.announced.compare(&source.shards, (before, &parts), &mut state.unconfirmed, &self.metrics);
        }
        // Under the lock, so that outcomes are published in the order of their attempts.
        let before = self.outcome.send_replace(Outcome { attempt, began_at, ended_at, parts, result });
        state.watchers.wake(&before, &self.outcome.borrow());
    }

    fn publish(&self, reading: &Reading) {
        let labels = &self.key.source.labels;
        if self.key.source.is_retired() {
            return;
        }
        self.metrics.record_reading(labels, reading.sent_at);
        self.key.source.took(reading.sent_at.elapsed());
        self.key.source.record_reading(reading);
        if let Some(stalled) = reading.stalled {
            self.metrics.query_stalled.get_or_create(labels).set(stalled);
        }
        if let Some(short_keys) = reading.short_keys {
            let short_keys = i64::try_from(short_keys).unwrap_or(i64::MAX);
            self.metrics.query_short_keys.get_or_create(labels).set(short_keys);
        }
        match &reading.rows {
            // A query with parameters has no single value to show.
            Rows::One(_) if !self.key.source.query().parameters.is_empty() => {}
            Rows::One(numbers) => {
                self.metrics.query_value.get_or_create(labels).set(numbers.value);
                self.metrics.query_activity.get_or_create(labels).set(numbers.activity.unwrap_or(numbers.value));
            }
            Rows::ByKey(rows) => self.key.source.keys.saw(rows.keys()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lookup {
    async fn reading(self, deadline: Instant) -> Result<Arc<Reading>, Fault> {
        let (mut outcomes, attempt) = match self {
            Self::Fresh(reading) => return Ok(reading),
            Self::Next { outcomes, attempt } => (outcomes, attempt),
        };
        match timeout_at(deadline, outcomes.wait_for(|outcome| outcome.attempt >= attempt)).await {
            Ok(Ok(outcome)) => outcome.result.clone(),
            Ok(Err(_)) | Err(_) => Err(Fault::DeadlineExceeded),
        }
    }
}

impl Drop for CachedQuery {
    fn drop(&mut self) {
        if self.lock().is_failing {
            self.key.source.forget_failing();
        }
    }
}

#[cfg(test)]
mod tests;
