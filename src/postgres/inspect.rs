//! Inspects a database and its queries, for an operator's terminal.
//!
//! The statement is sent as for KEDA, in the same transaction and the same wrapper. Unlike a reading it
//! returns the server's own messages. These quote SQL and data, so nothing from here may be logged.

mod survey;

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout};
use tokio_postgres::error::ErrorPosition;

pub use self::survey::{Column, Indexing, Role, Table};
use super::{
    Database, OVERTIME, Privileges, Statement, TransactionError,
    classify::{Cause, cause, cause_of_connect, statement_fault},
    connect::{self, Session},
    grants::{self, Named},
    listen,
    observed::SessionFacts,
    plan::Plan,
};
use crate::{
    conninfo::SessionAttrs,
    fault::Fault,
    query::{Query, Value},
    reading::Reading,
};

/// The least time for which `check` waits for a connection. Somebody at a terminal may be further away than the scaler.
const CONNECT: Duration = Duration::from_secs(5);

/// The most sessions that `check` opens at once to see whether there is room for all of `pool_size`.
const MOST_SESSIONS: usize = 8;

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
    /// True if it is a standby.
    pub is_standby: bool,
    /// True if several hosts are configured, and any of them is accepted.
    pub is_any_of_several: bool,
    /// True if the role's transactions are read-only by default.
    pub is_read_only: bool,
    /// Its own address and port; absent on a Unix socket.
    pub address: Option<String>,
    /// The protocol and the cipher, where TLS is in use.
    pub tls: Option<String>,
    /// The role's privileges beyond reading.
    pub privileges: Privileges,
    /// The time that it took to connect, until the session had said what it is.
    pub connected_in: Duration,
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
    /// The statement that grants what is missing, where that is known.
    pub grant: Option<String>,
    /// True if the server has said it, in a session that may go on.
    pub is_from_server: bool,
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
    /// The reason why the plan, or something of it, was not looked at.
    pub unseen: Option<String>,
    /// The relations that its text names.
    pub relations: Vec<Named>,
    /// The queues that there are, as far as the role may read them, if a preset's own one was never seen.
    pub queues_instead: Option<Vec<String>>,
}

/// A session that inspects one query after another.
pub struct Inspector {
    database: Arc<Database>,
    session: Session,
    /// True if the server had room for another session so far.
    has_spare_session: bool,
}

impl Database {
    /// Opens a session as for readings, and asks the server about itself.
    ///
    /// # Errors
    /// The reason why there is none; also for a role that the configuration refuses.
    pub async fn inspector(self: &Arc<Self>) -> Result<(Inspector, Server), QueryError> {
        let started = Instant::now();
        let within = CONNECT.max(self.settings.connect_timeout);
        let session = self.session(within).await?;
        let connected_in = started.elapsed();
        let mut server = timeout(within, Server::of(&session.client))
            .await
            .map_err(|_| QueryError::ours(Fault::Unreachable, Cause::Silent, format!("no answer within {within:?}")))?
            .map_err(|error| QueryError::of(&error))?;
        server.connected_in = connected_in;
        server.is_any_of_several = self.settings.connection.resolve().is_ok_and(|connection| {
            connection.addresses.len() > 1 && connection.target_session_attrs == SessionAttrs::Any
        });
        if self.settings.require_unprivileged_role && !server.privileges.is_empty() {
            let message = format!("the role {} is too privileged: {}", server.role, server.privileges);
            return Err(QueryError::ours(Fault::PrivilegedRole, Cause::PrivilegedRole, message));
        }
        Ok((Inspector { database: Arc::clone(self), session, has_spare_session: true }, server))
    }

    /// Opens a session within a time for each host, and again as long for the questions to it.
    async fn session(&self, within: Duration) -> Result<Session, QueryError> {
        let settings = &self.settings;
        let credentials = |message| QueryError::ours(Fault::Unreachable, Cause::Credentials, message);
        let connection = settings.connection.resolve_aside().await.map_err(credentials)?;
        let session = connect::open(&connection, settings.max_lag, within, "clapometer check", connect::NUMBERS, None)
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
        if reading.as_ref().is_err_and(|error| error.cause == Cause::StatementPooling) {
            return Inspection { reading, took, plan: None, unseen: None, relations: Vec::new(), queues_instead: None };
        }
        if reading.as_ref().is_err_and(|error| error.is_from_server) {
            self.renew().await;
        }
        let (plan, unseen) = match self.plan(statement, parameters).await {
            Ok(plan) => {
                let unseen = plan.as_ref().and_then(|plan| plan.unseen.clone());
                (plan, unseen)
            }
            Err(why) => (None, Some(why)),
        };
        let relations = match &reading {
            Err(error) if error.cause != Cause::Privilege => Vec::new(),
            _ => self.relations(statement).await,
        };
        let reading = match reading {
            Err(error) if error.cause == Cause::Privilege => Err(self.with_grant(error, &relations).await),
            reading => reading,
        };
        let queues_instead = self.queues_instead(&statement.query).await;
        Inspection { reading, took, plan, unseen, relations, queues_instead }
    }

    /// Returns the statement that lets another role read what these queries name.
    pub fn grant_to<'a>(&self, role: &str, relations: impl IntoIterator<Item = &'a str>) -> Option<String> {
        grants::grant_select(relations, role)
    }

    /// Sends a NOTIFY and waits for it on a connection that listens, as the scaler does.
    ///
    /// # Errors
    /// Says why none arrives.
    pub async fn hears_notifications(&self) -> Result<(), String> {
        listen::prove_once(&self.database.settings, &self.session.client).await
    }

    /// Opens as many sessions as the scaler may, eight at most, beside this one, and closes them again.
    ///
    /// # Errors
    /// The number of sessions that there was room for, and the failure of the next one.
    pub async fn has_room(&self) -> Result<(), (usize, QueryError)> {
        let settings = &self.database.settings;
        let mut sessions = Vec::new();
        while sessions.len() + 1 < settings.pool_size.get().min(MOST_SESSIONS) {
            match self.database.session(settings.connect_timeout).await {
                Ok(session) => sessions.push(session),
                Err(error) => return Err((sessions.len() + 1, error)),
            }
        }
        Ok(())
    }

    /// Asks for the relations that a statement names; none where the server does not parse it.
    async fn relations(&mut self, statement: &Statement) -> Vec<Named> {
        if self.session.client.is_closed() {
            return Vec::new();
        }
        let begin = self.database.begin(&statement.query, None);
        let client = &self.session.client;
        let asked = timeout(statement.query.timeout + OVERTIME, async {
            client.batch_execute(&begin).await?;
            grants::relations(client, statement).await
        });
        let relations = asked.await.ok().and_then(Result::ok);
        self.roll_back().await;
        if relations.is_none() {
            self.renew().await;
        }
        relations.unwrap_or_default()
    }

    /// Returns the queues that there are if the queue of a preset has never been seen.
    async fn queues_instead(&mut self, query: &Query) -> Option<Vec<String>> {
        if self.is_queue_seen(query).await? {
            return None;
        }
        let queues = query.preset.as_ref()?.queues.as_ref()?;
        Some(self.texts(queues).await.unwrap_or_default())
    }

    /// Asks whether the queue of a preset has ever been seen. Returns `None` without a queue, and where the server does
    /// not say.
    async fn is_queue_seen(&mut self, query: &Query) -> Option<bool> {
        let seen = query.preset.as_ref()?.seen.as_ref()?;
        if self.session.client.is_closed() {
            return None;
        }
        let begin = self.database.begin(query, None);
        let client = &self.session.client;
        let asked = timeout(query.timeout + OVERTIME, async {
            client.batch_execute(&begin).await?;
            client.query_typed_one(seen, &[]).await?.try_get(0)
        });
        let is_seen = asked.await;
        self.roll_back().await;
        is_seen.ok()?.ok()
    }

    /// Adds the statement that grants what the role lacks.
    async fn with_grant(&self, error: QueryError, relations: &[Named]) -> QueryError {
        let client = &self.session.client;
        let role = client.query_typed("SELECT current_user::text", &[]).await;
        let Some(role) = role.ok().and_then(|rows| rows.first()?.try_get::<_, String>(0).ok()) else { return error };
        let unreadable = relations.iter().filter(|relation| !relation.is_readable).map(|relation| &*relation.name);
        let grant = match grants::grant_select(unreadable, &role) {
            Some(grant) => Some(grant),
            None => {
                let schema = grants::schema(client, &error.message).await.ok().flatten();
                schema.map(|schema| grants::grant_usage(&schema, &role))
            }
        };
        QueryError { grant, ..error }
    }

    /// Goes on with a session of its own, if there is one to be had: behind pgpool-II, a statement that fails among
    /// others that were sent with it leaves the session in a state in which a later one is never answered.
    async fn renew(&mut self) {
        if !self.has_spare_session {
            return;
        }
        match self.database.session(self.database.settings.connect_timeout).await {
            Ok(session) => self.session = session,
            // Each further attempt would take as long.
            Err(_) => self.has_spare_session = false,
        }
    }

    async fn roll_back(&mut self) {
        if timeout(OVERTIME, self.session.client.batch_execute("ROLLBACK")).await.is_err() {
            self.replace_session().await;
        }
    }

    async fn read(&mut self, statement: &Statement, parameters: &[Value]) -> Result<Reading, QueryError> {
        if self.session.client.is_closed() {
            self.session = self.database.session(CONNECT.max(self.database.settings.connect_timeout)).await?;
        }
        let limit = statement.query.timeout + OVERTIME;
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

    /// Asks for a statement's plan; none where the server gives none.
    ///
    /// # Errors
    /// Says why it does not answer.
    async fn plan(&mut self, statement: &Statement, parameters: &[Value]) -> Result<Option<Plan>, String> {
        if self.session.client.is_closed() {
            return Err("the connection is lost".to_owned());
        }
        let begin = self.database.begin(&statement.query, None);
        let client = &self.session.client;
        let limit = statement.query.timeout + OVERTIME;
        let asked = timeout(limit, async {
            client.batch_execute(&begin).await?;
            Plan::of(client, statement, parameters).await
        });
        let plan = match asked.await {
            Ok(plan) => plan.map_err(|error| connect::explain(&error)),
            Err(_) => Err(format!("no answer within {limit:?}")),
        };
        self.roll_back().await;
        if plan.is_err() {
            self.renew().await;
        }
        plan
    }

    /// Cancels the statement of the session, and opens another session if that is possible.
    async fn replace_session(&mut self) {
        let token = self.session.client.cancel_token();
        if let Ok(connection) = self.database.settings.connection.resolve() {
            connect::cancel(&connection, token).await;
        }
        if let Ok(session) = self.database.session(CONNECT.max(self.database.settings.connect_timeout)).await {
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
            connected_in: Duration::ZERO,
        })
    }
}

impl QueryError {
    fn ours(fault: Fault, cause: Cause, message: String) -> Self {
        Self { fault, cause, message, further: Vec::new(), position: None, grant: None, is_from_server: false }
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
            grant: None,
            is_from_server: true,
        }
    }
}
