//! The HTTP listener: `/livez` and `/readyz` for the kubelet, and `/metrics` for Prometheus.
//!
//! Ready means configured, listening and not shutting down. It never depends on a database.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{metrics::Metrics, scaler::Catalog};

/// The most connections at a time. The kubelet, Prometheus and a few people need a handful. When others take all
/// of them, [`CONNECTION_TIMEOUT`] bounds for how long.
const CONNECTIONS: usize = 512;

/// The longest life of a connection. Each is a scrape or a probe.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a peer may take to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The state that the pages show.
struct Pages {
    metrics: Arc<Metrics>,
    catalog: watch::Receiver<Arc<Catalog>>,
    shutdown: CancellationToken,
}

/// Serves the pages for as long as the process lives.
pub async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    catalog: watch::Receiver<Arc<Catalog>>,
    shutdown: CancellationToken,
) {
    let pages = Arc::new(Pages { metrics, catalog, shutdown });
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let (Ok((socket, _)), Ok(place)) = (listener.accept().await, Arc::clone(&places).acquire_owned().await) else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let pages = Arc::clone(&pages);
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let page = pages.page(request.method(), request.uri().path());
                async move { Ok::<_, Infallible>(page) }
            });
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
            // An error of the peer or a timeout ends this connection only.
            let _ = timeout(CONNECTION_TIMEOUT, http.serve_connection(TokioIo::new(socket), service)).await;
            drop(place);
        });
    }
}

impl Pages {
    fn page(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if method != Method::GET && method != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        match path {
            "/livez" => text(StatusCode::OK, "ok\n"),
            "/readyz" if self.shutdown.is_cancelled() => text(StatusCode::SERVICE_UNAVAILABLE, "shutting down\n"),
            "/readyz" => text(StatusCode::OK, "ok\n"),
            "/metrics" => self.metrics(),
            _ => text(StatusCode::NOT_FOUND, "there are /livez, /readyz and /metrics\n"),
        }
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let catalog = Arc::clone(&self.catalog.borrow());
        for database in catalog.databases().values() {
            database.publish();
        }
        for source in catalog.sources() {
            source.publish(&self.metrics);
        }
        with_type(StatusCode::OK, OPEN_METRICS, self.metrics.encode())
    }
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    with_type(status, "text/plain; charset=utf-8", body)
}

fn with_type(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}
