//! The facts that the sessions of a database have learnt about the server and the role, for later sessions.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use tokio_postgres::{Client, Error};

use super::{connect::Session, listen::ListenFailure, requirement::Requirement, search_path};
use crate::{
    config,
    metrics::{DatabaseLabels, Metrics, since_1970},
    recorder::Incident,
};

/// The value that RESET would restore: what another client of a pooler has SET in the same session does not count.
const SESSION: &str = "\
-- clapometer: session check
SELECT pg_is_in_recovery()::text,
       (SELECT s.reset_val FROM pg_catalog.pg_settings AS s WHERE s.name = 'search_path')";

/// The time within which the statements on a session that has ended get their errors.
const JUST_ENDED: Duration = Duration::from_secs(1);

/// The facts that a new session says.
#[derive(Debug, Clone)]
pub(super) struct SessionFacts {
    pub(super) is_standby: bool,
    /// The `search_path` of role, database and server.
    search_path: String,
}

/// The latest of what sessions have said.
#[derive(Debug)]
pub(super) struct Observed {
    labels: DatabaseLabels,
    metrics: Arc<Metrics>,
    /// The statement that sets the configured `search_path` for a reading, if one is configured.
    set_configured_path: Option<Arc<str>>,
    latest: Mutex<Option<Latest>>,
    /// When a session ended last, and with which error.
    end: Mutex<Option<(Instant, String)>>,
    /// The number of sessions that were opened.
    sessions: AtomicU64,
    /// Absent before the first session.
    is_standby: watch::Sender<Option<bool>>,
    /// True once readings came from a primary.
    knew_primary: AtomicBool,
    /// True if the latest session leads to a host that no other is preferred to.
    is_preferred: watch::Sender<bool>,
    /// The time at which the role's `search_path` last changed.
    path_changed_at: watch::Sender<Option<Instant>>,
    /// The time since which readings have to wait for a connection, if they do.
    pub(super) crowded_since: watch::Sender<Option<Instant>>,
    /// The reason why notifications do not arrive, if any are waited for.
    pub(super) listen_failure: watch::Sender<Option<ListenFailure>>,
}

/// The latest session's part in every reading.
#[derive(Debug, Clone)]
struct Latest {
    /// The statement that sets its own `search_path` for a reading.
    set_path: Arc<str>,
    requirement: Requirement,
}

impl SessionFacts {
    /// Asks the server.
    pub(super) async fn read(client: &Client) -> Result<Self, Error> {
        let row = client.query_typed_one(SESSION, &[]).await?;
        let is_standby: &str = row.try_get(0)?;
        Ok(Self { is_standby: is_standby == "true", search_path: row.try_get(1)? })
    }
}

impl Observed {
    pub(super) fn new(settings: &config::Database, labels: DatabaseLabels, metrics: Arc<Metrics>) -> Self {
        let configured_path = settings.search_path.as_deref().filter(|path| !path.is_empty());
        let set_configured_path = configured_path.map(|path| search_path::set_local(path).into());
        // At 0 from the start, so that an alert on it finds it.
        drop(metrics.search_path_changed.get_or_create(&labels));
        // The database that a reload replaced may have asked servers what they are, and this one not.
        metrics.standby_lag.remove(&labels);
        Self {
            labels,
            metrics,
            set_configured_path,
            latest: Mutex::default(),
            end: Mutex::default(),
            sessions: AtomicU64::new(0),
            is_standby: watch::Sender::new(None),
            knew_primary: AtomicBool::new(false),
            is_preferred: watch::Sender::new(true),
            path_changed_at: watch::Sender::new(None),
            crowded_since: watch::Sender::new(None),
            listen_failure: watch::Sender::new(None),
        }
    }

    /// Records a new session and what it says. Returns whether the sessions before it led to a server of another kind.
    pub(super) fn session(&self, session: &Session, facts: SessionFacts) -> bool {
        let SessionFacts { is_standby, search_path } = facts;
        let set_path: Arc<str> = search_path::set_local(&search_path).into();
        let latest = Latest { set_path: Arc::clone(&set_path), requirement: session.requirement };
        let before = self.lock().replace(latest);
        if self.set_configured_path.is_none() && before.is_some_and(|before| before.set_path != set_path) {
            self.note_path_change();
        }
        self.sessions.fetch_add(1, Ordering::Relaxed);
        self.is_preferred.send_replace(session.is_preferred);
        self.standby(is_standby) == Some(!is_standby)
    }

    /// Records the error with which a session has ended.
    pub(super) fn ended(&self, error: String) {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), error));
    }

    /// Returns the error with which a session has just ended, if one has. That of a statement on it only says so.
    pub(super) fn end(&self) -> Option<String> {
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        end.as_ref().filter(|(at, _)| at.elapsed() < JUST_ENDED).map(|(_, error)| error.clone())
    }

    /// Records that names of tables may mean others from now on: a silent zero, if a table of the same name is empty.
    fn note_path_change(&self) {
        let database = self.labels.database.clone();
        tracing::warn!(
            %database,
            "the search_path of the role has changed: names of tables may mean others. Set search_path of the database, \
             or name schemas in the queries"
        );
        self.metrics.search_path_changed.get_or_create(&self.labels).set(since_1970().as_secs_f64());
        self.path_changed_at.send_replace(Some(Instant::now()));
        self.metrics.recorder.happened(Incident::SearchPath { database });
    }

    /// Returns the time at which the role's `search_path` changed, if it did.
    pub(super) fn path_changed_at(&self) -> Option<Instant> {
        *self.path_changed_at.borrow()
    }

    /// Records whether readings come from a standby, and logs each change. Returns what was known before.
    pub(super) fn standby(&self, is_standby: bool) -> Option<bool> {
        let mut before = None;
        let is_change = self.is_standby.send_if_modified(|known| {
            before = known.replace(is_standby);
            before != Some(is_standby)
        });
        if !is_change {
            return before;
        }
        self.metrics.is_standby.get_or_create(&self.labels).set(i64::from(is_standby));
        let database = self.labels.database.clone();
        let prefers_standbys = self.lock().as_ref().is_some_and(|latest| latest.requirement.prefers_standbys());
        match (is_standby, before) {
            (true, Some(false)) if !prefers_standbys => {
                tracing::warn!(%database, "readings come from a standby");
            }
            (true, _) => tracing::info!(%database, "readings come from a standby"),
            (false, _) => tracing::info!(%database, "readings come from a primary"),
        }
        self.knew_primary.fetch_or(!is_standby, Ordering::Relaxed);
        if before.is_some() {
            self.metrics.recorder.happened(match is_standby {
                true => Incident::Standby { database },
                false => Incident::Primary { database },
            });
        }
        before
    }

    /// Records by how much the standby is behind that was asked last; none if it was a primary, or does not know.
    pub(super) fn lag(&self, seconds: Option<f64>) {
        match seconds {
            Some(seconds) => drop(self.metrics.standby_lag.get_or_create(&self.labels).set(seconds)),
            None => drop(self.metrics.standby_lag.remove(&self.labels)),
        }
    }

    /// Returns whether readings come from a standby, and came from a primary before, although nobody prefers standbys.
    pub(super) fn has_left_primary(&self) -> bool {
        let prefers_standbys = self.lock().as_ref().is_some_and(|latest| latest.requirement.prefers_standbys());
        *self.is_standby.borrow() == Some(true) && self.knew_primary.load(Ordering::Relaxed) && !prefers_standbys
    }

    /// Returns the statement that sets `search_path` for a reading: the configured one, or that of role, database and
    /// server, once there was a session. Made once, because a reading would spend a tenth of its instructions on it.
    pub(super) fn set_path(&self) -> Option<Arc<str>> {
        let configured = self.set_configured_path.clone();
        configured.or_else(|| self.lock().as_ref().map(|latest| Arc::clone(&latest.set_path)))
    }

    /// Returns what each reading must ask of its server; none where any server will do, or before the first session.
    pub(super) fn requirement(&self) -> Option<Requirement> {
        self.lock().as_ref().map(|latest| latest.requirement).filter(|requirement| requirement.statement().is_some())
    }

    /// Returns a number that grows with each new session.
    pub(super) fn sessions(&self) -> u64 {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Returns whether readings come from a standby, as far as is known.
    pub(super) fn is_standby(&self) -> watch::Receiver<Option<bool>> {
        self.is_standby.subscribe()
    }

    /// Returns whether the latest session leads to a host that no other is preferred to.
    pub(super) fn is_preferred(&self) -> watch::Receiver<bool> {
        self.is_preferred.subscribe()
    }

    /// Assumes that the next sessions lead to a preferred host.
    pub(super) fn went_back(&self) {
        self.is_preferred.send_replace(true);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Latest>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
