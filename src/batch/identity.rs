//! Who we are and where the database is: what a Job reads from its environment.

use super::ledger::Job;
use crate::config::{Address, Connection, Secret, SessionAttrs, SslMode};

/// A variable's value; empty counts as absent, as in libpq.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The Job of this process.
///
/// Without `JOB_UID` it is a Job of its own. Without `POD_NAME` the pod's name is one that no
/// other process has: two processes that share it would take each other's lease.
pub fn job(lookup: impl Fn(&str) -> Option<String>) -> Job {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let process = std::process::id();
    Job {
        uid: lookup("JOB_UID").unwrap_or_else(|| format!("process-{:016x}", rand::random::<u64>())),
        name: lookup("JOB_NAME"),
        pod: lookup("POD_NAME").unwrap_or_else(|| format!("{}/{process}/{:08x}", host.trim(), rand::random::<u32>())),
        node: lookup("NODE_NAME"),
    }
}

/// Where the database is: libpq's variables, and below them the seed's.
///
/// # Errors
/// A sentence per fault.
pub fn connection(lookup: impl Fn(&str) -> Option<String>) -> Result<Connection, String> {
    let get = |libpq: &str, seed: &str| lookup(libpq).or_else(|| lookup(seed));
    let port = get("PGPORT", "PG_PORT").map_or(Ok(5432), |text| text.parse().map_err(|_| format!("port {text:?}")))?;
    let user = get("PGUSER", "PG_USERNAME").unwrap_or_else(|| "postgres".to_owned());
    Ok(Connection {
        addresses: vec![Address::Tcp {
            host: get("PGHOST", "PG_HOST").unwrap_or_else(|| "localhost".to_owned()),
            port,
        }],
        dbname: lookup("PGDATABASE").unwrap_or_else(|| user.clone()),
        user,
        password: lookup("PGPASSWORD").map(Secret::new),
        sslmode: SslMode::Prefer,
        sslrootcert: None,
        sslcert: None,
        sslkey: None,
        target_session_attrs: SessionAttrs::Any,
    })
}
