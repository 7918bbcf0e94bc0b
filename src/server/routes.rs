//! The gRPC services of one port.

use std::{convert::Infallible, sync::Arc, time::Duration};

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

use super::{
    ServeError,
    body_limit::{BodyBudget, LimitedBody},
};
use crate::{
    proto::{FILE_DESCRIPTORS, external_scaler_server::ExternalScalerServer},
    scaler::Scaler,
};

/// The most bytes of one message. tonic answers OUT_OF_RANGE to a longer one.
const MAXIMUM_MESSAGE: usize = 256 * 1024;

/// How long a request to the scaler may be incomplete, as long as a preface may.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a request to the other services may be incomplete: reflection is a stream of requests.
const OTHER_BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// The scaler's service, and the other services behind a router.
#[derive(Clone)]
pub(super) struct Services {
    scaler: ExternalScalerServer<Scaler>,
    others: Routes,
    body_budget: Arc<BodyBudget>,
}

impl Services {
    pub(super) fn new(scaler: Scaler, health: HealthServer<impl Health>, reflection: bool) -> Result<Self, ServeError> {
        let scaler = ExternalScalerServer::new(scaler).max_decoding_message_size(MAXIMUM_MESSAGE);
        let mut others = RoutesBuilder::default();
        others.add_service(health.max_decoding_message_size(MAXIMUM_MESSAGE));
        if reflection {
            let builder = || {
                Builder::configure()
                    .register_encoded_file_descriptor_set(FILE_DESCRIPTORS)
                    .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            };
            others
                .add_service(builder().build_v1()?.max_decoding_message_size(MAXIMUM_MESSAGE))
                .add_service(builder().build_v1alpha()?.max_decoding_message_size(MAXIMUM_MESSAGE));
        }
        Ok(Self { scaler, others: others.routes().prepare(), body_budget: Arc::default() })
    }

    /// Answers one request. KEDA's calls do not go through the router, which would clone, box and
    /// look up the same service for each of them.
    pub(super) fn answer(&self, request: Request<Incoming>) -> BoxFuture<'static, Result<Response<Body>, Infallible>> {
        let service = request.uri().path().strip_prefix('/').and_then(|path| path.split('/').next());
        if service == Some(ExternalScalerServer::<Scaler>::NAME) {
            return self.scaler.clone().call(self.limited(request, BODY_TIMEOUT));
        }
        let mut others = self.others.clone();
        let request = self.limited(request, OTHER_BODY_TIMEOUT);
        Box::pin(async move { others.call(request).await })
    }

    fn limited(&self, request: Request<Incoming>, within: Duration) -> Request<LimitedBody<Incoming>> {
        request.map(|body| LimitedBody::new(body, within, Arc::clone(&self.body_budget)))
    }
}
