//! The variables of libpq that set a parameter, and the one that holds a whole connection string.

/// The parameter that each variable sets.
pub(super) const VARIABLES: [(&str, &str); 15] = [
    ("PGHOST", "host"),
    ("PGHOSTADDR", "hostaddr"),
    ("PGPORT", "port"),
    ("PGDATABASE", "dbname"),
    ("PGUSER", "user"),
    ("PGPASSWORD", "password"),
    ("PGSSLMODE", "sslmode"),
    ("PGSSLROOTCERT", "sslrootcert"),
    ("PGSSLCERT", "sslcert"),
    ("PGSSLKEY", "sslkey"),
    ("PGTARGETSESSIONATTRS", "target_session_attrs"),
    ("PGCONNECT_TIMEOUT", "connect_timeout"),
    ("PGCHANNELBINDING", "channel_binding"),
    ("PGSSLNEGOTIATION", "sslnegotiation"),
    ("PGOPTIONS", "options"),
];

/// The variable that holds a whole URL; what it says wins over the others.
pub(super) const URL: &str = "DATABASE_URL";

/// Returns the variable that sets a parameter.
pub(super) fn variable(parameter: &str) -> Option<&'static str> {
    VARIABLES.into_iter().find(|(_, key)| *key == parameter).map(|(name, _)| name)
}
