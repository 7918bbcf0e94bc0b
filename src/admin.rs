//! The HTTP listener: `/livez` and `/readyz` for the kubelet, `/metrics` for Prometheus, `/` and `/api` for people.
//!
//! Ready means configured, listening and not shutting down. It never depends on a database.

mod page;
mod page_cache;
mod reloads;
mod status;
mod triggers;

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{
        ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY as CONTENT_SECURITY_POLICY_HEADER, CONTENT_TYPE,
        REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
    },
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpListener,
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

pub use self::reloads::{ReloadLog, Reloaded};
use self::{
    page::{PageBody, PageStore},
    page_cache::PageCache,
    status::{CONTENT_SECURITY_POLICY, Gatherer, View},
    triggers::Histories,
};
use crate::{
    metrics::{Build, DatabaseFailureLabels, Limit, ListenFailureLabels, Metrics, QueryFailureLabels, QueryLabels},
    places::{Peer, Places},
    postgres::Cause,
    scaler::Catalog,
};

/// The most connections at a time, and the most of one peer. The kubelet, Prometheus and a few people need a handful.
/// When there are more, the oldest gives way, so that a probe always finds a place.
const CONNECTIONS: usize = 512;
const CONNECTIONS_OF_A_PEER: usize = CONNECTIONS / 2;

/// The longest life of a connection. Each is one scrape or one probe: a connection that stays open for the next one
/// could be cut at the moment at which it comes.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(20);

/// The longest time that a peer may take to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// The most bytes of a head, which hyper keeps until it is complete. By default it keeps 400 KiB.
const HEAD: usize = 16 * 1024;

/// The certificates whose end is known, by their keys in the configuration.
pub const CERTIFICATES: [&str; 2] = ["server.tls.cert", "server.tls.client_ca"];

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The sources of what the pages show.
pub struct Subject {
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The queries and databases in force.
    pub catalog: watch::Receiver<Arc<Catalog>>,
    /// The latest reloads.
    pub reloads: Arc<ReloadLog>,
    /// The program.
    pub build: Build,
}

/// The pages, each in every form.
struct Pages {
    metrics: Arc<Metrics>,
    open_metrics: PageCache,
    text_format: PageCache,
    status_json: PageCache,
    /// The page as it is without a filter, which most people look at.
    status_page: PageCache,
    filtered_page: PageCache<View>,
    histories: Histories,
    shutdown: CancellationToken,
}

/// Serves the pages for as long as the process lives.
pub async fn serve(listener: TcpListener, subject: Subject, shutdown: CancellationToken) {
    let pages = Arc::new(Pages::new(subject, shutdown));
    let places = Places::new(CONNECTIONS, CONNECTIONS_OF_A_PEER);
    loop {
        let Ok((socket, address)) = listener.accept().await else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let place = places.take(Peer::from(address.ip()));
        let pages = Arc::clone(&pages);
        let metrics = Arc::clone(&pages.metrics);
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let pages = Arc::clone(&pages);
                async move { Ok::<_, Infallible>(pages.page(&request).await) }
            });
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD).keep_alive(false);
            tokio::select! {
                // An error of the peer or a timeout ends this connection only.
                served = timeout(CONNECTION_TIMEOUT, http.serve_connection(TokioIo::new(socket), service)) => {
                    if served.is_ok_and(|served| served.is_err_and(|error| error.is_user())) {
                        metrics.limit_reached(Limit::Pages);
                    }
                }
                () = place.gives_way() => metrics.limit_reached(Limit::AdminConnections),
            }
        });
    }
}

impl Pages {
    fn new(subject: Subject, shutdown: CancellationToken) -> Self {
        let store = Arc::new(PageStore::default());
        let page = |encode: fn(&Metrics) -> String| {
            let (metrics, catalog) = (Arc::clone(&subject.metrics), subject.catalog.clone());
            PageCache::new(&store, move |()| {
                let in_force = Arc::clone(&catalog.borrow());
                publish(&metrics, &in_force);
                encode(&metrics).into()
            })
        };
        let (open_metrics, text_format) = (page(Metrics::encode), page(Metrics::encode_text));
        let histories = Histories::new(Arc::clone(&subject.metrics), subject.catalog.clone(), Arc::clone(&store));
        let metrics = Arc::clone(&subject.metrics);
        let gatherer = Arc::new(Gatherer::new(subject));
        let status_json = {
            let gatherer = Arc::clone(&gatherer);
            PageCache::new(&store, move |()| gatherer.status().json().into())
        };
        let status_page = {
            let gatherer = Arc::clone(&gatherer);
            PageCache::new(&store, move |()| gatherer.status().html(&View::default()).into())
        };
        let filtered_page = PageCache::new(&store, move |view| gatherer.status().html(view).into());
        Self { metrics, open_metrics, text_format, status_json, status_page, filtered_page, histories, shutdown }
    }

    async fn page<B>(&self, request: &Request<B>) -> Response<PageBody> {
        let (method, path) = (request.method(), request.uri().path());
        if method != Method::GET && method != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        match path {
            "/livez" => text(StatusCode::OK, "ok\n"),
            "/readyz" if self.shutdown.is_cancelled() => text(StatusCode::SERVICE_UNAVAILABLE, "shutting down\n"),
            "/readyz" => text(StatusCode::OK, "ok\n"),
            "/metrics" => self.metrics_page(takes_open_metrics(request.headers())).await,
            "/" => self.status(request.uri().query().map(View::parse).unwrap_or_default()).await,
            "/api/status" => private("application/json", self.status_json.page(()).await),
            _ if path.starts_with(triggers::PREFIX) => self.histories.answer(request.uri()).await,
            _ => text(
                StatusCode::NOT_FOUND,
                "there are /, /livez, /readyz, /metrics, /api/status and /api/triggers/NAMESPACE/NAME\n",
            ),
        }
    }

    async fn metrics_page(&self, is_open_metrics: bool) -> Response<PageBody> {
        let mut response = match is_open_metrics {
            true => with_type(StatusCode::OK, OPEN_METRICS, self.open_metrics.page(()).await),
            false => with_type(StatusCode::OK, TEXT_FORMAT, self.text_format.page(()).await),
        };
        response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
        response
    }

    async fn status(&self, view: View) -> Response<PageBody> {
        let page = match view == View::default() {
            true => self.status_page.page(()).await,
            false => self.filtered_page.page(view).await,
        };
        let mut response = private("text/html; charset=utf-8", page);
        if let Ok(policy) = HeaderValue::from_str(&CONTENT_SECURITY_POLICY) {
            response.headers_mut().insert(CONTENT_SECURITY_POLICY_HEADER, policy);
        }
        response.headers_mut().insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        response
    }
}

/// Updates the metrics that are computed when they are scraped.
fn publish(metrics: &Metrics, catalog: &Catalog) {
    for database in catalog.databases().values() {
        database.publish();
    }
    let now = Instant::now();
    let mut failing = Vec::new();
    for source in catalog.sources() {
        source.publish(metrics);
        if let Some((fault, _)) = source.state(now).fault {
            let QueryLabels { query, database } = source.labels().clone();
            let sqlstate = fault.sqlstate().map_or_else(String::new, |state| state.to_string());
            failing.push(QueryFailureLabels { query, database, reason: fault.reason(), sqlstate });
        }
    }
    metrics.query_failures.set(failing);
    let failing = catalog.databases().iter().filter_map(|(name, database)| {
        let state = database.state();
        let fault = state.outcome?.err()?;
        let cause = state.cause.map_or("", Cause::name);
        Some(DatabaseFailureLabels { database: name.clone(), reason: fault.reason(), cause })
    });
    metrics.database_failures_now.set(failing.collect());
    let deaf = catalog.databases().iter().filter_map(|(name, database)| {
        let reason = database.state().listen_failure?.name();
        Some(ListenFailureLabels { database: name.clone(), reason })
    });
    metrics.listen_failures.set(deaf.collect());
}

/// Returns whether a client asks for OpenMetrics 1.0.0 at least as much as for the text format.
///
/// *Source:* RFC 9110, 12.5.1; Prometheus sends both with weights, a browser and curl ask for neither.
fn takes_open_metrics(headers: &HeaderMap) -> bool {
    let (mut open_metrics, mut text) = (0.0, 0.0);
    let ranges =
        headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(','));
    for range in ranges {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        let (mut weight, mut is_known_version) = (1.0, true);
        for (name, value) in parts.filter_map(|parameter| parameter.split_once('=')) {
            match name.trim().to_ascii_lowercase().as_str() {
                "q" => weight = value.trim().parse::<f64>().unwrap_or(0.0),
                "version" => is_known_version = matches!(value.trim(), "1.0.0" | "0.0.1" | "0.0.4"),
                _ => {}
            }
        }
        let best = match kind.to_ascii_lowercase().as_str() {
            "application/openmetrics-text" => &mut open_metrics,
            "text/plain" | "text/*" => &mut text,
            _ => continue,
        };
        if is_known_version && weight > *best {
            *best = weight;
        }
    }
    open_metrics > 0.0 && open_metrics >= text
}

fn text(status: StatusCode, body: &'static str) -> Response<PageBody> {
    with_type(status, "text/plain; charset=utf-8", body)
}

/// Returns a response that no cache may keep.
fn private(content_type: &'static str, body: impl Into<PageBody>) -> Response<PageBody> {
    let mut response = with_type(StatusCode::OK, content_type, body);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn with_type(status: StatusCode, content_type: &'static str, body: impl Into<PageBody>) -> Response<PageBody> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_is_for_whoever_asks_for_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                          application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, expected) in [
            (None, false),
            (Some("*/*"), false),
            (Some("text/html,application/xhtml+xml,*/*;q=0.8"), false),
            (Some("application/openmetrics-text"), true),
            (Some("Application/OpenMetrics-Text; Version=1.0.0; charset=utf-8"), true),
            (Some("application/openmetrics-text;version=2.0.0"), false),
            (Some("application/openmetrics-text;q=0"), false),
            (Some("text/plain;version=0.0.4;q=0.9,application/openmetrics-text;q=0.1"), false),
            (Some(prometheus), true),
        ] {
            let mut headers = HeaderMap::new();
            headers.extend(accept.map(|text| (ACCEPT, HeaderValue::from_static(text))));
            assert_eq!(takes_open_metrics(&headers), expected, "{accept:?}");
        }
    }
}
