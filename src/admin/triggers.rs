//! `/api/triggers/NAMESPACE/NAME`: what the flight recorder remembers of one ScaledObject or ScaledJob, as JSON.

use std::{sync::Arc, time::Duration};

use http::{Response, StatusCode, Uri};
use percent_encoding::percent_decode_str;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, sleep_until},
};

use super::{
    CERTIFICATES,
    page::{Page, PageBody, PageStore},
    private,
};
use crate::{
    blocking,
    metrics::{CertificateLabels, Metrics},
    recorder::{History, Incident, LIFETIME, Stalled, Window},
    scaler::Catalog,
};

/// The path before the namespace.
pub(super) const PREFIX: &str = "/api/triggers/";

/// The time before the moment that an answer covers, unless the request says otherwise.
const BEFORE: Duration = Duration::from_secs(3_600);

/// The time after the moment that an answer covers: the next polls, and mostly the end of what went wrong.
const AFTER: Duration = Duration::from_secs(600);

const JSON: &str = "application/json";

/// The wait before the next answer, in multiples of the time that the one before took. A flood of requests takes a
/// tenth of a processor.
const PAUSES: u32 = 9;

/// Makes the answers, one at a time, on another thread than the one that serves.
pub(super) struct Histories {
    metrics: Arc<Metrics>,
    catalog: watch::Receiver<Arc<Catalog>>,
    store: Arc<PageStore>,
    /// The earliest time at which the next answer may be made.
    next_at: Mutex<Instant>,
}

impl Histories {
    pub(super) fn new(metrics: Arc<Metrics>, catalog: watch::Receiver<Arc<Catalog>>, store: Arc<PageStore>) -> Self {
        Self { metrics, catalog, store, next_at: Mutex::new(Instant::now()) }
    }

    /// Answers a request whose path begins with [`PREFIX`].
    pub(super) async fn answer(&self, uri: &Uri) -> Response<PageBody> {
        let mut next_at = self.next_at.lock().await;
        sleep_until(*next_at).await;
        let began_at = Instant::now();
        let (metrics, catalog) = (Arc::clone(&self.metrics), Arc::clone(&self.catalog.borrow()));
        let (uri, store) = (uri.clone(), Arc::clone(&self.store));
        let answer = blocking::run("history", move || answer(&uri, &metrics, &catalog, &store)).await;
        *next_at = Instant::now() + PAUSES * began_at.elapsed();
        answer.unwrap_or_else(|_| problem(StatusCode::SERVICE_UNAVAILABLE, "there is no thread to answer; ask again"))
    }
}

fn answer(uri: &Uri, metrics: &Metrics, catalog: &Catalog, store: &PageStore) -> Response<PageBody> {
    let path = uri.path().strip_prefix(PREFIX).and_then(|names| names.split_once('/'));
    let Some((namespace, name)) = path.filter(|(_, name)| !name.contains('/')) else {
        return problem(StatusCode::NOT_FOUND, "the path is /api/triggers/NAMESPACE/NAME");
    };
    let window = match window(uri.query().unwrap_or_default()) {
        Ok(window) => window,
        Err(text) => return problem(StatusCode::BAD_REQUEST, text),
    };
    let mut history = metrics.recorder.history(&decoded(namespace), &decoded(name), window);
    name_databases(&mut history, catalog);
    history.expired_certificates = expired_certificates(metrics, history.now);
    let status = if history.triggers.is_empty() { StatusCode::NOT_FOUND } else { StatusCode::OK };
    let body = serde_json::to_vec(&history).expect("a history has no keys that are not text");
    with_status(status, store.add(body.into()))
}

/// Adds what the query of each trigger says: databases, keys that are unknown, budget. Drops the incidents of other
/// databases.
fn name_databases(history: &mut History, catalog: &Catalog) {
    for trigger in &mut history.triggers {
        // What a reload has forbidden since was asked where it still is.
        let was_served = trigger.target.is_some();
        let named = || catalog.sources().find(|source| was_served && source.query().name == trigger.query);
        let source = catalog.allowed(&trigger.query, &history.namespace).or_else(named);
        trigger.silent_keys = source.as_ref().map_or(0, |source| source.silent_keys(Instant::now()));
        let latest = source.as_ref().and_then(|source| source.state(Instant::now()).latest);
        trigger.short_keys = latest.and_then(|latest| latest.short_keys).unwrap_or_default();
        let rows = latest.and_then(|latest| latest.stalled).filter(|rows| *rows > 0.0);
        let preset = source.as_ref().and_then(|source| source.query().preset.as_ref());
        trigger.stalled = rows.zip(preset).map(|(rows, preset)| Stalled { rows, step: preset.stalled.to_owned() });
        let budget = source.as_ref().and_then(|source| source.query().budget.as_ref());
        trigger.budget = budget.map(|budget| budget.total);
        trigger.is_grouped = source.is_some_and(|source| source.query().group_by.is_some());
        trigger.databases = source.map(|source| source.query().databases.clone()).unwrap_or_default();
        let is_standby = |name: &&String| {
            catalog.databases().get(*name).is_some_and(|database| database.state().is_standby == Some(true))
        };
        trigger.standbys = trigger.databases.iter().filter(is_standby).cloned().collect();
    }
    let History { triggers, incidents, .. } = history;
    let is_used = |name: &String| triggers.iter().any(|trigger| trigger.databases.contains(name));
    incidents.retain(|happening| match &happening.incident {
        Incident::DatabaseDown { database, .. }
        | Incident::DatabaseUp { database }
        | Incident::Standby { database }
        | Incident::Primary { database }
        | Incident::Deaf { database, .. }
        | Incident::Hearing { database }
        | Incident::PoolFull { database, .. }
        | Incident::PoolFree { database }
        | Incident::Dropped { database, .. }
        | Incident::SearchPath { database }
        | Incident::SearchPathSet { database } => is_used(database),
        Incident::Unannounced { query, .. } => triggers.iter().any(|trigger| trigger.query == *query),
        Incident::Reload { .. } | Incident::ReloadRejected { .. } | Incident::Standstill { .. } => true,
    });
}

/// Returns the keys of the server's certificates that have expired.
fn expired_certificates(metrics: &Metrics, now: OffsetDateTime) -> Vec<String> {
    let has_expired = |certificate: &&'static str| {
        let ends_at = metrics.certificate_expiry.get(&CertificateLabels { certificate });
        ends_at.is_some_and(|ends_at| {
            OffsetDateTime::UNIX_EPOCH.saturating_add(time::Duration::saturating_seconds_f64(ends_at.get())) <= now
        })
    };
    CERTIFICATES.into_iter().filter(has_expired).map(str::to_owned).collect()
}

/// Reads `at` and `since`.
fn window(query: &str) -> Result<Window, &'static str> {
    let mut window = Window { at: None, before: BEFORE, after: AFTER };
    for (name, value) in
        query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    {
        let value = decoded(value);
        match name {
            "at" => {
                let at = OffsetDateTime::parse(&value, &Rfc3339);
                window.at = Some(at.map_err(|_| "at must be a time as in RFC 3339, such as 2026-11-29T03:12:00Z")?);
            }
            "since" => {
                let seconds = value.parse().ok().filter(|seconds| *seconds <= LIFETIME.as_secs());
                window.before = Duration::from_secs(seconds.ok_or("since must be a number of seconds up to 86400")?);
            }
            _ => return Err("there are at and since"),
        }
    }
    Ok(window)
}

/// Decodes a part of a path or of a query. A plus sign stands for itself, because times contain it.
fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

fn problem(status: StatusCode, text: &'static str) -> Response<PageBody> {
    with_status(status, Arc::new(Page::from(serde_json::json!({ "error": text }).to_string())))
}

fn with_status(status: StatusCode, body: Arc<Page>) -> Response<PageBody> {
    let mut response = private(JSON, body);
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_certificate_that_has_ended_is_told() {
        let now = OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000);
        let metrics = Metrics::new(crate::metrics::Build { version: "0", commit: "0", rustc: "0" });
        let ends = |certificate, days: f64| {
            metrics.certificate_expiry.get_or_create(&CertificateLabels { certificate }).set(days * 86_400.0);
        };
        assert_eq!(expired_certificates(&metrics, now), Vec::<String>::new());
        ends("server.tls.cert", 20_000.1);
        ends("server.tls.client_ca", 19_999.9);
        assert_eq!(expired_certificates(&metrics, now), ["server.tls.client_ca"]);
    }

    #[test]
    fn a_window_is_read_and_what_is_wrong_is_said() {
        let read = |query: &str| {
            let Window { at, before, .. } = window(query)?;
            Ok::<_, &str>((at.map(OffsetDateTime::unix_timestamp), before.as_secs()))
        };
        assert_eq!(read(""), Ok((None, 3_600)));
        assert_eq!(read("at=2026-11-29T03:12:00Z&since=60"), Ok((Some(1_795_921_920), 60)));
        assert_eq!(read("at=2026-11-29T04:12:00+01:00"), Ok((Some(1_795_921_920), 3_600)));
        assert_eq!(read("at=2026-11-29T04%3A12%3A00%2B01%3A00"), Ok((Some(1_795_921_920), 3_600)));
        for wrong in ["at=03:12", "at=", "since=-1", "since=86401", "since=1h", "until=3"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
