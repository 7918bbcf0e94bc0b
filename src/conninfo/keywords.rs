//! The connection parameters that are known, by their names in libpq.

/// The keys of `databases.<name>` that make a connection.
pub(crate) const KEYS: [&str; 11] = [
    "url",
    "host",
    "port",
    "dbname",
    "user",
    "password",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "target_session_attrs",
];

/// The parameters of a URL: libpq's names.
pub(crate) const PARAMETERS: [&str; 11] = [
    "host",
    "port",
    "dbname",
    "user",
    "password",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "target_session_attrs",
    "connect_timeout",
];
