//! The stand-in for KEDA that the demo uses, against a scaler that fails on request.

#![expect(deprecated, reason = "KEDA reads the integer fields too")]

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use clapometer::{
    keda::{
        poll::{Polled, TriggerPoller},
        scaled_job::ScalerAnswer,
    },
    proto::{
        GetMetricSpecResponse, GetMetricsRequest, GetMetricsResponse, IsActiveResponse, MetricSpec, MetricValue,
        ScaledObjectRef,
        external_scaler_server::{ExternalScaler, ExternalScalerServer},
    },
};
use tonic::{Code, Request, Response, Status, transport::Endpoint};

type NoStream<T> = tokio_stream::Empty<Result<T, Status>>;

/// A scaler that fails on request and records the calls.
#[derive(Debug, Clone, Default)]
struct Scripted {
    asked: Arc<Mutex<Vec<String>>>,
    failures: Arc<Mutex<VecDeque<(&'static str, usize)>>>,
}

impl Scripted {
    /// A scaler that fails each named call this many times.
    fn failing(failures: &[(&'static str, usize)]) -> Self {
        Self { failures: Arc::new(Mutex::new(failures.iter().copied().collect())), ..Self::default() }
    }

    async fn serve(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        let server = tonic::transport::Server::builder().add_service(ExternalScalerServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(incoming));
        address
    }

    async fn poll(&self) -> Polled {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.serve().await)).unwrap();
        TriggerPoller::new(endpoint, "claps", "default", &[("query", "claps")]).poll().await
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn answer<T>(&self, call: &str, argument: &str, deadline: bool, answer: T) -> Result<Response<T>, Status> {
        assert!(!deadline, "KEDA sets no deadline");
        self.asked.lock().unwrap().push(format!("{call} {argument}").trim().to_owned());
        for (name, times) in self.failures.lock().unwrap().iter_mut() {
            if *name == call && *times > 0 {
                *times -= 1;
                return Err(Status::unavailable("on request"));
            }
        }
        Ok(Response::new(answer))
    }
}

fn has_deadline<T>(request: &Request<T>) -> bool {
    request.metadata().contains_key("grpc-timeout")
}

#[tonic::async_trait]
impl ExternalScaler for Scripted {
    type StreamIsActiveStream = NoStream<IsActiveResponse>;
    type StreamMetricSpecStream = NoStream<GetMetricSpecResponse>;

    async fn is_active(&self, request: Request<ScaledObjectRef>) -> Result<Response<IsActiveResponse>, Status> {
        self.answer("IsActive", "", has_deadline(&request), IsActiveResponse { result: true })
    }

    async fn stream_is_active(
        &self,
        _: Request<ScaledObjectRef>,
    ) -> Result<Response<Self::StreamIsActiveStream>, Status> {
        Err(Status::unimplemented("a ScaledJob is polled"))
    }

    async fn get_metric_spec(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<GetMetricSpecResponse>, Status> {
        let spec = MetricSpec { metric_name: "claps".to_owned(), target_size: 3, target_size_float: 2.5 };
        let response = GetMetricSpecResponse { metric_specs: vec![spec] };
        self.answer("GetMetricSpec", "", has_deadline(&request), response)
    }

    async fn get_metrics(&self, request: Request<GetMetricsRequest>) -> Result<Response<GetMetricsResponse>, Status> {
        let deadline = has_deadline(&request);
        let name = request.into_inner().metric_name;
        let value = MetricValue { metric_name: "whatever".to_owned(), metric_value: 8, metric_value_float: 7.5 };
        let response = GetMetricsResponse { metric_values: vec![value.clone(), value] };
        self.answer("GetMetrics", &name, deadline, response)
    }

    async fn stream_metric_spec(
        &self,
        _: Request<ScaledObjectRef>,
    ) -> Result<Response<Self::StreamMetricSpecStream>, Status> {
        Err(Status::unimplemented("a ScaledJob is polled"))
    }
}

#[tokio::test]
async fn a_poll_is_three_calls_in_kedas_order() {
    let scaler = Scripted::default();
    let polled = scaler.poll().await;
    assert!(
        matches!(polled, Polled::Answered(ScalerAnswer { value: 15.0, target: 2.5, active: true })),
        "all values count: {polled:?}"
    );
    assert_eq!(scaler.asked(), ["GetMetricSpec", "GetMetrics claps", "IsActive"]);
}

#[tokio::test]
async fn a_failing_spec_ends_the_poll_in_silence() {
    let scaler = Scripted::failing(&[("GetMetricSpec", 1)]);
    assert!(matches!(scaler.poll().await, Polled::Unspecified(status) if status.code() == Code::Unavailable));
    assert_eq!(scaler.asked(), ["GetMetricSpec"]);
}

#[tokio::test]
async fn failing_reads_are_repeated_once() {
    let first = Scripted::failing(&[("GetMetrics", 1)]);
    assert!(matches!(first.poll().await, Polled::Answered(_)));
    assert_eq!(first.asked(), ["GetMetricSpec", "GetMetrics claps", "GetMetrics claps", "IsActive"]);

    let second = Scripted::failing(&[("IsActive", 2)]);
    assert!(matches!(second.poll().await, Polled::Failed(status) if status.code() == Code::Unavailable));
    let twice = ["GetMetricSpec", "GetMetrics claps", "IsActive", "GetMetrics claps", "IsActive"];
    assert_eq!(second.asked(), twice, "the good value is thrown away");
}
