//! The tables as a worker uses them: its statements, and a method for each.
//!
//! Each method is one transaction in one round trip. Every write names the fencing token, a random number that the
//! worker draws for each claim. A write that finds no row means that the clap belongs to somebody else now.
//!
//! Each statement is a file, and its first comment is its name. Three of them call functions of the tables, whose
//! present text is in `store/schema/`. They name the arguments and the columns of the result, so that tables from
//! before migration 7, which have others, refuse the statement before it changes anything.
//!
//! Statements that find a row by its id write `(status = 'RUNNING') IS TRUE`. With a bare comparison the planner may
//! use a partial index instead of the primary key, because it does not know how many dead entries that index has.

mod records;

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;
use tokio_postgres::{Row, types::Type};

pub use self::records::{Attempt, Backoff, Failure, FencingToken, Job, PreviousClap, Request};
use self::records::{attempt, column, request, status, unknown};
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

/// A statement of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Statement {
    /// Takes over the first clap that is due, unless its attempts are spent; if none is due, takes a request that
    /// nobody has tried. $1 token, $2 Job, $3 its name, $4 pod, $5 node, $6 lease in seconds, $7 the lock of
    /// [`Transactions::lock`].
    ///
    /// [`Transactions::lock`]: crate::batch::transaction::Transactions::lock
    Fast,
    /// Marks claps as DEAD whose last attempt crashed, or that nobody can work on. $1 Job; a row per clap.
    MarkDead,
    /// Resumes this Job's clap; parameters as [`Statement::Fast`], without the lock.
    Resume,
    /// Takes over a clap that is due; parameters as [`Statement::Resume`].
    TakeOver,
    /// Takes a request that nobody has tried; parameters as [`Statement::Fast`].
    Fresh,
    /// Takes a request that nobody has tried, without reading it; parameters as [`Statement::Resume`].
    Unread,
    /// Reads a request. $1 clap.
    Request,
    /// Looks for a request's row, and reads nothing that may be damaged or too big. $1 clap.
    IsThere,
    /// Finds a claim whose answer was lost, or voids its token. $1 token, $2 Job.
    FindByToken,
    /// Clears the flag of requests that are marked as pending although they have a clap. No parameters.
    MendPending,
    /// Reads the clap that this Job had before. $1 Job.
    PreviousClap,
    /// Renews the lease, and confirms the attempt. $1 clap, $2 token, $3 lease in seconds; no row: fenced.
    Renew,
    /// Records the work as done. $1 clap, $2 token; no row: fenced.
    Succeed,
    /// Records a failure. $1 clap, $2 token, $3 exit code, $4 error, $5 permanent, $6 seconds reserved for the same
    /// Job, $7 first back-off in seconds, $8 longest back-off in seconds.
    Fail,
    /// Gives back a clap whose program could not be started. $1 clap, $2 token, $3 error, $4 first back-off in
    /// seconds, $5 longest back-off in seconds.
    NotStarted,
    /// Gives a clap back. $1 clap, $2 token, $3 number of interruptions that cost no attempt.
    Release,
    /// Records that the work was stopped on request. $1 clap, $2 token.
    Cancelled,
    /// Reads the recorded end of an attempt. $1 token.
    Settled,
}

impl Statement {
    /// Returns whether the statement takes the lock of [`Transactions::lock`] itself.
    fn locks_itself(self) -> bool {
        matches!(self, Self::Fast | Self::Fresh)
    }

    /// Returns the SQL.
    pub fn sql(self) -> &'static str {
        match self {
            Self::Fast => include_str!("store/worker/fast.sql"),
            Self::MarkDead => include_str!("store/worker/mark_dead.sql"),
            Self::Resume => {
                concat!(include_str!("store/worker/resume.sql"), include_str!("store/worker/open_attempt.sql"))
            }
            Self::TakeOver => {
                concat!(include_str!("store/worker/take_over.sql"), include_str!("store/worker/open_attempt.sql"))
            }
            Self::Fresh => include_str!("store/worker/fresh.sql"),
            Self::Unread => include_str!("store/worker/unread.sql"),
            Self::Request => include_str!("store/worker/request.sql"),
            Self::IsThere => include_str!("store/worker/is_there.sql"),
            Self::FindByToken => include_str!("store/worker/find_by_token.sql"),
            Self::MendPending => include_str!("store/worker/mend_pending.sql"),
            Self::PreviousClap => include_str!("store/worker/previous_clap.sql"),
            Self::Renew => include_str!("store/worker/renew.sql"),
            Self::Succeed => include_str!("store/worker/succeed.sql"),
            Self::Fail => include_str!("store/worker/fail.sql"),
            Self::NotStarted => include_str!("store/worker/not_started.sql"),
            Self::Release => include_str!("store/worker/release.sql"),
            Self::Cancelled => include_str!("store/worker/cancelled.sql"),
            Self::Settled => include_str!("store/worker/settled.sql"),
        }
    }
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

    /// Marks claps as DEAD whose last attempt crashed, or that nobody can work on: a few of those that are due, and
    /// this Job's own. Returns the id of each with the reason.
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
        token: FencingToken,
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
            (&token.0, Type::INT8),
            (&job.uid, Type::TEXT),
            (&job.name, Type::TEXT),
            (&job.pod, Type::TEXT),
            (&job.node, Type::TEXT),
            (&seconds, Type::FLOAT8),
            (&lock, Type::INT8),
        ];
        match claim {
            Claim::Fast | Claim::Fresh => {
                let rows = self.run(statement, &parameters, by).await?;
                let Some(row) = rows.first() else { return Ok(None) };
                Ok(Some(Attempt { request: Some(request(row)?), ..attempt(row, token)? }))
            }
            Claim::TakeOver => {
                let sql = self.overrides.get(&statement).map_or(statement.sql(), String::as_str);
                let result = self.transactions.run_in_order(sql, &parameters[..6], by).await;
                self.outage.observe(&result);
                result?.first().map(|row| attempt(row, token)).transpose()
            }
            Claim::Resume | Claim::Unread => {
                let rows = self.run(statement, &parameters[..6], by).await?;
                rows.first().map(|row| attempt(row, token)).transpose()
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

    /// Looks up a claim whose answer was lost, and returns it if it was committed. If it was not, the token is voided:
    /// a claim that reaches the server later claims nothing.
    pub async fn find_by_token(
        &mut self,
        job: &Job,
        token: FencingToken,
        by: Instant,
    ) -> Result<Option<Attempt>, Error> {
        let parameters: [Parameter<'_>; 2] = [(&token.0, Type::INT8), (&job.uid, Type::TEXT)];
        let rows = self.run(Statement::FindByToken, &parameters, by).await?;
        rows.first().map(|row| attempt(row, token)).transpose()
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
            [(&attempt.id, Type::INT8), (&attempt.token.0, Type::INT8), (&seconds, Type::FLOAT8)];
        let rows = self.run(Statement::Renew, &parameters, by).await?;
        rows.first().map(|row| column(row, "cancel_requested")).transpose()
    }

    /// Records the work as done; `None` means fenced.
    pub async fn succeed(&mut self, attempt: &Attempt, by: Instant) -> Result<Option<Status>, Error> {
        let parameters: [Parameter<'_>; 2] = [(&attempt.id, Type::INT8), (&attempt.token.0, Type::INT8)];
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
            (&attempt.token.0, Type::INT8),
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
            (&attempt.token.0, Type::INT8),
            (&error, Type::TEXT),
            (&base, Type::FLOAT8),
            (&cap, Type::FLOAT8),
        ];
        self.settle(Statement::NotStarted, &parameters, by).await
    }

    /// Gives the clap back, due at once; the first `free` interruptions cost no attempt. Returns FAILED, or DEAD when
    /// neither interruptions nor attempts are left; `None` means fenced.
    pub async fn release(&mut self, attempt: &Attempt, free: i32, by: Instant) -> Result<Option<Status>, Error> {
        let parameters: [Parameter<'_>; 3] =
            [(&attempt.id, Type::INT8), (&attempt.token.0, Type::INT8), (&free, Type::INT4)];
        self.settle(Statement::Release, &parameters, by).await
    }

    /// Records that the work was stopped on an operator's request; `None` means fenced.
    pub async fn cancelled(&mut self, attempt: &Attempt, by: Instant) -> Result<Option<Status>, Error> {
        let parameters: [Parameter<'_>; 2] = [(&attempt.id, Type::INT8), (&attempt.token.0, Type::INT8)];
        self.settle(Statement::Cancelled, &parameters, by).await
    }

    /// Reads the recorded end of an attempt, and the clap's state now; `None` means that the clap's row was deleted.
    pub async fn settled(
        &mut self,
        token: FencingToken,
        by: Instant,
    ) -> Result<Option<(AttemptOutcome, Status)>, Error> {
        let rows = self.run(Statement::Settled, &[(&token.0, Type::INT8)], by).await?;
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
        let result = if statement.locks_itself() {
            self.transactions.run_locking_itself(sql, parameters, by).await
        } else {
            self.transactions.run(sql, parameters, by).await
        };
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
