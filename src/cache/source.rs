//! The source of a query's readings: what all its cached queries share.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{sync::watch, time::Instant};

use super::{
    announced::Announced,
    group_keys::{GroupKeys, MissingKey},
    reader::QueryReader,
    record::{QueryState, Record},
    shards::{Failure, Parts, Shard, has_become_zero, sum},
};
use crate::{
    fault::{Fault, Kind},
    metrics::{Metrics, QueryLabels},
    query::{Absent, Query, Value},
    reading::{CALL_DEADLINE, OVERTIME, Reading, Tenant},
    telemetry::Causes,
};

/// The time for which the log does not repeat that a query takes longer than a call may wait.
const LATE_PAUSE: Duration = Duration::from_secs(600);

/// The time for which the log does not repeat that a budget is used up: a well used budget is so most of the time.
const SHORT_PAUSE: Duration = Duration::from_secs(3_600);

/// The time for which the log does not repeat that rows are stalled: they wait for a person.
const STALLED_PAUSE: Duration = Duration::from_secs(3_600);

/// The number of characters of a key that the log shows.
const SHOWN: usize = 100;

/// A query's readers with what all its cached queries share: labels, keys, and a log of changes of state.
pub struct QuerySource {
    query: Arc<Query>,
    /// One for each database.
    pub(super) shards: Vec<Shard>,
    pub(super) labels: QueryLabels,
    pub(super) keys: GroupKeys,
    record: Record,
    pub(super) announced: Announced,
    failing: AtomicUsize,
    causes: Mutex<Causes>,
    late_told_at: Mutex<Option<Instant>>,
    short_told_at: Mutex<Option<Instant>>,
    stalled_told_at: Mutex<Option<Instant>>,
    retired: AtomicBool,
}

impl QuerySource {
    /// Makes the source of all cached queries of one query, from a reader for each of its databases.
    pub fn new(query: Arc<Query>, readers: Vec<Arc<dyn QueryReader>>) -> Arc<Self> {
        let labels = QueryLabels { query: query.name.clone(), database: query.database_names() };
        let shards = readers.into_iter().map(|reader| Shard::new(&query, reader)).collect();
        let has_one_value = query.parameters.is_empty() && query.group_by.is_none();
        Arc::new(Self {
            query,
            shards,
            labels,
            keys: GroupKeys::new(),
            record: Record::new(has_one_value),
            announced: Announced::default(),
            failing: AtomicUsize::new(0),
            causes: Mutex::default(),
            late_told_at: Mutex::default(),
            short_told_at: Mutex::default(),
            stalled_told_at: Mutex::default(),
            retired: AtomicBool::new(false),
        })
    }

    /// Goes on with the history of the query of this name as it was before a reload changed it.
    pub fn follow(&self, before: &Self) {
        self.record.follow(&before.record, Instant::now());
    }

    /// Returns the labels of its metrics, with the names of all its databases.
    pub fn labels(&self) -> &QueryLabels {
        &self.labels
    }

    /// Returns the query.
    pub fn query(&self) -> &Arc<Query> {
        &self.query
    }

    /// Reads all databases at once, except those with a `kept` reading, and adds up. If a number has become zero since
    /// the sum `before`, the kept databases are read, too: a notification from them may be on its way.
    ///
    /// Ends by itself. While one of them is known to be away, none is asked.
    ///
    /// # Cancel safety
    /// Not safe, as [`QueryReader::read`].
    pub(super) async fn read(
        &self,
        kept: Parts,
        before: Option<&Reading>,
        parameters: &[Value],
        tenant: &watch::Receiver<Tenant>,
        metrics: &Metrics,
    ) -> (Parts, Result<Arc<Reading>, Failure>) {
        for shard in &self.shards {
            if let Some(fault) = shard.reader.refusal() {
                return (kept, Err(Failure { fault, detail: String::new(), labels: shard.labels.clone() }));
            }
        }
        let is_kept: Vec<bool> = kept.iter().map(Option::is_some).collect();
        let (parts, sum) = self.read_missing(kept, parameters, tenant, metrics).await;
        match &sum {
            Ok(reading) if is_kept.contains(&true) && has_become_zero(before, reading) => {
                let read_now =
                    parts.into_iter().zip(is_kept).map(|(part, is_kept)| part.filter(|_| !is_kept)).collect();
                self.read_missing(read_now, parameters, tenant, metrics).await
            }
            _ => (parts, sum),
        }
    }

    async fn read_missing(
        &self,
        parts: Parts,
        parameters: &[Value],
        tenant: &watch::Receiver<Tenant>,
        metrics: &Metrics,
    ) -> (Parts, Result<Arc<Reading>, Failure>) {
        let readings = join_all(self.shards.iter().zip(parts).map(async |(shard, part)| {
            if let Some(reading) = part {
                return Ok(reading);
            }
            let failure = |fault, detail| Failure { fault, detail, labels: shard.labels.clone() };
            let reading =
                shard.reader.read(parameters, tenant).await.map_err(|(fault, detail)| failure(fault, detail))?;
            let took = reading.sent_at.elapsed();
            if self.is_too_late(took) {
                let detail = format!("the answer was noticed {took:.1?} after its statement was sent");
                if is_due(&self.late_told_at, LATE_PAUSE) {
                    tracing::warn!(
                        query = %self.labels.query,
                        database = %shard.labels.database,
                        error = detail,
                        "an answer was noticed too late: did the process or its machine stand still?"
                    );
                }
                return Err(failure(Fault::DeadlineExceeded, detail));
            }
            if !self.is_retired() {
                metrics.query_duration.get_or_create(&shard.labels).observe(took.as_secs_f64());
            }
            Ok(Arc::new(reading))
        }))
        .await;
        let parts = readings.iter().map(|reading| reading.as_ref().ok().cloned()).collect();
        let of_the_sum = |fault, detail| Failure { fault, detail, labels: self.labels.clone() };
        let readings: Result<Vec<_>, _> = readings.into_iter().collect();
        let sum = readings.and_then(|readings| sum(&readings).map_err(|fault| of_the_sum(fault, String::new())));
        let sum = sum.and_then(|sum| {
            // The parts wait for the last of them, which may have waited for a connection. A kept one was `max_age` old
            // at most.
            let age = sum.sent_at.elapsed();
            match age > self.query.timeout + OVERTIME + self.query.max_age {
                true => Err(of_the_sum(Fault::DeadlineExceeded, format!("the oldest part was sent {age:.1?} ago"))),
                false => Ok(sum),
            }
        });
        (parts, sum)
    }

    /// Returns whether a reading is too old for any call. After a pause of the whole process a reader finds both the
    /// answer and an expired time limit, and takes the answer.
    fn is_too_late(&self, took: Duration) -> bool {
        took > self.query.timeout + OVERTIME && took >= self.query.max_age
    }

    /// Returns what is known of the query.
    pub fn state(&self, now: Instant) -> QueryState {
        self.record.state(now)
    }

    /// Returns the time since which changes come without a notification, if they do.
    pub fn unannounced_since(&self) -> Option<Instant> {
        self.announced.unannounced_since()
    }

    /// Records a good reading.
    pub(super) fn record_reading(&self, reading: &Reading) {
        self.record.read(reading, Instant::now(), self.failing.load(Ordering::Relaxed) > 0);
        if let (Some(keys @ 1..), Some(budget)) = (reading.short_keys, &self.query.budget)
            && is_due(&self.short_told_at, SHORT_PAUSE)
        {
            tracing::info!(
                query = %self.labels.query,
                keys,
                total = budget.total,
                "a budget is used up: keys are told fewer Jobs than they have rows"
            );
        }
        if let Some(rows) = reading.stalled.filter(|rows| *rows > 0.0)
            && is_due(&self.stalled_told_at, STALLED_PAUSE)
        {
            tracing::warn!(query = %self.labels.query, rows, "rows are stalled: no worker gets them, and they are not counted");
        }
    }

    /// Records an attempt that failed, whatever the fault.
    pub(super) fn record_fault(&self, fault: Fault) {
        self.record.failed(fault, Instant::now());
    }

    /// Records that a trigger asked for a key which the latest reading does not have. Logs the first time, if no
    /// reading since start has had it: a misspelt key would be a silent zero.
    pub fn missed(&self, key: &str) {
        if self.keys.missed(key, Instant::now()) == MissingKey::FirstInVain {
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

    /// Returns the number of keys that triggers ask for and no reading has had, if such a key counts as zero.
    pub fn silent_keys(&self, now: Instant) -> usize {
        let is_silent = self.query.group_by.is_some() && self.query.on_no_row == Absent::Zero;
        if is_silent { self.keys.unseen(now) } else { 0 }
    }

    /// Logs that a reading took longer than a call may wait, unless that was logged recently.
    pub(super) fn took(&self, took: Duration) {
        if took < CALL_DEADLINE || !is_due(&self.late_told_at, LATE_PAUSE) {
            return;
        }
        tracing::warn!(
            query = %self.labels.query,
            database = %self.labels.database,
            took = ?Duration::from_millis(u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
            "query takes longer than a call may wait; calls get errors, but for those that come within max_age of a reading"
        );
    }

    /// Returns whether every change should be announced. The channel of a queue library tells of new rows only, and its
    /// preset has no `resync`.
    pub(super) fn expects_every_change(&self) -> bool {
        self.query.notify.as_ref().is_some_and(|notify| notify.resync.is_some())
    }

    /// Shows the counters of the query at 0.
    pub fn show_at_zero(&self, metrics: &Metrics) {
        let databases = self.shards.iter().map(|shard| &shard.labels);
        metrics.show_query_at_zero(&self.labels, databases, Fault::reasons(self.query().group_by.is_some()));
        for shard in self.shards.iter().filter(|_| self.expects_every_change()) {
            drop(metrics.unannounced_changes.get_or_create(&shard.labels));
        }
    }

    /// Updates the metrics of the query that are computed when they are scraped.
    pub fn publish(&self, metrics: &Metrics) {
        if self.query().group_by.is_some() {
            let unseen = i64::try_from(self.keys.unseen(Instant::now())).unwrap_or(i64::MAX);
            metrics.query_unseen_keys.get_or_create(&self.labels).set(unseen);
        }
    }

    /// Records that the query is no longer configured. Attempts that are still under way publish nothing.
    pub fn retire(&self, metrics: &Metrics) {
        self.retired.store(true, Ordering::Relaxed);
        metrics.forget_query(&self.labels);
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// Marks a cached query as failing, and logs the first failure of the query, and each change of the cause.
    pub(super) fn mark_failing(&self, failure: &Failure, was_failing: bool) {
        let is_first = !was_failing && self.failing.fetch_add(1, Ordering::Relaxed) == 0;
        let Failure { fault, detail, labels: QueryLabels { query, database } } = failure;
        let (reason, error) = (fault.reason(), detail);
        let mut causes = self.causes.lock().unwrap_or_else(PoisonError::into_inner);
        if is_first {
            causes.end();
        }
        let is_news = causes.is_news(reason, &format!("{database}: {detail}"), Instant::now());
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

/// Returns whether something was not logged within the `pause` before now, and records that it is logged now.
fn is_due(told_at: &Mutex<Option<Instant>>, pause: Duration) -> bool {
    let now = Instant::now();
    let mut told_at = told_at.lock().unwrap_or_else(PoisonError::into_inner);
    let is_due = told_at.is_none_or(|told_at| now >= told_at + pause);
    if is_due {
        *told_at = Some(now);
    }
    is_due
}

/// Returns whether a fault is the query's own. Those of the database are logged where they are noticed.
pub(super) fn is_of_the_query(fault: Fault) -> bool {
    match fault {
        Fault::StatementTimeout | Fault::LockTimeout | Fault::Conflict(_) => true,
        _ => matches!(fault.kind(), Kind::Precondition | Kind::Exhausted),
    }
}
