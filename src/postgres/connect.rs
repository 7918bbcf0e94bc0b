//! Opens one session: addresses in turn, TLS, start-up, all of it bounded.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_postgres::{AsyncMessage, CancelToken, Notification, config};

use super::{tls, transport::Transport};
use crate::{
    conninfo::{Address, ChannelBinding, Connection, SessionAttrs},
    telemetry::error_chain,
};

/// A dead peer is noticed after [`KEEPALIVE_IDLE`] + [`KEEPALIVE_RETRIES`] x [`KEEPALIVE_INTERVAL`].
///
/// Short, because a firewall or NAT that forgets an idle connection answers nothing, and the
/// next reading would wait for its deadline.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_RETRIES: u32 = 3;

/// A connection whose data nobody acknowledges for this long is broken. The kernel would go on
/// for a quarter of an hour, with pauses as long as the outage: a statement that was sent into it
/// would be answered long after the database is back.
const UNACKNOWLEDGED: Duration = Duration::from_secs(3);

/// Bytes of one message of a server of which only numbers are asked. Errors that quote a long statement fit.
pub const NUMBERS: usize = 1024 * 1024;

/// Bytes of one message where rows are asked for: PostgreSQL's own limit.
pub const ROWS: usize = 1024 * 1024 * 1024;

/// Characters of a failure that are told: a server's message may be a megabyte long.
const LONGEST_REASON: usize = 1_000;

/// How long a cancel request may take; it opens a connection of its own.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(1);

/// An open session; closed when dropped.
#[derive(Debug)]
pub struct Session {
    /// The driver's handle.
    pub client: tokio_postgres::Client,
    driver: Driver,
}

/// The task that moves a session's bytes; ended when dropped.
#[derive(Debug)]
struct Driver(Option<JoinHandle<()>>);

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.abort();
        }
    }
}

impl Session {
    /// Gives client and driver task away, to a pool that will end the task.
    pub(super) fn into_parts(mut self) -> (tokio_postgres::Client, JoinHandle<()>) {
        (self.client, self.driver.0.take().expect("the task is taken here only, and `self` is consumed"))
    }
}

/// Why no session could be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A credential or certificate that cannot be read.
    #[error("{0}")]
    Credentials(String),
    /// The server did not get ready in time.
    #[error("{address}: no session within {within:?}")]
    Timeout {
        /// The server.
        address: String,
        /// The bound.
        within: Duration,
    },
    /// DNS, TCP, TLS or the server said no.
    #[error("{address}: {reason}")]
    Refused {
        /// The server.
        address: String,
        /// The driver's whole chain of causes, since its own text is only "db error".
        reason: String,
        /// The driver's error.
        #[source]
        source: Arc<tokio_postgres::Error>,
    },
}

impl Error {
    /// Whether the server refused the credentials: they may have been rotated meanwhile.
    pub fn is_authentication(&self) -> bool {
        match self {
            Self::Refused { source, .. } => source.code().is_some_and(|code| code.code().starts_with("28")),
            Self::Credentials(_) | Self::Timeout { .. } => false,
        }
    }

    /// Whether a PostgreSQL has said no, for whatever reason: it is alive.
    pub fn is_from_server(&self) -> bool {
        match self {
            Self::Refused { source, .. } => source.code().is_some(),
            Self::Credentials(_) | Self::Timeout { .. } => false,
        }
    }
}

/// Opens a session with the first address that gives one.
///
/// Each address gets `per_address` for everything: DNS, TCP, TLS and start-up; the driver's own
/// limit covers neither DNS nor a server that accepts and then hangs. An address is tried as soon
/// as the one before it has failed, or has been silent for its share of half of `per_address`: so
/// all of them are under way within that half, however many hosts a failover has left for dead.
/// `hear` is called with what LISTEN brings, in the task that moves the session's bytes. A server
/// that sends a message longer than `largest_message` bytes loses its connection.
///
/// # Errors
/// The last failure, once all have failed.
pub async fn open(
    connection: &Connection,
    per_address: Duration,
    application_name: &str,
    largest_message: usize,
    hear: Option<Box<dyn FnMut(Notification) + Send>>,
) -> Result<Session, Error> {
    let transport = transport(connection, largest_message).map_err(|error| Error::Credentials(error.to_string()))?;
    let attempt = |address: &Address| {
        let config = driver_config(connection, address, application_name);
        let (transport, address) = (transport.clone(), address.to_string());
        async move {
            match timeout(per_address, config.connect(transport)).await {
                Ok(Ok(opened)) => Ok(opened),
                Ok(Err(source)) => Err(Error::Refused { address, reason: explain(&source), source: Arc::new(source) }),
                Err(_) => Err(Error::Timeout { address, within: per_address }),
            }
        }
    };
    let patience = per_address / 2 / u32::try_from(connection.addresses.len().max(1)).unwrap_or(u32::MAX);
    let mut waiting = connection.addresses.iter();
    let mut attempts = FuturesUnordered::new();
    let mut failure = Error::Credentials("no address to connect to".to_owned());
    loop {
        attempts.extend(waiting.next().map(attempt));
        if attempts.is_empty() {
            return Err(failure);
        }
        tokio::select! {
            biased;
            Some(opened) = attempts.next() => match opened {
                Ok((client, driver)) => {
                    let driver = Driver(Some(tokio::spawn(drive(driver, hear))));
                    return Ok(Session { client, driver });
                }
                Err(error) => failure = error,
            },
            () = sleep(patience), if waiting.len() > 0 => {}
        }
    }
}

/// Asks the server to cancel what a session is doing; best effort, bounded by a second.
pub async fn cancel(connection: &Connection, token: CancelToken) {
    if let Ok(transport) = transport(connection, NUMBERS)
        && let Ok(Err(error)) = timeout(CANCEL_TIMEOUT, token.cancel_query(transport)).await
    {
        tracing::debug!(error = %explain(&error), "cancel request failed");
    }
}

fn transport(connection: &Connection, largest_message: usize) -> Result<Transport, tls::Error> {
    Ok(Transport { tls: tls::connector(connection)?, sslmode: connection.sslmode, largest_message })
}

/// A driver's error with its causes: on its own it prints only "db error" or "error connecting to server".
pub fn explain(error: &tokio_postgres::Error) -> String {
    let mut text = error_chain(error);
    // The names in the certificate of whoever answers are not for our log.
    if let Some(at) = text.find("; certificate is only valid for") {
        text.truncate(at);
    }
    if text.contains("CaUsedAsEndEntity") {
        text.push_str(
            " (a self-signed certificate cannot be root and server certificate at once; \
             sign the server's certificate with a CA of its own)",
        );
    }
    shortened(text)
}

/// What of a failure's text is told.
pub(super) fn shortened(mut text: String) -> String {
    if let Some((at, _)) = text.char_indices().nth(LONGEST_REASON) {
        text.truncate(at);
        text.push_str("...");
    }
    text
}

fn driver_config(connection: &Connection, address: &Address, application_name: &str) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    match address {
        Address::Tcp { host, port } => config.host(host).port(*port),
        Address::Unix { directory, port } => config.host_path(directory).port(*port),
    };
    config
        .user(&connection.user)
        .dbname(&connection.dbname)
        .application_name(application_name)
        .tcp_user_timeout(UNACKNOWLEDGED)
        .keepalives_idle(KEEPALIVE_IDLE)
        .keepalives_interval(KEEPALIVE_INTERVAL)
        .keepalives_retries(KEEPALIVE_RETRIES)
        // The transport negotiates TLS itself, or does without: the driver is to leave it to that. Whoever can
        // stand in for a Unix socket is root.
        .ssl_mode(match address {
            Address::Unix { .. } => config::SslMode::Disable,
            Address::Tcp { .. } => config::SslMode::Require,
        })
        .ssl_negotiation(config::SslNegotiation::Direct)
        .channel_binding(match connection.channel_binding {
            ChannelBinding::Disable => config::ChannelBinding::Disable,
            ChannelBinding::Prefer => config::ChannelBinding::Prefer,
            ChannelBinding::Require => config::ChannelBinding::Require,
        })
        .target_session_attrs(match connection.target_session_attrs {
            SessionAttrs::Any => config::TargetSessionAttrs::Any,
            SessionAttrs::ReadWrite => config::TargetSessionAttrs::ReadWrite,
            SessionAttrs::ReadOnly => config::TargetSessionAttrs::ReadOnly,
        });
    if let Some(options) = &connection.options {
        config.options(options);
    }
    if let Some(password) = &connection.password {
        config.password(password.expose());
    }
    config
}

/// Runs a connection until it ends. Its error reaches whoever waits for an answer on it.
async fn drive<S, T>(
    mut connection: tokio_postgres::Connection<S, T>,
    mut hear: Option<Box<dyn FnMut(Notification) + Send>>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
        if let (AsyncMessage::Notification(notification), Some(hear)) = (message, &mut hear) {
            hear(notification);
        }
    }
}
