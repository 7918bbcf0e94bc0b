//! The statements of a worker, as text; each names itself in its first comment, or calls a function of
//! `migrations/0004_functions.sql` and `0006_request_columns.sql`.

/// The columns are named, so that tables of an earlier version refuse the statement before it does anything.
macro_rules! take {
    ($unless_due:literal) => {
        concat!(
            "SELECT id, iteration, max_attempts, cancel_requested, duration_seconds, payload, job_attempts, request_key, requested_at\n",
            "  FROM clap_take($1, $2, $3, $4, $5, $6, unless_due => ",
            $unless_due,
            ")"
        )
    };
}

/// What a worker says to the tables.
///
/// One constructor, no setters: a worker uses [`Statements::default`]. The fields are public so
/// that a test can break one statement and show which check notices.
#[derive(Debug, Clone)]
pub struct Statements {
    /// Takes a request that nobody has tried, provided that no clap is due. $1 session, $2 Job, $3
    /// its name, $4 pod, $5 node, $6 lease in seconds.
    pub quick: String,
    /// Books as DEAD what crashed on its last attempt. No parameters; a row per clap.
    pub bury: String,
    /// Resumes this Job's clap; parameters as `quick`.
    pub own: String,
    /// Takes over a clap that is due; parameters as `quick`.
    pub due: String,
    /// Takes a request that nobody has tried; parameters as `quick`.
    pub new: String,
    /// Looks up a claim whose answer was lost. $1 session, $2 Job.
    pub adopt: String,
    /// What this Job had before. $1 Job.
    pub standing: String,
    /// Extends the lease. $1 clap, $2 session, $3 lease in seconds; no row: fenced.
    pub beat: String,
    /// Books the work as done. $1 clap, $2 session; no row: fenced.
    pub success: String,
    /// Books a failure. $1 clap, $2 session, $3 exit code, $4 error, $5 permanent, $6 seconds
    /// reserved for the same Job, $7 first back-off in seconds, $8 longest back-off in seconds.
    pub fail: String,
    /// Gives the clap back. $1 clap, $2 session, $3 how many interruptions cost no attempt.
    pub release: String,
    /// Books that the work was stopped on request. $1 clap, $2 session.
    pub cancelled: String,
    /// How an attempt was booked. $1 session.
    pub settled: String,
}

impl Default for Statements {
    fn default() -> Self {
        Self {
            quick: take!(true).to_owned(),
            bury: include_str!("bury.sql").to_owned(),
            own: concat!(include_str!("own.sql"), include_str!("open.sql")).to_owned(),
            due: concat!(include_str!("due.sql"), include_str!("open.sql")).to_owned(),
            new: take!(false).to_owned(),
            adopt: include_str!("adopt.sql").to_owned(),
            standing: include_str!("standing.sql").to_owned(),
            beat: include_str!("beat.sql").to_owned(),
            success: "SELECT * FROM clap_succeed($1, $2)".to_owned(),
            fail: include_str!("fail.sql").to_owned(),
            release: include_str!("release.sql").to_owned(),
            cancelled: include_str!("cancelled.sql").to_owned(),
            settled: include_str!("settled.sql").to_owned(),
        }
    }
}
