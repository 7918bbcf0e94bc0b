//! The pool's connections: which are kept, which are closed, and the metrics about them.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use deadpool_postgres::Object;
use tokio::time::{Instant, sleep};

use super::{
    Database, connect,
    crowding::{Crowding, News},
};
use crate::{
    metrics::{ConnectionLabels, ConnectionUse},
    recorder::Incident,
};

/// The pause between two searches for idle and old connections.
const SWEEP_INTERVAL: Duration = Duration::from_secs(15);

/// The most queries that are named as those which hold a pool's connections.
const MOST_NAMED: usize = 3;

impl Database {
    /// Returns a connection to the pool, or closes it if credentials or host have changed since it was opened.
    ///
    /// The pool hands out first what came back last: an outdated connection that others lie upon would stay
    /// open until it has been idle for the whole of `idle_timeout`.
    pub(super) fn give_back(&self, connection: Object) {
        if is_outdated(Object::metrics(&connection), *self.renewed.borrow()) {
            drop(Object::take(connection));
        }
    }

    /// Cancels what a connection is doing and closes it.
    pub(super) fn abandon(&self, connection: Object) {
        let token = connection.cancel_token();
        drop(Object::take(connection));
        let settings = Arc::clone(&self.settings);
        tokio::spawn(async move {
            if let Ok(connection) = settings.connection.resolve_aside().await {
                connect::cancel(&connection, token).await;
            }
        });
    }

    /// Updates the metrics of the pool, which are computed when they are scraped.
    pub fn publish(&self) {
        let status = self.pool.status();
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let idle = status.available.min(status.size);
        for (state, number) in [(ConnectionUse::Idle, idle), (ConnectionUse::Busy, status.size - idle)] {
            let labels = ConnectionLabels { database: self.labels.database.clone(), state };
            self.metrics.pool_connections.get_or_create(&labels).set(count(number));
        }
        self.metrics.pool_waiting.get_or_create(&self.labels).set(count(status.waiting + self.fair_pool.waiting()));
    }

    /// Tells when readings begin to wait for a connection, and when that is over.
    fn tell_of_crowding(&self, crowding: &mut Crowding) {
        let now = Instant::now();
        let used = self.fair_pool.take_use(now);
        let database = self.labels.database.clone();
        match crowding.look(used.longest_wait, now) {
            Some(News::Begun) => {
                let held_by = used.held_by[..used.held_by.len().min(MOST_NAMED)].join(", ");
                tracing::warn!(
                    %database,
                    pool_size = self.settings.pool_size,
                    waiting = used.waiting,
                    longest_wait = ?Duration::from_millis(u64::try_from(used.longest_wait.as_millis()).unwrap_or(u64::MAX)),
                    held_by,
                    "readings wait for a connection: the pool is too small for its queries, or one of them is too slow"
                );
                self.observed.crowded_since.send_replace(Some(now));
                self.metrics.recorder.happened(Incident::PoolFull { database, held_by });
            }
            Some(News::Over) => {
                tracing::info!(%database, "readings wait for a connection no more");
                self.observed.crowded_since.send_replace(None);
                self.metrics.recorder.happened(Incident::PoolFree { database });
            }
            None => {}
        }
    }

    /// Closes all connections, busy ones when they are done. Later ones read credentials and host anew.
    pub fn renew(&self) {
        self.renewed.send_replace(Instant::now());
        self.pool.retain(|_, _| false);
    }
}

/// Returns whether a connection was opened before credentials or host last changed.
pub(super) fn is_outdated(connection: &deadpool_postgres::Metrics, renewed_at: Instant) -> bool {
    connection.age() > renewed_at.elapsed()
}

/// Closes connections that lie idle, are old or outdated, and tells when there are too few, until the handle is dropped.
pub(super) async fn sweep(database: Weak<Database>) {
    let mut crowding = Crowding::default();
    loop {
        sleep(SWEEP_INTERVAL).await;
        let Some(database) = database.upgrade() else { return };
        let (idle, lifetime) = (database.settings.idle_timeout, database.settings.max_lifetime);
        // One that came back at the very moment of a change is outdated.
        let renewed_at = *database.renewed.borrow();
        database.pool.retain(|_, metrics| {
            metrics.last_used() <= idle && metrics.age() <= lifetime && !is_outdated(&metrics, renewed_at)
        });
        database.tell_of_crowding(&mut crowding);
    }
}
