//! The labels of all metrics but those of triggers. Labels are closed sets, or names from the configuration.

use std::fmt;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};

use crate::proto::{Rpc, external_scaler_server::SERVICE_NAME};

/// The labels of an RPC.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RpcLabels {
    /// `unary` or `server_stream`.
    pub grpc_type: &'static str,
    /// The service's full name.
    pub grpc_service: &'static str,
    /// The method.
    pub grpc_method: &'static str,
}

impl RpcLabels {
    /// Returns the labels of a method.
    pub fn new(rpc: Rpc) -> Self {
        let grpc_type = if rpc.is_stream() { "server_stream" } else { "unary" };
        Self { grpc_type, grpc_service: SERVICE_NAME, grpc_method: rpc.name() }
    }

    /// Returns the labels of an RPC of this method that has ended with a code.
    pub fn handled(self, grpc_code: &'static str) -> HandledLabels {
        let Self { grpc_type, grpc_service, grpc_method } = self;
        HandledLabels { grpc_type, grpc_service, grpc_method, grpc_code }
    }
}

/// The labels of an RPC that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct HandledLabels {
    /// `unary` or `server_stream`.
    pub grpc_type: &'static str,
    /// The service's full name.
    pub grpc_service: &'static str,
    /// The method.
    pub grpc_method: &'static str,
    /// The status code's name, as go-grpc-prometheus spells it (`DeadlineExceeded`).
    pub grpc_code: &'static str,
}

/// The labels of a query.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct QueryLabels {
    /// The query's name.
    pub query: String,
    /// The database's name.
    pub database: String,
}

/// The labels of a query's failures.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FaultLabels {
    /// The query's name.
    pub query: String,
    /// The database's name.
    pub database: String,
    /// [`crate::fault::Fault::reason`].
    pub reason: &'static str,
}

/// The labels of a database.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DatabaseLabels {
    /// The database's name.
    pub database: String,
}

/// The labels of a pool's connections.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ConnectionLabels {
    /// The database's name.
    pub database: String,
    /// `idle` or `busy`.
    pub state: ConnectionUse,
}

/// The use of a pooled connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConnectionUse {
    /// It waits in the pool.
    Idle,
    /// It runs a statement.
    Busy,
}

impl EncodeLabelValue for ConnectionUse {
    fn encode(&self, encoder: &mut prometheus_client::encoding::LabelValueEncoder) -> fmt::Result {
        match self {
            Self::Idle => "idle",
            Self::Busy => "busy",
        }
        .encode(encoder)
    }
}

/// The label of a kind of stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StreamLabels {
    /// The method.
    pub rpc: &'static str,
}

/// The label of a reload's result.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReloadLabels {
    /// `applied` or `rejected`.
    pub result: &'static str,
}

/// The label of a TLS handshake that failed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct HandshakeLabels {
    /// The kind of the failure.
    pub reason: &'static str,
}

/// The label of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CertificateLabels {
    /// The configuration key of its file.
    pub certificate: &'static str,
}

/// The labels of this build.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Build {
    /// The package's version.
    pub version: &'static str,
    /// The commit, or `unknown`.
    pub commit: &'static str,
    /// The compiler.
    pub rustc: &'static str,
}

/// The labels of a database whose notifications do not arrive.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ListenFailureLabels {
    /// The database's name.
    pub database: String,
    /// The kind of the failure.
    pub reason: &'static str,
}

/// The labels of a database that fails.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DatabaseFailureLabels {
    /// The database's name.
    pub database: String,
    /// [`crate::fault::Fault::reason`].
    pub reason: &'static str,
    /// The step at which no session could be opened; empty if something else failed last.
    pub cause: &'static str,
}

/// The labels of a query that fails.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct QueryFailureLabels {
    /// The query's name.
    pub query: String,
    /// The database's name, or those of all.
    pub database: String,
    /// [`crate::fault::Fault::reason`].
    pub reason: &'static str,
    /// PostgreSQL's code; empty if the fault has none.
    pub sqlstate: String,
}
