//! The gRPC services of one port.

use tonic::service::{Routes, RoutesBuilder};
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_reflection::server::Builder;

use super::Error;
use crate::{
    scaler::Scaler,
    wire::{FILE_DESCRIPTORS, external_scaler_server::ExternalScalerServer},
};

/// Bytes of one message at most; tonic answers OUT_OF_RANGE beyond.
const MAXIMUM_MESSAGE: usize = 256 * 1024;

pub(super) fn new(scaler: Scaler, health: HealthServer<impl Health>, reflection: bool) -> Result<Routes, Error> {
    let mut routes = RoutesBuilder::default();
    routes
        .add_service(ExternalScalerServer::new(scaler).max_decoding_message_size(MAXIMUM_MESSAGE))
        .add_service(health.max_decoding_message_size(MAXIMUM_MESSAGE));
    if reflection {
        let builder = || {
            Builder::configure()
                .register_encoded_file_descriptor_set(FILE_DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        routes.add_service(builder().build_v1()?).add_service(builder().build_v1alpha()?);
    }
    Ok(routes.routes().prepare())
}
