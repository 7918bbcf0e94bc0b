//! One server of a connection: a host and a port, or a Unix socket.

use std::{fmt, net::IpAddr, path::PathBuf};

/// PostgreSQL's own port.
pub(super) const DEFAULT_PORT: u16 = 5432;

/// The directory in which Debian's packages and the usual images put the server's socket.
pub(super) const SOCKET_DIRECTORY: &str = "/var/run/postgresql";

/// One server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A host name or address.
    Tcp {
        /// The name, also what `verify-full` compares with the certificate.
        host: String,
        /// The port.
        port: u16,
        /// The address to connect to, instead of what the name resolves to.
        hostaddr: Option<IpAddr>,
    },
    /// A Unix socket.
    Unix {
        /// The socket's directory.
        directory: PathBuf,
        /// The number in the socket's name.
        port: u16,
    },
}

impl Address {
    /// The server that a host's text means: what begins with a slash is a Unix socket's directory.
    pub(crate) fn new(host: &str, port: u16) -> Self {
        match host.starts_with('/') {
            true => Self::Unix { directory: PathBuf::from(host), port },
            false => Self::Tcp { host: host.to_owned(), port, hostaddr: None },
        }
    }

    /// Returns whether the connection stays on this machine: a Unix socket or a loopback address.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Self::Unix { .. } => true,
            Self::Tcp { hostaddr: Some(ip), .. } => ip.is_loopback(),
            Self::Tcp { host, .. } => host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()),
        }
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        let (Self::Tcp { port, .. } | Self::Unix { port, .. }) = self;
        *port
    }
}

/// Writes `host:port` or the socket's path.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port, .. } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port, .. } => write!(f, "{host}:{port}"),
            Self::Unix { directory, port } => write!(f, "{}/.s.PGSQL.{port}", directory.display()),
        }
    }
}

/// The words for what a list of hosts must be.
pub(crate) const HOSTS: &str =
    "must be host names or addresses, or directories of Unix sockets, several separated by commas";

/// Returns whether a text can be one server of a list of hosts.
pub(crate) fn is_host(host: &str) -> bool {
    if host.starts_with('/') || host.parse::<IpAddr>().is_ok() {
        return true;
    }
    !host.is_empty() && host.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_'))
}
