//! The statements of a worker, one file each. The first comment of each text is its name.
//!
//! Three of them call functions of the tables, whose present text is in `store/schema/`. They name the arguments and the
//! columns of the result, so that tables from before migration 7, which have others, refuse the statement before it
//! changes anything.
//!
//! Statements that find a row by its id write `(status = 'RUNNING') IS TRUE`. With a bare comparison the planner may
//! use a partial index instead of the primary key, because it does not know how many dead entries that index has.

/// A statement of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Statement {
    /// Takes over the first clap that is due, unless its attempts are spent; if none is due, takes a request that nobody
    /// has tried. $1 session, $2 Job, $3 its name, $4 pod, $5 node, $6 lease in seconds, $7 the lock of
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
    /// Finds a claim whose answer was lost, or voids its session. $1 session, $2 Job.
    FindBySession,
    /// Clears the flag of requests that are marked as pending although they have a clap. No parameters.
    MendPending,
    /// Reads the clap that this Job had before. $1 Job.
    PreviousClap,
    /// Renews the lease, and confirms the attempt. $1 clap, $2 session, $3 lease in seconds; no row: fenced.
    Renew,
    /// Records the work as done. $1 clap, $2 session; no row: fenced.
    Succeed,
    /// Records a failure. $1 clap, $2 session, $3 exit code, $4 error, $5 permanent, $6 seconds reserved for the same
    /// Job, $7 first back-off in seconds, $8 longest back-off in seconds.
    Fail,
    /// Gives back a clap whose program could not be started. $1 clap, $2 session, $3 error, $4 first back-off in
    /// seconds, $5 longest back-off in seconds.
    NotStarted,
    /// Gives a clap back. $1 clap, $2 session, $3 number of interruptions that cost no attempt.
    Release,
    /// Records that the work was stopped on request. $1 clap, $2 session.
    Cancelled,
    /// Reads the recorded end of an attempt. $1 session.
    Settled,
}

impl Statement {
    /// Returns the SQL.
    pub fn sql(self) -> &'static str {
        match self {
            Self::Fast => include_str!("worker/fast.sql"),
            Self::MarkDead => include_str!("worker/mark_dead.sql"),
            Self::Resume => concat!(include_str!("worker/resume.sql"), include_str!("worker/open_attempt.sql")),
            Self::TakeOver => concat!(include_str!("worker/take_over.sql"), include_str!("worker/open_attempt.sql")),
            Self::Fresh => include_str!("worker/fresh.sql"),
            Self::Unread => include_str!("worker/unread.sql"),
            Self::Request => include_str!("worker/request.sql"),
            Self::IsThere => include_str!("worker/is_there.sql"),
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
