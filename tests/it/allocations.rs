//! The memory of a call, and of the flight recorder.
//!
//! A call whose reading is fresh allocates memory as often as one that answers a constant, and once more for each text
//! and for the list of the parameters that it binds.
//!
//! Counting puts a wrapper around the allocator of this test binary, and counts each thread by itself. How many there
//! are depends on tonic and prost only; of the 29 of the first case
//!
//! - 13 are the request: eleven strings, and the map, which grows once;
//! - 2 are the answer: its vector and the metric's name;
//! - 14 are tonic's: three futures in boxes, two bodies and a decoder in boxes, a buffer each way and the handle to
//!   a part of one, two header maps of two each, and the status.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{BufMut, Bytes, BytesMut};
use clapometer::{
    cache::QueryCache,
    config::{Config, Environment},
    metrics::{Build, Metrics},
    proto::{
        GetMetricSpecResponse, GetMetricsRequest, GetMetricsResponse, IsActiveResponse, MetricValue, ScaledObjectRef,
        external_scaler_server::{ExternalScaler, ExternalScalerServer},
    },
    recorder::{Answer, Asker, Cause, LIFETIME, Recorder, Window},
    scaler::{Catalog, Scaler},
    shutdown::{Failures, Supervisor},
};
use http_body_util::{BodyExt, Full};
use prost::Message;
use tokio::{runtime::Runtime, sync::watch};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, codegen::Service};

use crate::support::{cluster::Cluster, database::Database};

/// The metadata that KEDA sends with each trigger.
const METADATA: [(&str, &str); 3] =
    [("scalerAddress", "clapometer.keda:9090"), ("targetQueryValue", "5"), ("activationTargetQueryValue", "1")];

/// The bound of the first reading.
const READING: Duration = Duration::from_secs(30);

/// Answers a constant: what it allocates is tonic's, the request's and the answer's.
struct Constant;

type Nothing<T> = tokio_stream::Empty<Result<T, Status>>;

#[tonic::async_trait]
impl ExternalScaler for Constant {
    async fn is_active(&self, _: Request<ScaledObjectRef>) -> Result<Response<IsActiveResponse>, Status> {
        Ok(Response::new(IsActiveResponse { result: true }))
    }

    async fn get_metric_spec(&self, _: Request<ScaledObjectRef>) -> Result<Response<GetMetricSpecResponse>, Status> {
        Err(Status::unimplemented("it is not counted"))
    }

    #[allow(deprecated, reason = "the same two fields that the scaler sends")]
    async fn get_metrics(&self, _: Request<GetMetricsRequest>) -> Result<Response<GetMetricsResponse>, Status> {
        let value = MetricValue { metric_name: "jobs".to_owned(), metric_value: 7, metric_value_float: 7.0 };
        Ok(Response::new(GetMetricsResponse { metric_values: vec![value] }))
    }

    type StreamIsActiveStream = Nothing<IsActiveResponse>;

    async fn stream_is_active(
        &self,
        _: Request<ScaledObjectRef>,
    ) -> Result<Response<Self::StreamIsActiveStream>, Status> {
        Err(Status::unimplemented("it is not counted"))
    }

    type StreamMetricSpecStream = Nothing<GetMetricSpecResponse>;

    async fn stream_metric_spec(
        &self,
        _: Request<ScaledObjectRef>,
    ) -> Result<Response<Self::StreamMetricSpecStream>, Status> {
        Err(Status::unimplemented("it is not counted"))
    }
}

/// The scaler on a real database.
struct InProcessScaler {
    runtime: Runtime,
    scaler: ExternalScalerServer<Scaler>,
    _held: (Failures, watch::Sender<Arc<Catalog>>),
}

impl InProcessScaler {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let configuration = runtime.block_on(async {
            let cluster = Cluster::shared().await;
            let access = Database::empty(cluster).await.scaler().yaml("claps");
            format!(
                "databases:\n{access}queries:\n\
                 \x20 plain: {{sql: SELECT 7, max_age: 1h}}\n\
                 \x20 bound: {{sql: \"SELECT 7 WHERE $1 <> '' AND $2 > 0\", max_age: 1h,\n\
                 \x20   parameters: {{queue: text, size: bigint}}}}\n\
                 \x20 grouped: {{sql: \"SELECT 'mail' AS queue, 7 AS n\", max_age: 1h, group_by: queue, value_column: n}}\n"
            )
        });
        let inside = runtime.enter();
        let config = Config::parse(&configuration, &Environment::default()).unwrap();
        let metrics = Arc::new(Metrics::new(Build { version: "0", commit: "0", rustc: "0" }));
        let (supervisor, failures) = Supervisor::new();
        let catalog = Catalog::new(&config, &Catalog::default(), &metrics, &supervisor);
        let (sender, catalog) = watch::channel(Arc::new(catalog));
        let cache = QueryCache::new(Arc::clone(&metrics), &supervisor);
        let scaler = ExternalScalerServer::new(Scaler::new(catalog, cache, metrics, CancellationToken::new()));
        drop(inside);
        Self { runtime, scaler, _held: (failures, sender) }
    }

    /// Counts the allocations of a call once there is a reading; a hundred equal calls must have the same count and
    /// answer.
    fn count<S: ExternalScaler>(&self, service: &ExternalScalerServer<S>, method: &str, message: &[u8]) -> u64 {
        let call = || {
            let (request, mut service) = (request(method, message), service.clone());
            let mut answer = None;
            let counted = allocation_counter::measure(|| {
                answer = self.runtime.block_on(answer_of(&mut service, request));
            });
            (counted.count_total, answer)
        };
        // The first reading opens a connection; on a busy machine its call may be given up before that.
        let began = Instant::now();
        while call().1.is_none() {
            assert!(began.elapsed() < READING, "{method} has no answer");
        }
        let first = call();
        for _ in 0..100 {
            assert_eq!(call(), first, "{method}");
        }
        first.0
    }
}

fn request(method: &str, message: &[u8]) -> http::Request<Full<Bytes>> {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(message.len().try_into().unwrap());
    framed.put_slice(message);
    http::Request::post(format!("/externalscaler.ExternalScaler/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(framed.freeze()))
        .unwrap()
}

/// Returns the message of a good answer.
async fn answer_of<S: ExternalScaler>(
    service: &mut ExternalScalerServer<S>,
    request: http::Request<Full<Bytes>>,
) -> Option<Bytes> {
    let mut body = service.call(request).await.unwrap().into_body();
    let message = body.frame().await?.unwrap().into_data().unwrap();
    let trailers = body.frame().await?.unwrap().into_trailers().unwrap();
    (trailers["grpc-status"] == "0").then_some(message)
}

fn reference(query: &str, parameters: &[(&str, &str)]) -> ScaledObjectRef {
    let pairs = METADATA.iter().chain(parameters).copied().chain([("query", query)]);
    ScaledObjectRef {
        name: "worker".to_owned(),
        namespace: "default".to_owned(),
        scaler_metadata: pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
    }
}

#[test]
fn a_call_with_a_fresh_reading_allocates_no_more_than_a_constant_answer_and_what_it_binds() {
    let in_process = InProcessScaler::new();
    let constant = ExternalScalerServer::new(Constant);
    type Pairs = [(&'static str, &'static str)];
    let cases: [(&str, &Pairs, u64); 3] = [
        ("plain", &[], 0),
        ("bound", &[("param.queue", "mail"), ("param.size", "3")], 2),
        ("grouped", &[("param.queue", "mail")], 1),
    ];
    for (query, parameters, bound) in cases {
        let reference = reference(query, parameters);
        let metrics = GetMetricsRequest { metric_name: query.to_owned(), scaled_object_ref: Some(reference.clone()) };
        for (method, message) in [("GetMetrics", metrics.encode_to_vec()), ("IsActive", reference.encode_to_vec())] {
            let ours = in_process.count(&in_process.scaler, method, &message);
            let least = in_process.count(&constant, method, &message);
            println!("{method} of {query}: {ours} allocations, {least} where a constant is the answer");
            assert_eq!(ours, least + bound, "{method} of {query}");
        }
    }
}

#[test]
fn the_recorder_keeps_a_million_changes_of_ten_thousand_triggers_within_16_mib() {
    const TRIGGERS: u64 = 10_000;
    let now = tokio::time::Instant::now();
    let mut kept = 0;
    let memory = allocation_counter::measure(|| {
        let recorder = Recorder::default();
        let names: Vec<(String, String)> =
            (0..TRIGGERS).map(|number| (format!("tenant-{}", number % 50), format!("worker-{number}"))).collect();
        for (round, number) in (0..100_u32).flat_map(|round| (0..TRIGGERS).map(move |number| (round, number))) {
            let (namespace, name) = &names[usize::try_from(number).unwrap()];
            let asker = Asker {
                id: Some(number),
                namespace,
                name,
                query: "outstanding-claps",
                target: Some(5.0),
                activation: Some(0.0),
                divide_by: Some(1.0),
            };
            let text = format!("the database rejected the query (SQLSTATE {:05})", number % 100);
            let answer = match round % 4 {
                0 | 1 => Answer::Value(f64::from(round)),
                2 => Answer::Active(round % 8 == 2),
                _ => Answer::NoValue(Cause { code: "FailedPrecondition", text: &text }),
            };
            recorder.told(asker, answer, now + Duration::from_secs(30) * round);
        }
        let window = Window { at: None, before: LIFETIME, after: LIFETIME };
        kept = recorder.history("tenant-7", "worker-7", window).triggers[0].changes.len();
    });
    println!("{} bytes at most, {kept} changes of a trigger", memory.bytes_max);
    assert!(memory.bytes_max <= 16 * 1024 * 1024, "{} bytes", memory.bytes_max);
    assert!(kept > 30, "{kept} changes of a trigger are left of 100");
}
