//! One short transaction at a time, pipelined into one round trip, on a session that comes and goes.
//!
//! Nothing is kept in the session and every statement is unnamed, so that PgBouncer in
//! transaction mode works unconfigured.

use std::time::Duration;

use futures_util::future::{join, join4};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::{
    Client, Row,
    types::{ToSql, Type},
};

use crate::{
    conninfo::ConnectionSource,
    postgres::{
        classify::{WriteError, begin_error, write_error},
        connect::{self, Session},
    },
};

/// Bounds one attempt to connect to one address, unless `PGCONNECT_TIMEOUT` does.
const CONNECT: Duration = Duration::from_secs(3);

/// How much longer than the server we wait: its own timeout should speak first.
const ANSWER_SLACK: Duration = Duration::from_millis(500);

/// Puts the transaction that it stands in into a schema. $1 its name.
const SCHEMA: &str = "SELECT set_config('search_path', quote_ident($1), true)";

/// A parameter with its type, as the driver wants it.
pub type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// Why a transaction did not happen; or, for [`Error::Unanswered`], may have happened all the same.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No session is to be had, or the server cannot serve now: worth another try.
    #[error("{0}")]
    Unavailable(String),
    /// The session broke, or no answer came in time: worth another try, once it is known whether this one was committed.
    #[error("{0}")]
    Unanswered(String),
    /// A unique index said no: somebody else was first.
    #[error("another session was first: {0}")]
    Collision(String),
    /// The tables are not there, or are not ours.
    #[error("the tables of the batch are not there ({0}): run `postgres-batch migrate up`")]
    NotMigrated(String),
    /// Anything else that the server says: trying again will not help.
    #[error("{reason}")]
    Rejected {
        /// The driver's error with its causes.
        reason: String,
        /// The driver's error.
        #[source]
        source: Box<tokio_postgres::Error>,
    },
}

/// Runs transactions on a database, one at a time, reconnecting as needed.
#[derive(Debug)]
pub struct Transactions {
    connection: ConnectionSource,
    schema: Option<String>,
    application_name: String,
    limit: Duration,
    session: Option<Session>,
}

impl Transactions {
    /// Connects nowhere yet. `schema` replaces the role's own `search_path`; `limit` bounds each statement on the server.
    pub fn new(connection: ConnectionSource, schema: Option<String>, application_name: &str, limit: Duration) -> Self {
        Self { connection, schema, application_name: application_name.to_owned(), limit, session: None }
    }

    /// The schema that was asked for.
    pub fn schema(&self) -> Option<&str> {
        self.schema.as_deref()
    }

    /// Runs one statement in a transaction of its own, in one round trip, until `by` at the latest.
    ///
    /// # Errors
    /// The first error of the transaction. After [`Error::Unanswered`] it may have been committed all the same.
    ///
    /// # Cancel safety
    /// The whole transaction is sent at once: dropped while it waits, it still ends, committed or
    /// not, and the session stays usable.
    pub async fn run(&mut self, sql: &str, parameters: &[Parameter<'_>], by: Instant) -> Result<Vec<Row>, Error> {
        let by = by.min(Instant::now() + CONNECT + self.limit + ANSWER_SLACK);
        let limit = self.limit;
        let schema = self.schema.clone();
        let session = self.session(by).await?;
        let left = by.saturating_duration_since(Instant::now()).min(limit);
        let result = match timeout(left + ANSWER_SLACK, pipelined(session, schema, left, sql, parameters)).await {
            Ok(result) => result,
            Err(_) => Err(Error::Unanswered(format!("no answer within {:.1} s", left.as_secs_f64()))),
        };
        if result.as_ref().is_err_and(Error::is_passing) {
            self.session = None;
        }
        result
    }

    /// Begins a transaction of several statements, which the caller ends by COMMIT; after an
    /// error, [`Transactions::abandon`] it.
    ///
    /// # Errors
    /// As [`Transactions::run`].
    pub async fn begin(&mut self, by: Instant) -> Result<&Client, Error> {
        let (limit, schema) = (self.limit, self.schema.clone());
        let client = &self.session(by).await?.client;
        let begin = begin(limit);
        let (begun, moved) = join(client.batch_execute(&begin), into_schema(client, schema)).await;
        begun.map_err(|error| Error::from_kind(begin_error(&error), error))?;
        moved?;
        Ok(client)
    }

    /// Closes the session, and so rolls back what was begun on it.
    pub fn abandon(&mut self) {
        self.session = None;
    }

    /// The session, opened if there is none that works.
    ///
    /// Whatever the reason, its error is [`Error::Unavailable`]: a wrong password may be a rotation half way through.
    async fn session(&mut self, by: Instant) -> Result<&Session, Error> {
        let session = match self.session.take() {
            Some(session) if !session.client.is_closed() => session,
            _ => {
                let connection = self.connection.resolve().map_err(Error::Unavailable)?;
                let within = self.connection.connect_timeout().unwrap_or(CONNECT);
                match timeout_at(by, connect::open(&connection, within, &self.application_name, connect::ROWS, None))
                    .await
                {
                    Ok(opened) => opened.map_err(|error| Error::Unavailable(error.to_string()))?,
                    Err(_) => return Err(Error::Unavailable("no session before the deadline".to_owned())),
                }
            }
        };
        Ok(self.session.insert(session))
    }
}

/// BEGIN, the schema, the statement and COMMIT, sent together; the first error counts, 25P02 is its echo.
async fn pipelined(
    session: &Session,
    schema: Option<String>,
    limit: Duration,
    sql: &str,
    parameters: &[Parameter<'_>],
) -> Result<Vec<Row>, Error> {
    let client = &session.client;
    let begin = begin(limit);
    let (begun, moved, rows, committed) = join4(
        client.batch_execute(&begin),
        into_schema(client, schema),
        client.query_typed(sql, parameters),
        client.batch_execute("COMMIT"),
    )
    .await;
    begun.map_err(|error| Error::from_kind(begin_error(&error), error))?;
    moved?;
    let rows = rows.map_err(Error::from)?;
    // Whatever ended a COMMIT may have come after it.
    committed.map_err(|error| match Error::from(error) {
        Error::Unavailable(reason) => Error::Unanswered(reason),
        other => other,
    })?;
    Ok(rows)
}

/// Begins a transaction with a deadline for each of its statements, in one message that nothing has to be planned for.
///
/// Under `default_transaction_isolation = serializable` SKIP LOCKED would fail with 40001.
fn begin(limit: Duration) -> String {
    let limit = limit.as_millis().max(1);
    format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; \
         SET LOCAL statement_timeout = {limit}; \
         SET LOCAL lock_timeout = {limit}; \
         SET LOCAL idle_in_transaction_session_timeout = {limit}"
    )
}

async fn into_schema(client: &Client, schema: Option<String>) -> Result<(), Error> {
    if let Some(schema) = schema {
        client.query_typed(SCHEMA, &[(&schema, Type::TEXT)]).await?;
    }
    Ok(())
}

impl Error {
    /// Whether another try may succeed.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Unanswered(_))
    }

    fn from_kind(kind: WriteError, error: tokio_postgres::Error) -> Self {
        let reason = connect::explain(&error);
        match kind {
            WriteError::Passing => Self::Unavailable(reason),
            WriteError::Unanswered => Self::Unanswered(reason),
            WriteError::UniqueViolation => Self::Collision(reason),
            WriteError::MissingObject => Self::NotMigrated(reason),
            WriteError::Rejected => Self::Rejected { reason, source: Box::new(error) },
        }
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::from_kind(write_error(&error), error)
    }
}
