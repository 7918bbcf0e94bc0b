//! How a pool opens connections: credentials of now, a checked role, every failure recorded.

use std::{future::Future, pin::Pin, sync::Arc};

use deadpool_postgres::Connect;
use tokio::{task::JoinHandle, time::timeout};
use tokio_postgres::{Client, NoTls};

use super::{connect, health::Health, role::Privileges};
use crate::{
    config::{Connection, Database},
    fault::Fault,
    metrics::{Metrics, OfDatabase},
};

/// What the pool calls for a new connection.
pub(super) struct Connector {
    pub(super) settings: Arc<Database>,
    pub(super) health: Arc<Health>,
    pub(super) metrics: Arc<Metrics>,
}

impl Connect for Connector {
    fn connect(
        &self,
        _: &tokio_postgres::Config,
    ) -> Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), tokio_postgres::Error>> + Send + '_>> {
        Box::pin(async move {
            match self.open().await {
                Ok(session) => Ok(session.into_parts()),
                Err((fault, detail)) => {
                    self.health.connect_failed(fault, &detail, &self.metrics);
                    Err(stand_in().await)
                }
            }
        })
    }
}

impl Connector {
    async fn open(&self) -> Result<connect::Session, (Fault, String)> {
        let unreachable = |detail: String| (Fault::Unreachable, detail);
        let connection = self.settings.connection.resolve().map_err(unreachable)?;
        let session = match self.session(&connection).await {
            Err(error) if error.is_authentication() => {
                // The password may have been rotated between our reading it and the server's checking it.
                let again = self.settings.connection.resolve().map_err(unreachable)?;
                if again == connection {
                    return Err(unreachable(error.to_string()));
                }
                self.session(&again).await
            }
            result => result,
        }
        .map_err(|error| unreachable(error.to_string()))?;
        self.check_role(&session.client).await?;
        Ok(session)
    }

    async fn session(&self, connection: &Connection) -> Result<connect::Session, connect::Error> {
        connect::open(connection, self.settings.connect_timeout, "clapometer", None).await
    }

    async fn check_role(&self, client: &Client) -> Result<(), (Fault, String)> {
        let unreachable = |detail: String| (Fault::Unreachable, detail);
        let privileges = timeout(self.settings.connect_timeout, Privileges::of(client))
            .await
            .map_err(|_| unreachable("the role could not be checked in time".to_owned()))?
            .map_err(|error| unreachable(format!("the role could not be checked: {}", connect::explain(&error))))?;
        let labels = OfDatabase { database: self.settings.name.clone() };
        let before = self.metrics.role_privileged.get_or_create(&labels).set(i64::from(!privileges.is_empty()));
        if privileges.is_empty() {
            return Ok(());
        }
        if self.settings.require_unprivileged_role {
            return Err((Fault::PrivilegedRole, format!("the role is too privileged: {privileges}")));
        }
        if before == 0 {
            tracing::warn!(
                database = %self.settings.name,
                %privileges,
                "the database role can do more than read; deploy/postgres/roles.sql makes one that cannot"
            );
        }
        Ok(())
    }
}

/// The error that deadpool's trait wants: it must be the driver's, which cannot be made from
/// outside. What really happened is in [`Health`].
async fn stand_in() -> tokio_postgres::Error {
    match tokio_postgres::Config::new().connect(NoTls).await {
        Ok(_) => unreachable!("a configuration without a host cannot connect"),
        Err(error) => error,
    }
}
