//! LISTEN: hears that numbers may have changed, and knows whether it can hear.
//!
//! A notification is a hint, never the truth: it makes readings younger sooner. One connection
//! per database, beside the pool. It counts as healthy only once a NOTIFY of our own, sent
//! through the pool, has arrived: behind PgBouncer in transaction mode LISTEN succeeds and stays
//! deaf. Whatever is lost or regained marks every channel, so that nothing that happened in
//! between is missed.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use deadpool_postgres::Object;
use rand::Rng;
use tokio::{
    sync::{Notify, oneshot, watch},
    time::{Instant, interval_at, sleep, timeout},
};
use tokio_postgres::{Notification, types::Type};

use super::{Database, QUEUE, connect};
use crate::{
    config,
    conninfo::{Address, Connection},
    reading::{Breaker, ChannelState},
};

/// How often the connection must answer an empty query.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// How long an answer to that, to LISTEN, or our own NOTIFY may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Pauses between attempts to listen: doubled from the first to the second, +-20 %.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A channel is marked no more often than this; a storm of notifications is one mark at its end.
const INVALIDATION_INTERVAL: Duration = Duration::from_millis(1);

/// What each gauge that a mark wakes adds to that interval: waking it takes a tenth of this.
const INVALIDATION_INTERVAL_PER_QUERY: Duration = Duration::from_micros(10);

/// The channels that a database's queries listen on.
#[derive(Debug)]
pub(super) struct Channels {
    wanted: watch::Sender<BTreeMap<String, Arc<Channel>>>,
}

#[derive(Debug)]
struct Channel {
    state: watch::Sender<ChannelState>,
    /// A notification that came too soon after a mark to be marked at once.
    late: Mutex<bool>,
}

impl Channels {
    pub(super) fn new() -> Self {
        Self { wanted: watch::Sender::new(BTreeMap::new()) }
    }

    /// The signal of a channel, which is listened on from now on.
    pub(super) fn channel(&self, name: &str) -> watch::Receiver<ChannelState> {
        let mut receiver = None;
        self.wanted.send_if_modified(|wanted| {
            let is_new = !wanted.contains_key(name);
            let channel = wanted.entry(name.to_owned()).or_insert_with(|| {
                let state = ChannelState { is_healthy: false, invalidated_at: Instant::now() };
                Arc::new(Channel { state: watch::Sender::new(state), late: Mutex::new(false) })
            });
            receiver = Some(channel.state.subscribe());
            is_new
        });
        receiver.expect("set in the closure, which runs once")
    }

    /// Forgets the channels that no query wants any more, and names them.
    fn unwanted(&self) -> Vec<String> {
        let mut unwanted = Vec::new();
        self.wanted.send_if_modified(|wanted| {
            wanted.retain(|name, channel| {
                let is_wanted = channel.state.receiver_count() > 0;
                if !is_wanted {
                    unwanted.push(name.clone());
                }
                is_wanted
            });
            !unwanted.is_empty()
        });
        unwanted
    }

    fn wanted(&self) -> watch::Receiver<BTreeMap<String, Arc<Channel>>> {
        self.wanted.subscribe()
    }
}

impl Channel {
    /// The pause between two marks.
    fn interval(&self) -> Duration {
        let queries = u32::try_from(self.state.receiver_count()).unwrap_or(u32::MAX);
        INVALIDATION_INTERVAL.max(INVALIDATION_INTERVAL_PER_QUERY.saturating_mul(queries))
    }

    /// A notification has come. True if it must be marked later.
    fn notified(&self) -> bool {
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if !*late && now.duration_since(self.state.borrow().invalidated_at) >= self.interval() {
            self.state.send_modify(|state| state.invalidated_at = now);
            return false;
        }
        !std::mem::replace(&mut *late, true)
    }

    fn invalidate_late(&self) {
        if std::mem::take(&mut *self.late.lock().unwrap_or_else(PoisonError::into_inner)) {
            self.state.send_modify(|state| state.invalidated_at = Instant::now());
        }
    }

    /// Marks, too, where this is news: while LISTEN cannot be had each attempt would mark everything.
    fn set_health(&self, is_healthy: bool) {
        self.state.send_if_modified(|state| {
            let is_news = state.is_healthy != is_healthy;
            if is_news {
                *state = ChannelState { is_healthy, invalidated_at: Instant::now() };
            }
            is_news
        });
    }
}

/// Why listening has ended, or could not begin.
enum SessionEnd {
    /// The database handle is gone: so are we.
    Database,
    /// Credentials or host have changed: it is to be opened again.
    Outdated,
    /// No query wants to hear anything.
    Unwanted,
    /// What went wrong.
    Because(String),
}

/// Listens for as long as the database handle lives and there is a channel.
pub(super) async fn listen(database: Weak<Database>) {
    let Some((mut wanted, labels, metrics)) = database
        .upgrade()
        .map(|database| (database.channels.wanted(), database.labels.clone(), Arc::clone(&database.metrics)))
    else {
        return;
    };
    // A channel of this process alone, for the NOTIFY that proves the way. Always the same one: a
    // pooler leaves each LISTEN of ours behind in one of its own sessions.
    let own = format!("clapometer_{:016x}", rand::random::<u64>());
    let mut pause = FIRST_PAUSE;
    let mut complained = false;
    loop {
        if wanted.wait_for(|wanted| !wanted.is_empty()).await.is_err() {
            return;
        }
        let mut was_healthy = false;
        let lost = session(&database, &own, &mut wanted, &mut was_healthy, complained).await;
        for channel in wanted.borrow().values() {
            channel.set_health(false);
        }
        let cause = match lost {
            SessionEnd::Because(cause) => cause,
            SessionEnd::Outdated => continue,
            SessionEnd::Unwanted => {
                metrics.listen_up.remove(&labels);
                continue;
            }
            // Another handle may be using the metric by now.
            SessionEnd::Database => return,
        };
        metrics.listen_up.get_or_create(&labels).set(0);
        if was_healthy {
            pause = FIRST_PAUSE;
            complained = false;
        }
        // While the database itself fails, its own line in the log says enough.
        let is_known = database.upgrade().is_none_or(|database| database.health.is_bad());
        if !is_known && !std::mem::replace(&mut complained, true) {
            tracing::warn!(
                database = %labels.database,
                error = %cause,
                "notifications do not arrive; readings are polled until they do"
            );
        }
        let jittered = pause.mul_f64(rand::rng().random_range(0.8..1.2));
        wait(&database, jittered).await;
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

/// One connection's life.
async fn session(
    database: &Weak<Database>,
    own: &str,
    wanted: &mut watch::Receiver<BTreeMap<String, Arc<Channel>>>,
    was_healthy: &mut bool,
    has_complained: bool,
) -> SessionEnd {
    let Some((settings, metrics, labels, mut renewed)) = database.upgrade().map(|database| {
        let (settings, metrics) = (Arc::clone(&database.settings), Arc::clone(&database.metrics));
        (settings, metrics, database.labels.clone(), database.renewed.subscribe())
    }) else {
        return SessionEnd::Database;
    };
    let connection = match address(&settings) {
        Ok(connection) => connection,
        Err(problem) => return SessionEnd::Because(problem),
    };
    let arrived = Arc::new(Notify::new());
    let late = Arc::new(Notify::new());
    let channels = wanted.clone();
    // Dropped with the task that moves the connection's bytes.
    let (open, mut closed) = oneshot::channel::<()>();
    let hear = {
        let (own, arrived, late) = (own.to_owned(), Arc::clone(&arrived), Arc::clone(&late));
        let count = metrics.notifications.get_or_create_owned(&labels);
        move |notification: Notification| {
            let _ = &open;
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
    let opened = connect::open(
        &connection,
        settings.connect_timeout,
        "clapometer/listen",
        connect::NUMBERS,
        Some(Box::new(hear)),
    )
    .await;
    let session = match opened {
        Ok(session) => session,
        Err(error) => return SessionEnd::Because(error.to_string()),
    };
    let client = &session.client;
    if let Err(cause) = subscribe(client, [own]).await {
        return SessionEnd::Because(cause);
    }
    let names: Vec<String> = wanted.borrow_and_update().keys().cloned().collect();
    if let Err(cause) = subscribe(client, names.iter().map(String::as_str)).await {
        return SessionEnd::Because(cause);
    }
    if let Err(lost) = prove(database, own, &arrived).await {
        return lost;
    }
    *was_healthy = true;
    for channel in wanted.borrow().values() {
        channel.set_health(true);
    }
    metrics.listen_up.get_or_create(&labels).set(1);
    if has_complained {
        tracing::info!(database = %labels.database, "notifications arrive again");
    }
    let mut heartbeat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
    loop {
        tokio::select! {
            _ = &mut closed => return SessionEnd::Because("the connection was closed".to_owned()),
            changed = renewed.changed() => return changed.map_or(SessionEnd::Database, |()| SessionEnd::Outdated),
            () = late.notified() => {
                let pause = wanted.borrow().values().map(|channel| channel.interval()).max();
                sleep(pause.unwrap_or(INVALIDATION_INTERVAL)).await;
                for channel in wanted.borrow().values() {
                    channel.invalidate_late();
                }
            }
            changed = wanted.changed() => {
                if changed.is_err() {
                    return SessionEnd::Database;
                }
                let names: Vec<String> = wanted.borrow_and_update().keys().cloned().collect();
                if names.is_empty() {
                    return SessionEnd::Unwanted;
                }
                if let Err(cause) = subscribe(client, names.iter().map(String::as_str)).await {
                    return SessionEnd::Because(cause);
                }
                for channel in wanted.borrow().values() {
                    channel.set_health(true);
                }
            }
            _ = heartbeat.tick() => {
                let Some(database) = database.upgrade() else { return SessionEnd::Database };
                let unwanted = database.channels.unwanted();
                drop(database);
                match timeout(PATIENCE, client.batch_execute(&unlisten(&unwanted))).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => return SessionEnd::Because(connect::explain(&error)),
                    Err(_) => return SessionEnd::Because("the connection has fallen silent".to_owned()),
                }
            }
        }
    }
}

/// Where to listen: the database itself where `host` is a pooler.
fn address(settings: &config::Database) -> Result<Connection, String> {
    let mut connection = settings.connection.resolve()?;
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

/// The heartbeat: statements that end listening on these channels, or an empty query.
fn unlisten(channels: &[String]) -> String {
    channels.iter().map(|channel| format!("UNLISTEN {};", quoted(channel))).collect()
}

fn quoted(channel: &str) -> String {
    format!("\"{}\"", channel.replace('"', "\"\""))
}

/// LISTENs; repeating one is harmless.
async fn subscribe<'a>(
    client: &tokio_postgres::Client,
    channels: impl IntoIterator<Item = &'a str>,
) -> Result<(), String> {
    for channel in channels {
        let statement = format!("LISTEN {}", quoted(channel));
        match timeout(PATIENCE, client.batch_execute(&statement)).await {
            Ok(Ok(())) => {}
            // On a standby there is no LISTEN (25006); it may be promoted one day.
            Ok(Err(error)) => return Err(connect::explain(&error)),
            Err(_) => return Err("LISTEN was not answered".to_owned()),
        }
    }
    Ok(())
}

/// Sends a NOTIFY through the pool and waits for it here.
async fn prove(database: &Weak<Database>, own: &str, arrived: &Notify) -> Result<(), SessionEnd> {
    let Some(database) = database.upgrade() else { return Err(SessionEnd::Database) };
    let because = |cause: &str| Err(SessionEnd::Because(cause.to_owned()));
    let connection = match timeout(QUEUE, database.pool.get()).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(_)) => return because("a NOTIFY of our own could not be sent: the database cannot be reached"),
        Err(_) => return because("a NOTIFY of our own could not be sent: all connections are in use"),
    };
    match timeout(PATIENCE, connection.query_typed("SELECT pg_notify($1, '')", &[(&own, Type::TEXT)])).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return because(&connect::explain(&error)),
        Err(_) => {
            // Its answer may still come: it must not meet the next reading.
            drop(Object::take(connection));
            return because("a NOTIFY of our own was not answered");
        }
    }
    drop(connection);
    match timeout(PATIENCE, arrived.notified()).await {
        Ok(()) => Ok(()),
        Err(_) => because("a NOTIFY of our own has not arrived; behind a pooler set listen_host and listen_port"),
    }
}
