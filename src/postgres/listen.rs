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

use rand::Rng;
use tokio::{
    sync::{Notify, oneshot, watch},
    time::{Instant, interval_at, sleep, timeout},
};
use tokio_postgres::{Notification, types::Type};

use super::{Breaker, Database, connect};
use crate::config::{self, Address, Connection};

/// How often the connection must answer an empty query.
const PULSE: Duration = Duration::from_secs(5);

/// How long an answer to that, to LISTEN, or our own NOTIFY may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Pauses between attempts to listen: doubled from the first to the second, +-20 %.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A channel is marked no more often than this; a storm of notifications is one mark at its end.
const MARK_INTERVAL: Duration = Duration::from_millis(10);

/// What is known of one channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal {
    /// Whether notifications are known to arrive.
    pub is_healthy: bool,
    /// The latest notification, loss or return of LISTEN.
    pub marked_at: Instant,
}

/// The channels that a database's queries listen on.
#[derive(Debug)]
pub(super) struct Channels {
    wanted: watch::Sender<BTreeMap<String, Arc<Channel>>>,
}

#[derive(Debug)]
struct Channel {
    signal: watch::Sender<Signal>,
    /// A notification that came too soon after a mark to be marked at once.
    late: Mutex<bool>,
}

impl Channels {
    pub(super) fn new() -> Self {
        Self { wanted: watch::Sender::new(BTreeMap::new()) }
    }

    /// The signal of a channel, which is listened on from now on.
    pub(super) fn signal(&self, name: &str) -> watch::Receiver<Signal> {
        let mut receiver = None;
        self.wanted.send_if_modified(|wanted| {
            let is_new = !wanted.contains_key(name);
            let channel = wanted.entry(name.to_owned()).or_insert_with(|| {
                let signal = Signal { is_healthy: false, marked_at: Instant::now() };
                Arc::new(Channel { signal: watch::Sender::new(signal), late: Mutex::new(false) })
            });
            receiver = Some(channel.signal.subscribe());
            is_new
        });
        receiver.expect("set in the closure, which runs once")
    }

    fn wanted(&self) -> watch::Receiver<BTreeMap<String, Arc<Channel>>> {
        self.wanted.subscribe()
    }
}

impl Channel {
    /// A notification has come. True if it must be marked later.
    fn notified(&self) -> bool {
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if !*late && now.duration_since(self.signal.borrow().marked_at) >= MARK_INTERVAL {
            self.signal.send_modify(|signal| signal.marked_at = now);
            return false;
        }
        !std::mem::replace(&mut *late, true)
    }

    fn mark_late(&self) {
        if std::mem::take(&mut *self.late.lock().unwrap_or_else(PoisonError::into_inner)) {
            self.signal.send_modify(|signal| signal.marked_at = Instant::now());
        }
    }

    fn set_health(&self, is_healthy: bool) {
        self.signal.send_replace(Signal { is_healthy, marked_at: Instant::now() });
    }
}

/// Why listening has ended, or could not begin.
enum Lost {
    /// The database handle is gone: so are we.
    Database,
    /// Credentials or host have changed: it is to be opened again.
    Outdated,
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
    if wanted.wait_for(|wanted| !wanted.is_empty()).await.is_err() {
        return;
    }
    let mut pause = FIRST_PAUSE;
    let mut complained = false;
    loop {
        let mut was_healthy = false;
        let lost = session(&database, &mut wanted, &mut was_healthy, complained).await;
        for channel in wanted.borrow().values() {
            channel.set_health(false);
        }
        metrics.listen_up.get_or_create(&labels).set(0);
        let cause = match lost {
            Lost::Database => return,
            Lost::Outdated => continue,
            Lost::Because(cause) => cause,
        };
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
    wanted: &mut watch::Receiver<BTreeMap<String, Arc<Channel>>>,
    was_healthy: &mut bool,
    has_complained: bool,
) -> Lost {
    let Some((settings, metrics, labels, mut renewed)) = database.upgrade().map(|database| {
        let (settings, metrics) = (Arc::clone(&database.settings), Arc::clone(&database.metrics));
        (settings, metrics, database.labels.clone(), database.renewed.subscribe())
    }) else {
        return Lost::Database;
    };
    let connection = match address(&settings) {
        Ok(connection) => connection,
        Err(problem) => return Lost::Because(problem),
    };
    // A channel of this process alone, for the NOTIFY that proves the way.
    let own = format!("clapometer_{:016x}", rand::random::<u64>());
    let arrived = Arc::new(Notify::new());
    let late = Arc::new(Notify::new());
    let channels = wanted.clone();
    // Dropped with the task that moves the connection's bytes.
    let (open, mut closed) = oneshot::channel::<()>();
    let hear = {
        let (own, arrived, late) = (own.clone(), Arc::clone(&arrived), Arc::clone(&late));
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
    let opened = connect::open(&connection, settings.connect_timeout, "clapometer/listen", Some(Box::new(hear))).await;
    let session = match opened {
        Ok(session) => session,
        Err(error) => return Lost::Because(error.to_string()),
    };
    let client = &session.client;
    if let Err(cause) = subscribe(client, [&own]).await {
        return Lost::Because(cause);
    }
    let names: Vec<String> = wanted.borrow_and_update().keys().cloned().collect();
    if let Err(cause) = subscribe(client, &names).await {
        return Lost::Because(cause);
    }
    if let Err(lost) = prove(database, &own, &arrived).await {
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
    let mut pulse = interval_at(Instant::now() + PULSE, PULSE);
    loop {
        tokio::select! {
            _ = &mut closed => return Lost::Because("the connection was closed".to_owned()),
            changed = renewed.changed() => return changed.map_or(Lost::Database, |()| Lost::Outdated),
            () = late.notified() => {
                sleep(MARK_INTERVAL).await;
                for channel in wanted.borrow().values() {
                    channel.mark_late();
                }
            }
            changed = wanted.changed() => {
                if changed.is_err() {
                    return Lost::Database;
                }
                let names: Vec<String> = wanted.borrow_and_update().keys().cloned().collect();
                if let Err(cause) = subscribe(client, &names).await {
                    return Lost::Because(cause);
                }
                for channel in wanted.borrow().values().filter(|channel| !channel.signal.borrow().is_healthy) {
                    channel.set_health(true);
                }
            }
            _ = pulse.tick() => match timeout(PATIENCE, client.simple_query("")).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Lost::Because(connect::explain(&error)),
                Err(_) => return Lost::Because("the connection has fallen silent".to_owned()),
            },
        }
    }
}

/// Where to listen: the database itself where `host` is a pooler.
fn address(settings: &config::Database) -> Result<Connection, String> {
    let mut connection = settings.connection.resolve()?;
    if settings.listen_host.is_none() && settings.listen_port.is_none() {
        return Ok(connection);
    }
    for address in &mut connection.addresses {
        let (Address::Tcp { port, .. } | Address::Unix { port, .. }) = address;
        let port = settings.listen_port.unwrap_or(*port);
        *address = match (&settings.listen_host, &*address) {
            (Some(host), _) => Address::Tcp { host: host.clone(), port },
            (None, Address::Tcp { host, .. }) => Address::Tcp { host: host.clone(), port },
            (None, Address::Unix { directory, .. }) => Address::Unix { directory: directory.clone(), port },
        };
    }
    connection.addresses.dedup();
    Ok(connection)
}

/// LISTENs; repeating one is harmless.
async fn subscribe(client: &tokio_postgres::Client, channels: impl IntoIterator<Item = &String>) -> Result<(), String> {
    for channel in channels {
        let statement = format!("LISTEN \"{}\"", channel.replace('"', "\"\""));
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
async fn prove(database: &Weak<Database>, own: &str, arrived: &Notify) -> Result<(), Lost> {
    let Some(database) = database.upgrade() else { return Err(Lost::Database) };
    let sent = async {
        let connection = database.pool.get().await.map_err(|_| "the pool has no connection".to_owned())?;
        let notified = connection.query_typed("SELECT pg_notify($1, '')", &[(&own, Type::TEXT)]).await;
        notified.map(drop).map_err(|error| connect::explain(&error))
    };
    let proof = async {
        sent.await?;
        arrived.notified().await;
        Ok::<(), String>(())
    };
    match timeout(PATIENCE, proof).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(cause)) => Err(Lost::Because(cause)),
        Err(_) => Err(Lost::Because(
            "a NOTIFY of our own has not arrived; behind a pooler set listen_host and listen_port".to_owned(),
        )),
    }
}
