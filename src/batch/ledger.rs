//! The books: every statement of a worker on the tables, one method each.
//!
//! A method is one transaction in one round trip. Whoever writes proves by the session, a random
//! number drawn per claim, that the clap is still theirs; "no row" means that it is not.

mod statements;

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::{Row, types::Type};

pub use self::statements::Statements;
use super::{
    clap::{AttemptOutcome, Status},
    transaction::{Error, Parameter, Transactions},
};
use crate::conninfo::ConnectionSource;

/// What a statement may take on the server.
const STATEMENT: Duration = Duration::from_secs(5);

/// The tables, from a worker's side.
#[derive(Debug)]
pub struct Ledger {
    transactions: Transactions,
    statements: Statements,
    outage: Outage,
}

/// Who claims: a Kubernetes Job, and its pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// The identity, never used twice.
    pub uid: String,
    /// For people; such names repeat.
    pub name: Option<String>,
    /// Tells a restarted container (its lease is free at once) from a second pod (it waits).
    pub pod: String,
    /// For people.
    pub node: Option<String>,
}

/// How a clap is claimed, in the order in which a worker tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A request that nobody has tried, if no clap is due: what most Jobs find, in one statement.
    Quick,
    /// This Job's own clap: its earlier pod failed or vanished.
    Own,
    /// A clap that is due, whoever had it.
    Due,
    /// A request that nobody has tried.
    New,
}

/// The fencing token of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionId(i64);

impl SessionId {
    /// Draws a new one: known before the claim, so that a claim whose answer was lost can be looked up.
    pub fn draw() -> Self {
        Self(rand::random_range(1..=i64::MAX))
    }

    /// The number in the table's column.
    pub fn get(self) -> i64 {
        self.0
    }
}

/// One attempt on one clap, ours until the lease ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The clap, and the request of the same number.
    pub id: i64,
    /// Which attempt this is, from one.
    pub iteration: i32,
    /// How many attempts there may be, interrupted ones aside.
    pub max_attempts: i16,
    /// The fencing token.
    pub session: SessionId,
    /// An operator wants it stopped.
    pub cancel_requested: bool,
    /// The seed's work.
    pub duration: Duration,
    /// The request's payload: a JSON document.
    pub payload: String,
    /// The request's key, if it has one.
    pub request_key: Option<String>,
    /// When the request was made: RFC 3339, UTC.
    pub requested_at: String,
    /// Which attempt of this Job this is, from one.
    pub job_attempts: u32,
}

/// What a Job had before.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// The clap.
    pub id: i64,
    /// Its state now.
    pub status: Status,
    /// Whether it still belongs to this Job.
    pub mine: bool,
    /// Whether its attempts are used up.
    pub spent: bool,
    /// How long its lease still holds; zero when it has ended.
    pub lease: Duration,
}

/// A failed attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// The program's exit code, 128 + n for a signal.
    pub exit_code: i32,
    /// What people read.
    pub error: String,
    /// Whether trying again is pointless.
    pub permanent: bool,
}

/// When a failed clap is tried again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// How long the clap stays reserved for the same Job's next pod; zero in queue mode.
    pub reserve: Duration,
    /// After the first failure; doubled by each further one.
    pub base: Duration,
    /// The longest.
    pub cap: Duration,
}

impl Ledger {
    /// Connects nowhere yet.
    pub fn new(connection: ConnectionSource, schema: Option<String>) -> Self {
        Self::with_statements(connection, schema, Statements::default())
    }

    /// A ledger with other statements: how the tests show which check notices a broken one.
    pub fn with_statements(connection: ConnectionSource, schema: Option<String>, statements: Statements) -> Self {
        Self {
            transactions: Transactions::new(connection, schema, "postgres-batch/work", STATEMENT),
            statements,
            outage: Outage::default(),
        }
    }

    /// Books as DEAD what crashed on its last attempt, and says which claps.
    ///
    /// # Errors
    /// The transaction's; so for all methods here.
    pub async fn bury(&mut self, by: Instant) -> Result<Vec<i64>, Error> {
        let rows = self.run(|s| &s.bury, &[], by).await?;
        rows.iter().map(|row| column(row, "id")).collect()
    }

    /// Claims a clap in one of the four ways.
    ///
    /// # Errors
    /// [`Error::Collision`] if another pod of this Job was first.
    pub async fn claim(
        &mut self,
        way: Way,
        job: &Job,
        session: SessionId,
        lease: Duration,
        by: Instant,
    ) -> Result<Option<Claim>, Error> {
        let statement: fn(&Statements) -> &String = match way {
            Way::Quick => |s| &s.quick,
            Way::Own => |s| &s.own,
            Way::Due => |s| &s.due,
            Way::New => |s| &s.new,
        };
        let seconds = lease.as_secs_f64();
        let parameters: [Parameter<'_>; 6] = [
            (&session.0, Type::INT8),
            (&job.uid, Type::TEXT),
            (&job.name, Type::TEXT),
            (&job.pod, Type::TEXT),
            (&job.node, Type::TEXT),
            (&seconds, Type::FLOAT8),
        ];
        let rows = self.run(statement, &parameters, by).await?;
        rows.first().map(|row| claimed(row, session)).transpose()
    }

    /// Looks up a claim whose answer was lost: was it committed?
    pub async fn adopt(&mut self, job: &Job, session: SessionId, by: Instant) -> Result<Option<Claim>, Error> {
        let parameters: [Parameter<'_>; 2] = [(&session.0, Type::INT8), (&job.uid, Type::TEXT)];
        let rows = self.run(|s| &s.adopt, &parameters, by).await?;
        rows.first().map(|row| claimed(row, session)).transpose()
    }

    /// What this Job had before, if anything.
    pub async fn standing(&mut self, job: &Job, by: Instant) -> Result<Option<Standing>, Error> {
        let rows = self.run(|s| &s.standing, &[(&job.uid, Type::TEXT)], by).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(Standing {
            id: column(row, "id")?,
            status: status(row, "status")?,
            mine: column(row, "mine")?,
            spent: column(row, "spent")?,
            lease: Duration::try_from_secs_f64(column(row, "lease_seconds")?).unwrap_or(Duration::ZERO),
        }))
    }

    /// Extends the lease, and says whether an operator asked to cancel; `None`: fenced.
    pub async fn beat(&mut self, claim: &Claim, lease: Duration, by: Instant) -> Result<Option<bool>, Error> {
        let seconds = lease.as_secs_f64();
        let parameters: [Parameter<'_>; 3] =
            [(&claim.id, Type::INT8), (&claim.session.0, Type::INT8), (&seconds, Type::FLOAT8)];
        let rows = self.run(|s| &s.beat, &parameters, by).await?;
        rows.first().map(|row| column(row, "cancel_requested")).transpose()
    }

    /// Books the work as done; `None`: fenced.
    pub async fn succeed(&mut self, claim: &Claim, by: Instant) -> Result<Option<Status>, Error> {
        let parameters: [Parameter<'_>; 2] = [(&claim.id, Type::INT8), (&claim.session.0, Type::INT8)];
        self.settle(|s| &s.success, &parameters, by).await
    }

    /// Books a failure, and says what became of the clap: FAILED or DEAD; `None`: fenced.
    pub async fn fail(
        &mut self,
        claim: &Claim,
        failure: &Failure,
        backoff: &Backoff,
        by: Instant,
    ) -> Result<Option<Status>, Error> {
        let [reserve, base, cap] = [backoff.reserve, backoff.base, backoff.cap].map(|d| d.as_secs_f64());
        let parameters: [Parameter<'_>; 8] = [
            (&claim.id, Type::INT8),
            (&claim.session.0, Type::INT8),
            (&failure.exit_code, Type::INT4),
            (&failure.error, Type::TEXT),
            (&failure.permanent, Type::BOOL),
            (&reserve, Type::FLOAT8),
            (&base, Type::FLOAT8),
            (&cap, Type::FLOAT8),
        ];
        self.settle(|s| &s.fail, &parameters, by).await
    }

    /// Gives the clap back, due at once; `free` interruptions cost no attempt. FAILED, or DEAD when
    /// both budgets are spent; `None`: fenced.
    pub async fn release(&mut self, claim: &Claim, free: i32, by: Instant) -> Result<Option<Status>, Error> {
        let parameters: [Parameter<'_>; 3] =
            [(&claim.id, Type::INT8), (&claim.session.0, Type::INT8), (&free, Type::INT4)];
        self.settle(|s| &s.release, &parameters, by).await
    }

    /// Books that the work was stopped on an operator's request; `None`: fenced.
    pub async fn cancelled(&mut self, claim: &Claim, by: Instant) -> Result<Option<Status>, Error> {
        let parameters: [Parameter<'_>; 2] = [(&claim.id, Type::INT8), (&claim.session.0, Type::INT8)];
        self.settle(|s| &s.cancelled, &parameters, by).await
    }

    /// How an attempt was booked, and the clap's state now; `None`: the clap's row was deleted.
    pub async fn settled(
        &mut self,
        session: SessionId,
        by: Instant,
    ) -> Result<Option<(AttemptOutcome, Status)>, Error> {
        let rows = self.run(|s| &s.settled, &[(&session.0, Type::INT8)], by).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let text: &str = column(row, "outcome")?;
        let outcome = AttemptOutcome::parse(text).ok_or_else(|| unknown("outcome", text))?;
        Ok(Some((outcome, status(row, "status")?)))
    }

    async fn settle(
        &mut self,
        statement: fn(&Statements) -> &String,
        parameters: &[Parameter<'_>],
        by: Instant,
    ) -> Result<Option<Status>, Error> {
        let rows = self.run(statement, parameters, by).await?;
        rows.first().map(|row| status(row, "status")).transpose()
    }

    async fn run(
        &mut self,
        statement: fn(&Statements) -> &String,
        parameters: &[Parameter<'_>],
        by: Instant,
    ) -> Result<Vec<Row>, Error> {
        let result = self.transactions.run(statement(&self.statements), parameters, by).await;
        self.outage.heed(&result);
        result
    }
}

/// Tells of a database that cannot serve: once for each reason, not at each try, and once when it can again.
#[derive(Debug, Default)]
struct Outage {
    told: Option<String>,
}

impl Outage {
    fn heed<T>(&mut self, result: &Result<T, Error>) {
        let reason = match result {
            Err(Error::Unavailable(reason) | Error::Unanswered(reason)) => Some(reason),
            _ => None,
        };
        match reason {
            Some(reason) if self.told.as_ref() != Some(reason) => {
                tracing::warn!(reason, "the database cannot be reached; trying again");
            }
            None if self.told.is_some() => tracing::info!("the database can be reached again"),
            _ => {}
        }
        self.told = reason.cloned();
    }
}

fn claimed(row: &Row, session: SessionId) -> Result<Claim, Error> {
    let seconds: i32 = column(row, "duration_seconds")?;
    let job_attempts: i64 = column(row, "job_attempts")?;
    Ok(Claim {
        id: column(row, "id")?,
        iteration: column(row, "iteration")?,
        max_attempts: column(row, "max_attempts")?,
        session,
        cancel_requested: column(row, "cancel_requested")?,
        duration: Duration::from_secs(u64::try_from(seconds).unwrap_or(0)),
        payload: column(row, "payload")?,
        request_key: column(row, "request_key")?,
        requested_at: column(row, "requested_at")?,
        job_attempts: u32::try_from(job_attempts).unwrap_or(u32::MAX),
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
