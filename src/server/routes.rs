//! The gRPC services of one port.

use std::convert::Infallible;

use futures_util::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use tonic::{
    body::Body,
    codegen::Service,
    server::NamedService,
    service::{Routes, RoutesBuilder},
};
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_reflection::server::Builder;

use super::Error;
use crate::{
    scaler::Scaler,
    wire::{FILE_DESCRIPTORS, external_scaler_server::ExternalScalerServer},
};

/// Bytes of one message at most; tonic answers OUT_OF_RANGE beyond.
const MAXIMUM_MESSAGE: usize = 256 * 1024;

/// What answers: KEDA's service, and the others behind a router.
#[derive(Clone)]
pub(super) struct Services {
    scaler: ExternalScalerServer<Scaler>,
    others: Routes,
}

impl Services {
    pub(super) fn new(scaler: Scaler, health: HealthServer<impl Health>, reflection: bool) -> Result<Self, Error> {
        let scaler = ExternalScalerServer::new(scaler).max_decoding_message_size(MAXIMUM_MESSAGE);
        let mut others = RoutesBuilder::default();
        others.add_service(health.max_decoding_message_size(MAXIMUM_MESSAGE));
        if reflection {
            let builder = || {
                Builder::configure()
                    .register_encoded_file_descriptor_set(FILE_DESCRIPTORS)
                    .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            };
            others.add_service(builder().build_v1()?).add_service(builder().build_v1alpha()?);
        }
        Ok(Self { scaler, others: others.routes().prepare() })
    }

    /// Answers one request. KEDA's calls pass the router by, which would clone, box and look up
    /// for each of them what is known beforehand.
    pub(super) fn answer(&self, request: Request<Incoming>) -> BoxFuture<'static, Result<Response<Body>, Infallible>> {
        let service = request.uri().path().strip_prefix('/').and_then(|path| path.split('/').next());
        if service == Some(ExternalScalerServer::<Scaler>::NAME) {
            return self.scaler.clone().call(request);
        }
        let mut others = self.others.clone();
        Box::pin(async move { others.call(request).await })
    }
}
