//! The source of a query's readings: the port to the database, and what all its cached queries share.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::{sync::watch, time::Instant};

use super::{
    group_keys::{Asked, GroupKeys},
    record::{QueryState, Record},
};
use crate::{
    fault::{Fault, Kind},
    metrics::{Metrics, QueryLabels},
    query::{Query, Value},
    reading::{Breaker, ChannelState, ReadResult, Reading, Tenant},
    telemetry::Causes,
};

/// The number of characters of a key that the log shows.
const SHOWN: usize = 100;

/// Takes readings of one query: the cache's port to the database. A trait, because a reading can be faked
/// honestly, so that the cache's own tests drive the clock.
pub trait QueryReader: Send + Sync {
    /// Returns the query.
    fn query(&self) -> &Arc<Query>;

    /// Returns the state of the notification channel, where the query has one.
    fn channel(&self) -> Option<watch::Receiver<ChannelState>>;

    /// Returns whether statements are sent, and its changes.
    fn breaker(&self) -> watch::Receiver<Breaker>;

    /// Takes one reading on behalf of `tenant`. Ends by itself.
    fn read<'a>(
        &'a self,
        parameters: &'a [Value],
        tenant: &'a Tenant,
    ) -> Pin<Box<dyn Future<Output = ReadResult> + Send + 'a>>;
}

/// A query's reader with what all its cached queries share: labels, keys, and a log of changes of state.
pub struct QuerySource {
    pub(super) reader: Arc<dyn QueryReader>,
    pub(super) labels: QueryLabels,
    pub(super) channel: Option<watch::Receiver<ChannelState>>,
    pub(super) keys: GroupKeys,
    record: Record,
    failing: AtomicUsize,
    causes: Mutex<Causes>,
    retired: AtomicBool,
}

impl QuerySource {
    /// Makes the source of all cached queries of one query.
    pub fn new(reader: Arc<dyn QueryReader>) -> Arc<Self> {
        let query = reader.query();
        let labels = QueryLabels { query: query.name.clone(), database: query.database.clone() };
        let channel = reader.channel();
        let (failing, causes, retired) = (AtomicUsize::new(0), Mutex::default(), AtomicBool::new(false));
        let record = Record::new(query.parameters.is_empty() && query.group_by.is_none());
        Arc::new(Self { reader, labels, channel, keys: GroupKeys::new(), record, failing, causes, retired })
    }

    /// Returns the query.
    pub fn query(&self) -> &Arc<Query> {
        self.reader.query()
    }

    /// Returns what is known of the query.
    pub fn state(&self, now: Instant) -> QueryState {
        self.record.state(now)
    }

    /// Records a good reading.
    pub(super) fn has_read(&self, reading: &Reading) {
        self.record.read(reading, Instant::now(), self.failing.load(Ordering::Relaxed) > 0);
    }

    /// Records an attempt that failed, whatever the fault.
    pub(super) fn has_failed(&self, fault: Fault) {
        self.record.failed(fault, Instant::now());
    }

    /// Records that a trigger asked for a key which the latest reading does not have. Logs the first time, if no
    /// reading since start has had it: a misspelt key would be a silent zero.
    pub fn missed(&self, key: &str) {
        if self.keys.missed(key, Instant::now()) == Asked::FirstInVain {
            let shown: String = key.chars().take(SHOWN).collect();
            tracing::warn!(
                query = %self.labels.query,
                key = ?shown,
                "a trigger asks for a key that the grouped query has not returned since start"
            );
        }
    }

    /// Returns whether a trigger has asked for this key, and no reading since start has had it.
    pub fn is_unseen(&self, key: &str) -> bool {
        self.keys.is_unseen(key)
    }

    /// Shows the counters of the query at 0.
    pub fn announce(&self, metrics: &Metrics) {
        metrics.announce_query(&self.labels, Fault::reasons(self.query().group_by.is_some()));
    }

    /// Updates the metrics of the query that are computed when they are scraped.
    pub fn publish(&self, metrics: &Metrics) {
        if self.query().group_by.is_some() {
            let unseen = i64::try_from(self.keys.unseen(Instant::now())).unwrap_or(i64::MAX);
            metrics.query_unseen_keys.get_or_create(&self.labels).set(unseen);
        }
    }

    /// Notes that the query is no longer configured: what is still under way publishes nothing.
    pub fn retire(&self, metrics: &Metrics) {
        self.retired.store(true, Ordering::Relaxed);
        metrics.forget_query(&self.labels);
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// Notes that a cached query has failed, and logs the first failure of the query, and each change of the cause.
    pub(super) fn failed(&self, fault: Fault, detail: &str, was_failing: bool) {
        let is_first = !was_failing && self.failing.fetch_add(1, Ordering::Relaxed) == 0;
        let QueryLabels { query, database } = &self.labels;
        let (reason, error) = (fault.reason(), detail);
        let mut causes = self.causes.lock().unwrap_or_else(PoisonError::into_inner);
        if is_first {
            causes.end();
        }
        let is_news = causes.is_news(reason, detail, Instant::now());
        drop(causes);
        if is_first {
            tracing::warn!(%query, %database, reason, error, "query fails: {fault}");
        } else if is_news {
            tracing::warn!(%query, %database, reason, error, "query still fails, for another reason: {fault}");
        }
    }

    /// Notes that a cached query that was failing is gone.
    pub(super) fn forget_failing(&self) {
        if self.failing.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.record.mended();
        }
    }

    /// Notes that one cached query has stopped failing, and logs the last of the query.
    pub(super) fn stopped_failing(&self) {
        if self.failing.fetch_sub(1, Ordering::Relaxed) == 1 {
            tracing::info!(query = %self.labels.query, database = %self.labels.database, "query answers again");
        }
    }
}

/// Returns whether a fault is the query's own. Those of the database are logged where they are noticed.
pub(super) fn is_of_the_query(fault: Fault) -> bool {
    match fault {
        Fault::StatementTimeout | Fault::LockTimeout | Fault::Conflict(_) => true,
        _ => fault.kind() == Kind::Precondition,
    }
}
