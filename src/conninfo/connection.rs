//! One way to connect, with every file and variable read.

use std::{path::PathBuf, time::Duration};

use super::{address::Address, secret::Secret};

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
    /// The use of TLS; Unix sockets never use it.
    pub sslmode: SslMode,
    /// The root certificates (PEM); the system's where absent.
    pub sslrootcert: Option<PathBuf>,
    /// The client certificate (PEM).
    pub sslcert: Option<PathBuf>,
    /// The client certificate's key (PEM).
    pub sslkey: Option<PathBuf>,
    /// The binding of SCRAM to the TLS session.
    pub channel_binding: ChannelBinding,
    /// `endpoint=...`, which a proxy finds the server by.
    pub options: Option<String>,
    /// The kind of server that is wanted.
    pub target_session_attrs: SessionAttrs,
    /// The way in which TLS begins.
    pub sslnegotiation: SslNegotiation,
    /// The settings by which a dead connection is noticed.
    pub tcp: TcpSettings,
}

/// libpq's `sslnegotiation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslNegotiation {
    /// The server is asked whether it speaks TLS, as every version can be.
    Postgres,
    /// TLS begins with the first byte, which PostgreSQL 17 and later understand.
    Direct,
}

/// The settings that a connection string has for its TCP connection; each is absent where it says nothing. Zero is the
/// operating system's own setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpSettings {
    /// `keepalives=0`: none are sent.
    pub without_keepalives: bool,
    /// The silence after which the first keepalive is sent.
    pub keepalives_idle: Option<Duration>,
    /// The pause between two keepalives.
    pub keepalives_interval: Option<Duration>,
    /// The number of lost keepalives that end the connection.
    pub keepalives_count: Option<u32>,
    /// The time that what was sent may stay unacknowledged.
    pub user_timeout: Option<Duration>,
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

    /// Returns the word of libpq and of the configuration.
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

/// libpq's `target_session_attrs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionAttrs {
    /// The first that answers.
    Any,
    /// A server that accepts writes.
    ReadWrite,
    /// A server that does not.
    ReadOnly,
    /// A server that is not a standby.
    Primary,
    /// A standby.
    Standby,
    /// A standby, or any server if there is none.
    PreferStandby,
}

impl SessionAttrs {
    /// As libpq and the configuration spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::ReadWrite => "read-write",
            Self::ReadOnly => "read-only",
            Self::Primary => "primary",
            Self::Standby => "standby",
            Self::PreferStandby => "prefer-standby",
        }
    }
}

/// libpq's `channel_binding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Never.
    Disable,
    /// If the server offers it.
    Prefer,
    /// The connection fails without it.
    Require,
}

/// `channel_binding`'s words.
pub(super) const CHANNEL_BINDINGS: [(&str, ChannelBinding); 3] =
    [("disable", ChannelBinding::Disable), ("prefer", ChannelBinding::Prefer), ("require", ChannelBinding::Require)];

/// `sslnegotiation`'s words.
pub(super) const SSL_NEGOTIATIONS: [(&str, SslNegotiation); 2] =
    [("postgres", SslNegotiation::Postgres), ("direct", SslNegotiation::Direct)];

/// `sslmode`'s words.
pub(crate) const SSLMODES: [(&str, SslMode); 5] = [
    ("disable", SslMode::Disable),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];

/// `target_session_attrs`' words.
pub(crate) const SESSION_ATTRS: [(&str, SessionAttrs); 6] = [
    ("any", SessionAttrs::Any),
    ("read-write", SessionAttrs::ReadWrite),
    ("read-only", SessionAttrs::ReadOnly),
    ("primary", SessionAttrs::Primary),
    ("standby", SessionAttrs::Standby),
    ("prefer-standby", SessionAttrs::PreferStandby),
];
