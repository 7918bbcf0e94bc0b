//! Opens the connections of a pool: with the present credentials and a checked role, and records every failure.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use deadpool_postgres::Connect;
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinHandle},
    time::{Instant, sleep, timeout},
};
use tokio_postgres::{Client, NoTls};

use super::{
    classify::{Cause, cause, cause_of_connect, loggable},
    connect::{self, Heard},
    health::Health,
    observed::{Observed, SessionFacts},
    requirement::Mismatch,
    role::Privileges,
};
use crate::{
    config::Database,
    conninfo::Connection,
    fault::Fault,
    metrics::{DatabaseLabels, Metrics},
};

/// The time between the two halves of a change of password that no call notices.
const ROTATION: Duration = Duration::from_millis(600);

/// The number of times that a session is opened anew because its credentials changed meanwhile.
const MAXIMUM_CHANGES: u32 = 2;

/// The pause between two looks at the file meanwhile.
const ROTATION_LOOK: Duration = Duration::from_millis(50);

/// Opens the connections of one pool.
pub(super) struct Connector {
    pub(super) settings: Arc<Database>,
    pub(super) health: Arc<Health>,
    pub(super) observed: Arc<Observed>,
    pub(super) metrics: Arc<Metrics>,
    /// The latest time at which sessions were outdated; see [`super::Database::renew`].
    pub(super) renewed: watch::Sender<Instant>,
    /// The tasks of the sessions that were opened, for their number.
    pub(super) sessions: Mutex<Vec<AbortHandle>>,
}

/// A reason why there is no session: for KEDA, for the remedy, and for the log.
type NoSession = (Fault, Cause, String);

impl Connect for Connector {
    fn connect(
        &self,
        _: &tokio_postgres::Config,
    ) -> Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), tokio_postgres::Error>> + Send + '_>> {
        Box::pin(async move {
            match self.open().await {
                Ok(session) => {
                    let (client, driver) = session.into_parts();
                    self.sessions.lock().unwrap_or_else(PoisonError::into_inner).push(driver.abort_handle());
                    Ok((client, driver))
                }
                Err((fault, cause, detail)) => {
                    self.health.connect_failed(fault, cause, &detail, &self.metrics);
                    Err(stand_in().await)
                }
            }
        })
    }
}

impl Connector {
    /// Returns what the sessions that are open say about one that could not be opened in time.
    fn others(&self) -> String {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|task| !task.is_finished());
        match sessions.len() {
            0 => String::new(),
            open => format!(
                "; {open} of pool_size {} are open: if they are answered, a pooler before the server has no room for more",
                self.settings.pool_size
            ),
        }
    }

    async fn open(&self) -> Result<connect::Session, NoSession> {
        let mut used = self.resolve().await?;
        let mut changes = 0;
        loop {
            let mut opened = self.session(&used).await;
            if opened.as_ref().is_err_and(connect::Error::is_authentication)
                && let Some(again) = self.after_rotation(&used).await?
            {
                opened = self.session(&again).await;
                used = again;
            }
            let session = opened.map_err(|error| {
                let others = match error.chief() {
                    connect::Error::Timeout { .. } => self.others(),
                    connect::Error::Mismatch { mismatch: Mismatch::Lag { seconds, .. }, .. } => {
                        self.observed.lag(*seconds);
                        String::new()
                    }
                    _ => String::new(),
                };
                (error.fault(), cause_of_connect(&error), format!("{error}{others}"))
            })?;
            let facts = self.check(&session.client).await?;
            // `Database::renew` relies on it that a session which is older than the latest change was opened with the
            // credentials before it.
            let now = self.resolve().await?;
            if now == used || changes == MAXIMUM_CHANGES {
                if self.observed.session(&session, facts) {
                    // Sessions on servers of both kinds would answer in turn.
                    self.renewed.send_replace(Instant::now());
                }
                return Ok(session);
            }
            used = now;
            changes += 1;
        }
    }

    /// Reads the present credentials. Looks again for a file that is missing: its directory may just be swapped.
    async fn resolve(&self) -> Result<Connection, NoSession> {
        let deadline = self.patience();
        loop {
            match self.settings.connection.resolve_aside().await {
                Ok(connection) => return Ok(connection),
                Err(detail) if Instant::now() >= deadline => {
                    return Err((Fault::Unreachable, Cause::Credentials, detail));
                }
                Err(_) => sleep(ROTATION_LOOK).await,
            }
        }
    }

    /// Returns the credentials to try after a refusal; none if they would be the same again.
    ///
    /// A password is changed in two places, the server and the file, one after the other. So a refusal may
    /// be over in a moment, whichever of them was first.
    async fn after_rotation(&self, refused: &Connection) -> Result<Option<Connection>, NoSession> {
        let is_pointless = self.health.is_bad();
        let deadline = self.patience();
        loop {
            let now = self.resolve().await?;
            if now != *refused {
                return Ok(Some(now));
            }
            if Instant::now() >= deadline {
                return Ok((!is_pointless).then_some(now));
            }
            sleep(ROTATION_LOOK).await;
        }
    }

    /// Returns the time until which a change of credentials is waited for: now, if the database fails anyway.
    fn patience(&self) -> Instant {
        Instant::now() + if self.health.is_bad() { Duration::ZERO } else { ROTATION }
    }

    async fn session(&self, connection: &Connection) -> Result<connect::Session, connect::Error> {
        let Database { max_lag, connect_timeout, .. } = &*self.settings;
        let observed = Arc::clone(&self.observed);
        let hear = Box::new(move |heard: Heard<'_>| {
            if let Heard::End(error) = heard {
                observed.ended(loggable(error));
            }
        });
        connect::open(connection, *max_lag, *connect_timeout, "clapometer", connect::NUMBERS, Some(hear)).await
    }

    /// Asks a new session for its facts, and checks its role.
    async fn check(&self, client: &Client) -> Result<SessionFacts, NoSession> {
        let unreachable = |cause, detail: String| (Fault::Unreachable, cause, detail);
        let asked = async { tokio::try_join!(SessionFacts::read(client), Privileges::of(client)) };
        let (facts, privileges) = timeout(self.settings.connect_timeout, asked)
            .await
            .map_err(|_| unreachable(Cause::Silent, format!("the role could not be checked in time{}", self.others())))?
            .map_err(|error| {
                let cause = error.as_db_error().map_or(Cause::HungUp, cause);
                unreachable(cause, format!("the role could not be checked: {}", connect::explain(&error)))
            })?;
        let labels = DatabaseLabels { database: self.settings.name.clone() };
        let before = self.metrics.role_privileged.get_or_create(&labels).set(i64::from(!privileges.is_empty()));
        if privileges.is_empty() {
            return Ok(facts);
        }
        if self.settings.require_unprivileged_role {
            let detail = format!("the role is too privileged: {privileges}");
            return Err((Fault::PrivilegedRole, Cause::PrivilegedRole, detail));
        }
        if before == 0 {
            tracing::warn!(
                database = %self.settings.name,
                %privileges,
                "the database role can do more than read; deploy/postgres/roles.sql makes one that cannot"
            );
        }
        Ok(facts)
    }
}

/// Returns an error of the driver's type, which deadpool's trait demands and which can only be made by the
/// driver. The true error is in [`Health`].
async fn stand_in() -> tokio_postgres::Error {
    match tokio_postgres::Config::new().connect(NoTls).await {
        Ok(_) => unreachable!("a configuration without a host cannot connect"),
        Err(error) => error,
    }
}
