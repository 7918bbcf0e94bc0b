//! The connection parameters by their names in libpq, and the class of each.
//!
//! *Source:* `PQconninfoOptions` in PostgreSQL 18's fe-connect.c. docs/configuration.md has the same table for people.

use super::foreign;
use crate::diagnostics::{nearest, quoted};

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

/// The parameters of a connection string that are honoured.
pub(super) const PARAMETERS: [&str; 20] = [
    "host",
    "hostaddr",
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
    "channel_binding",
    "options",
    "sslnegotiation",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
];

/// Parameters that change nothing here, each with the values that it may have; no values: any.
const WITHOUT_EFFECT: &[(&str, &[&str])] = &[
    ("application_name", &[]),
    ("fallback_application_name", &[]),
    ("client_encoding", &["", "auto", "utf8", "UTF8", "utf-8", "UTF-8", "unicode", "UNICODE"]),
    ("gssdelegation", &["", "0"]),
    ("gssencmode", &["", "disable", "prefer"]),
    ("gsslib", &[]),
    ("krbsrvname", &[]),
    ("load_balance_hosts", &["", "disable"]),
    ("max_protocol_version", &["", "3.0", "3.2", "latest"]),
    ("min_protocol_version", &["", "3.0"]),
    ("replication", &["", "false", "off", "no", "0"]),
    ("ssl_max_protocol_version", &["", "TLSv1.3"]),
    ("ssl_min_protocol_version", &["", "TLSv1", "TLSv1.1", "TLSv1.2"]),
    ("sslcertmode", &["", "allow"]),
    ("sslcompression", &[]),
    ("sslsni", &["", "1"]),
];

/// Parameters that are refused, or refused with other values than those above; with the way out.
const REFUSED: &[(&str, &str)] = &[
    ("client_encoding", "text is always UTF-8; leave it out"),
    ("gssdelegation", "there is no GSSAPI here; leave it out"),
    ("gssencmode", "there is no GSSAPI here; leave it out, and choose TLS with sslmode"),
    ("load_balance_hosts", "hosts are tried in order; leave it out"),
    ("max_protocol_version", "leave it out"),
    ("min_protocol_version", "the protocol is 3.0; leave it out"),
    ("oauth_client_id", "there is no OAuth here; give a password"),
    ("oauth_client_secret", "there is no OAuth here; give a password"),
    ("oauth_issuer", "there is no OAuth here; give a password"),
    ("oauth_scope", "there is no OAuth here; give a password"),
    ("passfile", "give password: {file: PATH} in databases, or the variable PGPASSFILE"),
    ("replication", "a reading is no replication; leave it out"),
    ("require_auth", "the way of authentication cannot be chosen; say in pg_hba.conf what the role may use"),
    ("requirepeer", "the server's user is not checked; keep the socket's directory to its owner"),
    ("scram_client_key", "give a password"),
    ("scram_server_key", "give a password"),
    ("service", "there are no service files here; write its parameters"),
    ("servicefile", "there are no service files here; write its parameters"),
    ("ssl_max_protocol_version", "TLS 1.2 and 1.3 are offered; leave it out"),
    ("ssl_min_protocol_version", "TLS 1.2 and 1.3 are offered; set ssl_min_protocol_version on the server"),
    ("sslcertmode", "a client's certificate is sent where sslcert has one; leave it out"),
    ("sslcrl", "revocation lists are not read; leave it out"),
    ("sslcrldir", "revocation lists are not read; leave it out"),
    ("sslkeylogfile", "keys of sessions are never written; leave it out"),
    ("sslpassword", "keys must not be encrypted; decrypt the key into a Secret"),
    ("sslsni", "the name of the server is always sent; leave it out"),
];

/// Parameters of other drivers, with the driver and what to write instead.
const DRIVERS: &[(&str, &str, &str)] = &[
    ("ApplicationName", "JDBC", "leave it out"),
    ("TimeZone", "GORM", "leave it out"),
    ("async_fallback", "SQLAlchemy", "leave it out"),
    ("autosave", "JDBC", "leave it out"),
    ("binaryTransfer", "JDBC", "leave it out"),
    ("binary_parameters", "lib/pq", "leave it out: no statement is prepared by name"),
    ("charset", "other drivers", "leave it out"),
    (
        "cloudSqlInstance",
        "JDBC",
        "write host=/cloudsql/PROJECT:REGION:INSTANCE, or the address of the Cloud SQL Auth Proxy",
    ),
    ("conn_max_age", "Django", "write max_lifetime in databases"),
    ("connectTimeout", "JDBC", "write connect_timeout in databases"),
    ("connection_limit", "Prisma", "write pool_size in databases"),
    ("currentSchema", "JDBC", "write search_path in databases (postgres-batch: --schema)"),
    ("default_query_exec_mode", "pgx", "leave it out: no statement is prepared by name"),
    ("description_cache_capacity", "pgx", "leave it out"),
    ("encoding", "other drivers", "leave it out: text is always UTF-8"),
    ("idleTimeoutMillis", "node-postgres", "write idle_timeout in databases"),
    ("load-balance", "YugabyteDB", "leave it out: hosts are tried in order"),
    ("load_balance", "YugabyteDB", "leave it out: hosts are tried in order"),
    ("loginTimeout", "JDBC", "write connect_timeout in databases"),
    ("max", "node-postgres", "write pool_size in databases"),
    ("max_conns", "other drivers", "write pool_size in databases"),
    ("max_pool_size", "other drivers", "write pool_size in databases"),
    ("pgbouncer", "Prisma", "leave it out: no statement is prepared by name"),
    ("pool", "Rails", "write pool_size in databases"),
    ("pool_max_conn_idle_time", "pgx", "write idle_timeout in databases"),
    ("pool_max_conn_lifetime", "pgx", "write max_lifetime in databases"),
    ("pool_max_conn_lifetime_jitter", "pgx", "leave it out"),
    ("pool_max_conns", "pgx", "write pool_size in databases"),
    ("pool_min_conns", "pgx", "leave it out"),
    ("pool_size", "Ecto", "write pool_size in databases"),
    ("pool_timeout", "Prisma", "leave it out"),
    ("preferQueryMode", "JDBC", "leave it out"),
    ("prepareThreshold", "JDBC", "leave it out: no statement is prepared by name"),
    ("prepared_statement_cache_size", "asyncpg", "leave it out"),
    ("prepared_statements", "Rails", "leave it out: no statement is prepared by name"),
    ("reWriteBatchedInserts", "JDBC", "leave it out"),
    ("reconnect", "Rails", "leave it out"),
    ("role", "other drivers", "ALTER ROLE ... SET role, or connect as that role"),
    ("schema", "Prisma", "write search_path in databases (postgres-batch: --schema)"),
    ("search_path", "pgx and lib/pq", "write search_path in databases (postgres-batch: --schema)"),
    ("serverVersion", "Doctrine", "leave it out"),
    (
        "socketFactory",
        "JDBC",
        "write host=/cloudsql/PROJECT:REGION:INSTANCE, or the address of the Cloud SQL Auth Proxy",
    ),
    ("socketTimeout", "JDBC", "write timeout in queries"),
    ("socket_timeout", "Prisma", "write timeout in queries"),
    ("ssl", "JDBC and node-postgres", "write sslmode=require, or better sslmode=verify-full and sslrootcert"),
    ("ssl_ca", "other drivers", "write sslmode=verify-full and sslrootcert"),
    ("ssl_cert", "other drivers", "write sslcert"),
    ("ssl_key", "other drivers", "write sslkey"),
    ("ssl_require", "Django", "write sslmode=require, or better sslmode=verify-full and sslrootcert"),
    ("sslaccept", "Prisma", "write sslmode=verify-full and sslrootcert"),
    ("sslfactory", "JDBC", "write sslmode=verify-full and sslrootcert"),
    ("sslidentity", "Prisma", "write sslcert and sslkey"),
    ("statement_cache_capacity", "pgx", "leave it out"),
    ("statement_cache_size", "Prisma and asyncpg", "leave it out"),
    ("statement_timeout", "other drivers", "write timeout in queries"),
    ("supa", "Vercel and Supabase", "leave it out"),
    ("targetServerType", "JDBC", "write target_session_attrs"),
    ("tcpKeepAlive", "JDBC", "leave it out: keepalives are always on"),
    ("timeout", "Rails", "write timeout in queries"),
    ("timezone", "other drivers", "leave it out"),
    ("topology_keys", "YugabyteDB", "leave it out: hosts are tried in order"),
    ("unix_sock", "pg8000", "write host=DIRECTORY, the directory of the socket"),
    ("uselibpqcompat", "node-postgres", "leave it out"),
    ("workaround", "Vercel and Supabase", "leave it out"),
];

/// Returns what to do instead of setting a parameter that is refused.
pub(super) fn way_out(name: &str) -> Option<&'static str> {
    REFUSED.iter().find_map(|(known, way_out)| (*known == name).then_some(*way_out))
}

/// Returns the parameter of that name if it is honoured, and nothing if it is accepted without effect.
///
/// # Errors
/// Says why it is refused and what to write instead, without quoting the value.
pub(super) fn honoured(name: &str, value: &str) -> Result<Option<&'static str>, String> {
    if let Some(known) = PARAMETERS.into_iter().find(|known| *known == name) {
        return Ok(Some(known));
    }
    let without_effect = WITHOUT_EFFECT.iter().find(|(known, _)| *known == name);
    if without_effect.is_some_and(|(_, values)| values.is_empty() || values.contains(&value)) {
        return Ok(None);
    }
    if let Some(way_out) = way_out(name) {
        let what = match without_effect {
            Some(_) => format!("a value of the parameter {name} that"),
            None => format!("the parameter {name}, which"),
        };
        return Err(format!("has {what} is not supported: {way_out}"));
    }
    if let Some((_, driver, way_out)) = DRIVERS.iter().find(|(known, _, _)| *known == name) {
        return Err(format!("has the parameter {name} of {driver}, which PostgreSQL does not know: {way_out}"));
    }
    let suggestion = match foreign::name(name).or_else(|| nearest(name, PARAMETERS)) {
        Some(name) => format!("did you mean {name}?"),
        None => format!("known here: {}", PARAMETERS.join(", ")),
    };
    Err(format!("has the unknown parameter {}; {suggestion}", quoted(name)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every keyword of PostgreSQL 18's libpq.
    const LIBPQ: &str = "service servicefile user password passfile channel_binding connect_timeout dbname host hostaddr \
        port client_encoding options application_name fallback_application_name keepalives keepalives_idle \
        keepalives_interval keepalives_count tcp_user_timeout sslmode sslnegotiation sslcompression sslcert sslkey \
        sslcertmode sslpassword sslrootcert sslcrl sslcrldir sslsni requirepeer require_auth min_protocol_version \
        max_protocol_version ssl_min_protocol_version ssl_max_protocol_version sslkeylogfile gssencmode krbsrvname \
        gsslib gssdelegation replication target_session_attrs load_balance_hosts scram_client_key scram_server_key \
        oauth_issuer oauth_client_id oauth_client_secret oauth_scope";

    #[test]
    fn every_keyword_of_libpq_has_its_class_and_the_document_says_so() {
        let libpq: BTreeSet<&str> = LIBPQ.split_whitespace().collect();
        let names = PARAMETERS.into_iter().chain(WITHOUT_EFFECT.iter().map(|(name, _)| *name));
        let ours: BTreeSet<&str> = names.chain(REFUSED.iter().map(|(name, _)| *name)).collect();
        assert_eq!(ours, libpq);
        let document = std::fs::read_to_string("docs/configuration.md").expect("the document");
        for name in libpq {
            assert!(document.contains(&format!("`{name}`")), "{name} is not in docs/configuration.md");
        }
    }

    #[test]
    fn what_restricts_its_values_is_refused_with_others_and_says_why() {
        for (name, values) in WITHOUT_EFFECT.iter().filter(|(_, values)| !values.is_empty()) {
            assert_eq!(honoured(name, values[0]), Ok(None), "{name}");
            let message = honoured(name, "something else").expect_err(name);
            assert!(message.contains(name) && !message.contains("something else"), "{message}");
        }
        for (name, driver, _) in DRIVERS {
            assert!(honoured(name, "1").is_err_and(|message| message.contains(driver)), "{name}");
        }
    }
}
