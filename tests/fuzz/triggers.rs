//! Triggers as they come from the wire: every one has a spec, and a refusal is short, printable and without values.
//!
//! The scaler is the real one. Its database is disabled, so that what is well formed ends as UNAVAILABLE.

use std::{cell::RefCell, sync::Arc};

use clapometer::{
    cache::QueryCache,
    config::{Config, Environment},
    metrics::{Build, Metrics},
    proto::{GetMetricsRequest, ScaledObjectRef, external_scaler_server::ExternalScaler},
    query::is_metric_name,
    scaler::{Catalog, Scaler},
    shutdown::{Failures, Supervisor},
};
use prost::Message;
use tokio::{runtime::Runtime, sync::watch};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};

/// A text in values that a refusal must not contain.
const CANARY: &str = "canary";

const CONFIGURATION: &str = r#"
databases:
  app: {host: "db.example,10.0.0.7", port: "5432,6432", dbname: jobs, user: clapometer, sslmode: verify-full, enabled: false}
queries:
  plain: {database: app, sql: "SELECT count(*)  FROM job;", target: 5, activation: 2, divide_by: 3, rounding: floor}
  columns: {database: app, sql: SELECT 4, value_column: outstanding, activity_column: claimable}
  bound: {database: app, sql: "SELECT $1 + $2", parameters: {queue: text, size: bigint}}
  times: {database: app, sql: "SELECT $1, $2, $3, $4", parameters: {at: timestamptz, id: uuid, on: boolean, x: double}}
  grouped: {database: app, sql: SELECT 3, group_by: queue, value_column: n}
  private: {database: app, sql: SELECT 2, namespaces: [billing]}
"#;

/// A scaler of this process.
struct InProcessScaler {
    runtime: Runtime,
    scaler: Scaler,
    _held: (Failures, watch::Sender<Arc<Catalog>>),
}

impl InProcessScaler {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let inside = runtime.enter();
        let config = Config::parse(CONFIGURATION, &Environment::default()).unwrap();
        let metrics = Arc::new(Metrics::new(Build { version: "0", commit: "0", rustc: "0" }));
        let (supervisor, failures) = Supervisor::new();
        let catalog = Catalog::new(&config, &Catalog::default(), &metrics, &supervisor);
        let (sender, catalog) = watch::channel(Arc::new(catalog));
        let cache = QueryCache::new(Arc::clone(&metrics), &supervisor);
        let scaler = Scaler::new(catalog, cache, metrics, CancellationToken::new());
        drop(inside);
        Self { runtime, scaler, _held: (failures, sender) }
    }

    fn check(&self, request: &GetMetricsRequest) {
        let reference = request.scaled_object_ref.clone().unwrap_or_default();
        let spec = self.runtime.block_on(self.scaler.get_metric_spec(Request::new(reference.clone())));
        let specs = spec.expect("every trigger has a spec").into_inner().metric_specs;
        let [spec] = &specs[..] else { panic!("{specs:?}") };
        assert!(is_metric_name(&spec.metric_name), "{spec:?}");
        assert!(spec.target_size_float.is_finite() && spec.target_size_float >= 0.001, "{spec:?}");

        let activity = self.activity(&reference);
        self.check_refusal(&reference, &activity);
        // A trigger with other white space is the same trigger.
        let mut spaced = reference.clone();
        let spaced_keys = spaced.scaler_metadata.iter_mut().filter(|(key, _)| !key.starts_with("param."));
        spaced_keys.for_each(|(_, value)| *value = format!(" \t{}\n ", value.trim()));
        let is_long = reference.encoded_len() > 32 * 1024;
        let again = self.activity(&spaced);
        assert!(
            is_long || (activity.code(), activity.message()) == (again.code(), again.message()),
            "{activity:?} is not {again:?}: {reference:?}"
        );

        let named = GetMetricsRequest { scaled_object_ref: Some(reference.clone()), ..request.clone() };
        let metrics = self.runtime.block_on(self.scaler.get_metrics(Request::new(named)));
        self.check_refusal(&reference, &metrics.expect_err("the database is disabled"));
    }

    fn activity(&self, reference: &ScaledObjectRef) -> Status {
        let answer = self.runtime.block_on(self.scaler.is_active(Request::new(reference.clone())));
        answer.expect_err("the database is disabled")
    }

    fn check_refusal(&self, reference: &ScaledObjectRef, status: &Status) {
        let expected = [Code::InvalidArgument, Code::PermissionDenied, Code::Unavailable, Code::ResourceExhausted];
        assert!(expected.contains(&status.code()), "{status:?} for {reference:?}");
        let text = status.message();
        assert!(text.chars().count() <= 2_000 && !text.chars().any(char::is_control), "{text:?}");
        let is_in_a_key = reference.scaler_metadata.keys().any(|key| key.contains(CANARY));
        assert!(is_in_a_key || !text.contains(CANARY), "{text:?} tells a value");
    }
}

thread_local! {
    static SCALER: RefCell<Option<InProcessScaler>> = const { RefCell::new(None) };
}

fn check(request: &GetMetricsRequest) {
    SCALER.with_borrow_mut(|scaler| scaler.get_or_insert_with(InProcessScaler::new).check(request));
}

/// Lines of `key=value`; the first is the namespace.
pub(super) fn check_text(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (namespace, lines) = text.split_once('\n').unwrap_or((text, ""));
    let pairs = lines.split('\n').filter_map(|line| line.split_once('='));
    let reference = ScaledObjectRef {
        name: "fuzz".to_owned(),
        namespace: namespace.to_owned(),
        scaler_metadata: pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
    };
    let metric_name = reference.scaler_metadata.get("query").cloned().unwrap_or_default();
    check(&GetMetricsRequest { scaled_object_ref: Some(reference), metric_name });
}

/// Bytes of a request, as prost decodes them.
pub(super) fn check_bytes(input: &[u8]) {
    let Ok(request) = GetMetricsRequest::decode(input) else { return };
    let written = request.encode_to_vec();
    assert_eq!(GetMetricsRequest::decode(&written[..]).as_ref(), Ok(&request));
    check(&request);
}
