//! LISTEN: receives notifications that numbers may have changed, and checks that notifications arrive.
//!
//! A notification is a hint, never a number: it only makes the next reading come earlier. Each database has one
//! connection for it, beside the pool. It counts as healthy only once a NOTIFY of our own, sent through the pool, has
//! arrived: behind PgBouncer in transaction mode LISTEN succeeds, but nothing ever arrives. Each loss and each return
//! of LISTEN invalidates every channel, so that no change in between is missed.

mod channels;

use std::{
    convert::Infallible,
    future::pending,
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use deadpool_postgres::Object;
use postgres_protocol::escape::escape_identifier;
use rand::Rng;
use tokio::{
    sync::{Notify, oneshot, watch},
    time::{Instant, interval_at, sleep, timeout},
};
use tokio_postgres::{Client, types::Type};

pub(super) use self::channels::Channels;
use self::channels::{ByName, INVALIDATION_INTERVAL};
use super::{
    Database, QUEUE,
    connect::{self, Heard},
};
use crate::{
    config,
    conninfo::{Address, Connection},
    metrics::{DatabaseLabels, Metrics},
    reading::Breaker,
    recorder::{DroppedState, Incident},
    telemetry::Causes,
};

/// The interval at which the connection must answer an empty query.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// The time that an answer to a heartbeat, to LISTEN or to our own NOTIFY may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// The pause between two attempts to listen: it doubles from the first to the longest, +-20 %.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The cause for a NOTIFY of our own that was not sent.
const NOT_SENT: &str = "a NOTIFY of our own could not be sent";

/// The cause for a NOTIFY of our own that was sent and has not been heard.
const NOT_ARRIVED: &str = "a NOTIFY of our own has not arrived";

/// The reason why a NOTIFY of our own was not sent for certain.
#[derive(Debug, thiserror::Error)]
enum NotifyError {
    #[error("{0}")]
    Rejected(String),
    #[error("a NOTIFY of our own was not answered")]
    Unanswered,
}

/// Lets a session that only listens stay open: it is idle by its nature. PostgreSQL has the setting from 14 on.
const STAY_OPEN: &str = "\
SELECT set_config(name, '0', false) FROM pg_catalog.pg_settings WHERE name = 'idle_session_timeout'";

/// The reason why listening has ended, or could not begin.
enum SessionEnd {
    /// The database handle is gone, and this task ends with it.
    Database,
    /// Credentials or host have changed: the connection is opened again.
    Outdated,
    /// No query listens on any channel.
    Unwanted,
    /// Something failed.
    Failed(ListenFailure, String),
}

/// The kinds of failures for which notifications do not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenFailure {
    /// No session could be opened.
    Unreachable,
    /// PostgreSQL refused a statement of the session.
    Rejected,
    /// A statement of the session was not answered.
    Silent,
    /// The session was closed.
    Closed,
    /// No NOTIFY of our own could be sent through the pool.
    NotSent,
    /// A NOTIFY of our own was sent and did not arrive, as behind a pooler.
    NotDelivered,
    /// Readings come from a standby.
    Standby,
}

impl ListenFailure {
    /// Returns its name in the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Rejected => "rejected",
            Self::Silent => "silent",
            Self::Closed => "closed",
            Self::NotSent => "not_sent",
            Self::NotDelivered => "not_delivered",
            Self::Standby => "standby",
        }
    }
}

/// Everything that every connection of one database needs to listen.
struct Listener {
    database: Weak<Database>,
    settings: Arc<config::Database>,
    metrics: Arc<Metrics>,
    labels: DatabaseLabels,
    wanted: watch::Receiver<ByName>,
    /// The channel of this process alone, for the NOTIFY that proves that notifications arrive. It never changes,
    /// because a pooler leaves each LISTEN of ours behind in one of its own sessions.
    own: String,
    /// The causes for which notifications do not arrive, as far as the log says them.
    causes: Causes,
}

/// One connection that listens.
struct Listening {
    session: connect::Session,
    /// Wakes when our own NOTIFY has arrived.
    arrived: Arc<Notify>,
    /// Wakes when a channel must be invalidated later.
    late: Arc<Notify>,
    /// Ends with the task that moves the connection's bytes.
    closed: oneshot::Receiver<()>,
}

/// Listens on a connection of its own, and proves once that a NOTIFY of the `sender` arrives there.
///
/// # Errors
/// Says why none arrives.
pub(super) async fn prove_once(settings: &config::Database, sender: &Client) -> Result<(), String> {
    let channel = own_channel();
    let connection = address(settings).await?;
    let arrived = Arc::new(Notify::new());
    let hear = {
        let (arrived, channel) = (Arc::clone(&arrived), channel.clone());
        move |heard: Heard<'_>| {
            if let Heard::Notification(notification) = heard
                && notification.channel() == channel
            {
                arrived.notify_one();
            }
        }
    };
    let (within, hear) = (settings.connect_timeout, Box::new(hear));
    let session = connect::open(&connection, Duration::ZERO, within, "clapometer check", connect::NUMBERS, Some(hear))
        .await
        .map_err(|error| error.to_string())?;
    send_listen(&session.client, &channel).await.map_err(|(_, cause)| cause)?;
    send_notify(sender, &channel).await.map_err(|error| error.to_string())?;
    if has_arrived(&arrived).await { Ok(()) } else { Err(NOT_ARRIVED.to_owned()) }
}

/// Returns a new name for the channel of a NOTIFY of our own.
fn own_channel() -> String {
    format!("clapometer_{:016x}", rand::random::<u64>())
}

/// Sends LISTEN for a channel. A second LISTEN on a channel does nothing.
async fn send_listen(client: &Client, channel: &str) -> Result<(), (ListenFailure, String)> {
    let statement = format!("LISTEN {}", escape_identifier(channel));
    match timeout(PATIENCE, client.batch_execute(&statement)).await {
        Ok(Ok(())) => Ok(()),
        // A standby refuses LISTEN (25006), but it may be promoted one day.
        Ok(Err(error)) => Err((ListenFailure::Rejected, connect::explain(&error))),
        Err(_) => Err((ListenFailure::Silent, "LISTEN was not answered".to_owned())),
    }
}

/// Sends a NOTIFY of our own.
async fn send_notify(client: &Client, channel: &str) -> Result<(), NotifyError> {
    match timeout(PATIENCE, client.query_typed("SELECT pg_notify($1, '')", &[(&channel, Type::TEXT)])).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(NotifyError::Rejected(connect::explain(&error))),
        Err(_) => Err(NotifyError::Unanswered),
    }
}

/// Waits for a NOTIFY of our own, and returns whether it has arrived in time.
async fn has_arrived(arrived: &Notify) -> bool {
    timeout(PATIENCE, arrived.notified()).await.is_ok()
}

/// Listens for as long as the database handle lives and there is a channel.
pub(super) async fn listen(database: Weak<Database>) {
    let Some(mut listener) = Listener::new(database) else { return };
    let mut pause = FIRST_PAUSE;
    loop {
        if listener.wanted.wait_for(|wanted| !wanted.is_empty()).await.is_err() {
            return;
        }
        let mut was_healthy = false;
        let end = listener.session(&mut was_healthy).await;
        listener.set_health(false);
        let (failure, cause) = match end {
            SessionEnd::Failed(failure, cause) => (failure, cause),
            SessionEnd::Outdated => continue,
            SessionEnd::Unwanted => {
                listener.note(None);
                listener.metrics.listen_up.remove(&listener.labels);
                listener.end_deafness();
                continue;
            }
            // Another handle may be using the metric by now.
            SessionEnd::Database => return,
        };
        if listener.is_replaced() {
            return;
        }
        listener.note(Some(failure));
        listener.metrics.listen_up.get_or_create(&listener.labels).set(0);
        if was_healthy {
            pause = FIRST_PAUSE;
            listener.causes.end();
        }
        listener.warn(failure, &cause);
        let jittered = pause.mul_f64(rand::rng().random_range(0.8..1.2));
        wait(&listener.database, jittered).await;
        pause = LONGEST_PAUSE.min(pause * 2);
    }
}

/// Pauses, but not beyond the moment in which the database is known to answer again.
async fn wait(database: &Weak<Database>, pause: Duration) {
    let Some(mut breaker) = database.upgrade().map(|database| database.health.breaker()) else { return };
    if *breaker.borrow() == Breaker::Closed {
        return sleep(pause).await;
    }
    tokio::select! {
        () = sleep(pause) => {}
        _ = breaker.wait_for(|breaker| *breaker == Breaker::Closed) => {}
    }
}

impl Listener {
    fn new(weak: Weak<Database>) -> Option<Self> {
        let database = weak.upgrade()?;
        Some(Self {
            settings: Arc::clone(&database.settings),
            metrics: Arc::clone(&database.metrics),
            labels: database.labels.clone(),
            wanted: database.channels.wanted(),
            own: own_channel(),
            causes: Causes::default(),
            database: weak,
        })
    }

    /// Listens on one connection until that ends.
    async fn session(&mut self, was_healthy: &mut bool) -> SessionEnd {
        let Some(database) = self.database.upgrade() else { return SessionEnd::Database };
        let (renewed, is_standby) = (database.renewed.subscribe(), database.observed.is_standby());
        drop(database);
        let listening = match self.begin().await {
            Ok(listening) => listening,
            Err(end) => return end,
        };
        *was_healthy = true;
        self.set_health(true);
        self.note(None);
        self.metrics.listen_up.get_or_create(&self.labels).set(1);
        if self.causes.end() {
            tracing::info!(database = %self.labels.database, "notifications arrive again");
            self.metrics.recorder.happened(Incident::Hearing { database: self.labels.database.clone() });
        }
        match self.attend(listening, renewed, is_standby).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    /// Opens a connection, listens on every channel, and proves that notifications arrive.
    async fn begin(&mut self) -> Result<Listening, SessionEnd> {
        let unreachable = |cause| SessionEnd::Failed(ListenFailure::Unreachable, cause);
        let listening = self.open().await.map_err(unreachable)?;
        listening.subscribe([self.own.as_str()]).await?;
        listening.subscribe(self.names().iter().map(String::as_str)).await?;
        self.prove(&listening.arrived).await?;
        // Not before: behind a pooler the session may be everybody's.
        listening.stay_open().await?;
        Ok(listening)
    }

    async fn open(&self) -> Result<Listening, String> {
        let connection = address(&self.settings).await?;
        let (arrived, late) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (open, closed) = oneshot::channel::<()>();
        let hear = {
            let (own, arrived, late) = (self.own.clone(), Arc::clone(&arrived), Arc::clone(&late));
            let (channels, count) = (self.wanted.clone(), self.metrics.notifications.get_or_create_owned(&self.labels));
            move |heard: Heard<'_>| {
                // Dropped with this closure, and so with the task that moves the connection's bytes.
                let _ = &open;
                let Heard::Notification(notification) = heard else { return };
                if notification.channel() == own {
                    arrived.notify_one();
                    return;
                }
                count.inc();
                if channels.borrow().get(notification.channel()).is_some_and(|channel| channel.notified()) {
                    late.notify_one();
                }
            }
        };
        let (within, hear) = (self.settings.connect_timeout, Box::new(hear));
        let session =
            connect::open(&connection, Duration::ZERO, within, "clapometer/listen", connect::NUMBERS, Some(hear))
                .await
                .map_err(|error| error.to_string())?;
        Ok(Listening { session, arrived, late, closed })
    }

    /// Sends a NOTIFY through the pool and waits for it on the connection that listens.
    async fn prove(&self, arrived: &Notify) -> Result<(), SessionEnd> {
        let Some(database) = self.database.upgrade() else { return Err(SessionEnd::Database) };
        let not_sent = |cause: String| Err(SessionEnd::Failed(ListenFailure::NotSent, cause));
        let connection = match timeout(QUEUE, database.pool.get()).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(_)) => return not_sent(format!("{NOT_SENT}: the database cannot be reached")),
            Err(_) => return not_sent(format!("{NOT_SENT}: all connections are in use")),
        };
        if let Err(error) = send_notify(&connection, &self.own).await {
            if let NotifyError::Unanswered = error {
                // Its answer may still come: it must not meet the next reading.
                drop(Object::take(connection));
            }
            return not_sent(error.to_string());
        }
        // It may be the only one, and readings must not wait for what may never arrive.
        drop(connection);
        // A standby refuses NOTIFY.
        let _ = database.observed.standby(false);
        match has_arrived(arrived).await {
            true => Ok(()),
            false => {
                let cause = format!("{NOT_ARRIVED}; behind a pooler set listen_host and listen_port");
                Err(SessionEnd::Failed(ListenFailure::NotDelivered, cause))
            }
        }
    }

    /// Serves a connection: late invalidations, new and unused channels, heartbeats.
    async fn attend(
        &mut self,
        mut listening: Listening,
        mut renewed: watch::Receiver<Instant>,
        mut is_standby: watch::Receiver<Option<bool>>,
    ) -> Result<Infallible, SessionEnd> {
        let mut heartbeat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
        loop {
            tokio::select! {
                _ = &mut listening.closed => {
                    return Err(SessionEnd::Failed(ListenFailure::Closed, "the connection was closed".to_owned()));
                }
                changed = renewed.changed() => {
                    return Err(changed.map_or(SessionEnd::Database, |()| SessionEnd::Outdated));
                }
                // A notification arrives before the standby has replayed the change. A reading that it caused would be
                // old, and no other one would follow for long.
                () = on_a_standby(&mut is_standby) => {
                    let cause = "readings come from a standby, which is behind notifications";
                    return Err(SessionEnd::Failed(ListenFailure::Standby, cause.to_owned()));
                }
                () = listening.late.notified() => self.invalidate_late().await,
                changed = self.wanted.changed() => {
                    changed.map_err(|_| SessionEnd::Database)?;
                    let names = self.names();
                    if names.is_empty() {
                        return Err(SessionEnd::Unwanted);
                    }
                    listening.subscribe(names.iter().map(String::as_str)).await?;
                    self.set_health(true);
                }
                _ = heartbeat.tick() => {
                    let Some(database) = self.database.upgrade() else { return Err(SessionEnd::Database) };
                    let unwanted = database.channels.take_unwanted();
                    drop(database);
                    listening.send_heartbeat(&unwanted).await?;
                }
            }
        }
    }

    async fn invalidate_late(&self) {
        let pause = self.wanted.borrow().values().map(|channel| channel.interval()).max();
        sleep(pause.unwrap_or(INVALIDATION_INTERVAL)).await;
        for channel in self.wanted.borrow().values() {
            channel.invalidate_late();
        }
    }

    /// Notes why notifications do not arrive; none if they do, or nobody waits for them.
    fn note(&self, failure: Option<ListenFailure>) {
        if let Some(database) = self.database.upgrade() {
            database.observed.listen_failure.send_replace(failure);
        }
    }

    /// Returns whether a reload has put another handle in the place of the database's.
    fn is_replaced(&self) -> bool {
        self.database.upgrade().is_none_or(|database| database.is_retired.load(Ordering::Relaxed))
    }

    /// Records that nobody waits for notifications any more, whether they arrive or not.
    fn end_deafness(&mut self) {
        self.causes.end();
        let database = self.labels.database.clone();
        self.metrics.recorder.happened(Incident::Dropped { database, state: DroppedState::Deaf, is_off: false });
    }

    fn set_health(&self, is_healthy: bool) {
        for channel in self.wanted.borrow().values() {
            channel.set_health(is_healthy);
        }
    }

    /// Returns the names of the channels as they are now; [`watch::Receiver::changed`] waits for later ones.
    fn names(&mut self) -> Vec<String> {
        self.wanted.borrow_and_update().keys().cloned().collect()
    }

    /// Logs that notifications do not arrive, where the cause is news. While the database itself fails, the line about
    /// that is enough.
    fn warn(&mut self, failure: ListenFailure, cause: &str) {
        let is_known = self.database.upgrade().is_none_or(|database| database.health.is_bad());
        let is_first = !self.causes.is_open();
        if is_known || !self.causes.is_news("", cause, Instant::now()) {
            return;
        }
        let (database, reason) = (&self.labels.database, failure.name());
        if is_first {
            tracing::warn!(%database, reason, error = cause, "notifications do not arrive; readings are polled until they do");
            self.metrics.recorder.happened(Incident::Deaf { database: database.clone(), reason: reason.to_owned() });
        } else {
            tracing::warn!(%database, reason, error = cause, "notifications still do not arrive, for another reason");
        }
    }
}

impl Listening {
    /// Sends LISTEN for each channel.
    async fn subscribe<'a>(&self, channels: impl IntoIterator<Item = &'a str>) -> Result<(), SessionEnd> {
        for channel in channels {
            let sent = send_listen(&self.session.client, channel).await;
            sent.map_err(|(failure, cause)| SessionEnd::Failed(failure, cause))?;
        }
        Ok(())
    }

    /// Keeps the server from closing the session because it is idle.
    async fn stay_open(&self) -> Result<(), SessionEnd> {
        match timeout(PATIENCE, self.session.client.batch_execute(STAY_OPEN)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(SessionEnd::Failed(ListenFailure::Rejected, connect::explain(&error))),
            Err(_) => {
                let cause = "idle_session_timeout could not be set in time";
                Err(SessionEnd::Failed(ListenFailure::Silent, cause.to_owned()))
            }
        }
    }

    /// Sends UNLISTEN for these channels, or an empty query if there are none, and waits for the answer.
    async fn send_heartbeat(&self, unwanted: &[String]) -> Result<(), SessionEnd> {
        let statements: String =
            unwanted.iter().map(|channel| format!("UNLISTEN {};", escape_identifier(channel))).collect();
        match timeout(PATIENCE, self.session.client.batch_execute(&statements)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(SessionEnd::Failed(ListenFailure::Rejected, connect::explain(&error))),
            Err(_) => Err(SessionEnd::Failed(ListenFailure::Silent, "the connection no longer answers".to_owned())),
        }
    }
}

/// Waits until readings come from a standby.
async fn on_a_standby(is_standby: &mut watch::Receiver<Option<bool>>) {
    if is_standby.wait_for(|is_standby| *is_standby == Some(true)).await.is_err() {
        pending().await
    }
}

/// Returns where to listen: `listen_host` and `listen_port` lead past a pooler to the database itself.
async fn address(settings: &config::Database) -> Result<Connection, String> {
    let mut connection = settings.connection.resolve_aside().await?;
    if let (false, Some(first)) = (settings.listen_hosts.is_empty(), connection.addresses.first()) {
        let port = first.port();
        connection.addresses = settings.listen_hosts.iter().map(|host| Address::new(host, port)).collect();
    }
    for address in &mut connection.addresses {
        let (Address::Tcp { port, .. } | Address::Unix { port, .. }) = address;
        *port = settings.listen_port.unwrap_or(*port);
    }
    connection.addresses.dedup();
    Ok(connection)
}
