//! Failed calls, with advice for the operator.

use serde::Serialize;
use tonic::{Code, Status};

use super::call::Call;
use crate::{command::Exit, fault::Fault, telemetry::error_chain};

/// A call without an answer.
#[derive(Debug, Serialize)]
pub(super) struct Failure {
    /// The RPC; absent if there was no connection.
    pub(super) rpc: Option<&'static str>,
    /// The gRPC status code, such as `FAILED_PRECONDITION`.
    pub(super) code: String,
    pub(super) message: String,
    pub(super) advice: &'static str,
    #[serde(skip)]
    pub(super) exit: Exit,
    /// The calls of the same poll that were answered before.
    #[serde(skip)]
    pub(super) before: Vec<Call>,
}

impl Failure {
    /// A failure to connect.
    pub(super) fn unreachable(error: &(dyn std::error::Error + 'static), is_secure: bool) -> Self {
        let message = error_chain(error);
        // tonic begins every error of a connection with this.
        let message = message.strip_prefix("transport error: ").unwrap_or(&message).to_owned();
        Self {
            rpc: None,
            code: "UNAVAILABLE".to_owned(),
            advice: connection_advice(&message, is_secure),
            message,
            exit: Exit::Unavailable,
            before: Vec::new(),
        }
    }

    /// A call that the scaler, or something on the way to it, answered with an error.
    pub(super) fn from_status(rpc: &'static str, status: &Status, is_secure: bool) -> Self {
        // A status with a cause was made by the client: the connection broke before the scaler answered.
        if let Some(cause) = std::error::Error::source(status) {
            return Self { rpc: Some(rpc), ..Self::unreachable(cause, is_secure) };
        }
        let exit = if status.code() == Code::Unavailable { Exit::Unavailable } else { Exit::Failure };
        Self {
            rpc: Some(rpc),
            code: name(status.code()),
            message: status.message().to_owned(),
            advice: advice(status.code(), status.message()),
            exit,
            before: Vec::new(),
        }
    }

    /// A call without an answer within `seconds`.
    pub(super) fn silent(rpc: &'static str, seconds: u64) -> Self {
        Self {
            rpc: Some(rpc),
            code: "DEADLINE_EXCEEDED".to_owned(),
            message: format!("no answer within {seconds} s"),
            advice: "a scaler answers within 2.5 s: is it clapometer that listens there, and does its process run?",
            exit: Exit::Failure,
            before: Vec::new(),
        }
    }

    /// An answer without a metric.
    pub(super) fn empty(rpc: &'static str) -> Self {
        Self {
            rpc: Some(rpc),
            code: "INTERNAL".to_owned(),
            message: "the answer has no metric".to_owned(),
            advice: "clapometer always answers with one: is it another external scaler that listens there?",
            exit: Exit::Failure,
            before: Vec::new(),
        }
    }
}

/// Returns gRPC's own spelling of a code.
fn name(code: Code) -> String {
    let mut name = String::new();
    for c in format!("{code:?}").chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}

fn connection_advice(message: &str, is_secure: bool) -> &'static str {
    if is_secure && (message.contains("InvalidContentType") || message.contains("corrupt message")) {
        return "the scaler seems to serve plain text: leave https:// and --tls-* out, or set server.tls";
    }
    if message.contains("CaUsedAsEndEntity") {
        return "the scaler's certificate is its own root (CA:TRUE), which is refused for a server: sign it with a CA of its \
                own, and give that CA as --tls-ca";
    }
    if message.contains("certificate") || message.contains("Certificate") || message.contains("alert") {
        return "compare the certificates: the CA of the scaler's certificate (--tls-ca), the names in it \
                (--tls-server-name), and whether the scaler requires a client certificate (--tls-cert, --tls-key)";
    }
    if message.contains("dns error") {
        return "this name is not known here: check its spelling; a name of the cluster is known in the cluster only, and \
                `kubectl -n clapometer port-forward service/clapometer 9090` with `--address 127.0.0.1:9090` brings the scaler here";
    }
    if message.contains("refused") || message.contains("timed out") {
        return "nothing answers there: check --address, and that the scaler runs; in a cluster, \
                `kubectl -n clapometer port-forward service/clapometer 9090` brings it here";
    }
    if is_secure {
        return "the connection broke: see the scaler's log; does it accept the client certificate?";
    }
    "the connection broke: is it the port for gRPC (server.listen, 9090) of clapometer? If it serves TLS, put https:// \
     before the address and give --tls-ca; else see its log"
}

fn advice(code: Code, message: &str) -> &'static str {
    match code {
        Code::Unavailable if message == Fault::Disabled.to_string() => {
            "the scaler's configuration has `enabled: false` for this database: somebody has switched it off. KEDA starts \
             nothing and leaves alone what runs"
        }
        Code::Unavailable => {
            "the scaler answers, its database does not: see its log, and run `clapometer check` with its \
             configuration. KEDA starts nothing and leaves alone what runs"
        }
        Code::DeadlineExceeded => {
            "the query is slow, waits for a lock, or for a connection of the pool: `clapometer check` shows how long \
             it takes and its plan. KEDA starts nothing and leaves alone what runs"
        }
        Code::FailedPrecondition => {
            "the SQL or its result must be corrected: `clapometer check`, with the scaler's configuration, shows the \
             server's own message and the place in the SQL"
        }
        Code::PermissionDenied => {
            "compare the name with `clapometer config`, and --namespace with the query's `namespaces`; on purpose \
             the scaler does not say which of the two it is"
        }
        Code::InvalidArgument => "correct the named key of the trigger's metadata, or of --metadata",
        Code::ResourceExhausted => "the scaler's log and metrics show which triggers use up its limits",
        Code::OutOfRange => "the message is too large: 256 KiB is the limit",
        Code::Internal => "a bug of the scaler: please report it, with its log",
        Code::Unimplemented => "another gRPC server answers there: check the port",
        Code::Unauthenticated => {
            "something in front of the scaler requires credentials: connect to the scaler directly"
        }
        _ => "see the scaler's log",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_spelt_as_grpc_spells_it() {
        assert_eq!(name(Code::FailedPrecondition), "FAILED_PRECONDITION");
        assert_eq!(name(Code::Unavailable), "UNAVAILABLE");
    }
}
