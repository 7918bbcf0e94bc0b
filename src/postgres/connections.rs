//! The pool's connections: which are kept, which are closed, and the metrics about them.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use deadpool_postgres::Object;
use tokio::time::{Instant, sleep};

use super::{Database, connect};
use crate::metrics::{ConnectionLabels, ConnectionUse};

/// The pause between two searches for idle and old connections.
const SWEEP_INTERVAL: Duration = Duration::from_secs(15);

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

/// Closes connections that lie idle, are old or outdated, until the handle is dropped.
pub(super) async fn sweep(database: Weak<Database>) {
    loop {
        sleep(SWEEP_INTERVAL).await;
        let Some(database) = database.upgrade() else { return };
        let (idle, lifetime) = (database.settings.idle_timeout, database.settings.max_lifetime);
        // One that came back at the very moment of a change is outdated.
        let renewed_at = *database.renewed.borrow();
        database.pool.retain(|_, metrics| {
            metrics.last_used() <= idle && metrics.age() <= lifetime && !is_outdated(&metrics, renewed_at)
        });
    }
}
