//! graphile-worker, of Node.js.
//!
//! *Source:* graphile-worker's `getJobs` and `resetLockedAt`, and its migrations 11 to 19.

use super::{
    Counts::{Claimable, Held, Neither, Rescued},
    Preset, PresetOption, Queue, Sql, Workers, state,
};

pub(super) static PRESET: Preset = Preset {
    name: "graphile-worker",
    library: "graphile-worker (Node.js)",
    tested: "0.17.3 (its tables are those of 0.14 and later)",
    queue: Queue::Absent,
    schema: Some("graphile_worker"),
    options: &[PresetOption::Tasks],
    workers: Workers::LongLived,
    run_once: "`graphile-worker --once` works until nothing is left, and exits; it releases no old locks",
    channel: Some("jobs:insert"),
    tables: &["_private_jobs", "_private_tasks", "_private_job_queues"],
    columns: &["job_queue_id", "task_id", "run_at", "locked_at"],
    states: &[
        state("run_at has come, with attempts left, not locked, in no named queue", Claimable),
        state("the same in a named queue that is not locked: one for each queue", Claimable),
        state("the same in a named queue that is locked", Neither),
        state("locked for more than 4 hours, or in a named queue that is, with attempts left", Rescued),
        state("locked for less than 4 hours", Held),
        state("run_at is still to come", Neither),
        state("without attempts left", Neither),
    ],
    stalled: "a worker that stays has to release their old locks, which it does within a minute of its start",
    traps: &[
        "Row level security is on for these tables, and GRANT SELECT alone reads nothing: the scaler then refuses to \
         count (SQLSTATE 42501). Give the role BYPASSRLS.",
        "A worker that is killed leaves its job, and the job's named queue, locked for 4 hours.",
        "Jobs of a task that no worker knows stay ready for ever: name the workers' tasks.",
        "Jobs with flags that your workers skip (forbiddenFlags) count as claimable.",
    ],
    index: Some(
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS clapometer_open ON graphile_worker._private_jobs (task_id)\n    \
         WHERE attempts < max_attempts OR locked_at IS NOT NULL;",
    ),
    sql: Sql::Rows(include_str!("graphile_worker.sql")),
    seen: "SELECT true",
    queues: None,
};
