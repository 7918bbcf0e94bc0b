//! The certificates that the scaler would show to KEDA.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::warning::Warning;
use crate::{
    config::{Config, ServerTls},
    diagnostics::Misconfiguration,
    server,
};

/// A certificate with less time left deserves a warning: renewal happens well before the end.
const SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// The outcome of reading `server.tls`.
#[derive(Debug, Serialize)]
pub(super) struct TlsReport {
    pub(super) certificates: Vec<CertificateExpiry>,
    /// The names of which a client's certificate must have one, if clients must show one. Without
    /// names, every certificate that `client_ca` has signed will do.
    pub(super) clients: Option<Vec<String>>,
    pub(super) warnings: Vec<Warning>,
}

/// The end of a file's certificate, or of the first certificate of its chain to end.
#[derive(Debug, Serialize)]
pub(super) struct CertificateExpiry {
    pub(super) key: &'static str,
    /// Negative once it has ended.
    pub(super) days_left: i64,
}

impl TlsReport {
    /// Reads the certificates as `serve` would.
    ///
    /// # Errors
    /// The reasons why `serve` would not start.
    pub(super) fn read(config: &Config, tls: &ServerTls) -> Result<Self, Misconfiguration> {
        let now = SystemTime::now();
        let ends = server::certificates(config, tls)?;
        let mut warnings = Vec::new();
        for (key, end) in &ends {
            let text = match end.duration_since(now) {
                Ok(left) if left > SOON => continue,
                Ok(left) => format!("{key} ends in {}", days(whole_days(left))),
                Err(_) => format!("{key} has ended: KEDA will refuse it"),
            };
            let advice = Some("renew it; a changed file is read within seconds, without a restart".to_owned());
            warnings.push(Warning { text, advice });
        }
        let certificates = ends.into_iter().map(|(key, end)| CertificateExpiry { key, days_left: days_left(end, now) });
        Ok(Self {
            certificates: certificates.collect(),
            clients: tls.client_ca.as_ref().map(|_| tls.client_names.clone()),
            warnings,
        })
    }
}

/// Writes a number of days: `1 day`, `2 days`.
pub(super) fn days(count: i64) -> String {
    format!("{count} {}", if count == 1 { "day" } else { "days" })
}

fn days_left(end: SystemTime, now: SystemTime) -> i64 {
    match end.duration_since(now) {
        Ok(left) => whole_days(left),
        Err(past) => -1 - whole_days(past.duration()),
    }
}

fn whole_days(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs() / (24 * 60 * 60)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_whole_and_negative_once_it_has_ended() {
        let now = SystemTime::now();
        let hours = |hours: u64| Duration::from_secs(hours * 3_600);
        assert_eq!(days_left(now + hours(47), now), 1);
        assert_eq!(days_left(now + hours(1), now), 0);
        assert_eq!(days_left(now - hours(1), now), -1);
        assert_eq!(days_left(now - hours(25), now), -2);
    }
}
