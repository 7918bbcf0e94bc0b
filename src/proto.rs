//! The generated code of KEDA's external scaler protocol, and the only place that switches lints off for it.

#![allow(missing_docs, clippy::all, clippy::pedantic, clippy::restriction, unused_qualifications)]

pub mod codec;
mod rpc;

pub use self::rpc::Rpc;

tonic::include_proto!("externalscaler");

/// The protocol's encoded file descriptors, for reflection.
pub const FILE_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/externalscaler.bin"));
