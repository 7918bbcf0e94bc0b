//! How to reach one database, and what of it may change while we run.

use std::{fmt, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use super::{
    faults::Faults,
    libpq,
    parts::{Parts, SSLMODES},
    secret::Secret,
};

/// Where a connection's parts come from; [`ConnectionSource::resolve`] reads them as of now.
#[derive(Debug, Clone, PartialEq)]
pub struct ConnectionSource(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    parts: Parts,
    connect_timeout: Option<Duration>,
}

/// The timeout is part of the parts that it comes from, or of the database.
impl PartialEq for Inner {
    fn eq(&self, other: &Self) -> bool {
        let Self { parts, connect_timeout: _ } = self;
        *parts == other.parts
    }
}

impl ConnectionSource {
    pub(crate) fn new(parts: Parts, connect_timeout: Option<Duration>) -> Self {
        Self(Arc::new(Inner { parts, connect_timeout }))
    }

    pub(crate) fn parts(&self) -> &Parts {
        &self.0.parts
    }

    /// Reads every file that a part comes from.
    ///
    /// # Errors
    /// A sentence that names the key and what is wrong with it, never a value. Blocking: the
    /// files are small, but they are files.
    pub fn resolve(&self) -> Result<Connection, String> {
        let prefix = &self.0.parts.prefix;
        self.0.parts.assemble().map(|(connection, _)| connection).map_err(|problems| {
            let sentences: Vec<String> =
                problems.iter().map(|problem| format!("{prefix}{}: {}", problem.key, problem.message)).collect();
            sentences.join("; ")
        })
    }

    /// The `connect_timeout` of a URL or of `PGCONNECT_TIMEOUT`.
    pub fn connect_timeout(&self) -> Option<Duration> {
        self.0.connect_timeout
    }

    /// The files that a connection depends on: references, the password file, certificates.
    pub fn files(&self) -> Vec<PathBuf> {
        self.0.parts.files()
    }
}

impl Connection {
    /// Reads libpq's environment through `lookup`: `DATABASE_URL`, whose parts win, then
    /// `PGHOST`, `PGPORT` and so on, then libpq's defaults. Empty variables count as unset.
    ///
    /// What it returns reads the password file anew each time it is resolved.
    ///
    /// # Errors
    /// Every fault at once, by variable; a file that is named and missing is one.
    pub fn from_environment(lookup: &dyn Fn(&str) -> Option<String>) -> Result<ConnectionSource, Faults> {
        libpq::source(lookup)
    }
}

/// One resolved way to connect.
#[derive(Debug, Clone, PartialEq)]
pub struct Connection {
    /// Tried in this order; never empty.
    pub addresses: Vec<Address>,
    /// The database's name.
    pub dbname: String,
    /// The role.
    pub user: String,
    /// Its password.
    pub password: Option<Secret>,
    /// Whether and how TLS is used; Unix sockets never use it.
    pub sslmode: SslMode,
    /// The root certificates (PEM); the system's where absent.
    pub sslrootcert: Option<PathBuf>,
    /// The client certificate (PEM).
    pub sslcert: Option<PathBuf>,
    /// The client certificate's key (PEM).
    pub sslkey: Option<PathBuf>,
    /// Which of the servers is wanted.
    pub target_session_attrs: SessionAttrs,
}

/// One server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A host name or address.
    Tcp {
        /// The name, also what `verify-full` compares with the certificate.
        host: String,
        /// The port.
        port: u16,
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
            false => Self::Tcp { host: host.to_owned(), port },
        }
    }

    /// Whether nothing on a network can listen in: a Unix socket or a loopback address.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Self::Unix { .. } => true,
            Self::Tcp { host, .. } => host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()),
        }
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        let (Self::Tcp { port, .. } | Self::Unix { port, .. }) = self;
        *port
    }
}

/// As people write it: `host:port` or the socket's path.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix { directory, port } => write!(f, "{}/.s.PGSQL.{port}", directory.display()),
        }
    }
}

/// libpq's `sslmode`, less `allow`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// Never TLS.
    Disable,
    /// TLS if the server has it, nothing checked.
    Prefer,
    /// TLS; the certificate is checked only where a root certificate is given, as libpq does.
    Require,
    /// TLS, and the certificate's chain is checked.
    VerifyCa,
    /// TLS, and the chain and the host name are checked.
    VerifyFull,
}

impl SslMode {
    /// Reads libpq's word.
    pub fn parse(word: &str) -> Option<Self> {
        SSLMODES.into_iter().find_map(|(name, mode)| (name == word).then_some(mode))
    }
}

/// libpq's `target_session_attrs`, as far as offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionAttrs {
    /// The first that answers.
    Any,
    /// A server that accepts writes.
    ReadWrite,
    /// A server that does not.
    ReadOnly,
}

impl SslMode {
    /// As libpq and the configuration spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}
