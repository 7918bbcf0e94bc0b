//! The health of a database, and the breaker, which holds statements back while it does not answer.
//!
//! A failure is a failed connect or handshake, a broken connection, or silence until our own
//! deadline. Any SQLSTATE from a working session proves the database alive, timeouts included:
//! one locked table must not blind the other queries.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::{sync::watch, time::Instant};

use super::Cause;
use crate::{
    fault::Fault,
    metrics::{DatabaseLabels, Metrics},
    reading::Breaker,
    recorder::Incident,
    telemetry::Causes,
};

/// The number of failures in a row that open the breaker.
const FAILURES_TO_OPEN: u32 = 3;

/// The health of one database, as reported by everything that talks to it.
#[derive(Debug)]
pub(super) struct Health {
    labels: DatabaseLabels,
    state: Mutex<State>,
    breaker: watch::Sender<Breaker>,
}

#[derive(Debug)]
struct State {
    failures_in_a_row: u32,
    latest: Latest,
    /// The time since which `latest` is what it is.
    since: Instant,
    /// The fault of the latest failure.
    fault: Fault,
    /// The reason why the latest connect failed, if that is what failed last.
    cause: Option<Cause>,
    /// The fault of the latest connect that failed.
    connect_fault: Fault,
    /// The causes that have been logged in this outage.
    causes: Causes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Latest {
    Unknown,
    Good,
    Bad,
}

impl Health {
    pub(super) fn new(labels: DatabaseLabels) -> Self {
        let state = State {
            failures_in_a_row: 0,
            latest: Latest::Unknown,
            since: Instant::now(),
            fault: Fault::Unreachable,
            cause: None,
            connect_fault: Fault::Unreachable,
            causes: Causes::default(),
        };
        Self { labels, state: Mutex::new(state), breaker: watch::Sender::new(Breaker::Closed) }
    }

    /// Returns the state of the breaker, and its changes.
    pub(super) fn breaker(&self) -> watch::Receiver<Breaker> {
        self.breaker.subscribe()
    }

    /// Returns whether the latest event was a failure.
    pub(super) fn is_bad(&self) -> bool {
        self.lock().latest == Latest::Bad
    }

    /// Returns why no session can be opened, if that is what failed last.
    pub(super) fn cause(&self) -> Option<Cause> {
        self.lock().cause
    }

    /// Returns the latest outcome, none before the first, and since when outcomes are of this kind.
    pub(super) fn outcome(&self) -> (Option<Result<(), Fault>>, Instant) {
        let state = self.lock();
        let outcome = match state.latest {
            Latest::Unknown => None,
            Latest::Good => Some(Ok(())),
            Latest::Bad => Some(Err(state.fault)),
        };
        (outcome, state.since)
    }

    /// Returns the fault of the latest connect that failed.
    pub(super) fn connect_fault(&self) -> Fault {
        self.lock().connect_fault
    }

    /// Records that the database answered.
    pub(super) fn answered(&self, metrics: &Metrics) {
        let mut state = self.lock();
        state.failures_in_a_row = 0;
        state.cause = None;
        let before = state.replace_latest(Latest::Good);
        state.causes.end();
        drop(state);
        if before == Latest::Good {
            return;
        }
        // A reload that ends an outage has put this handle in the place of the one that failed.
        let was_down = before == Latest::Bad || metrics.database_up.get(&self.labels).is_some_and(|up| up.get() == 0);
        self.breaker.send_if_modified(|breaker| std::mem::replace(breaker, Breaker::Closed) == Breaker::Open);
        metrics.database_up.get_or_create(&self.labels).set(1);
        metrics.breaker_open.get_or_create(&self.labels).set(0);
        if was_down {
            tracing::info!(database = %self.labels.database, "database answers again");
        }
        // It ends an outage that a handle before this one has begun, too.
        metrics.recorder.happened(Incident::DatabaseUp { database: self.labels.database.clone() });
    }

    /// Records that a session could not be opened.
    pub(super) fn connect_failed(&self, fault: Fault, cause: Cause, detail: &str, metrics: &Metrics) {
        self.lock().connect_fault = fault;
        self.record(fault, Some(cause), detail, metrics);
    }

    /// Records that the database failed, and logs the cause where it has changed.
    pub(super) fn failed(&self, fault: Fault, detail: &str, metrics: &Metrics) {
        self.record(fault, None, detail, metrics);
    }

    fn record(&self, fault: Fault, cause: Option<Cause>, detail: &str, metrics: &Metrics) {
        let mut state = self.lock();
        state.cause = cause;
        state.failures_in_a_row = state.failures_in_a_row.saturating_add(1);
        let opens = state.failures_in_a_row == FAILURES_TO_OPEN;
        let before = state.replace_latest(Latest::Bad);
        state.fault = fault;
        let reason = fault.reason();
        let is_news = state.causes.is_news(reason, detail, Instant::now());
        drop(state);
        metrics.database_failures.get_or_create(&self.labels).inc();
        metrics.database_up.get_or_create(&self.labels).set(0);
        if before != Latest::Bad {
            tracing::warn!(
                database = %self.labels.database,
                reason,
                error = detail,
                "database fails; its triggers get errors until it answers again"
            );
        } else if is_news {
            let name = &self.labels.database;
            tracing::warn!(database = %name, reason, error = detail, "database still fails, for another reason");
        }
        if before != Latest::Bad || is_news {
            let (database, reason) = (self.labels.database.clone(), reason.to_owned());
            let step = cause.and_then(Cause::step).map(str::to_owned);
            metrics.recorder.happened(Incident::DatabaseDown { database, reason, step });
        }
        if opens {
            metrics.breaker_open.get_or_create(&self.labels).set(1);
            self.breaker.send_replace(Breaker::Open);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Notes the latest outcome, and returns the one before it.
    fn replace_latest(&mut self, latest: Latest) -> Latest {
        if self.latest != latest {
            self.since = Instant::now();
        }
        std::mem::replace(&mut self.latest, latest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Build;

    fn is_open(health: &Health) -> bool {
        *health.breaker().borrow() == Breaker::Open
    }

    fn fixture() -> (Health, Metrics) {
        let metrics = Metrics::new(Build { version: "0", commit: "0", rustc: "0" });
        (Health::new(DatabaseLabels { database: "claps".into() }), metrics)
    }

    #[test]
    fn the_third_failure_in_a_row_opens_and_an_answer_closes() {
        let (health, metrics) = fixture();
        for _ in 0..2 {
            health.failed(Fault::Unreachable, "", &metrics);
        }
        assert!(!is_open(&health));
        health.failed(Fault::DeadlineExceeded, "", &metrics);
        assert!(is_open(&health));
        health.answered(&metrics);
        assert!(!is_open(&health));
    }

    #[test]
    fn an_answer_in_between_starts_the_count_anew() {
        let (health, metrics) = fixture();
        for _ in 0..10 {
            health.failed(Fault::ConnectionLost, "", &metrics);
            health.failed(Fault::ConnectionLost, "", &metrics);
            health.answered(&metrics);
        }
        assert!(!is_open(&health));
    }
}
