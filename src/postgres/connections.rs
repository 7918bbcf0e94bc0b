//! The pool's connections: which are kept, which are closed, and the metrics about them.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
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
            }
            None => {}
        }
    }

    /// Records the end of each state in which the database is not. A handle that a reload has replaced may have begun
    /// it, and may have told of it until now.
    fn end_states(&self, crowding: &Crowding) {
        // Readings that are under way, and streams that nobody reads, keep a handle after a reload.
        if self.is_retired.load(Ordering::Relaxed) {
            return;
        }
        let state = self.state();
        let database = || self.labels.database.clone();
        let ends = [
            (state.outcome == Some(Ok(()))).then(|| Incident::DatabaseUp { database: database() }),
            (state.is_standby == Some(false)).then(|| Incident::Primary { database: database() }),
            (state.hears == Some(true)).then(|| Incident::Hearing { database: database() }),
            crowding.is_calm(Instant::now()).then(|| Incident::PoolFree { database: database() }),
            self.settings.search_path.is_some().then(|| Incident::SearchPathSet { database: database() }),
        ];
        ends.into_iter().flatten().for_each(|end| self.metrics.recorder.happened(end));
    }

    /// Notes that a reload has put another handle in the place of this one, which tells no longer what is over.
    pub fn retire(&self) {
        self.is_retired.store(true, Ordering::Relaxed);
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

/// Closes connections that lie idle, are old or outdated, tells when there are too few, and ends what is over, until
/// the handle is dropped.
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
        database.end_states(&crowding);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Config, Environment},
        fault::Fault,
        metrics::{Build, Metrics},
        recorder::Window,
        shutdown::Supervisor,
    };

    /// Returns the handle of a database, which stays unconnected.
    fn handle(further: &str, metrics: &Arc<Metrics>, supervisor: &Supervisor) -> Arc<Database> {
        let text = format!(
            "databases: {{app: {{host: /run/postgresql, dbname: jobs, user: clapometer, enabled: false{further}}}}}
queries: {{jobs: {{sql: SELECT 1}}}}
"
        );
        let config = Config::parse(&text, &Environment::default()).expect("a configuration");
        Database::new(Arc::clone(&config.databases["app"]), Arc::clone(metrics), supervisor)
    }

    #[tokio::test(start_paused = true)]
    async fn a_handle_ends_what_the_one_before_it_has_told_of_once_it_knows_that_it_is_over() {
        let metrics = Arc::new(Metrics::new(Build { version: "0", commit: "0", rustc: "0" }));
        let (supervisor, _) = Supervisor::new();
        let told = || {
            let window = Window { at: None, before: Duration::from_secs(3_600), after: Duration::ZERO };
            let happened = metrics.recorder.history("default", "worker", window).incidents;
            happened.into_iter().map(|happening| happening.incident).collect::<Vec<_>>()
        };
        let database = || "app".to_owned();
        let before = handle("", &metrics, &supervisor);
        let _ = before.observed.standby(false);
        let _ = before.observed.standby(true);
        before.health.failed(Fault::Unreachable, "", &metrics);
        for begun in [
            Incident::PoolFull { database: database(), held_by: String::new() },
            Incident::Deaf { database: database(), reason: "closed".to_owned() },
            Incident::SearchPath { database: database() },
        ] {
            metrics.recorder.happened(begun);
        }
        drop(before);
        let begun = told().len();

        let after = handle(", search_path: jobs", &metrics, &supervisor);
        sleep(2 * SWEEP_INTERVAL).await;
        let (free, set) =
            (Incident::PoolFree { database: database() }, Incident::SearchPathSet { database: database() });
        assert_eq!(told()[begun..], [free.clone(), set.clone()], "nothing is known of the others");
        after.health.answered(&metrics);
        let _ = after.observed.standby(false);
        metrics.listen_up.get_or_create(&after.labels).set(1);
        let up = Incident::DatabaseUp { database: database() };
        assert_eq!(told()[begun..], [free.clone(), set.clone(), up.clone()], "an outage is over at once");
        sleep(4 * SWEEP_INTERVAL).await;
        let (primary, hearing) =
            (Incident::Primary { database: database() }, Incident::Hearing { database: database() });
        assert_eq!(told()[begun..], [free, set, up, primary, hearing]);
    }
    #[tokio::test(start_paused = true)]
    async fn a_handle_that_was_replaced_ends_nothing_that_its_successor_has_told_of() {
        let metrics = Arc::new(Metrics::new(Build { version: "0", commit: "0", rustc: "0" }));
        let (supervisor, _) = Supervisor::new();
        let replaced = handle("", &metrics, &supervisor);
        replaced.health.answered(&metrics);
        replaced.retire();
        let in_force = handle("", &metrics, &supervisor);
        in_force.health.failed(Fault::Unreachable, "", &metrics);
        sleep(3 * SWEEP_INTERVAL).await;
        let window = Window { at: None, before: Duration::from_secs(3_600), after: Duration::ZERO };
        let happened = metrics.recorder.history("default", "worker", window).incidents;
        let ended = happened.iter().any(|happening| matches!(happening.incident, Incident::DatabaseUp { .. }));
        assert!(!ended, "{happened:?}");
    }
}
