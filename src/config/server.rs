//! The section `server`: the address, TLS and connections of gRPC.

use std::{net::SocketAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use super::{
    key::{DefaultValue, Key, Kind},
    section::Section,
};
use crate::{
    diagnostics::{is_pem, shown_path},
    file,
};

/// The bounds for the age and the idle time of connections, to PostgreSQL and from KEDA.
pub(super) const LIFETIMES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);

/// The keys of `server`.
pub(super) const KEYS: &[Key] = &[
    Key::new(
        "listen",
        Kind::Address,
        DefaultValue::Is("0.0.0.0:9090"),
        "Where gRPC is served: an IP address and a port (`[::]:9090` for IPv6, and on Linux for IPv4, too). Port 0 picks \
         a free one. The start ends where the address is in use.",
    )
    .instead_of(&["address", "port", "bind"]),
    Key::new(
        "tls",
        Kind::Mapping(TLS_KEYS),
        DefaultValue::Derived("plain text, with a warning at start"),
        "The certificates. The files are read again when their content changes.",
    ),
    Key::new(
        "reflection",
        Kind::Boolean,
        DefaultValue::Is("true"),
        "gRPC reflection, so that grpcurl needs no proto file. It says nothing that is not public.",
    ),
    Key::new(
        "connection_age",
        Kind::Duration { range: LIFETIMES, zero: Some("any age") },
        DefaultValue::Is("10m"),
        "How old a connection may get before it is asked to go away, ±10 %. Spreads KEDA's calls over replicas again \
         behind a headless Service. Too short a time means needless reconnects.",
    ),
];

/// The keys of `server.tls`.
const TLS_KEYS: &[Key] = &[
    Key::new(
        "cert",
        Kind::Path,
        DefaultValue::Required("a PEM file"),
        "The certificate chain, PEM. The file must be readable.",
    )
    .instead_of(&["certificate", "tls.crt"]),
    Key::new("key", Kind::Path, DefaultValue::Required("a PEM file"), "The certificate's private key, PEM."),
    Key::new(
        "client_ca",
        Kind::Path,
        DefaultValue::Derived("clients are not asked for a certificate"),
        "Who may sign the certificates of clients, PEM.",
    )
    .instead_of(&["ca", "ca_cert", "caCert"]),
    Key::new(
        "client_names",
        Kind::List { of: "DNS names", such_as: "such as [keda-operator]" },
        DefaultValue::Derived("every client that `client_ca` signed"),
        "DNS names; the certificate of a client must carry one of them. Needs `client_ca`.",
    ),
];

/// The section `server`.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// The address to listen on; port 0 picks a free one.
    pub listen: SocketAddr,
    /// TLS; plain text where absent.
    pub tls: Option<ServerTls>,
    /// True if gRPC reflection is served.
    pub reflection: bool,
    /// The age at which a connection is asked to go away; zero: never.
    pub connection_age: Duration,
}

/// `server.tls`: PEM files, read again when their content changes.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerTls {
    /// The certificate chain.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The certificates that may sign those of clients; without it clients are not asked for one.
    pub client_ca: Option<PathBuf>,
    /// DNS names of which a client's certificate must carry one; empty: any that `client_ca` signed.
    pub client_names: Vec<String>,
}

impl ServerTls {
    /// Returns every file that it names.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let Self { cert, key, client_ca, client_names: _ } = self;
        [Some(cert), Some(key), client_ca.as_ref()].into_iter().flatten()
    }
}

/// Reads `server`; nothing if a value is wrong.
pub(super) fn read(section: &Section<'_>) -> Option<Server> {
    let listen = section.parsed("listen");
    let tls = section.section("tls");
    let tls = tls.is_present().then(|| read_tls(&tls));
    let reflection = section.boolean("reflection");
    let connection_age = section.duration("connection_age");
    section.finish();
    Some(Server { listen: listen?, tls: tls.flatten(), reflection: reflection?, connection_age: connection_age? })
}

fn read_tls(section: &Section<'_>) -> Option<ServerTls> {
    let file = |name| {
        let path = section.text(name).map(PathBuf::from)?;
        if is_pem(&path.to_string_lossy()) {
            section.fault(name, "holds PEM text, must be the path of a PEM file");
        } else if let Err(error) = file::can_be_read(&path) {
            let message = format!("cannot read the file {}: {error}", shown_path(&path));
            match error.kind() {
                std::io::ErrorKind::NotFound => section.missing(name, message),
                _ => section.fault(name, message),
            }
        }
        Some(path)
    };
    let [cert, key, client_ca] = ["cert", "key", "client_ca"].map(file);
    let client_names = section.texts("client_names").unwrap_or_default();
    if section.has("client_names") && !section.has("client_ca") {
        section.fault("client_names", "needs client_ca: without it no client shows a certificate");
    }
    section.finish();
    Some(ServerTls { cert: cert?, key: key?, client_ca, client_names })
}
