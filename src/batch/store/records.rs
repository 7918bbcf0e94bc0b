//! The values that a worker's statements take, and the rows that they return.

use std::time::Duration;

use tokio_postgres::Row;

use crate::batch::{status::Status, transaction::Error};

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

/// The fencing token of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FencingToken(pub(super) i64);

impl FencingToken {
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
    pub token: FencingToken,
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

/// Returns the attempt of a row, without its request.
pub(super) fn attempt(row: &Row, token: FencingToken) -> Result<Attempt, Error> {
    let job_attempts: i64 = column(row, "job_attempts")?;
    Ok(Attempt {
        id: column(row, "id")?,
        iteration: column(row, "iteration")?,
        max_attempts: column(row, "max_attempts")?,
        token,
        request: None,
        job_attempts: u32::try_from(job_attempts).unwrap_or(u32::MAX),
    })
}

pub(super) fn request(row: &Row) -> Result<Request, Error> {
    let seconds: i32 = column(row, "duration_seconds")?;
    Ok(Request {
        duration: Duration::from_secs(u64::try_from(seconds).unwrap_or(0)),
        payload: column(row, "payload")?,
        key: column(row, "request_key")?,
        requested_at: column(row, "requested_at")?,
    })
}

pub(super) fn status(row: &Row, name: &str) -> Result<Status, Error> {
    let text: &str = column(row, name)?;
    Status::parse(text).ok_or_else(|| unknown(name, text))
}

pub(super) fn column<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a Row, name: &str) -> Result<T, Error> {
    row.try_get(name).map_err(Error::from)
}

pub(super) fn unknown(name: &str, text: &str) -> Error {
    Error::NotMigrated(format!("the column {name} holds {text:?}, which this version does not know"))
}
