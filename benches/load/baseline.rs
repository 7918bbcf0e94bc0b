//! The baseline of the request rate: tonic's own server, as plain as can be, which answers a constant.

use std::{net::SocketAddr, process::ExitCode};

use tokio::net::TcpListener;
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

use self::proto::{
    GetMetricSpecResponse, GetMetricsRequest, GetMetricsResponse, IsActiveResponse, MetricValue, ScaledObjectRef,
    external_scaler_server::{ExternalScaler, ExternalScalerServer},
};

/// The protocol with tonic's own codec, as tonic-prost-build makes it.
#[allow(clippy::all, clippy::pedantic, clippy::restriction, unused_qualifications, dead_code)]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/baseline/externalscaler.rs"));
}

/// The metric that it knows, and its value.
pub(crate) const METRIC: (&str, u32) = ("depth", 37);

struct Constant;

type Nothing<T> = tokio_stream::Empty<Result<T, Status>>;

#[tonic::async_trait]
impl ExternalScaler for Constant {
    async fn is_active(&self, _: Request<ScaledObjectRef>) -> Result<Response<IsActiveResponse>, Status> {
        Ok(Response::new(IsActiveResponse { result: true }))
    }

    async fn get_metric_spec(&self, _: Request<ScaledObjectRef>) -> Result<Response<GetMetricSpecResponse>, Status> {
        Ok(Response::new(GetMetricSpecResponse::default()))
    }

    #[allow(deprecated, reason = "the same two fields that the scaler sends")]
    async fn get_metrics(&self, _: Request<GetMetricsRequest>) -> Result<Response<GetMetricsResponse>, Status> {
        let (name, value) = METRIC;
        let value = MetricValue {
            metric_name: name.to_owned(),
            metric_value: i64::from(value),
            metric_value_float: f64::from(value),
        };
        Ok(Response::new(GetMetricsResponse { metric_values: vec![value] }))
    }

    type StreamIsActiveStream = Nothing<IsActiveResponse>;

    async fn stream_is_active(
        &self,
        _: Request<ScaledObjectRef>,
    ) -> Result<Response<Self::StreamIsActiveStream>, Status> {
        Err(Status::unimplemented("only GetMetrics is measured"))
    }

    type StreamMetricSpecStream = Nothing<GetMetricSpecResponse>;

    async fn stream_metric_spec(
        &self,
        _: Request<ScaledObjectRef>,
    ) -> Result<Response<Self::StreamMetricSpecStream>, Status> {
        Err(Status::unimplemented("only GetMetrics is measured"))
    }
}

/// Serves until it is killed, and logs where, as the scaler does. On one thread, also as the scaler does.
pub(crate) fn serve() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    runtime.block_on(async {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        eprintln!(r#"{{"fields":{{"message":"serving","grpc":"{address}","admin":"{address}"}}}}"#);
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let served =
            Server::builder().add_service(ExternalScalerServer::new(Constant)).serve_with_incoming(incoming).await;
        served.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
    })
}
