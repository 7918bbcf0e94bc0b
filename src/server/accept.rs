//! Accepts connections, and bounds the number, the age and the end of each.

use std::{fmt, sync::Arc, time::Duration};

use http::{
    Request, Response, StatusCode,
    header::{CONTENT_TYPE, USER_AGENT},
};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rand::Rng;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::body::Body;

use super::{
    connection_place::{ConnectionPlace, ConnectionPlaces},
    handshakes::{self, Failure, PeerHandshakes},
    pace::{Pace, PacedIo},
    preface::{Preface, PrefaceReader},
    routes::{Answering, PeerServices, STREAMING, Services},
    tls::ServerIdentity,
};
use crate::{
    metrics::{HandshakeLabels, Limit, Metrics},
    places::Peer,
    recorder::{EndedBy, LOOKING},
    scaler::{ConnectionAge, StreamConnection},
    telemetry::CountedLog,
    turns::Turns,
};

/// The most concurrent streams of a connection: all triggers of a cluster share one connection.
///
/// It is also the number of calls that a peer may reset before we have accepted them. By default
/// HTTP/2 servers close a connection with more than 20 of those (CVE-2023-44487). Here that would
/// punish all triggers of a KEDA that gives up calls while we are busy, and a reset call holds no
/// more memory than any other.
const STREAMS: u16 = 20_000;

/// The longest time that a peer may take for the TLS handshake, and then for the HTTP/2 preface.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(5);

/// The most bytes that TLS keeps for a socket that takes none: one record. By default it keeps 64 KiB.
const TLS_BUFFER: usize = 16 * 1024;

/// The interval of pings to a silent peer, and the time that it has to answer one.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// The time for which a connection may live after its streams should have ended: those of StreamIsActive take ten
/// seconds, and unary calls less than three.
const GOAWAY_TIMEOUT: Duration = Duration::from_secs(20);

/// The pause after `accept` has failed: the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The limits and the identity of a connection.
pub(super) struct ConnectionLimits {
    /// The age at which it gets its GOAWAY, +-10 %; zero means never.
    pub(super) maximum_age: Duration,
    /// The certificates for TLS; without them connections are plain text.
    pub(super) identity: Option<Arc<ServerIdentity>>,
}

/// Tells of connections that ended before their time: metrics count them, and each kind has a line of the log a minute.
struct Closed {
    metrics: Arc<Metrics>,
    gave_way: CountedLog,
    flooded: CountedLog,
    /// For each kind of [`Failure`].
    handshakes: [CountedLog; Failure::ALL.len()],
}

impl Closed {
    fn new(metrics: &Arc<Metrics>) -> Arc<Self> {
        let handshakes = std::array::from_fn(|_| CountedLog::default());
        let [gave_way, flooded] = std::array::from_fn(|_| CountedLog::default());
        Arc::new(Self { metrics: Arc::clone(metrics), gave_way, flooded, handshakes })
    }

    fn gave_way(&self, limit: Limit) {
        self.metrics.limit_reached(limit);
        if let Some(count) = self.gave_way.count() {
            tracing::warn!(
                count,
                "connections gave way to newer ones because there are too many of their peer, or of all"
            );
        }
    }

    fn flooded(&self) {
        self.metrics.limit_reached(Limit::Frames);
        if let Some(count) = self.flooded.count() {
            tracing::warn!(count, "connections were closed that sent too many frames which concern all of their calls");
        }
    }

    fn handshake(&self, failure: Failure, error: &impl fmt::Display) {
        let reason = failure.reason();
        self.metrics.tls_failures.get_or_create(&HandshakeLabels { reason }).inc();
        let log = Failure::ALL.iter().zip(&self.handshakes).find(|(kind, _)| **kind == failure).map(|(_, log)| log);
        if let Some(count) = log.and_then(CountedLog::count) {
            tracing::warn!(count, reason, %error, "TLS handshakes failed for this reason; the error is that of the latest one");
        }
    }
}

/// Accepts connections until shutdown, then waits until all of them have ended.
pub(super) async fn serve(
    listener: TcpListener,
    places: Arc<ConnectionPlaces>,
    services: Services,
    limits: ConnectionLimits,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) {
    let handshakes = Turns::new(handshakes::STEPS);
    let closed = Closed::new(&metrics);
    let connections = TaskTracker::new();
    let mut is_refusing = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (socket, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if !std::mem::replace(&mut is_refusing, true) {
                    tracing::warn!(%error, "cannot accept connections");
                }
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if std::mem::take(&mut is_refusing) {
            tracing::info!("accepting connections again");
        }
        let peer = Peer::from(address.ip());
        let tls =
            limits.identity.as_ref().map(|identity| (identity.acceptor(), PeerHandshakes::new(&handshakes, peer)));
        let services = services.of(peer);
        let (place, gives_way) = places.take(peer);
        let (maximum_age, shutdown) = (jittered(limits.maximum_age), shutdown.clone());
        let (metrics, closed) = (Arc::clone(&metrics), Arc::clone(&closed));
        metrics.grpc_connections.inc();
        connections.spawn(async move {
            let by = tokio::select! {
                by = connection(socket, tls, services, &place, &closed, maximum_age, shutdown) => by,
                () = gives_way => {
                    closed.gave_way(if place.is_served() { Limit::Connections } else { Limit::NewConnections });
                    EndedBy::Clapometer
                }
            };
            place.ended(by);
            metrics.grpc_connections.dec();
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Draws the age limit of one connection, +-10 %, so that connections do not end together. None for zero.
fn jittered(maximum: Duration) -> Option<Duration> {
    (!maximum.is_zero()).then(|| maximum.mul_f64(rand::rng().random_range(0.9..1.1)))
}

/// Serves one connection until it ends, and returns who ended it.
async fn connection(
    socket: TcpStream,
    tls: Option<(TlsAcceptor, PeerHandshakes)>,
    services: PeerServices,
    place: &ConnectionPlace,
    closed: &Closed,
    maximum_age: Option<Duration>,
    shutdown: CancellationToken,
) -> EndedBy {
    // Without it an answer waits for the peer's delayed acknowledgement: 40 ms instead of 1 ms.
    if socket.set_nodelay(true).is_err() {
        return EndedBy::Peer;
    }
    let Some((acceptor, handshakes)) = tls else {
        let (io, preface) = PrefaceReader::new(socket);
        return serve_http2(io, preface, services, place, closed, maximum_age, shutdown).await;
    };
    let encrypted = acceptor.accept_with(socket, |session| session.set_buffer_limit(Some(TLS_BUFFER)));
    let handshake = tokio::select! {
        handshake = timeout(PREFACE_TIMEOUT, handshakes.shake(encrypted)) => handshake,
        () = shutdown.cancelled() => return EndedBy::Clapometer,
    };
    match handshake {
        Ok(Ok(stream)) => {
            let (io, preface) = PrefaceReader::new(stream);
            return serve_http2(io, preface, services, place, closed, maximum_age, shutdown).await;
        }
        Ok(Err(error)) => match Failure::of_error(&error) {
            Some(failure) => closed.handshake(failure, &error),
            // A probe, for example, which only connects.
            None => tracing::debug!(%error, "TLS handshake ended"),
        },
        Err(elapsed) => closed.handshake(Failure::Timeout, &elapsed),
    }
    EndedBy::Peer
}

/// Serves HTTP/2 until the peer leaves, the connection is too old, or the process shuts down. Returns who ended it.
async fn serve_http2<I>(
    io: I,
    preface: Preface,
    services: PeerServices,
    place: &ConnectionPlace,
    closed: &Closed,
    maximum_age: Option<Duration>,
    shutdown: CancellationToken,
) -> EndedBy
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let age = maximum_age.map(|limit| ConnectionAge { is_over: CancellationToken::new(), limit });
    let age_of_streams = age.clone();
    let pace = Pace::new(Arc::clone(services.budget()));
    let io = PacedIo::new(io, Arc::clone(&pace));
    let service = service_fn(move |request| answer(&services, place, request, age_of_streams.as_ref()));
    let http = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        // gRPC does not use the date; grpc-go sends none either.
        .auto_date_header(false)
        .max_concurrent_streams(u32::from(STREAMS))
        .max_pending_accept_reset_streams(usize::from(STREAMS))
        // A call may be refused before all of it has come, and then HTTP/2 counts the rest as an error. By default a
        // connection is closed after 1,024 of them in its life (RUSTSEC-2024-0003), because each is answered with a
        // frame that a peer may not read: here such a peer is not read either (`pace.rs`).
        .max_local_error_reset_streams(None)
        // The next message of a stream is made when the one before has left.
        .max_send_buf_size(1)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .serve_connection(TokioIo::new(io), service);
    tokio::pin!(http);

    let preface_timeout = async {
        sleep(PREFACE_TIMEOUT).await;
        if preface.has_arrived() {
            std::future::pending().await
        }
    };
    let too_old = async {
        match &age {
            Some(ConnectionAge { is_over, limit }) => {
                sleep(*limit).await;
                is_over.cancel();
            }
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        // An error of the peer ends this connection only; hyper has sent its GOAWAY.
        _ = pace.turns(http.as_mut()) => {
            if pace.is_flooded() {
                closed.flooded();
                return EndedBy::Clapometer;
            }
            return EndedBy::Peer;
        }
        () = preface_timeout => return EndedBy::Clapometer,
        () = too_old => {}
        () = shutdown.cancelled() => {}
    }
    if !preface.has_arrived() {
        return EndedBy::Clapometer;
    }
    http.as_mut().graceful_shutdown();
    // The streams of an old connection take up to its age to end, and those of the process end at once.
    let streams_end = async {
        tokio::select! {
            () = sleep(maximum_age.unwrap_or_default()) => {}
            () = shutdown.cancelled() => {}
        }
    };
    tokio::select! {
        _ = pace.turns(http.as_mut()) => return EndedBy::Clapometer,
        () = streams_end => {}
    }
    tokio::select! {
        _ = pace.turns(http) => {}
        () = sleep(GOAWAY_TIMEOUT) => {}
    }
    EndedBy::Clapometer
}

/// Answers one request, or refuses it if its content type is not gRPC's.
///
/// A streaming method finds its connection in the extensions.
fn answer(
    services: &PeerServices,
    place: &ConnectionPlace,
    mut request: Request<Incoming>,
    age: Option<&ConnectionAge>,
) -> Answering {
    let content_type = request.headers().get(CONTENT_TYPE).map(http::HeaderValue::as_bytes);
    if !content_type.is_some_and(is_grpc) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return services.refuse(response);
    }
    // A person who watches is not KEDA.
    let agent = request.headers().get(USER_AGENT).map(http::HeaderValue::as_bytes);
    let is_person = agent.is_some_and(|agent| agent.starts_with(LOOKING.as_bytes()));
    if PeerServices::asks_the_scaler(&request) && !is_person {
        place.asks();
    }
    if request.uri().path().contains(STREAMING) {
        request.extensions_mut().insert(StreamConnection { peer: services.peer(), age: age.cloned() });
    }
    services.answer(request, !place.carries_a_call())
}

/// Accepts `application/grpc` and `application/grpc+proto`, with or without parameters (gRPC over HTTP/2, "Requests").
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
