//! Starts and stops the scaler: listeners, gRPC services, signals, supervision and drain.

mod accept;
mod answer_body;
mod body_limit;
mod connection_place;
mod frame_count;
mod handshakes;
mod health;
mod lookout;
mod pace;
mod preface;
mod query_files;
mod reload;
mod request_budget;
mod routes;
mod standstill;
mod tls;

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    net::{TcpListener, TcpSocket},
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use self::{
    connection_place::ConnectionPlaces,
    health::HealthReport,
    reload::{Files, Reload},
    routes::Services,
    tls::ServerIdentity,
};
use crate::{
    admin::{self, ReloadLog},
    cache::QueryCache,
    config::{Config, Inventory, QueryFiles, ServerTls},
    diagnostics::Misconfiguration,
    metrics::{Build, HandshakeLabels, Metrics},
    scaler::{Catalog, Scaler},
    shutdown::Supervisor,
};

/// The longest drain. Connections that are left are closed: a peer that reads nothing would delay the end for ever.
const DRAIN_LIMIT: Duration = Duration::from_secs(20);

/// The bytes of what a connection has not read, and of what its peer has not taken, that the kernel keeps; it takes
/// twice as much. By default it keeps up to megabytes of each connection, which count as memory of the container. The
/// window that this gives is as large as a segment of the loopback device: with a smaller one peers wait for probes of
/// a closed window.
const SOCKET_BUFFER: u32 = 64 * 1024;

/// The most connections that wait to be accepted.
const BACKLOG: u32 = 1_024;

/// A reason to end other than a first signal.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A listener cannot be bound.
    #[error("cannot listen on {address} ({key}{})", remedy(source))]
    Listen {
        /// The address to bind.
        address: SocketAddr,
        /// The configuration key of the address.
        key: &'static str,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The signal handlers cannot be installed.
    #[error("cannot listen for signals")]
    Signals(#[source] io::Error),
    /// gRPC reflection cannot be set up.
    #[error("cannot serve reflection")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// A certificate or a key cannot be used.
    #[error(transparent)]
    Tls(#[from] Misconfiguration),
    /// A second signal has ended the drain.
    #[error("a second signal: exiting at once")]
    SecondSignal,
    /// A supervised background task has failed.
    #[error("the background task \"{0}\" has failed")]
    Task(&'static str),
}

/// Returns what to do about an address that cannot be listened on, where that is known.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; something listens there already, another process or this one: choose another port"
        }
        io::ErrorKind::AddrNotAvailable => "; this machine has no such address, and 0.0.0.0 means all that it has",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need a privilege",
        _ => "",
    }
}

/// The addresses to listen on: the command line's, or else the configuration's.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// The address of gRPC.
    pub grpc: SocketAddr,
    /// The address of probes and metrics.
    pub admin: SocketAddr,
}

/// Serves a configuration until SIGTERM or SIGINT. `main` is the main file's part of it, read from `file`, which is
/// read again when it changes; the query files are read here.
///
/// # Errors
/// It cannot start, a background task has failed, or a second signal came.
pub async fn run(main: Config, addresses: Addresses, file: Option<PathBuf>, build: Build) -> Result<(), ServeError> {
    let signals = Signals::new().map_err(ServeError::Signals)?;
    let grpc = listen(addresses.grpc, "server.listen")?;
    let http = listen(addresses.admin, "admin.listen")?;
    let version = build.version;
    let metrics = Arc::new(Metrics::new(build.clone()));
    let (supervisor, mut failures) = Supervisor::new();
    let shutdown = CancellationToken::new();
    // Hashed before they are read, so that a change in between is noticed.
    let files = Files::new(file.clone());
    let seen = files.hashes(&main).await;
    let listing = reload::listing(&main).await;
    let config = reload::with_query_files(main.clone(), listing.clone(), &main).await;
    let inventory = config.inventory(file.as_deref());
    let identity = match &config.server.tls {
        Some(tls) => {
            let (identity, expiry) = ServerIdentity::load(tls).map_err(|problems| problems.located(&config))?;
            reload::publish_expiry(&expiry, &metrics);
            for failure in handshakes::Failure::ALL {
                drop(metrics.tls_failures.get_or_create(&HandshakeLabels { reason: failure.reason() }));
            }
            Some(Arc::new(identity))
        }
        None => None,
    };
    let catalog = Catalog::new(&config, &Catalog::default(), &metrics, &supervisor);
    let (catalog, in_force) = watch::channel(Arc::new(catalog));
    let cache = QueryCache::new(Arc::clone(&metrics), &supervisor);
    let scaler = Scaler::new(in_force.clone(), Arc::clone(&cache), Arc::clone(&metrics), shutdown.clone());
    let (health, health_service) = HealthReport::new(in_force.clone(), &supervisor);
    let services = Services::new(scaler, health_service, config.server.reflection, &metrics)?;
    let grpc_address = grpc.local_addr().unwrap_or(addresses.grpc);
    let admin_address = http.local_addr().unwrap_or(addresses.admin);
    let reloads = Arc::new(ReloadLog::default());
    let subject =
        admin::Subject { metrics: Arc::clone(&metrics), catalog: in_force, reloads: Arc::clone(&reloads), build };
    supervisor.spawn("admin", admin::serve(http, subject, shutdown.clone()));
    let places = ConnectionPlaces::new(Arc::clone(&metrics));
    let limits = accept::ConnectionLimits { maximum_age: config.server.connection_age, identity: identity.clone() };
    supervisor.spawn("lookout", lookout::follow(Arc::clone(&metrics)));
    supervisor.spawn("standstill", standstill::follow(Arc::clone(&metrics)));
    let accepting = accept::serve(grpc, places, services, limits, Arc::clone(&metrics), shutdown.clone());
    let drained = CancellationToken::new();
    let drain_guard = drained.clone().drop_guard();
    supervisor.spawn("accept loop", async move {
        accepting.await;
        drop(drain_guard);
    });

    if config.server.tls.is_none() {
        tracing::warn!("gRPC is served in plain text; whoever can reach the port can ask");
    }
    query_files::report(&config.query_files, &QueryFiles::default(), &metrics, &reloads);
    let reload = Reload {
        files,
        seen,
        listing,
        main,
        config,
        catalog,
        cache,
        identity,
        metrics,
        supervisor: supervisor.clone(),
        reloads,
        renews: false,
        rejected: None,
    };
    supervisor.spawn("reload", reload.follow(signals.hangup));
    let mut signals = signals.ending;

    let Inventory { file, databases, queries, built_in_queries, query_files, pool_connections } = inventory;
    tracing::info!(file, databases, queries, built_in_queries, query_files, pool_connections, "configuration in force");
    tracing::info!(grpc = %grpc_address, admin = %admin_address, version, "serving");
    let cause = tokio::select! {
        () = signals.next() => None,
        task = failures.next() => Some(ServeError::Task(task)),
    };

    tracing::info!("shutting down");
    health.stop_serving().await;
    shutdown.cancel();
    tokio::select! {
        drained = timeout(DRAIN_LIMIT, drained.cancelled()) => {
            if drained.is_err() {
                tracing::warn!("calls and streams that did not end within {DRAIN_LIMIT:?} were cut off");
            }
        }
        () = signals.next() => return Err(ServeError::SecondSignal),
    }
    cause.map_or(Ok(()), Err)
}

/// Returns the expiry of each certificate of a configuration's TLS, by its key. Blocking: it reads small files.
///
/// # Errors
/// [`run`] would not start with this configuration.
pub fn certificates(config: &Config, tls: &ServerTls) -> Result<Vec<(&'static str, SystemTime)>, Misconfiguration> {
    let (_, expiry) = ServerIdentity::load(tls).map_err(|problems| problems.located(config))?;
    Ok(expiry)
}

fn listen(address: SocketAddr, key: &'static str) -> Result<TcpListener, ServeError> {
    let bound = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        // Connections inherit them. The kernel takes twice as much of each.
        socket.set_recv_buffer_size(SOCKET_BUFFER)?;
        socket.set_send_buffer_size(SOCKET_BUFFER)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bound().map_err(|source| ServeError::Listen { address, key, source })
}

/// The signals that the process handles.
struct Signals {
    ending: EndingSignals,
    hangup: Signal,
}

/// The signals that end the process.
struct EndingSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let ending =
            EndingSignals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? };
        Ok(Self { ending, hangup: signal(SignalKind::hangup())? })
    }
}

impl EndingSignals {
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
