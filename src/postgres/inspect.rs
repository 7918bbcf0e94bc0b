//! Inspects a database and its queries, for an operator's terminal.
//!
//! The statement is sent as for KEDA, in the same transaction and the same wrapper. Unlike a reading it
//! returns the server's own messages. These quote SQL and data, so nothing from here may be logged.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout};
use tokio_postgres::error::ErrorPosition;

use super::{
    Database, Privileges, SILENCE, Statement, TransactionError,
    classify::{Cause, cause, cause_of_connect, statement_fault},
    connect::{self, Session},
    observed::SessionFacts,
    plan::{Plan, Relation},
};
use crate::{conninfo::SessionAttrs, fault::Fault, query::Value, reading::Reading};

/// The facts about a session that an operator wants. The server may be behind a pooler, so it is asked for its address.
const SERVER: &str = "\
-- clapometer check: server
SELECT current_setting('server_version'),
       current_setting('server_version_num')::int4,
       current_user::text,
       current_database()::text,
       current_setting('search_path'),
       pg_is_in_recovery(),
       current_setting('default_transaction_read_only') = 'on',
       host(inet_server_addr()) || ':' || inet_server_port(),
       (SELECT s.version || ', ' || s.cipher
          FROM pg_stat_ssl AS s
         WHERE s.pid = pg_backend_pid() AND s.ssl)";

/// A server's facts about itself and the session's role.
#[derive(Debug, Clone)]
pub struct Server {
    /// The setting `server_version`.
    pub version: String,
    /// The setting `server_version_num`: 150008 is 15.8.
    pub version_number: i32,
    /// The role.
    pub role: String,
    /// The database.
    pub dbname: String,
    /// The session's own `search_path`; the configuration may set another for each reading.
    pub search_path: String,
    /// Whether it is a standby.
    pub is_standby: bool,
    /// Whether several hosts are configured, and any of them is accepted.
    pub is_any_of_several: bool,
    /// Whether the role's transactions are read-only by default.
    pub is_read_only: bool,
    /// Its own address and port; absent on a Unix socket.
    pub address: Option<String>,
    /// The protocol and the cipher, where TLS is in use.
    pub tls: Option<String>,
    /// The role's privileges beyond reading.
    pub privileges: Privileges,
}

/// The failure of a query or of a connection, with the server's own messages.
#[derive(Debug, Clone)]
pub struct QueryError {
    /// The fault that KEDA would get.
    pub fault: Fault,
    /// The cause, as far as the remedy depends on it.
    pub cause: Cause,
    /// The server's message, or our own.
    pub message: String,
    /// The server's detail and hint, where there are such.
    pub further: Vec<String>,
    /// The position in [`Statement::text`] that the server names, in characters from 1.
    pub position: Option<usize>,
}

/// The result of one query.
#[derive(Debug)]
pub struct Inspection {
    /// The reading that KEDA's calls would have got.
    pub reading: Result<Reading, QueryError>,
    /// The time from sending the statement to its end.
    pub took: Duration,
    /// The plan; absent where the server gave none.
    pub plan: Option<Plan>,
}

/// A session that inspects one query after another.
pub struct Inspector {
    database: Arc<Database>,
    session: Session,
}

impl Database {
    /// Opens a session as for readings, and asks the server about itself.
    ///
    /// # Errors
    /// The reason why there is none; also for a role that the configuration refuses.
    pub async fn inspector(self: &Arc<Self>) -> Result<(Inspector, Server), QueryError> {
        let session = self.session().await?;
        let within = self.settings.connect_timeout;
        let mut server = timeout(within, Server::of(&session.client))
            .await
            .map_err(|_| QueryError::ours(Fault::Unreachable, Cause::Silent, format!("no answer within {within:?}")))?
            .map_err(|error| QueryError::of(&error))?;
        server.is_any_of_several = self.settings.connection.resolve().is_ok_and(|connection| {
            connection.addresses.len() > 1 && connection.target_session_attrs == SessionAttrs::Any
        });
        if self.settings.require_unprivileged_role && !server.privileges.is_empty() {
            let message = format!("the role {} is too privileged: {}", server.role, server.privileges);
            return Err(QueryError::ours(Fault::PrivilegedRole, Cause::PrivilegedRole, message));
        }
        Ok((Inspector { database: Arc::clone(self), session }, server))
    }

    async fn session(&self) -> Result<Session, QueryError> {
        let settings = &self.settings;
        let credentials = |message| QueryError::ours(Fault::Unreachable, Cause::Credentials, message);
        let connection = settings.connection.resolve().map_err(credentials)?;
        let (max_lag, within) = (settings.max_lag, settings.connect_timeout);
        let session = connect::open(&connection, max_lag, within, "clapometer check", connect::NUMBERS, None)
            .await
            .map_err(|error| QueryError::ours(error.fault(), cause_of_connect(&error), error.to_string()))?;
        let facts = timeout(within, SessionFacts::read(&session.client))
            .await
            .map_err(|_| QueryError::ours(Fault::Unreachable, Cause::Silent, format!("no answer within {within:?}")))?
            .map_err(|error| QueryError::of(&error))?;
        self.observed.session(&session, facts);
        Ok(session)
    }
}

impl Inspector {
    /// Runs a query once, as for KEDA, and asks for its plan.
    ///
    /// Ends by itself, after twice the statement's limit and some time for a silent server.
    pub async fn inspect(&mut self, statement: &Statement, parameters: &[Value]) -> Inspection {
        let sent_at = Instant::now();
        let reading = self.read(statement, parameters).await;
        let took = sent_at.elapsed();
        let plan = self.plan(statement, parameters).await;
        Inspection { reading, took, plan }
    }

    async fn read(&mut self, statement: &Statement, parameters: &[Value]) -> Result<Reading, QueryError> {
        if self.session.client.is_closed() {
            self.session = self.database.session().await?;
        }
        let limit = statement.query.timeout + SILENCE;
        match timeout(limit, self.database.transaction(&self.session.client, statement, parameters)).await {
            Ok(Ok(Ok(reading))) => Ok(reading),
            Ok(Ok(Err(fault))) => Err(QueryError::ours(fault, Cause::Answer, fault.to_string())),
            Ok(Err(TransactionError::SqlError { error, .. })) => Err(QueryError::of(&error)),
            Ok(Err(TransactionError::Mismatch(mismatch))) => {
                Err(QueryError::ours(mismatch.fault(), Cause::WrongServer, mismatch.to_string()))
            }
            silent @ (Ok(Err(TransactionError::DeadConnection)) | Err(_)) => {
                let message = match silent {
                    Err(_) => format!("no answer within {limit:?}"),
                    Ok(_) => "the connection has died without a word".to_owned(),
                };
                self.replace_session().await;
                Err(QueryError::ours(Fault::DeadlineExceeded, Cause::Silent, message))
            }
        }
    }

    async fn plan(&mut self, statement: &Statement, parameters: &[Value]) -> Option<Plan> {
        if self.session.client.is_closed() {
            return None;
        }
        let begin = self.database.begin(&statement.query, None);
        let client = &self.session.client;
        let limit = statement.query.timeout + SILENCE;
        let asked = timeout(limit, async {
            client.batch_execute(&begin).await?;
            let mut plan = Plan::of(client, statement, parameters).await?;
            if let Some(plan) = &mut plan {
                Relation::describe(client, &mut plan.relations).await?;
            }
            Ok::<_, tokio_postgres::Error>(plan)
        });
        let plan = asked.await;
        match timeout(SILENCE, client.batch_execute("ROLLBACK")).await {
            Ok(_) => {}
            Err(_) => self.replace_session().await,
        }
        plan.ok()?.ok()?
    }

    /// Cancels the statement of the session, and opens another session if that is possible.
    async fn replace_session(&mut self) {
        let token = self.session.client.cancel_token();
        if let Ok(connection) = self.database.settings.connection.resolve() {
            connect::cancel(&connection, token).await;
        }
        if let Ok(session) = self.database.session().await {
            self.session = session;
        }
    }
}

impl Server {
    async fn of(client: &tokio_postgres::Client) -> Result<Self, tokio_postgres::Error> {
        let row = client.query_typed_one(SERVER, &[]).await?;
        Ok(Self {
            version: row.try_get(0)?,
            version_number: row.try_get(1)?,
            role: row.try_get(2)?,
            dbname: row.try_get(3)?,
            search_path: row.try_get(4)?,
            is_standby: row.try_get(5)?,
            is_any_of_several: false,
            is_read_only: row.try_get(6)?,
            address: row.try_get(7)?,
            tls: row.try_get(8)?,
            privileges: Privileges::of(client).await?,
        })
    }
}

impl QueryError {
    fn ours(fault: Fault, cause: Cause, message: String) -> Self {
        Self { fault, cause, message, further: Vec::new(), position: None }
    }

    fn of(error: &tokio_postgres::Error) -> Self {
        let fault = statement_fault(error);
        let Some(server) = error.as_db_error() else {
            return Self::ours(fault, Cause::Connection, connect::explain(error));
        };
        let position = match server.position() {
            Some(ErrorPosition::Original(position)) => usize::try_from(*position).ok(),
            Some(ErrorPosition::Internal { .. }) | None => None,
        };
        Self {
            fault,
            cause: cause(server),
            message: format!("{}: {}", server.code().code(), server.message()),
            further: server.detail().into_iter().chain(server.hint()).map(str::to_owned).collect(),
            position,
        }
    }
}
