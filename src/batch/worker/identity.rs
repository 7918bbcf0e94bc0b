//! The environment of a Job: its identity, and the database.

use crate::{batch::store::Job, conninfo::ConnectionSource, diagnostics::Misconfiguration};

/// Returns a variable's value. An empty variable counts as absent, as in libpq. Bytes that are not UTF-8 become
/// replacement characters, and a connection with such a character is refused.
pub fn variable(name: &str) -> Option<String> {
    let value = std::env::var_os(name)?.to_string_lossy().into_owned();
    (!value.is_empty()).then_some(value)
}

/// Returns the Job of this process.
///
/// Without `JOB_UID` the process is a Job of its own. Without `POD_NAME` the pod gets a name that no other process
/// has: two processes with the same name would take each other's lease.
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

/// Reads the connection from libpq's variables, or from the seed's where libpq's are absent.
///
/// # Errors
/// All faults at once, each with its variable.
pub fn connection(lookup: impl Fn(&str) -> Option<String>) -> Result<ConnectionSource, Misconfiguration> {
    ConnectionSource::from_environment(&|name| {
        lookup(name).or_else(|| match name {
            "PGHOST" if lookup("PGHOSTADDR").is_none() => lookup("PG_HOST"),
            // Kubernetes sets PG_PORT=tcp://10.0.0.1:5432 where a Service is called pg.
            "PGPORT" => lookup("PG_PORT").filter(|port| !port.starts_with("tcp://")),
            "PGUSER" => lookup("PG_USERNAME"),
            _ => None,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conninfo::Address;

    fn address(variables: &[(&str, &str)]) -> (Address, String) {
        let lookup = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, text)| text.to_string());
        let connection = connection(lookup).unwrap().resolve().unwrap();
        (connection.addresses[0].clone(), connection.user)
    }

    #[test]
    fn the_seeds_variables_stand_below_libpqs() {
        let seed = [("PG_HOST", "seed"), ("PG_PORT", "5433"), ("PG_USERNAME", "author")];
        let tcp = |host: &str, port| Address::new(host, port);
        assert_eq!(address(&seed), (tcp("seed", 5433), "author".to_owned()));
        let both = [&seed[..], &[("PGHOST", "libpq"), ("PGUSER", "operator")]].concat();
        assert_eq!(address(&both), (tcp("libpq", 5433), "operator".to_owned()));
    }

    #[test]
    fn the_variable_of_a_service_called_pg_is_no_port() {
        let link = [("PG_HOST", "seed"), ("PG_PORT", "tcp://10.0.0.1:5432"), ("PG_USERNAME", "author")];
        assert_eq!(address(&link).0, Address::new("seed", 5432));
    }

    #[test]
    fn processes_without_an_identity_are_different_jobs_and_pods() {
        let (one, other) = (job(|_| None), job(|_| None));
        assert_ne!(one.uid, other.uid);
        assert_ne!(one.pod, other.pod);
    }
}
