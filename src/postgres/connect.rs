//! Opens one session: addresses in turn, TLS, start-up, all within a time limit.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_postgres::{AsyncMessage, CancelToken, Notification, Socket, config, error::SqlState};

use super::{
    requirement::{Mismatch, Requirement, ServerState},
    tls,
    transport::{Bounded, Transport},
};
use crate::{
    blocking,
    conninfo::{Address, ChannelBinding, Connection, TcpSettings},
    fault::Fault,
    telemetry::error_chain,
};

/// The keepalives of TCP: a dead peer is noticed after [`KEEPALIVE_IDLE`] + [`KEEPALIVE_RETRIES`] x
/// [`KEEPALIVE_INTERVAL`].
///
/// Short, because a firewall or NAT that forgets an idle connection answers nothing, and the
/// next reading would wait for its deadline.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_RETRIES: u32 = 3;

/// The time after which a connection is broken if its data is not acknowledged. The kernel would go on for
/// a quarter of an hour, with pauses as long as the outage: a statement that was sent meanwhile would be
/// answered long after the database is back.
const UNACKNOWLEDGED: Duration = Duration::from_secs(3);

/// The most bytes of one message where only numbers are asked for. Errors that quote a long statement fit.
pub const NUMBERS: usize = 1024 * 1024;

/// The most bytes of one message where rows are asked for: PostgreSQL's own limit.
pub const ROWS: usize = 1024 * 1024 * 1024;

/// The most characters of a failure's text: a server's message may be a megabyte long.
const LONGEST_REASON: usize = 1_000;

/// The time that a cancel request may take; it opens a connection of its own.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(1);

/// An open session; closed when dropped.
#[derive(Debug)]
pub struct Session {
    /// The driver's handle.
    pub client: tokio_postgres::Client,
    /// The kind of server that was asked for.
    pub(super) requirement: Requirement,
    /// True if no other host is preferred to the one that it leads to.
    pub(super) is_preferred: bool,
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
    /// Returns the client and the driver's task, for a pool that will end the task.
    pub(super) fn into_parts(mut self) -> (tokio_postgres::Client, JoinHandle<()>) {
        (self.client, self.driver.0.take().expect("the task is taken here only, and `self` is consumed"))
    }
}

/// What a session tells beside the answers to its statements.
#[derive(Debug)]
pub enum Heard<'a> {
    /// A NOTIFY that it listens for.
    Notification(Notification),
    /// It ends with this error. Statements that wait for an answer get another one, which only says that it has ended.
    End(&'a tokio_postgres::Error),
}

/// Is called with what a session tells, in the task that moves its bytes.
pub type Hear = Box<dyn FnMut(Heard<'_>) + Send>;

/// A reason why no session could be opened.
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
    /// The server is not of the kind that is asked for.
    #[error("{address}: {mismatch}")]
    Mismatch {
        /// The server.
        address: String,
        /// The way in which it differs.
        mismatch: Mismatch,
    },
    /// The server closed the connection before it was used.
    #[error("{address}: the server closed the connection")]
    Closed {
        /// The server.
        address: String,
    },
    /// DNS, TCP or TLS failed, or the server refused the session.
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
    /// None of several addresses gave a session: their errors, in the addresses' order.
    #[error("{}", of_all(.0))]
    Several(Vec<Error>),
}

impl Error {
    /// Returns the one that says what to do: of several a refusal of the credentials, else what another server says,
    /// such as that it is full or starting, else a server of another kind, else that of the last address.
    pub fn chief(&self) -> &Self {
        let Self::Several(errors) = self else { return self };
        let last = |is_it: fn(&Self) -> bool| errors.iter().rev().find(|error| is_it(error));
        last(Self::is_authentication)
            .or_else(|| last(|error| error.code().is_some()))
            .or_else(|| last(|error| matches!(error, Self::Mismatch { .. })))
            .or(errors.last())
            .unwrap_or(self)
    }

    /// Returns whether the server refused the credentials, which may have been rotated meanwhile.
    pub fn is_authentication(&self) -> bool {
        self.code().is_some_and(|code| code.starts_with("28"))
    }

    /// Returns the fault of a reading that gets no session because of this error.
    pub(super) fn fault(&self) -> Fault {
        match self.chief() {
            Self::Mismatch { mismatch, .. } => mismatch.fault(),
            _ => Fault::Unreachable,
        }
    }

    /// Returns whether a PostgreSQL has refused the session, for whatever reason: it is alive.
    pub fn is_from_server(&self) -> bool {
        self.code().is_some()
    }

    /// Returns the SQLSTATE with which a server refused the session.
    fn code(&self) -> Option<&str> {
        match self.chief() {
            Self::Refused { source, .. } => source.code().map(SqlState::code),
            _ => None,
        }
    }
}

/// Returns the texts of several errors, each once.
fn of_all(errors: &[Error]) -> String {
    let mut texts: Vec<String> = Vec::new();
    for text in errors.iter().map(ToString::to_string) {
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    shortened(texts.join("; "))
}

/// A session that was just opened, before its driver has a task.
struct Opened {
    client: tokio_postgres::Client,
    connection: tokio_postgres::Connection<Socket, Bounded>,
    is_preferred: bool,
    /// True if another address may give a better one.
    is_fallback: bool,
}

/// Opens a session with the first address that gives one to a server of the kind that is asked for:
/// by the connection's `target_session_attrs`, and by `max_lag`, unless that is zero.
///
/// Each address gets `per_address` for everything: DNS, TCP, TLS, start-up and the question what
/// kind of server it is; the driver's own limit covers neither DNS nor a server that accepts and then
/// hangs. An address is tried as soon as the one before it has failed, or has been silent for its share
/// of half of `per_address`: so all of them are under way within that half, however many hosts a failover
/// has left for dead. `hear` is called with what the session tells beside its answers. A server that sends a message
/// longer than `largest_message` bytes loses its connection.
///
/// # Errors
/// The failure of each address, once all have failed.
pub async fn open(
    connection: &Connection,
    max_lag: Duration,
    per_address: Duration,
    application_name: &str,
    largest_message: usize,
    hear: Option<Hear>,
) -> Result<Session, Error> {
    let transport =
        transport(connection, largest_message).await.map_err(|error| Error::Credentials(error.to_string()))?;
    let requirement = Requirement::new(connection, max_lag);
    let attempt = |(place, address): (usize, &Address)| {
        let config = driver_config(connection, address, application_name);
        let (transport, address) = (transport.clone(), address.to_string());
        async move {
            let opened = timeout(per_address, open_one(&config, transport, requirement, place, &address)).await;
            opened.unwrap_or(Err(Error::Timeout { address, within: per_address })).map_err(|error| (place, error))
        }
    };
    let patience = per_address / 2 / u32::try_from(connection.addresses.len().max(1)).unwrap_or(u32::MAX);
    let mut waiting = connection.addresses.iter().enumerate();
    let mut attempts = FuturesUnordered::new();
    let mut failures = Vec::new();
    let mut fallback = None;
    let opened = loop {
        attempts.extend(waiting.next().map(attempt));
        if attempts.is_empty() {
            break fallback.ok_or_else(|| no_session(failures))?;
        }
        tokio::select! {
            biased;
            Some(opened) = attempts.next() => match opened {
                Ok(opened) if opened.is_fallback => {
                    fallback.get_or_insert(opened);
                }
                Ok(opened) => break opened,
                Err(failure) => failures.push(failure),
            },
            () = sleep(patience), if waiting.len() > 0 => {}
        }
    };
    let Opened { client, connection, is_preferred, is_fallback: _ } = opened;
    let driver = Driver(Some(tokio::spawn(drive(connection, hear))));
    Ok(Session { client, requirement, is_preferred, driver })
}

/// Puts together why no address gave a session, whichever failed first: the text of an outage that goes on stays the
/// same.
fn no_session(mut failures: Vec<(usize, Error)>) -> Error {
    failures.sort_unstable_by_key(|(place, _)| *place);
    let mut errors: Vec<Error> = failures.into_iter().map(|(_, error)| error).collect();
    match errors.len() {
        0 => Error::Credentials("no address to connect to".to_owned()),
        1 => errors.remove(0),
        _ => Error::Several(errors),
    }
}

/// Opens a session with one address, and checks what kind of server that is, if the kind matters.
async fn open_one(
    config: &tokio_postgres::Config,
    transport: Transport,
    requirement: Requirement,
    place: usize,
    address: &str,
) -> Result<Opened, Error> {
    let refused = |source: tokio_postgres::Error| {
        let reason = explain(&source);
        Error::Refused { address: address.to_owned(), reason, source: Arc::new(source) }
    };
    let (client, mut connection) = config.connect(transport).await.map_err(refused)?;
    let state = match requirement.statement() {
        None => None,
        Some(statement) => {
            let messages = tokio::select! {
                biased;
                messages = client.simple_query(statement) => messages.map_err(refused)?,
                ended = &mut connection => {
                    ended.map_err(refused)?;
                    return Err(Error::Closed { address: address.to_owned() });
                }
            };
            let state = ServerState::read(&messages);
            let mismatch = state.map_or(Err(Mismatch::Unknown), |state| requirement.check(state));
            mismatch.map_err(|mismatch| Error::Mismatch { address: address.to_owned(), mismatch })?;
            state
        }
    };
    let is_preferred = requirement.prefers(place, state);
    Ok(Opened { client, connection, is_preferred, is_fallback: !is_preferred && requirement.prefers_standbys() })
}

/// Asks the server to cancel what a session is doing; best effort, bounded by a second.
pub async fn cancel(connection: &Connection, token: CancelToken) {
    if let Ok(transport) = transport(connection, NUMBERS).await
        && let Ok(Err(error)) = timeout(CANCEL_TIMEOUT, token.cancel_query(transport)).await
    {
        tracing::debug!(error = %explain(&error), "cancel request failed");
    }
}

async fn transport(connection: &Connection, largest_message: usize) -> Result<Transport, tls::Error> {
    let tls = if tls::reads_files(connection) {
        let connection = connection.clone();
        blocking::run_or_here("certificates", move || tls::connector(&connection)).await?
    } else {
        tls::connector(connection)?
    };
    Ok(Transport { tls, sslmode: connection.sslmode, sslnegotiation: connection.sslnegotiation, largest_message })
}

/// Returns the causes of a driver's error: on its own it prints only "error connecting to server", or "db error".
pub fn explain(error: &tokio_postgres::Error) -> String {
    let mut text = error_chain(error);
    for of_driver in ["db error: ", "error connecting to server: "] {
        if let Some(cause) = text.strip_prefix(of_driver) {
            text = cause.to_owned();
        }
    }
    // The names in the certificate of an unknown server are not for our log.
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

/// Returns the text of a failure, cut to [`LONGEST_REASON`].
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
        Address::Tcp { host, port, hostaddr } => {
            config.host(host).port(*port);
            if let Some(address) = hostaddr {
                config.hostaddr(*address);
            }
        }
        Address::Unix { directory, port } => {
            config.host_path(directory).port(*port);
        }
    }
    config
        .user(&connection.user)
        .dbname(&connection.dbname)
        .application_name(application_name)
        // The transport negotiates TLS itself, or does without it, so the driver must not. A Unix socket needs no TLS:
        // only root could put another server in its place.
        .ssl_mode(match address {
            Address::Unix { .. } => config::SslMode::Disable,
            Address::Tcp { .. } => config::SslMode::Require,
        })
        .ssl_negotiation(config::SslNegotiation::Direct)
        .channel_binding(match connection.channel_binding {
            ChannelBinding::Disable => config::ChannelBinding::Disable,
            ChannelBinding::Prefer => config::ChannelBinding::Prefer,
            ChannelBinding::Require => config::ChannelBinding::Require,
        });
    watch_for_death(&mut config, &connection.tcp);
    if let Some(options) = &connection.options {
        config.options(options);
    }
    if let Some(password) = &connection.password {
        config.password(password.expose());
    }
    config
}

/// Sets how TCP notices that the server is gone: as the connection string says, else soon. Zero leaves it to the
/// operating system.
fn watch_for_death(config: &mut tokio_postgres::Config, tcp: &TcpSettings) {
    let TcpSettings { without_keepalives, keepalives_idle, keepalives_interval, keepalives_count, user_timeout } = *tcp;
    config.keepalives(!without_keepalives);
    let time = |set: Option<Duration>, ours| Some(set.unwrap_or(ours)).filter(|time| !time.is_zero());
    if let Some(idle) = time(keepalives_idle, KEEPALIVE_IDLE) {
        config.keepalives_idle(idle);
    }
    if let Some(interval) = time(keepalives_interval, KEEPALIVE_INTERVAL) {
        config.keepalives_interval(interval);
    }
    if let Some(retries) = Some(keepalives_count.unwrap_or(KEEPALIVE_RETRIES)).filter(|retries| *retries > 0) {
        config.keepalives_retries(retries);
    }
    if let Some(timeout) = time(user_timeout, UNACKNOWLEDGED) {
        config.tcp_user_timeout(timeout);
    }
}

/// Runs a connection until it ends. Every statement that waits for an answer on it gets its error.
async fn drive<S, T>(mut connection: tokio_postgres::Connection<S, T>, mut hear: Option<Hear>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = std::future::poll_fn(|context| connection.poll_message(context)).await {
        match (message, &mut hear) {
            (Ok(AsyncMessage::Notification(notification)), Some(hear)) => hear(Heard::Notification(notification)),
            (Ok(_), _) => {}
            (Err(error), hear) => {
                // Before the connection is dropped, which wakes those who wait for an answer.
                if let Some(hear) = hear {
                    hear(Heard::End(&error));
                }
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_connection_is_noticed_soon_unless_the_connection_string_says_when() {
        let set = |tcp: TcpSettings| {
            let mut config = tokio_postgres::Config::new();
            watch_for_death(&mut config, &tcp);
            config
        };
        let ours = set(TcpSettings::default());
        assert!(ours.get_keepalives());
        assert_eq!(ours.get_keepalives_idle(), KEEPALIVE_IDLE);
        assert_eq!(ours.get_tcp_user_timeout(), Some(&UNACKNOWLEDGED));
        let theirs = set(TcpSettings {
            without_keepalives: true,
            keepalives_idle: Some(Duration::from_secs(30)),
            keepalives_interval: Some(Duration::ZERO),
            keepalives_count: Some(9),
            user_timeout: Some(Duration::ZERO),
        });
        assert!(!theirs.get_keepalives());
        assert_eq!(theirs.get_keepalives_idle(), Duration::from_secs(30));
        assert_eq!((theirs.get_keepalives_interval(), theirs.get_keepalives_retries()), (None, Some(9)));
        assert_eq!(theirs.get_tcp_user_timeout(), None, "left to the operating system");
    }
}
