//! The accept loop: each connection with its limits, its age and its end.

use std::{convert::Infallible, sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, FutureExt, ready};
use http::{Request, Response, StatusCode, header::CONTENT_TYPE};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rand::Rng;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::body::Body;

use super::{
    preface::{Preface, PrefaceReader},
    routes::Services,
    tls::ServerIdentity,
};
use crate::metrics::Metrics;

/// Connections at most; one KEDA operator is one.
const CONNECTIONS: usize = 1_000;

/// Streams of one connection at most: all of a cluster's triggers come over one.
///
/// A peer may also give up as many before they were looked at. HTTP/2's usual answer to more than
/// 20 is to close the connection (CVE-2023-44487). Here it would punish all triggers of a KEDA
/// that gives up calls while we are busy, and calls that are given up hold no more memory than
/// calls that are not.
const STREAMS: u16 = 20_000;

/// How long a peer may take for TLS and the HTTP/2 preface.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a silent peer is pinged, and how long it may take to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// How long a connection that was asked to go away may go on: streams are ended over ten
/// seconds, unary calls take less than three.
const GOING_AWAY: Duration = Duration::from_secs(20);

/// Pause after accept itself fails: the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the names of methods have in common that outlive a connection's age.
const STREAMING: &str = "/Stream";

/// What bounds each connection.
pub(super) struct ConnectionLimits {
    /// Its age, +-10 %; zero: none.
    pub(super) maximum_age: Duration,
    /// Who we are over TLS; plain text where absent.
    pub(super) identity: Option<Arc<ServerIdentity>>,
}

/// Accepts until it is over, then waits for the connections to end.
pub(super) async fn serve(
    listener: TcpListener,
    services: Services,
    limits: ConnectionLimits,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let connections = TaskTracker::new();
    let mut is_refusing = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(error) => {
                if !std::mem::replace(&mut is_refusing, true) {
                    tracing::warn!(%error, "cannot accept connections");
                }
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            if !std::mem::replace(&mut is_refusing, true) {
                tracing::warn!(limit = CONNECTIONS, "refusing connections beyond the limit");
            }
            continue;
        };
        if std::mem::take(&mut is_refusing) {
            tracing::info!("accepting connections again");
        }
        let acceptor = limits.identity.as_ref().map(|identity| identity.acceptor());
        let connection = connection(socket, acceptor, services.clone(), jittered(limits.maximum_age), shutdown.clone());
        let metrics = Arc::clone(&metrics);
        metrics.grpc_connections.inc();
        connections.spawn(async move {
            connection.await;
            metrics.grpc_connections.dec();
            drop(place);
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// The age of one connection: +-10 %, so that all do not end together; none for zero.
fn jittered(maximum: Duration) -> Option<Duration> {
    (!maximum.is_zero()).then(|| maximum.mul_f64(rand::rng().random_range(0.9..1.1)))
}

/// Serves one connection to its end.
async fn connection(
    socket: TcpStream,
    acceptor: Option<TlsAcceptor>,
    services: Services,
    maximum_age: Option<Duration>,
    shutdown: CancellationToken,
) {
    // Without it an answer waits for the peer's delayed acknowledgement: 40 ms instead of one.
    if socket.set_nodelay(true).is_err() {
        return;
    }
    let Some(acceptor) = acceptor else {
        let (io, preface) = PrefaceReader::new(socket);
        return serve_http2(io, preface, services, maximum_age, shutdown).await;
    };
    let handshake = tokio::select! {
        handshake = timeout(PREFACE_TIMEOUT, acceptor.accept(socket)) => handshake,
        () = shutdown.cancelled() => return,
    };
    match handshake {
        Ok(Ok(stream)) => {
            let (io, preface) = PrefaceReader::new(stream);
            serve_http2(io, preface, services, maximum_age, shutdown).await;
        }
        // Anybody can make one fail, so it is nothing to warn of.
        Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => tracing::debug!("TLS handshake timed out"),
    }
}

async fn serve_http2<I>(
    io: I,
    preface: Preface,
    services: Services,
    maximum_age: Option<Duration>,
    shutdown: CancellationToken,
) where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let aged = CancellationToken::new();
    let has_aged = aged.clone();
    let service = service_fn(move |request| answer(&services, request, &has_aged));
    let http = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        // gRPC has no use for one: grpc-go sends none either.
        .auto_date_header(false)
        .max_concurrent_streams(u32::from(STREAMS))
        .max_pending_accept_reset_streams(usize::from(STREAMS))
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .serve_connection(TokioIo::new(io), service);
    tokio::pin!(http);

    let late = async {
        sleep(PREFACE_TIMEOUT).await;
        if preface.has_arrived() {
            std::future::pending().await
        }
    };
    let old = async {
        match maximum_age {
            Some(age) => sleep(age).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        // A peer's errors are its own; it is told by GOAWAY.
        _ = http.as_mut() => return,
        () = late => return,
        () = old => aged.cancel(),
        () = shutdown.cancelled() => {}
    }
    if !preface.has_arrived() {
        return;
    }
    http.as_mut().graceful_shutdown();
    tokio::select! {
        _ = http => {}
        () = sleep(GOING_AWAY) => {}
    }
}

/// Answers one request, if it is gRPC at all; streams find the connection's age among its extensions.
fn answer(
    services: &Services,
    mut request: Request<Incoming>,
    has_aged: &CancellationToken,
) -> BoxFuture<'static, Result<Response<Body>, Infallible>> {
    let content_type = request.headers().get(CONTENT_TYPE).map(http::HeaderValue::as_bytes);
    if !content_type.is_some_and(is_grpc) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return ready(Ok(response)).boxed();
    }
    if request.uri().path().contains(STREAMING) {
        request.extensions_mut().insert(has_aged.clone());
    }
    services.answer(request)
}

/// `application/grpc`, with nothing behind it but `+proto` or parameters (gRPC over HTTP/2, "Requests").
fn is_grpc(content_type: &[u8]) -> bool {
    match content_type.strip_prefix(b"application/grpc") {
        Some(rest) => matches!(rest, [] | [b';', ..]) || rest == b"+proto" || rest.starts_with(b"+proto;"),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_grpc_with_protobuf_is_answered() {
        for good in ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"] {
            assert!(is_grpc(good.as_bytes()), "{good}");
        }
        for bad in ["", "text/html", "application/json", "application/grpc-web", "application/grpc+json"] {
            assert!(!is_grpc(bad.as_bytes()), "{bad}");
        }
    }
}
