//! The statements of a worker, a file each; every text names itself in its first comment.
//!
//! Three of them call functions of the tables, whose present text is in `store/schema/`. They name the columns of the
//! result, so that tables of an earlier version refuse the statement before it changes anything.
//!
//! What is found by its id says `(status = 'RUNNING') IS TRUE`: a bare comparison would let the planner use a partial index,
//! whose dead entries it does not know, in place of the primary key.

/// A statement of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Statement {
    /// Takes over the first clap that is due, unless its attempts are spent; if none is due, takes a request that nobody
    /// has tried. $1 session, $2 Job, $3 its name, $4 pod, $5 node, $6 lease in seconds, $7 the lock of
    /// [`Transactions::lock`].
    ///
    /// [`Transactions::lock`]: crate::batch::transaction::Transactions::lock
    Fast,
    /// Marks claps as DEAD whose last attempt crashed. No parameters; a row per clap.
    MarkDead,
    /// Resumes this Job's clap; parameters as [`Statement::Fast`], without the lock.
    Resume,
    /// Takes over a clap that is due; parameters as [`Statement::Resume`].
    TakeOver,
    /// Takes a request that nobody has tried; parameters as [`Statement::Fast`].
    Fresh,
    /// Finds a claim whose answer was lost, or voids its session. $1 session, $2 Job.
    FindBySession,
    /// Takes the flag from requests that are pending although they have a clap. No parameters.
    MendPending,
    /// Reads the clap that this Job had before. $1 Job.
    PreviousClap,
    /// Renews the lease, and confirms the attempt. $1 clap, $2 session, $3 lease in seconds; no row: fenced.
    Renew,
    /// Books the work as done. $1 clap, $2 session; no row: fenced.
    Succeed,
    /// Books a failure. $1 clap, $2 session, $3 exit code, $4 error, $5 permanent, $6 seconds reserved for the same
    /// Job, $7 first back-off in seconds, $8 longest back-off in seconds.
    Fail,
    /// Gives the clap back whose program could not be started. $1 clap, $2 session, $3 error, $4 first back-off in
    /// seconds, $5 longest back-off in seconds.
    NotStarted,
    /// Gives the clap back. $1 clap, $2 session, $3 how many interruptions cost no attempt.
    Release,
    /// Books that the work was stopped on request. $1 clap, $2 session.
    Cancelled,
    /// Reads how an attempt was booked. $1 session.
    Settled,
}

impl Statement {
    /// Its text.
    pub fn sql(self) -> &'static str {
        match self {
            Self::Fast => include_str!("worker/fast.sql"),
            Self::MarkDead => include_str!("worker/mark_dead.sql"),
            Self::Resume => concat!(include_str!("worker/resume.sql"), include_str!("worker/open_attempt.sql")),
            Self::TakeOver => concat!(include_str!("worker/take_over.sql"), include_str!("worker/open_attempt.sql")),
            Self::Fresh => include_str!("worker/fresh.sql"),
            Self::FindBySession => include_str!("worker/find_by_session.sql"),
            Self::MendPending => include_str!("worker/mend_pending.sql"),
            Self::PreviousClap => include_str!("worker/previous_clap.sql"),
            Self::Renew => include_str!("worker/renew.sql"),
            Self::Succeed => include_str!("worker/succeed.sql"),
            Self::Fail => include_str!("worker/fail.sql"),
            Self::NotStarted => include_str!("worker/not_started.sql"),
            Self::Release => include_str!("worker/release.sql"),
            Self::Cancelled => include_str!("worker/cancelled.sql"),
            Self::Settled => include_str!("worker/settled.sql"),
        }
    }
}
