//! Short transactions, one at a time, each pipelined into one round trip.
//!
//! The session is opened when it is needed and replaced when it breaks. It keeps no state, and every statement is
//! unnamed, so that PgBouncer in transaction mode works without further configuration.
//!
//! A transaction whose answer was lost may still be under way on the server: its COMMIT waits for a standby or for the
//! disk, or its backend waits for messages that never come. The next transaction must not overtake it, or it would see
//! neither its rows nor their absence for certain. So every transaction first takes an advisory lock that belongs to
//! this process alone, and that PostgreSQL releases only when a transaction's end is visible to others.

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
        advice,
        classify::{
            Cause, WriteError, begin_error, cause_of_connect, cause_of_write, is_about_a_value, may_be_about_a_value,
            write_error,
        },
        connect::{self, Session},
    },
};

/// The time limit for connecting to one address, unless `PGCONNECT_TIMEOUT` sets another one.
const CONNECT: Duration = Duration::from_secs(3);

/// The time for which the client waits beyond the server's own timeout, so that the server's timeout comes first.
const ANSWER_SLACK: Duration = Duration::from_millis(500);

/// Lets the server notice within about ten seconds that this host is gone. Without it a backend whose transaction was
/// cut off before its COMMIT keeps its locks until the operating system's keepalive, two hours later: no timeout of
/// PostgreSQL ends a backend that waits in the middle of a pipeline.
const SERVER_KEEPALIVE: &str = "SET LOCAL tcp_keepalives_idle = 5; \
     SET LOCAL tcp_keepalives_interval = 2; \
     SET LOCAL tcp_keepalives_count = 3; \
     SET LOCAL tcp_user_timeout = '10s'";

/// Sets the schema of the transaction that it is part of. $1 its name.
const SCHEMA: &str = "SELECT set_config('search_path', quote_ident($1), true)";

/// A parameter with its type.
pub type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// The reason why a transaction failed. After [`Error::Unanswered`] it may have been committed all the same.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No session could be opened, or the server cannot serve now. Another try may succeed.
    #[error("{reason}")]
    Unavailable {
        /// The text of the error and of its causes.
        reason: String,
        /// The advice, if there is any.
        advice: Option<String>,
        /// True if the server said so of a statement that may have met a value which is damaged, or too big for its
        /// memory.
        by_a_value: bool,
    },
    /// The session broke, or no answer came in time. Another try makes sense once it is known whether this transaction
    /// was committed.
    #[error("{0}")]
    Unanswered(String),
    /// A unique index refused the row: it is there already.
    #[error("there is such a row already: {0}")]
    Collision(String),
    /// The tables are missing, or are not those of the batch.
    #[error(
        "the tables of the batch are not there: run `postgres-batch migrate up`; if they are in another schema, name it with \
         --schema, and see that the role has USAGE on it ({0})"
    )]
    NotMigrated(String),
    /// Any other error of the server. Another try will not help.
    #[error("{reason}")]
    Rejected {
        /// The text of the driver's error and of its causes.
        reason: String,
        /// The driver's error.
        #[source]
        source: Box<tokio_postgres::Error>,
    },
}

/// Runs transactions on a database, one at a time, and reconnects when it must.
#[derive(Debug)]
pub struct Transactions {
    connection: ConnectionSource,
    schema: Option<String>,
    application_name: String,
    limit: Duration,
    session: Option<Session>,
    lock: i64,
    /// True if the last transaction got no answer, and may still hold the lock.
    abandoned: bool,
}

impl Transactions {
    /// Makes a runner, which connects when it is first used. `schema` replaces the role's own `search_path`; `limit`
    /// bounds each statement on the server.
    pub fn new(connection: ConnectionSource, schema: Option<String>, application_name: &str, limit: Duration) -> Self {
        Self {
            connection,
            schema,
            application_name: application_name.to_owned(),
            limit,
            session: None,
            lock: rand::random_range(1..=i64::MAX),
            abandoned: false,
        }
    }

    /// Returns the schema that the operator named, if any.
    pub fn schema(&self) -> Option<&str> {
        self.schema.as_deref()
    }

    /// Runs one statement in a transaction of its own, in one round trip. Gives up at `by`.
    ///
    /// # Errors
    /// The first error of the transaction. After [`Error::Unanswered`] the transaction may have been committed.
    ///
    /// # Cancel safety
    /// The whole transaction is sent at once. If this is dropped while it waits, the transaction still ends, committed
    /// or not, and the session stays usable.
    pub async fn run(&mut self, sql: &str, parameters: &[Parameter<'_>], by: Instant) -> Result<Vec<Row>, Error> {
        self.run_with(Some(self.lock), "", sql, parameters, by).await
    }

    /// Runs a statement that finds its rows in the order of an index. Of a table that was never analysed the planner
    /// may think that so few rows match that it reads and sorts all of them. Otherwise the same as
    /// [`Transactions::run`].
    ///
    /// # Errors
    /// Those of [`Transactions::run`].
    pub async fn run_in_order(
        &mut self,
        sql: &str,
        parameters: &[Parameter<'_>],
        by: Instant,
    ) -> Result<Vec<Row>, Error> {
        self.run_with(Some(self.lock), "; SET LOCAL enable_sort = off", sql, parameters, by).await
    }

    /// Runs a statement that takes the lock of [`Transactions::lock`] itself. Otherwise the same as
    /// [`Transactions::run`].
    ///
    /// # Errors
    /// Those of [`Transactions::run`].
    pub async fn run_locking_itself(
        &mut self,
        sql: &str,
        parameters: &[Parameter<'_>],
        by: Instant,
    ) -> Result<Vec<Row>, Error> {
        // After an abandoned transaction the lock comes first, since its holder may have to be ended.
        let lock = self.abandoned.then_some(self.lock);
        self.run_with(lock, "", sql, parameters, by).await
    }

    /// Returns the key of the advisory lock that belongs to this process.
    pub fn lock(&self) -> i64 {
        self.lock
    }

    async fn run_with(
        &mut self,
        lock: Option<i64>,
        settings: &str,
        sql: &str,
        parameters: &[Parameter<'_>],
        by: Instant,
    ) -> Result<Vec<Row>, Error> {
        let by = by.min(Instant::now() + CONNECT + self.limit + ANSWER_SLACK);
        let limit = self.limit;
        let schema = self.schema.clone();
        let abandoned = self.abandoned;
        let session = self.session(by).await?;
        let left = by.saturating_duration_since(Instant::now()).min(limit);
        let begin = begin(left, lock, abandoned) + settings;
        let result = match timeout(left + ANSWER_SLACK, pipelined(session, schema, &begin, sql, parameters)).await {
            Ok(result) => result,
            Err(_) => Err(Error::Unanswered(format!("no answer within {:.1} s", left.as_secs_f64()))),
        };
        match &result {
            // This transaction had the lock, so no earlier one of this process is under way.
            Ok(_) => self.abandoned = false,
            Err(Error::Unanswered(_)) => self.abandoned = true,
            Err(_) => {}
        }
        if result.as_ref().is_err_and(Error::is_passing) {
            self.session = None;
        }
        result
    }

    /// Returns the text of an error for people. It names the schema if the operator named one.
    pub(super) fn explain(&self, error: &Error) -> String {
        match (error, &self.schema) {
            (Error::NotMigrated(reason), Some(schema)) => {
                let schema = schema.escape_debug();
                format!(
                    "the schema \"{schema}\" does not have the tables of the batch: run \
                     `postgres-batch --schema \"{schema}\" migrate up`, or name another schema ({reason})"
                )
            }
            _ => error.to_string(),
        }
    }

    /// Begins a transaction of several statements. The caller ends it with COMMIT, or with [`Transactions::abandon`]
    /// after an error.
    ///
    /// # Errors
    /// Those of [`Transactions::run`].
    pub async fn begin(&mut self, by: Instant) -> Result<&Client, Error> {
        let (limit, schema) = (self.limit, self.schema.clone());
        let (lock, abandoned) = (self.lock, self.abandoned);
        let client = &self.session(by).await?.client;
        let begin = begin(limit, Some(lock), abandoned);
        let (begun, moved) = join(client.batch_execute(&begin), into_schema(client, schema)).await;
        begun.map_err(|error| Error::from_kind(begin_error(&error), error))?;
        moved?;
        Ok(client)
    }

    /// Closes the session, which rolls back its open transaction.
    pub fn abandon(&mut self) {
        self.session = None;
        self.abandoned = true;
    }

    /// Returns the session, and opens one if there is none that works.
    ///
    /// Its error is always [`Error::Unavailable`]: even a wrong password may be a rotation that is half done.
    async fn session(&mut self, by: Instant) -> Result<&Session, Error> {
        let session = match self.session.take() {
            Some(session) if !session.client.is_closed() => session,
            _ => {
                let connection = self.connection.resolve_aside().await.map_err(|reason| Error::Unavailable {
                    reason,
                    advice: Some(advice::on_session(Cause::Credentials, &self.connection)),
                    by_a_value: false,
                })?;
                let within = self.connection.connect_timeout().unwrap_or(CONNECT);
                match timeout_at(
                    by,
                    connect::open(&connection, Duration::ZERO, within, &self.application_name, connect::ROWS, None),
                )
                .await
                {
                    Ok(opened) => opened.map_err(|error| Error::Unavailable {
                        advice: Some(on_session(cause_of_connect(&error), &self.connection)),
                        reason: error.to_string(),
                        by_a_value: false,
                    })?,
                    Err(_) => {
                        return Err(Error::Unavailable {
                            reason: "no session before the deadline".to_owned(),
                            advice: Some(on_session(Cause::Silent, &self.connection)),
                            by_a_value: false,
                        });
                    }
                }
            }
        };
        Ok(self.session.insert(session))
    }
}

/// Sends BEGIN, the schema, the statement and COMMIT together. The first error counts; 25P02 only follows from it.
async fn pipelined(
    session: &Session,
    schema: Option<String>,
    begin: &str,
    sql: &str,
    parameters: &[Parameter<'_>],
) -> Result<Vec<Row>, Error> {
    let client = &session.client;
    let (begun, moved, rows, committed) = join4(
        client.batch_execute(begin),
        into_schema(client, schema),
        client.query_typed(sql, parameters),
        client.batch_execute("COMMIT"),
    )
    .await;
    // A BEGIN that fails on its own leaves no transaction, and then the statement commits by itself.
    let was_executed = rows.is_ok();
    let in_doubt = |error| match error {
        Error::Unavailable { reason, .. } if was_executed => Error::Unanswered(reason),
        other => other,
    };
    begun.map_err(|error| in_doubt(Error::from_kind(begin_error(&error), error)))?;
    moved.map_err(in_doubt)?;
    let rows = rows.map_err(Error::from)?;
    // An error that ends a COMMIT may come after the commit itself.
    committed.map_err(|error| in_doubt(Error::from(error)))?;
    Ok(rows)
}

/// Returns the text that begins a transaction with a deadline for each of its statements. Nothing in it needs a plan.
///
/// The isolation level is named because SKIP LOCKED fails with 40001 under
/// `default_transaction_isolation = serializable`. The lock is a statement of its own, so that the next statement's
/// snapshot is taken when the lock is held. Policies that apply to the worker are an error, whatever they say: the view
/// that KEDA's number comes from counts also what they hide, so that Jobs would be started for ever and find nothing.
fn begin(limit: Duration, lock: Option<i64>, abandoned: bool) -> String {
    let limit = limit.as_millis().max(1);
    let lock = lock.map_or(String::new(), |lock| {
        let end_abandoned = if abandoned { end_abandoned(lock) } else { String::new() };
        format!("; {end_abandoned}SELECT pg_advisory_xact_lock({lock})")
    });
    format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; \
         SET LOCAL statement_timeout = {limit}; \
         SET LOCAL lock_timeout = {limit}; \
         SET LOCAL idle_in_transaction_session_timeout = {limit}; \
         SET LOCAL row_security = off; \
         {SERVER_KEEPALIVE}{lock}"
    )
}

/// Returns the statement that ends the backend of an abandoned transaction, if it waits for messages or cannot send its
/// answers. Its client, which is this process, has given it up. A backend in COMMIT does neither, so that the lock
/// waits for it.
fn end_abandoned(lock: i64) -> String {
    format!(
        "SELECT pg_terminate_backend(l.pid) \
           FROM pg_locks l \
           JOIN pg_stat_activity a USING (pid) \
          WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 \
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
            AND l.classid = {high} AND l.objid = {low} \
            AND a.wait_event_type = 'Client'; ",
        high = lock >> 32,
        low = lock & 0xffff_ffff,
    )
}

async fn into_schema(client: &Client, schema: Option<String>) -> Result<(), Error> {
    if let Some(schema) = schema {
        client.query_typed(SCHEMA, &[(&schema, Type::TEXT)]).await?;
    }
    Ok(())
}

/// Returns advice on a session that could not be opened.
fn on_session(cause: Cause, connection: &ConnectionSource) -> String {
    match cause {
        Cause::Full => {
            "raise the server's max_connections, the database's or the role's CONNECTION LIMIT (a pooler's: \
                        default_pool_size, max_client_conn), or let fewer Jobs run at a time (maxReplicaCount)"
                .to_owned()
        }
        Cause::WrongServer => format!(
            "name the primary in {}, or set {} to primary",
            connection.name_of("host"),
            connection.name_of("target_session_attrs")
        ),
        Cause::Silent => {
            let timeout = connection.name_of("connect_timeout");
            format!("{}; if the server is only slow, raise {timeout} (whole seconds)", advice::SILENT)
        }
        cause => advice::on_session(cause, connection),
    }
}

/// Returns advice on a statement that the server refused, if there is any.
fn on_statement(error: &tokio_postgres::Error) -> Option<&'static str> {
    match cause_of_write(error)? {
        Cause::Privilege => Some(
            "connect as a role with the grants of deploy/postgres/roles.sql: postgres_batch is for `work`, \
             postgres_batch_operator for the other commands; `migrate` is for the tables' owner, who may CREATE in the \
             schema",
        ),
        Cause::RowSecurity => Some(
            "row level security is on for a table of the batch and applies to this role, and PostgreSQL cannot tell whether \
             the policies would hide rows: ALTER TABLE ... DISABLE ROW LEVEL SECURITY (without a grant nobody reads the \
             table in any case), or ALTER ROLE ... BYPASSRLS, or connect as the tables' owner",
        ),
        Cause::ReadOnly => {
            Some("this server only reads: name the primary, or every host with PGTARGETSESSIONATTRS=read-write")
        }
        Cause::Datum => Some(
            "a JSON document in PostgreSQL holds no \\u0000, no half of a surrogate pair and no number beyond the range \
             of numeric, and a text only what the database's encoding has: write such a value in another way, as \
             base64 for example",
        ),
        Cause::TooLong => Some("a key must be short enough for an index, about 2,600 bytes: give its hash instead"),
        Cause::StatementTimeout | Cause::LockTimeout => {
            Some("somebody holds a lock, or the server is busy: pg_stat_activity shows who; then try again")
        }
        _ => None,
    }
}

impl Error {
    /// Returns whether another try may succeed.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Unanswered(_))
    }

    /// Returns whether the server could not compute or send a value, such as one that its encoding cannot convert.
    pub fn is_about_a_value(&self) -> bool {
        matches!(self, Self::Rejected { source, .. } if is_about_a_value(source))
    }

    /// Returns whether a statement that reads less may succeed. An outage, a limit that is over, and a missing grant
    /// are no such errors: the next statement would meet them again.
    pub(super) fn may_be_about_a_value(&self) -> bool {
        match self {
            Self::Rejected { source, .. } => may_be_about_a_value(source),
            Self::Unavailable { by_a_value, .. } => *by_a_value,
            Self::Unanswered(_) | Self::NotMigrated(_) | Self::Collision(_) => false,
        }
    }

    /// Returns advice on the error, if there is any.
    pub(super) fn advice(&self) -> Option<&str> {
        match self {
            Self::Unavailable { advice, .. } => advice.as_deref(),
            Self::Rejected { reason: _, source } => on_statement(source),
            Self::Collision(reason) if reason.contains("make_it_clap_pkey") => Some(
                "the sequence of make_it_clap.id is behind the ids, as after a restore or logical replication: SELECT \
                 setval(pg_get_serial_sequence('make_it_clap', 'id'), (SELECT max(id) FROM make_it_clap))",
            ),
            Self::Unanswered(_) | Self::Collision(_) | Self::NotMigrated(_) => None,
        }
    }

    fn from_kind(kind: WriteError, error: tokio_postgres::Error) -> Self {
        let reason = connect::explain(&error);
        match kind {
            WriteError::Passing => Self::Unavailable {
                reason,
                advice: on_statement(&error).map(str::to_owned),
                by_a_value: may_be_about_a_value(&error),
            },
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
