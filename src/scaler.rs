//! KEDA's external scaler protocol: each RPC is parse, cache, convert.
//!
//! This module knows neither SQL nor sockets. docs/keda.md says what KEDA does with each answer,
//! which is the reason for most rules here.

mod catalog;
mod convert;
mod metadata;
mod reader;
mod refusal;
mod refusal_log;
mod registry;
mod status;
mod stream;
mod told;

use std::{
    collections::{HashMap, HashSet},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::FutureExt;
use prometheus_client::metrics::{counter::Counter, histogram::Histogram};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, metadata::MetadataValue};

pub use self::{
    catalog::Catalog,
    metadata::refusal_of,
    stream::{ConnectionAge, StreamConnection},
};
use self::{
    metadata::{Metadata, Trigger, best_spec, identity},
    refusal::Refusal,
    refusal_log::RefusalLog,
    status::code_name,
    stream::{StreamLimits, Updates},
};
use crate::{
    cache::{CachedQuery, Call, QueryCache},
    fault::Fault,
    metrics::{Metrics, RpcLabels, Told, TriggerId, TriggerKey},
    proto::{
        GetMetricSpecResponse, GetMetricsRequest, GetMetricsResponse, IsActiveResponse, Rpc, ScaledObjectRef,
        external_scaler_server::ExternalScaler,
    },
    query::KEEPER,
    reading::CALL_DEADLINE,
    recorder::Asker,
    scaling::Target,
};

/// The time by which a caller's own deadline is shortened, so that our answer arrives before it gives up.
const DEADLINE_MARGIN: Duration = Duration::from_millis(20);

/// The response header of a GetMetrics whose trigger names a key that no reading since the start has had. KEDA
/// ignores it; `clapometer get` shows it.
pub const UNSEEN_KEY: &str = "clapometer-unseen-key";

/// The response header of a GetMetrics whose trigger binds a text that begins or ends with white space. KEDA ignores
/// it; `clapometer get` shows it.
pub const UNTRIMMED_TEXT: &str = "clapometer-untrimmed-text";

/// The most triggers with such a text that are logged.
const MOST_UNTRIMMED: usize = 1_000;

/// The implementation of the five RPCs.
pub struct Scaler {
    catalog: watch::Receiver<Arc<Catalog>>,
    cache: Arc<QueryCache>,
    metrics: Arc<Metrics>,
    streams: Arc<StreamLimits>,
    /// The triggers that have been logged because of the white space around a text.
    untrimmed: Mutex<HashSet<u64>>,
    refusal_log: RefusalLog,
    metric_spec: MethodMetrics,
    get_metrics: MethodMetrics,
    is_active: MethodMetrics,
    shutdown: CancellationToken,
}

/// The series of one method that every successful call writes to. They are looked up once: a look-up by labels took
/// longer than the rest of a call.
struct MethodMetrics {
    rpc: RpcLabels,
    handling: Histogram,
    succeeded: Counter,
}

/// The thing that a request asks about.
enum Resolved {
    /// The keeper, which has no database and never scales.
    Keeper(TriggerKey),
    /// A query that does not exist, or that the namespace may not use.
    Unknown,
    /// A trigger with its cached query.
    Trigger { trigger: Trigger, cached: Arc<CachedQuery>, key: TriggerKey },
}

impl Scaler {
    /// Creates the service. It follows each reload of `catalog`, and `shutdown` ends its streams.
    pub fn new(
        catalog: watch::Receiver<Arc<Catalog>>,
        cache: Arc<QueryCache>,
        metrics: Arc<Metrics>,
        shutdown: CancellationToken,
    ) -> Self {
        let streams = StreamLimits::new(Arc::clone(&metrics));
        let series = |rpc| MethodMetrics::new(RpcLabels::new(rpc), &metrics);
        let (metric_spec, get_metrics) = (series(Rpc::GetMetricSpec), series(Rpc::GetMetrics));
        let is_active = series(Rpc::IsActive);
        for rpc in [Rpc::StreamIsActive, Rpc::StreamMetricSpec] {
            show_at_zero(&RpcLabels::new(rpc), &metrics);
        }
        let untrimmed = Mutex::default();
        let refusal_log = RefusalLog::new();
        Self { is_active, metric_spec, get_metrics, catalog, cache, streams, untrimmed, refusal_log, shutdown, metrics }
    }

    /// Resolves a trigger, and records that it was asked for or refused.
    fn resolve(
        &self,
        reference: &ScaledObjectRef,
        metric_name: Option<&str>,
        now: Instant,
    ) -> Result<Resolved, Status> {
        let resolved = self.find(reference, metric_name, now);
        match &resolved {
            Ok(Resolved::Unknown) => self.note_refusal(reference, &Refusal::Denied.into(), now),
            Ok(_) => {}
            Err(status) => self.note_refusal(reference, status, now),
        }
        resolved
    }

    /// Finds what a request asks about. The order of refusals: form, keys and values, query, parameters, metric name,
    /// limits.
    fn find(&self, reference: &ScaledObjectRef, metric_name: Option<&str>, now: Instant) -> Result<Resolved, Status> {
        let metadata = Metadata::parse(reference)?;
        let trigger = if metadata.is_keeper() {
            metadata.check_keeper()?;
            None
        } else {
            match metadata.resolve(reference, &self.catalog.borrow()) {
                Ok(trigger) => Some(trigger),
                Err(Refusal::Denied) => return Ok(Resolved::Unknown),
                Err(refusal) => return Err(refusal.into()),
            }
        };
        let query = trigger.as_ref().map_or(KEEPER, |trigger| &trigger.query().name);
        if metric_name.is_some_and(|asked| asked != query) {
            return Err(Status::invalid_argument("metricName: not the name of this trigger's metric"));
        }
        let hash = trigger.as_ref().map_or_else(|| identity(reference), |trigger| trigger.id);
        let thresholds = trigger.as_ref().map(Trigger::thresholds);
        let divide_by = trigger.as_ref().map(|trigger| trigger.divide_by.get());
        let ScaledObjectRef { namespace, name, scaler_metadata, .. } = reference;
        let id = TriggerId { hash, namespace, name, query, thresholds, divide_by, metadata: Some(scaler_metadata) };
        let (key, changed) = self.metrics.trigger_asked(id, now);
        let Some(trigger) = trigger else { return Ok(Resolved::Keeper(key)) };
        if let Some(keys) = changed {
            self.metrics.recorder.changed(trigger.asker(namespace, name), &keys, now);
        }
        let cached = self.cache.get_or_insert(&trigger.key, namespace)?;
        Ok(Resolved::Trigger { trigger, cached, key })
    }

    /// Logs once that a trigger binds a text with white space around it.
    fn log_untrimmed(&self, trigger: &Trigger, reference: &ScaledObjectRef) {
        let mut logged = self.untrimmed.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.len() < MOST_UNTRIMMED && logged.insert(trigger.id) {
            let ScaledObjectRef { name, namespace, .. } = reference;
            let query = &trigger.query().name;
            tracing::warn!(namespace, name, query, "a parameter begins or ends with white space, and is bound with it");
        }
    }

    /// Runs a handler, counts and times it, and turns a panic into an INTERNAL answer.
    async fn observed<T>(
        &self,
        series: &MethodMetrics,
        came_at: Instant,
        handler: impl Future<Output = Result<T, Status>>,
    ) -> Result<Response<T>, Status> {
        let result = AssertUnwindSafe(handler).catch_unwind().await.unwrap_or_else(|_| Err(Status::from(Fault::Bug)));
        series.handling.observe(came_at.elapsed().as_secs_f64());
        match &result {
            Ok(_) => series.succeeded.inc(),
            Err(status) => {
                let labels = series.rpc.clone().handled(code_name(status.code()));
                self.metrics.handled.get_or_create(&labels).inc()
            }
        };
        result.map(Response::new)
    }

    /// Counts a stream that was refused. An open stream is counted when it ends.
    fn opened<T>(&self, rpc: Rpc, stream: Result<T, Status>) -> Result<Response<T>, Status> {
        stream.map(Response::new).inspect_err(|status| {
            self.metrics.handled.get_or_create(&RpcLabels::new(rpc).handled(code_name(status.code()))).inc();
        })
    }
}

#[tonic::async_trait]
impl ExternalScaler for Scaler {
    /// Answers every metadata, and never asks a database.
    async fn get_metric_spec(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<GetMetricSpecResponse>, Status> {
        let came_at = Instant::now();
        let reference = request.get_ref();
        let spec = async {
            let best = async {
                let catalog = self.catalog.borrow();
                let (name, target) = best_spec(reference, &catalog);
                convert::spec(name, target)
            };
            // KEDA ignores errors of this RPC, so even a panic gets an answer.
            let placeholder = |_| convert::spec("invalid-trigger", Target::PLACEHOLDER);
            Ok(AssertUnwindSafe(best).catch_unwind().await.unwrap_or_else(placeholder))
        };
        self.observed(&self.metric_spec, came_at, spec).await
    }

    async fn get_metrics(&self, request: Request<GetMetricsRequest>) -> Result<Response<GetMetricsResponse>, Status> {
        let call = call(&request);
        let request = request.into_inner();
        let mut reference = request.scaled_object_ref.unwrap_or_default();
        let (mut is_unseen, mut is_untrimmed) = (false, false);
        let answer = async {
            match self.resolve(&reference, Some(&request.metric_name), call.came_at)? {
                Resolved::Keeper(key) => {
                    self.note_answer(keeper(&reference, key), key, Told::Value(0.0));
                    Ok(convert::keeper())
                }
                Resolved::Unknown => Err(Refusal::Denied.into()),
                Resolved::Trigger { trigger, cached, key } => {
                    forget_metadata(&mut reference);
                    let numbers = cached
                        .for_metrics(trigger.id, trigger.group.as_deref(), call)
                        .await
                        .map_err(|fault| self.note_fault(&reference, &trigger, key, Told::NoValue, fault))?;
                    let value = convert::value(&trigger, numbers)
                        .map_err(|fault| self.note_fault_of_trigger(&reference, &trigger, Told::NoValue, fault))?;
                    self.note_answer(
                        trigger.asker(&reference.namespace, &reference.name),
                        key,
                        Told::Value(convert::told(&value)),
                    );
                    is_unseen = trigger.has_unseen_key();
                    is_untrimmed = trigger.has_untrimmed_text();
                    if is_untrimmed {
                        self.log_untrimmed(&trigger, &reference);
                    }
                    Ok(value)
                }
            }
        };
        let mut response = self.observed(&self.get_metrics, call.came_at, answer).await?;
        for (is_so, header) in [(is_unseen, UNSEEN_KEY), (is_untrimmed, UNTRIMMED_TEXT)] {
            if is_so {
                response.metadata_mut().insert(header, MetadataValue::from_static("1"));
            }
        }
        Ok(response)
    }

    async fn is_active(&self, request: Request<ScaledObjectRef>) -> Result<Response<IsActiveResponse>, Status> {
        let call = call(&request);
        let mut reference = request.into_inner();
        let answer = async {
            match self.resolve(&reference, None, call.came_at)? {
                Resolved::Keeper(key) => {
                    self.note_answer(keeper(&reference, key), key, Told::Active { is_active: false, activity: 0.0 });
                    Ok(IsActiveResponse { result: false })
                }
                Resolved::Unknown => Err(Refusal::Denied.into()),
                Resolved::Trigger { trigger, cached, key } => {
                    forget_metadata(&mut reference);
                    let numbers = cached
                        .for_activity(trigger.id, trigger.group.as_deref(), call)
                        .await
                        .map_err(|fault| self.note_fault(&reference, &trigger, key, Told::NoActivity, fault))?;
                    let activity = convert::activity(&trigger, numbers)
                        .map_err(|fault| self.note_fault_of_trigger(&reference, &trigger, Told::NoActivity, fault))?;
                    let is_active = trigger.activation.is_exceeded_by(activity);
                    let told = Told::Active { is_active, activity };
                    self.note_answer(trigger.asker(&reference.namespace, &reference.name), key, told);
                    Ok(IsActiveResponse { result: is_active })
                }
            }
        };
        self.observed(&self.is_active, call.came_at, answer).await
    }

    type StreamIsActiveStream = Updates<IsActiveResponse>;

    async fn stream_is_active(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<Self::StreamIsActiveStream>, Status> {
        self.opened(Rpc::StreamIsActive, self.open_activity(request))
    }

    type StreamMetricSpecStream = Updates<GetMetricSpecResponse>;

    async fn stream_metric_spec(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<Self::StreamMetricSpecStream>, Status> {
        self.opened(Rpc::StreamMetricSpec, self.open_specs(request))
    }
}

impl MethodMetrics {
    fn new(rpc: RpcLabels, metrics: &Metrics) -> Self {
        let handling = metrics.handling.get_or_create_owned(&rpc);
        show_at_zero(&rpc, metrics);
        let succeeded = metrics.handled.get_or_create_owned(&rpc.clone().handled(code_name(Code::Ok)));
        Self { rpc, handling, succeeded }
    }
}

/// Shows the counters of a method at 0, for each code that we answer with.
fn show_at_zero(rpc: &RpcLabels, metrics: &Metrics) {
    let codes = [
        Code::Ok,
        Code::Cancelled,
        Code::InvalidArgument,
        Code::DeadlineExceeded,
        Code::PermissionDenied,
        Code::ResourceExhausted,
        Code::FailedPrecondition,
        Code::Internal,
        Code::Unavailable,
    ];
    for code in codes {
        drop(metrics.handled.get_or_create(&rpc.clone().handled(code_name(code))));
    }
}

/// Returns a trigger of the keeper, which is never active, as the flight recorder knows it.
fn keeper(object: &ScaledObjectRef, key: TriggerKey) -> Asker<'_> {
    Asker {
        id: Some(key.hash()),
        namespace: &object.namespace,
        name: &object.name,
        query: KEEPER,
        target: Some(1.0),
        activation: Some(0.0),
        divide_by: Some(1.0),
    }
}

/// Frees the metadata of a trigger that has been resolved: a call may wait for its reading, and keeps only what it
/// needs.
fn forget_metadata(reference: &mut ScaledObjectRef) {
    reference.scaler_metadata = HashMap::new();
}

/// Starts a call now. Its deadline is ours, or the caller's own if that is shorter.
fn call<T>(request: &Request<T>) -> Call {
    let own = request.metadata().get("grpc-timeout").and_then(|value| timeout(value.to_str().ok()?));
    let within = own.map_or(CALL_DEADLINE, |own| CALL_DEADLINE.min(own.saturating_sub(DEADLINE_MARGIN)));
    let came_at = Instant::now();
    Call { came_at, deadline: came_at + within }
}

/// Parses `grpc-timeout`: at most eight digits and a unit (gRPC over HTTP/2, "Requests").
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_number = (1..=8).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = is_number.then(|| digits.parse().ok()).flatten()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3_600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Config, Environment},
        metrics::Build,
        recorder::{Event, Window},
        shutdown::Supervisor,
    };

    #[test]
    fn a_callers_deadline_is_read_in_every_unit_and_nonsense_is_none() {
        assert_eq!(timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        assert_eq!(timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(timeout("1n"), Some(Duration::from_nanos(1)));
        for nonsense in ["", "m", "250", "-1S", "1.5S", "999999999S", "1X", "ü"] {
            assert_eq!(timeout(nonsense), None, "{nonsense}");
        }
    }

    #[tokio::test]
    async fn other_metadata_of_a_trigger_are_recorded_with_the_keys_that_changed_and_without_a_value() {
        let text = "databases: {app: {host: /run/postgresql, dbname: jobs, user: clapometer, enabled: false}}
queries: {jobs: {sql: SELECT $1, parameters: {region: text}}}
";
        let config = Config::parse(text, &Environment::default()).expect("a configuration");
        let metrics = Arc::new(Metrics::new(Build { version: "0", commit: "0", rustc: "0" }));
        let (supervisor, _) = Supervisor::new();
        let catalog = Catalog::new(&config, &Catalog::default(), &metrics, &supervisor);
        let (_sender, catalog) = watch::channel(Arc::new(catalog));
        let cache = QueryCache::new(Arc::clone(&metrics), &supervisor);
        let scaler = Scaler::new(catalog, cache, Arc::clone(&metrics), CancellationToken::new());
        let start = Instant::now();
        for (seconds, region, divide_by) in [(0, "eu", "1"), (60, "eu", "1"), (90, "us", "100"), (120, "us", "100")] {
            let pairs = [("query", "jobs"), ("param.region", region), ("divideBy", divide_by)];
            let scaler_metadata = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
            let reference =
                ScaledObjectRef { name: "worker".to_owned(), namespace: "default".to_owned(), scaler_metadata };
            assert!(scaler.resolve(&reference, None, start + Duration::from_secs(seconds)).is_ok());
        }
        let window = Window { at: None, before: Duration::from_secs(600), after: Duration::from_secs(600) };
        let history = metrics.recorder.history("default", "worker", window);
        let events: Vec<_> = history.triggers.iter().flat_map(|trigger| &trigger.changes).collect();
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!(events[0].event, Event::Metadata { keys: "divideBy, param.region".to_owned() });
        assert_eq!(history.triggers[0].divide_by, Some(100.0));
    }
}
