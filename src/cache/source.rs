//! Where a cached query's readings come from.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::{sync::watch, time::Instant};

use super::group_keys::{Asked, GroupKeys};
use crate::{
    fault::{Fault, Kind},
    metrics::{Metrics, QueryLabels},
    query::{Query, Value},
    reading::{Breaker, ChannelState, ReadResult, Tenant},
};

/// Characters of a key that the log shows.
const SHOWN: usize = 100;

/// Takes readings of one query. A trait because counting can be faked honestly: the cached query's
/// own tests drive the clock.
pub trait QueryReader: Send + Sync {
    /// The query.
    fn query(&self) -> &Arc<Query>;

    /// The channel that tells of changes, where the query has one.
    fn channel(&self) -> Option<watch::Receiver<ChannelState>>;

    /// Whether statements are sent at all.
    fn breaker(&self) -> watch::Receiver<Breaker>;

    /// Takes one reading on behalf of whoever waits in `tenant`; ends by itself.
    fn read<'a>(
        &'a self,
        parameters: &'a [Value],
        tenant: &'a Tenant,
    ) -> Pin<Box<dyn Future<Output = ReadResult> + Send + 'a>>;
}

/// A query's source with what all its cached queries share: labels, and a log that tells changes of state once.
pub struct QuerySource {
    pub(super) reader: Arc<dyn QueryReader>,
    pub(super) labels: QueryLabels,
    pub(super) channel: Option<watch::Receiver<ChannelState>>,
    pub(super) keys: GroupKeys,
    failing: AtomicUsize,
    retired: AtomicBool,
}

impl QuerySource {
    /// Wraps a source for the cached queries of its query.
    pub fn new(reader: Arc<dyn QueryReader>) -> Arc<Self> {
        let query = reader.query();
        let labels = QueryLabels { query: query.name.clone(), database: query.database.clone() };
        let channel = reader.channel();
        let (failing, retired) = (AtomicUsize::new(0), AtomicBool::new(false));
        Arc::new(Self { reader, labels, channel, keys: GroupKeys::new(), failing, retired })
    }

    /// The query.
    pub fn query(&self) -> &Arc<Query> {
        self.reader.query()
    }

    /// A trigger asked for a key that the latest reading does not have. Logged the first time, if no reading
    /// since start has had it: a typo is a silent zero.
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

    /// Whether a trigger has asked for this key, and no reading since start has had it.
    pub fn is_unseen(&self, key: &str) -> bool {
        self.keys.is_unseen(key)
    }

    /// Brings the query's metrics up to date that are computed when they are asked for.
    pub fn publish(&self, metrics: &Metrics) {
        if self.query().group_by.is_some() {
            let unseen = i64::try_from(self.keys.unseen(Instant::now())).unwrap_or(i64::MAX);
            metrics.query_unseen_keys.get_or_create(&self.labels).set(unseen);
        }
    }

    /// The query is not configured any more; what is still under way tells nobody.
    pub fn retire(&self, metrics: &Metrics) {
        self.retired.store(true, Ordering::Relaxed);
        metrics.forget_query(&self.labels);
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// One cached query has begun to fail; the first of the query's is logged.
    pub(super) fn began_to_fail(&self, fault: Fault, detail: &str) {
        if self.failing.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!(
                query = %self.labels.query,
                database = %self.labels.database,
                reason = fault.reason(),
                error = detail,
                "query fails: {fault}"
            );
        }
    }

    /// A cached query that was failing is gone.
    pub(super) fn forget_failing(&self) {
        self.failing.fetch_sub(1, Ordering::Relaxed);
    }

    /// One cached query has stopped failing; the last of the query's is logged.
    pub(super) fn stopped_failing(&self) {
        if self.failing.fetch_sub(1, Ordering::Relaxed) == 1 {
            tracing::info!(query = %self.labels.query, database = %self.labels.database, "query answers again");
        }
    }
}

/// Whether a fault is the query's own; the database's are logged where they are noticed.
pub(super) fn is_of_the_query(fault: Fault) -> bool {
    match fault {
        Fault::StatementTimeout | Fault::LockTimeout | Fault::Conflict(_) => true,
        _ => fault.kind() == Kind::Precondition,
    }
}
