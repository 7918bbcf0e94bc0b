//! The scaler's own side: the certificates that it would show to KEDA.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::report::Warning;
use crate::{config::ServerTls, server};

/// Certificates are renewed well before they end: one with less left was not.
const SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// What `server.tls` comes to.
#[derive(Debug, Serialize)]
pub(super) struct Serving {
    pub(super) certificates: Vec<Certificate>,
    /// Whether clients must show a certificate, and with which names; no names: any.
    pub(super) clients: Option<Vec<String>>,
    pub(super) warnings: Vec<Warning>,
}

/// One file's certificate, the first of its chain to end.
#[derive(Debug, Serialize)]
pub(super) struct Certificate {
    pub(super) key: &'static str,
    /// Negative once it has ended.
    pub(super) days_left: i64,
}

impl Serving {
    /// Reads the certificates as `serve` would.
    ///
    /// # Errors
    /// Why `serve` would not start.
    pub(super) fn of(tls: &ServerTls) -> Result<Self, server::Error> {
        let now = SystemTime::now();
        let ends = server::certificates(tls)?;
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
        let certificates = ends.into_iter().map(|(key, end)| Certificate { key, days_left: days_left(end, now) });
        Ok(Self {
            certificates: certificates.collect(),
            clients: tls.client_ca.as_ref().map(|_| tls.client_names.clone()),
            warnings,
        })
    }
}

/// `1 day`, `2 days`.
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
