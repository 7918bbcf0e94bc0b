//! Declares every metric that `/metrics` shows.
//!
//! Released names are contract. Labels are closed sets, or names from the configuration; the one
//! open set, triggers, is capped. Counters are registered without `_total`, which the OpenMetrics
//! encoding adds.

mod facts;
mod labels;
mod limits;
mod process;
mod text_format;
mod triggers;
mod validity;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::Registry,
};
use tokio::time::Instant;

use self::{facts::Facts, limits::Limits, process::Process, triggers::Triggers, validity::Validity};
pub use self::{
    labels::{
        Build, CertificateLabels, ConnectionLabels, ConnectionUse, DatabaseFailureLabels, DatabaseLabels, FaultLabels,
        HandledLabels, HandshakeLabels, ListenFailureLabels, QueryFailureLabels, QueryLabels, ReloadLabels, RpcLabels,
        StreamLabels,
    },
    limits::Limit,
    triggers::{
        Changed, FaultTold, Numbers, RefusalNews, RefusalTold, Refused, Thresholds, Told, TriggerId, TriggerKey,
        TriggerLabels, TriggerState, VariantState,
    },
};
use crate::recorder::Recorder;

/// A gauge of doubles.
pub type FloatGauge = Gauge<f64, AtomicU64>;
/// A gauge of counts.
pub type IntGauge = Gauge<i64, AtomicI64>;

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// RPCs that have ended, by status code.
    pub handled: Family<HandledLabels, Counter>,
    /// Seconds from the arrival of an RPC to its end.
    pub handling: Family<RpcLabels, Histogram, fn() -> Histogram>,
    /// The value of the latest reading, undivided.
    pub query_value: Family<QueryLabels, FloatGauge>,
    /// The activity of the latest reading.
    pub query_activity: Family<QueryLabels, FloatGauge>,
    query_age: Family<QueryLabels, FloatGauge>,
    read_at: Mutex<HashMap<QueryLabels, Instant>>,
    /// Seconds that successful statements took.
    pub query_duration: Family<QueryLabels, Histogram, fn() -> Histogram>,
    /// Statements that were sent.
    pub query_statements: Family<QueryLabels, Counter>,
    /// Readings that failed, by reason.
    pub query_errors: Family<FaultLabels, Counter>,
    /// Calls that were answered by a statement of another call.
    pub query_joined_calls: Family<QueryLabels, Counter>,
    /// Keys of grouped queries that triggers ask for and that no reading since the start has had.
    pub query_unseen_keys: Family<QueryLabels, IntGauge>,
    /// Keys that a budget leaves fewer Jobs than they have rows.
    pub query_short_keys: Family<QueryLabels, IntGauge>,
    /// Rows of a preset that nobody gets until a person or another process does something.
    pub query_stalled: Family<QueryLabels, FloatGauge>,
    /// Changes that a reading found and no notification announced.
    pub unannounced_changes: Family<QueryLabels, Counter>,
    /// The queries that fail, each with the reason.
    pub query_failures: Facts<QueryFailureLabels>,
    /// The time at which a reload last changed a query or one of its databases, in seconds since 1970.
    pub query_changed: Family<QueryLabels, FloatGauge>,
    /// Distinct pairs of query and parameters in the cache.
    pub gauges: IntGauge,
    /// Connections that a pool may open.
    pub pool_size: Family<DatabaseLabels, IntGauge>,
    /// Open connections of a pool, by use.
    pub pool_connections: Family<ConnectionLabels, IntGauge>,
    /// Readings that wait for a connection.
    pub pool_waiting: Family<DatabaseLabels, IntGauge>,
    /// 1 if the latest answer of a database was good, else 0.
    pub database_up: Family<DatabaseLabels, IntGauge>,
    /// 1 if the breaker of a database is open, else 0.
    pub breaker_open: Family<DatabaseLabels, IntGauge>,
    /// Failures that count towards opening the breaker.
    pub database_failures: Family<DatabaseLabels, Counter>,
    /// The databases that fail, each with the reason.
    pub database_failures_now: Facts<DatabaseFailureLabels>,
    /// 1 if the role of a database can do more than read, else 0.
    pub role_privileged: Family<DatabaseLabels, IntGauge>,
    /// 1 if readings of a database come from a standby, else 0; absent before the first session.
    pub is_standby: Family<DatabaseLabels, IntGauge>,
    /// Seconds by which the standby is behind that was asked last, of a database that asks servers what they are.
    pub standby_lag: Family<DatabaseLabels, FloatGauge>,
    /// The time at which the role's `search_path` last changed, in seconds since 1970; 0 if it never did.
    pub search_path_changed: Family<DatabaseLabels, FloatGauge>,
    /// 1 if notifications of a database are known to arrive, else 0.
    pub listen_up: Family<DatabaseLabels, IntGauge>,
    /// The databases whose notifications do not arrive, each with the reason.
    pub listen_failures: Facts<ListenFailureLabels>,
    /// Notifications that were received.
    pub notifications: Family<DatabaseLabels, Counter>,
    /// Seconds for which the process stood still.
    pub standstill: Counter<f64, AtomicU64>,
    /// Open gRPC connections.
    pub grpc_connections: IntGauge,
    /// Open connections over which the scaler was asked.
    pub asking_connections: IntGauge,
    /// TLS handshakes on the gRPC port that failed, by reason.
    pub tls_failures: Family<HandshakeLabels, Counter>,
    /// Open streams.
    pub streams: Family<StreamLabels, IntGauge>,
    /// Reloads, by result.
    pub reloads: Family<ReloadLabels, Counter>,
    /// The time at which the configuration was last reloaded, by result, in seconds since 1970.
    pub reloaded_at: Family<ReloadLabels, FloatGauge>,
    /// 1 for each file of the configuration that was good when it was last read, else 0.
    pub config_valid: Validity,
    /// The expiry of a certificate, in seconds since 1970.
    pub certificate_expiry: Family<CertificateLabels, FloatGauge>,
    limits: Limits,
    triggers: Arc<Triggers>,
    /// The record of what KEDA was told, and when that changed.
    pub recorder: Recorder,
}

impl Metrics {
    /// Registers all metrics.
    pub fn new(build: Build) -> Self {
        let mut registry = Registry::default();
        let r = &mut registry;
        let metrics = Self {
            handled: family(r, "grpc_server_handled", "RPCs ended on the server, by status code."),
            handling: histogram(
                r,
                "grpc_server_handling_seconds",
                "Time from an RPC's arrival to its end on the server.",
                rpc_buckets,
            ),
            query_value: family(
                r,
                "clapometer_query_value",
                "Value of the query's latest reading, undivided. Only for queries without parameters and groups.",
            ),
            query_activity: family(
                r,
                "clapometer_query_activity",
                "Activity of the query's latest reading. Only for queries without parameters and groups.",
            ),
            query_age: family(r, "clapometer_query_age_seconds", "Age of the query's latest good reading."),
            query_duration: histogram(
                r,
                "clapometer_query_duration_seconds",
                "Time that the query's statements took, successful ones.",
                query_buckets,
            ),
            query_statements: family(r, "clapometer_query_statements", "Statements sent for the query."),
            query_errors: family(r, "clapometer_query_errors", "Readings of the query that failed, by reason."),
            query_joined_calls: family(
                r,
                "clapometer_query_joined_calls",
                "Calls that were answered by a statement already under way.",
            ),
            query_unseen_keys: family(r, "clapometer_query_unseen_keys", "Keys asked for that no reading has had."),
            query_short_keys: family(r, "clapometer_query_short_keys", "Keys that a budget leaves short of Jobs."),
            query_stalled: family(
                r,
                "clapometer_query_stalled",
                "Rows of a preset that wait for a person or another process, all keys together.",
            ),
            unannounced_changes: family(
                r,
                "clapometer_query_unannounced_changes",
                "Changes that a reading found and no notification announced, of a query that waits for notifications.",
            ),
            query_failures: single(
                r,
                "clapometer_query_failure",
                "1 for each query that fails, by the latest reason and PostgreSQL's code.",
            ),
            query_changed: family(
                r,
                "clapometer_query_changed_timestamp_seconds",
                "When a reload changed the query or its database, in seconds since 1970. Absent if none has.",
            ),
            gauges: single(r, "clapometer_gauges", "Queries with distinct parameters whose latest reading is held."),
            pool_size: family(r, "clapometer_pool_size", "Connections that the pool may open."),
            pool_connections: family(r, "clapometer_pool_connections", "Open connections of the pool, by state."),
            pool_waiting: family(r, "clapometer_pool_waiting", "Readings that wait for a connection."),
            database_up: family(
                r,
                "clapometer_database_up",
                "1 if the database's latest answer was a good one, else 0.",
            ),
            breaker_open: family(
                r,
                "clapometer_database_breaker_open",
                "1 if the database has failed repeatedly and only probes are sent, else 0.",
            ),
            database_failures: family(
                r,
                "clapometer_database_failures",
                "Failed connects, broken connections and silences of the database.",
            ),
            database_failures_now: single(
                r,
                "clapometer_database_failure",
                "1 for each database whose latest answer was a failure, by its reason and cause.",
            ),
            role_privileged: family(
                r,
                "clapometer_database_role_privileged",
                "1 if the scaler's role is a superuser, or may read or write the server's files or run its programs, else 0.",
            ),
            is_standby: family(
                r,
                "clapometer_database_is_standby",
                "1 if readings come from a standby, else 0. Absent before the first session.",
            ),
            standby_lag: family(
                r,
                "clapometer_database_standby_lag_seconds",
                "Time by which the standby is behind that was asked last. Absent if that was a primary, or none is asked.",
            ),
            search_path_changed: family(
                r,
                "clapometer_database_search_path_changed_timestamp_seconds",
                "When the search_path of the database's role changed, in seconds since 1970. 0 if it has not.",
            ),
            listen_up: family(
                r,
                "clapometer_listen_up",
                "1 if notifications of the database are known to arrive, else 0.",
            ),
            listen_failures: single(
                r,
                "clapometer_listen_failure",
                "1 for each database whose notifications do not arrive, by the reason.",
            ),
            notifications: family(r, "clapometer_notifications", "Notifications received from the database."),
            standstill: single(
                r,
                "clapometer_standstill_seconds",
                "Time for which the process stood still: it had no CPU, or was paused.",
            ),
            grpc_connections: single(r, "clapometer_grpc_connections", "Open gRPC connections."),
            asking_connections: single(
                r,
                "clapometer_asking_connections",
                "Open gRPC connections over which the scaler was asked: those of KEDA, without health checks.",
            ),
            tls_failures: family(
                r,
                "clapometer_tls_handshake_failures",
                "TLS handshakes on the gRPC port that failed because of what one side showed or refused, by reason.",
            ),
            streams: family(r, "clapometer_streams", "Open streams, by RPC."),
            reloads: family(r, "clapometer_config_reloads", "Reloads of the configuration, by result."),
            reloaded_at: family(
                r,
                "clapometer_config_reload_timestamp_seconds",
                "When the configuration was last reloaded, by result, in seconds since 1970. Absent if it was not.",
            ),
            config_valid: single(
                r,
                "clapometer_config_valid",
                "1 if the configuration on disk was valid when it was last read, else 0 and the last good one is in force. \
                 With the label file, the same of a query file.",
            ),
            certificate_expiry: family(
                r,
                "clapometer_certificate_expiry_timestamp_seconds",
                "When the certificate expires, in seconds since 1970.",
            ),
            limits: Limits::new(r),
            triggers: Arc::new(Triggers::new(r)),
            read_at: Mutex::default(),
            recorder: Recorder::default(),
            registry: Registry::default(),
        };
        registry.register("clapometer_build", "Version, commit and compiler of what is running", Info::new(build));
        registry.register_collector(Box::new(Process { started_at: since_1970().as_secs_f64() }));
        metrics.config_valid.set(true);
        for result in ["applied", "rejected"] {
            drop(metrics.reloads.get_or_create(&ReloadLabels { result }));
        }
        registry.register_collector(Box::new(Arc::clone(&metrics.triggers)));
        Self { registry, ..metrics }
    }

    /// Shows the counters of a query at 0: Prometheus does not see the first increase of a series that was not there.
    ///
    /// `query` has the names of all its databases; `databases` is the same query in each of them.
    pub fn show_query_at_zero<'a>(
        &self,
        query: &'a QueryLabels,
        databases: impl Iterator<Item = &'a QueryLabels>,
        reasons: impl Iterator<Item = &'static str> + Clone,
    ) {
        drop(self.query_joined_calls.get_or_create(query));
        let mut failing = vec![query];
        for one in databases {
            drop(self.query_statements.get_or_create(one));
            failing.push(one);
        }
        for QueryLabels { query, database } in failing {
            for reason in reasons.clone() {
                let labels = FaultLabels { query: query.clone(), database: database.clone(), reason };
                drop(self.query_errors.get_or_create(&labels));
            }
        }
    }

    /// Shows the counters of a database at 0.
    pub fn show_database_at_zero(&self, database: &DatabaseLabels) {
        drop(self.database_failures.get_or_create(database));
    }

    /// Records when the statement of the query's latest good reading was sent. The age is computed at each scrape.
    pub fn record_reading(&self, query: &QueryLabels, sent_at: Instant) {
        let mut read_at = self.read_at.lock().unwrap_or_else(PoisonError::into_inner);
        match read_at.get_mut(query) {
            Some(at) => *at = sent_at,
            None => {
                read_at.insert(query.clone(), sent_at);
            }
        }
    }

    /// Removes the gauges of a query that is no longer configured. Its counters stay: a counter must never fall.
    pub fn forget_query(&self, query: &QueryLabels) {
        self.read_at.lock().unwrap_or_else(PoisonError::into_inner).remove(query);
        let Self { query_value, query_activity, query_age, query_stalled, query_changed, .. } = self;
        for family in [query_value, query_activity, query_age, query_stalled, query_changed] {
            family.remove(query);
        }
        self.query_unseen_keys.remove(query);
        self.query_short_keys.remove(query);
    }

    /// Removes the gauges of a database that is no longer configured. Its counters stay.
    pub fn forget_database(&self, name: &str) {
        let labels = DatabaseLabels { database: name.to_owned() };
        let Self { pool_size, pool_waiting, database_up, breaker_open, role_privileged, is_standby, listen_up, .. } =
            self;
        for family in [pool_size, pool_waiting, database_up, breaker_open, role_privileged, is_standby, listen_up] {
            family.remove(&labels);
        }
        self.search_path_changed.remove(&labels);
        self.standby_lag.remove(&labels);
        for state in [ConnectionUse::Idle, ConnectionUse::Busy] {
            self.pool_connections.remove(&ConnectionLabels { database: name.to_owned(), state });
        }
    }

    /// Drops what only a database that is asked has: one that was switched off is as one that was never asked.
    pub fn forget_answers(&self, name: &str) {
        let labels = DatabaseLabels { database: name.to_owned() };
        for family in [&self.database_up, &self.breaker_open, &self.is_standby, &self.listen_up] {
            family.remove(&labels);
        }
    }

    /// Counts what was turned away because a limit was reached.
    pub fn limit_reached(&self, limit: Limit) {
        self.limits.reached(limit);
    }

    /// Records that KEDA asked for a trigger that is served. If that is the first time with other metadata than before,
    /// returns the names of the keys that changed, too.
    pub fn trigger_asked(&self, trigger: TriggerId<'_>, now: Instant) -> (TriggerKey, Option<Arc<str>>) {
        self.triggers.asked(trigger, now)
    }

    /// Records what KEDA was told, and returns the queries of the refusals of the same object that this ends.
    pub fn trigger_told(&self, trigger: TriggerKey, told: Told, now: Instant) -> Vec<String> {
        self.triggers.told(trigger, told, now)
    }

    /// Records a message of a stream of the trigger.
    pub fn trigger_streamed(&self, trigger: TriggerId<'_>, is_active: bool) {
        self.triggers.streamed(trigger, is_active);
    }

    /// Records a refusal.
    pub fn trigger_refused(
        &self,
        trigger: TriggerId<'_>,
        refused: Refused<'_>,
        now: Instant,
    ) -> (RefusalNews, Option<Arc<str>>) {
        self.triggers.refused(trigger, refused, now)
    }

    /// Returns what is known of every trigger, and the number of requests of triggers that have no place.
    pub fn trigger_states(&self, now: Instant) -> (Vec<TriggerState>, u64) {
        self.triggers.states(now)
    }

    /// Returns the body of `/metrics` in Prometheus' text format 0.0.4.
    pub fn encode_text(&self) -> String {
        text_format::from_open_metrics(&self.encode())
    }

    /// Returns the body of `/metrics`, as `application/openmetrics-text; version=1.0.0; charset=utf-8`.
    pub fn encode(&self) -> String {
        for (query, at) in self.read_at.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            self.query_age.get_or_create(query).set(at.elapsed().as_secs_f64());
        }
        let mut body = String::new();
        text::encode(&mut body, &self.registry).expect("writing to a String cannot fail");
        body
    }
}

/// Returns the time since 1970 by the wall clock, for metrics that are times.
pub fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn rpc_buckets() -> Histogram {
    Histogram::new([0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0])
}

fn query_buckets() -> Histogram {
    Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0])
}

fn family<L, M>(registry: &mut Registry, name: &str, help: &str) -> Family<L, M>
where
    L: Clone + std::hash::Hash + Eq + EncodeLabelSet + fmt::Debug + Send + Sync + 'static,
    M: Default
        + fmt::Debug
        + Send
        + Sync
        + prometheus_client::encoding::EncodeMetric
        + prometheus_client::metrics::TypedMetric
        + 'static,
{
    let family = Family::default();
    registry.register(name, without_full_stop(help), family.clone());
    family
}

fn histogram<L>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    buckets: fn() -> Histogram,
) -> Family<L, Histogram, fn() -> Histogram>
where
    L: Clone + std::hash::Hash + Eq + EncodeLabelSet + fmt::Debug + Send + Sync + 'static,
{
    let family = Family::new_with_constructor(buckets);
    registry.register(name, without_full_stop(help), family.clone());
    family
}

fn single<M>(registry: &mut Registry, name: &str, help: &str) -> M
where
    M: Default + Clone + fmt::Debug + Send + Sync + prometheus_client::encoding::EncodeMetric + 'static,
{
    let metric = M::default();
    registry.register(name, without_full_stop(help), metric.clone());
    metric
}

/// Strips the full stop: the registry adds one to every help text.
fn without_full_stop(help: &str) -> &str {
    help.trim_end_matches('.')
}

#[cfg(test)]
mod tests;
