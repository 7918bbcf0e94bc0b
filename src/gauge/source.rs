//! Where a gauge's readings come from.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::watch;

use crate::{
    config::Query,
    fault::{Fault, Kind},
    metrics::OfQuery,
    postgres::{Database, Signal, Statement},
    query::Value,
    reading::Reading,
};

/// A reading, or the fault and what the log should know of it.
pub type Counted = Result<Reading, (Fault, String)>;

/// Takes readings of one query. A trait because counting can be faked honestly: the gauge's
/// own tests drive the clock.
pub trait Source: Send + Sync {
    /// The query.
    fn query(&self) -> &Arc<Query>;

    /// The channel that tells of changes, where the query has one.
    fn signal(&self) -> Option<watch::Receiver<Signal>>;

    /// Takes one reading; ends by itself.
    fn count<'a>(&'a self, parameters: &'a [Value]) -> Pin<Box<dyn Future<Output = Counted> + Send + 'a>>;
}

/// One query on its database.
pub struct Counter {
    statement: Statement,
    database: Arc<Database>,
}

impl Counter {
    /// Puts a query together with its database.
    pub fn new(query: Arc<Query>, database: Arc<Database>) -> Self {
        Self { statement: Statement::new(query), database }
    }
}

impl Source for Counter {
    fn query(&self) -> &Arc<Query> {
        &self.statement.query
    }

    fn signal(&self) -> Option<watch::Receiver<Signal>> {
        let notify = self.statement.query.notify.as_ref()?;
        Some(self.database.signal(&notify.channel))
    }

    fn count<'a>(&'a self, parameters: &'a [Value]) -> Pin<Box<dyn Future<Output = Counted> + Send + 'a>> {
        Box::pin(self.database.count(&self.statement, parameters))
    }
}

/// A query's source with what all its gauges share: labels, and a log that tells changes of state once.
pub struct Shared {
    pub(super) source: Arc<dyn Source>,
    pub(super) labels: OfQuery,
    pub(super) signal: Option<watch::Receiver<Signal>>,
    failing: AtomicUsize,
}

impl Shared {
    /// Wraps a source for the gauges of its query.
    pub fn new(source: Arc<dyn Source>) -> Arc<Self> {
        let query = source.query();
        let labels = OfQuery { query: query.name.clone(), database: query.database.clone() };
        let signal = source.signal();
        Arc::new(Self { source, labels, signal, failing: AtomicUsize::new(0) })
    }

    /// The query.
    pub fn query(&self) -> &Arc<Query> {
        self.source.query()
    }

    /// What its metrics are labelled with.
    pub fn labels(&self) -> &OfQuery {
        &self.labels
    }

    /// One gauge has begun to fail; the first of the query's is logged.
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

    /// A gauge that was failing is gone.
    pub(super) fn forget_failing(&self) {
        self.failing.fetch_sub(1, Ordering::Relaxed);
    }

    /// One gauge has stopped failing; the last of the query's is logged.
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
