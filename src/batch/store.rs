//! The tables as a worker uses them: a method for each statement.
//!
//! Each method is one transaction in one round trip. Every write names the session, a random number that the worker
//! draws for each claim. A write that finds no row means that the clap belongs to somebody else now.

mod statement;

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;
use tokio_postgres::{Row, types::Type};

pub use self::statement::Statement;
use super::{
    status::{AttemptOutcome, Status},
    transaction::{Error, Parameter, Transactions},
};
use crate::conninfo::ConnectionSource;

/// The longest that a statement may take on the server.
const STATEMENT: Duration = Duration::from_secs(5);

/// A worker's access to the tables.
#[derive(Debug)]
pub struct Store {
    transactions: Transactions,
    overrides: BTreeMap<Statement, String>,
    outage: Outage,
}

/// The Kubernetes Job that claims, and its pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// The Job's uid, which is never used twice.
    pub uid: String,
    /// The Job's name, for people only: names repeat.
    pub name: Option<String>,
    /// The pod's name. A restarted container of the same pod need not wait for the lease; a second pod must.
    pub pod: String,
    /// The node's name, for people only.
    pub node: Option<String>,
}

/// The ways to claim a clap, in the order in which a worker tries them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The first clap that is due, else a request that nobody has tried: what most Jobs find, in one statement.
    Fast,
    /// This Job's own clap: its earlier pod failed or vanished.
    Resume,
    /// A clap that is due, whoever had it, also behind those whose attempts are spent.
    TakeOver,
    /// A request that nobody has tried.
    Fresh,
    /// The same, without reading it: a request that cannot be read must not stop the others.
    Unread,
}

/// The fencing token of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionId(i64);

impl SessionId {
    /// Draws a new token. The worker knows it before the claim, and can look up a claim whose answer was lost.
    pub fn draw() -> Self {
        Self(rand::random_range(1..=i64::MAX))
    }

    /// Returns the number that the table's column holds.
    pub fn get(self) -> i64 {
        self.0
    }
}

/// One attempt on one clap, which belongs to this worker until the lease ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The clap's id, which is also its request's.
    pub id: i64,
    /// The attempt's number, from one.
    pub iteration: i32,
    /// The most attempts that the clap may cost; interrupted ones do not count.
    pub max_attempts: i16,
    /// The fencing token.
    pub session: SessionId,
    /// The request, if the claim has read it.
    pub request: Option<Request>,
    /// The number of this Job's attempt, from one.
    pub job_attempts: u32,
}

/// A request as its program sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The time that the seed's work takes.
    pub duration: Duration,
    /// The payload, a JSON document.
    pub payload: String,
    /// The key, if it has one.
    pub key: Option<String>,
    /// The time of the request, as RFC 3339 in UTC.
    pub requested_at: String,
}

/// The clap that a Job had before.
#[derive(Debug, Clone, PartialEq)]
pub struct PreviousClap {
    /// The clap's id.
    pub id: i64,
    /// The clap's state now.
    pub status: Status,
    /// True if the clap still belongs to this Job.
    pub mine: bool,
    /// True if its attempts are used up.
    pub spent: bool,
    /// The time for which its lease still holds; zero once it has ended.
    pub lease: Duration,
}

/// A failed attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// The program's exit code, or 128 + n for signal n.
    pub exit_code: i32,
    /// The reason, for people.
    pub error: String,
    /// True if another attempt is pointless.
    pub permanent: bool,
}

/// The time between a failure and the next attempt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// The time for which the clap stays reserved for the same Job's next pod; zero in queue mode.
    pub reserve: Duration,
    /// The wait after the first failure; each further failure doubles it.
    pub base: Duration,
    /// The longest wait.
    pub cap: Duration,
}

impl Store {
    /// Makes a store, which connects when it is first used.
    pub fn new(connection: ConnectionSource, schema: Option<String>) -> Self {
        Self::with_overrides(connection, schema, BTreeMap::new())
    }

    /// Makes a store that runs other texts for some statements. The tests break a statement with it, and show which
    /// check notices.
    pub fn with_overrides(
        connection: ConnectionSource,
        schema: Option<String>,
        overrides: BTreeMap<Statement, String>,
    ) -> Self {
        Self {
            transactions: Transactions::new(connection, schema, "postgres-batch/work", STATEMENT),
            overrides,
            outage: Outage::default(),
        }
    }

    /// Returns what to tell a person about an error.
    pub(super) fn explain(&self, error: &Error) -> String {
        self.transactions.explain(error)
    }

    /// Marks claps as DEAD whose last attempt crashed, or that nobody can work on: a few of those that are due, and this
    /// Job's own. Returns the id of each with the reason.
    ///
    /// # Errors
    /// Those of [`Transactions::run`]; the same holds for all methods here.
    pub async fn mark_dead(&mut self, job: &Job, by: Instant) -> Result<Vec<(i64, String)>, Error> {
        let rows = self.run(Statement::MarkDead, &[(&job.uid, Type::TEXT)], by).await?;
        rows.iter().map(|row| Ok((column(row, "id")?, column(row, "reason")?))).collect()
    }

    /// Claims a clap, if this way finds one.
    ///
    /// # Errors
    /// [`Error::Collision`] if another pod of this Job was first.
    pub async fn claim(
        &mut self,
        claim: Claim,
        job: &Job,
        session: SessionId,
        lease: Duration,
        by: Instant,
    ) -> Result<Option<Attempt>, Error> {
        let statement = match claim {
            Claim::Fast => Statement::Fast,
            Claim::Resume => Statement::Resume,
            Claim::TakeOver => Statement::TakeOver,
            Claim::Fresh => Statement::Fresh,
            Claim::Unread => Statement::Unread,
        };
        let seconds = lease.as_secs_f64();
        let lock = self.transactions.lock();
        let parameters: [Parameter<'_>; 7] = [
            (&session.0, Type::INT8),
            (&job.uid, Type::TEXT),
            (&job.name, Type::TEXT),
            (&job.pod, Type::TEXT),
            (&job.node, Type::TEXT),
            (&seconds, Type::FLOAT8),
            (&lock, Type::INT8),
        ];
        match claim {
            Claim::Fast | Claim::Fresh => {
                let rows = self.run_locking_itself(statement, &parameters, by).await?;
                let Some(row) = rows.first() else { return Ok(None) };
                Ok(Some(Attempt { request: Some(request(row)?), ..attempt(row, session)? }))
            }
            Claim::Resume | Claim::TakeOver | Claim::Unread => {
                let rows = self.run(statement, &parameters[..6], by).await?;
                rows.first().map(|row| attempt(row, session)).transpose()
            }
        }
    }

    /// Reads the request of an attempt; `None` means that it was deleted.
    pub async fn request(&mut self, attempt: &Attempt, by: Instant) -> Result<Option<Request>, Error> {
        let rows = self.run(Statement::Request, &[(&attempt.id, Type::INT8)], by).await?;
        rows.first().map(request).transpose()
    }

    /// Returns whether the row of an attempt's request can be read, apart from its payload.
    pub async fn is_there(&mut self, attempt: &Attempt, by: Instant) -> Result<bool, Error> {
        let rows = self.run(Statement::IsThere, &[(&attempt.id, Type::INT8)], by).await?;
        Ok(!rows.is_empty())
    }

    /// Looks up a claim whose answer was lost, and returns it if it was committed. If it was not, the session is voided:
    /// a claim that reaches the server later claims nothing.
    pub async fn find_by_session(
        &mut self,
        job: &Job,
        session: SessionId,
        by: Instant,
    ) -> Result<Option<Attempt>, Error> {
        let parameters: [Parameter<'_>; 2] = [(&session.0, Type::INT8), (&job.uid, Type::TEXT)];
        let rows = self.run(Statement::FindBySession, &parameters, by).await?;
        rows.first().map(|row| attempt(row, session)).transpose()
    }

    /// Mends requests that are pending although they have a clap, and returns how many there were. A claim cannot take
    /// such a request, and cannot see past it.
    pub async fn mend_pending(&mut self, by: Instant) -> Result<i64, Error> {
        let rows = self.run(Statement::MendPending, &[], by).await?;
        rows.first().map_or(Ok(0), |row| column(row, "odd"))
    }

    /// Reads the clap that this Job had before, if it had one.
    pub async fn previous_clap(&mut self, job: &Job, by: Instant) -> Result<Option<PreviousClap>, Error> {
        let rows = self.run(Statement::PreviousClap, &[(&job.uid, Type::TEXT)], by).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(PreviousClap {
            id: column(row, "id")?,
            status: status(row, "status")?,
            mine: column(row, "mine")?,
            spent: column(row, "spent")?,
            lease: Duration::try_from_secs_f64(column(row, "lease_seconds")?).unwrap_or(Duration::ZERO),
        }))
    }

    /// Renews the lease, and returns whether an operator has asked to cancel; `None` means fenced.
    pub async fn renew(&mut self, attempt: &Attempt, lease: Duration, by: Instant) -> Result<Option<bool>, Error> {
        let seconds = lease.as_secs_f64();
        let parameters: [Parameter<'_>; 3] =
            [(&attempt.id, Type::INT8), (&attempt.session.0, Type::INT8), (&seconds, Type::FLOAT8)];
        let rows = self.run(Statement::Renew, &parameters, by).await?;
        rows.first().map(|row| column(row, "cancel_requested")).transpose()
    }

    /// Records the work as done; `None` means fenced.
    pub async fn succeed(&mut self, attempt: &Attempt, by: Instant) -> Result<Option<Status>, Error> {
        let parameters: [Parameter<'_>; 2] = [(&attempt.id, Type::INT8), (&attempt.session.0, Type::INT8)];
        self.settle(Statement::Succeed, &parameters, by).await
    }

    /// Records a failure, and returns the clap's new state, FAILED or DEAD; `None` means fenced.
    pub async fn fail(
        &mut self,
        attempt: &Attempt,
        failure: &Failure,
        backoff: &Backoff,
        by: Instant,
    ) -> Result<Option<Status>, Error> {
        let [reserve, base, cap] = [backoff.reserve, backoff.base, backoff.cap].map(|d| d.as_secs_f64());
        let parameters: [Parameter<'_>; 8] = [
            (&attempt.id, Type::INT8),
            (&attempt.session.0, Type::INT8),
            (&failure.exit_code, Type::INT4),
            (&failure.error, Type::TEXT),
            (&failure.permanent, Type::BOOL),
            (&reserve, Type::FLOAT8),
            (&base, Type::FLOAT8),
            (&cap, Type::FLOAT8),
        ];
        self.settle(Statement::Fail, &parameters, by).await
    }

    /// Gives the clap back whose program could not be started. That costs no attempt, and the clap is due after a
    /// back-off that each further such release doubles. `None` means fenced.
    pub async fn not_started(
        &mut self,
        attempt: &Attempt,
        error: &str,
        backoff: &Backoff,
        by: Instant,
    ) -> Result<Option<Status>, Error> {
        let [base, cap] = [backoff.base, backoff.cap].map(|d| d.as_secs_f64());
        let parameters: [Parameter<'_>; 5] = [
            (&attempt.id, Type::INT8),
            (&attempt.session.0, Type::INT8),
            (&error, Type::TEXT),
            (&base, Type::FLOAT8),
            (&cap, Type::FLOAT8),
        ];
        self.settle(Statement::NotStarted, &parameters, by).await
    }

    /// Gives the clap back, due at once; the first `free` interruptions cost no attempt. Returns FAILED, or DEAD when
    /// both budgets are spent; `None` means fenced.
    pub async fn release(&mut self, attempt: &Attempt, free: i32, by: Instant) -> Result<Option<Status>, Error> {
        let parameters: [Parameter<'_>; 3] =
            [(&attempt.id, Type::INT8), (&attempt.session.0, Type::INT8), (&free, Type::INT4)];
        self.settle(Statement::Release, &parameters, by).await
    }

    /// Records that the work was stopped on an operator's request; `None` means fenced.
    pub async fn cancelled(&mut self, attempt: &Attempt, by: Instant) -> Result<Option<Status>, Error> {
        let parameters: [Parameter<'_>; 2] = [(&attempt.id, Type::INT8), (&attempt.session.0, Type::INT8)];
        self.settle(Statement::Cancelled, &parameters, by).await
    }

    /// Reads the recorded end of an attempt, and the clap's state now; `None` means that the clap's row was deleted.
    pub async fn settled(
        &mut self,
        session: SessionId,
        by: Instant,
    ) -> Result<Option<(AttemptOutcome, Status)>, Error> {
        let rows = self.run(Statement::Settled, &[(&session.0, Type::INT8)], by).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let text: &str = column(row, "outcome")?;
        let outcome = AttemptOutcome::parse(text).ok_or_else(|| unknown("outcome", text))?;
        Ok(Some((outcome, status(row, "status")?)))
    }

    async fn settle(
        &mut self,
        statement: Statement,
        parameters: &[Parameter<'_>],
        by: Instant,
    ) -> Result<Option<Status>, Error> {
        let rows = self.run(statement, parameters, by).await?;
        rows.first().map(|row| status(row, "status")).transpose()
    }

    async fn run(
        &mut self,
        statement: Statement,
        parameters: &[Parameter<'_>],
        by: Instant,
    ) -> Result<Vec<Row>, Error> {
        let sql = self.overrides.get(&statement).map_or(statement.sql(), String::as_str);
        let result = self.transactions.run(sql, parameters, by).await;
        self.outage.observe(&result);
        result
    }

    async fn run_locking_itself(
        &mut self,
        statement: Statement,
        parameters: &[Parameter<'_>],
        by: Instant,
    ) -> Result<Vec<Row>, Error> {
        let sql = self.overrides.get(&statement).map_or(statement.sql(), String::as_str);
        let result = self.transactions.run_locking_itself(sql, parameters, by).await;
        self.outage.observe(&result);
        result
    }
}

/// The log of a database that cannot serve: one line for each new reason, and one when it serves again.
#[derive(Debug, Default)]
struct Outage {
    logged: Option<String>,
}

impl Outage {
    fn observe<T>(&mut self, result: &Result<T, Error>) {
        let reason = match result {
            Err(Error::Unavailable { reason, .. } | Error::Unanswered(reason)) => Some(reason),
            _ => None,
        };
        match reason {
            Some(reason) if self.logged.as_ref() != Some(reason) => {
                tracing::warn!(reason, "the database cannot be reached; trying again");
            }
            None if self.logged.is_some() => tracing::info!("the database can be reached again"),
            _ => {}
        }
        self.logged = reason.cloned();
    }
}

/// Returns the attempt of a row, without its request.
fn attempt(row: &Row, session: SessionId) -> Result<Attempt, Error> {
    let job_attempts: i64 = column(row, "job_attempts")?;
    Ok(Attempt {
        id: column(row, "id")?,
        iteration: column(row, "iteration")?,
        max_attempts: column(row, "max_attempts")?,
        session,
        request: None,
        job_attempts: u32::try_from(job_attempts).unwrap_or(u32::MAX),
    })
}

fn request(row: &Row) -> Result<Request, Error> {
    let seconds: i32 = column(row, "duration_seconds")?;
    Ok(Request {
        duration: Duration::from_secs(u64::try_from(seconds).unwrap_or(0)),
        payload: column(row, "payload")?,
        key: column(row, "request_key")?,
        requested_at: column(row, "requested_at")?,
    })
}

fn status(row: &Row, name: &str) -> Result<Status, Error> {
    let text: &str = column(row, name)?;
    Status::parse(text).ok_or_else(|| unknown(name, text))
}

fn column<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a Row, name: &str) -> Result<T, Error> {
    row.try_get(name).map_err(Error::from)
}

fn unknown(name: &str, text: &str) -> Error {
    Error::NotMigrated(format!("the column {name} holds {text:?}, which this version does not know"))
}
