//! Maps every fault and refusal to a gRPC status; the only place that does.

use tonic::{Code, Status};

use super::refusal::Refusal;
use crate::{
    fault::{Fault, Kind},
    recorder::Cause,
};

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        let code = match fault.kind() {
            Kind::Unavailable => Code::Unavailable,
            Kind::TooSlow => Code::DeadlineExceeded,
            Kind::Precondition => Code::FailedPrecondition,
            Kind::Exhausted => Code::ResourceExhausted,
            Kind::Bug => Code::Internal,
        };
        Self::new(code, fault.to_string())
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal {
            Refusal::Invalid(_) => Code::InvalidArgument,
            Refusal::Denied => Code::PermissionDenied,
        };
        Self::new(code, refusal.to_string())
    }
}

/// Returns the cause of an answer without a number, as the recorder keeps it.
pub(super) fn cause(status: &Status) -> Cause<'_> {
    Cause { code: code_name(status.code()), text: status.message() }
}

/// Returns the name of a code as go-grpc-prometheus spells it in `grpc_code`.
pub(super) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}
