//! pg-boss, of Node.js.
//!
//! *Source:* pg-boss' `fetchNextJob` and `failJobsByTimeout`, and the tables of versions 10 and 12. Columns that one of
//! them lacks are looked up in a row of defaults that stands around the table: a name that the table does not have
//! is that row's.

use super::{
    Counts::{Claimable, Held, Neither, Rescued, Stalled},
    Preset, Queue, Sql, Workers, state,
};

pub(super) static PRESET: Preset = Preset {
    name: "pg-boss",
    library: "pg-boss (Node.js)",
    tested: "12.38.0 and 10.4.2",
    queue: Queue::Optional("j.name"),
    schema: Some("pgboss"),
    options: &[],
    workers: Workers::LongLived,
    run_once: "a program of yours can call fetch() for one job, complete() it, and exit",
    channel: None,
    tables: &["job", "queue"],
    columns: &["name", "state", "start_after", "retry_limit"],
    states: &[
        state("created or retry, start_after has come, not blocked", Claimable),
        state(
            "the same with policy singleton, stately or key_strict_fifo: one for each key that has none active",
            Claimable,
        ),
        state("such a key whose active job is expired without retries left, which frees it", Rescued),
        state("created or retry, and start_after is still to come, or blocked", Neither),
        state(
            "blocked, and a job that others wait for was done 30 s ago: one for each queue, until a client releases them",
            Rescued,
        ),
        state("active, not expired", Held),
        state("active, expired, or without a heartbeat, with retries left", Rescued),
        state("active, expired, without retries left", Stalled),
        state("completed, cancelled, failed", Neither),
    ],
    stalled: "a pg-boss client that supervises has to retry, fail or release them, which one does every 60 s",
    traps: &[
        "An expired job cannot be fetched until a client that supervises has made it a retry, once in 60 s: a process \
         that fetches once and exits finds nothing. That is why it is stalled with workers: one-row.",
        "A process that completes one job and exits has to call resolveFlow() before it exits: otherwise the jobs that \
         depend on that one stay blocked, and nobody starts for them.",
        "An expired job without retries left moves to its dead letter queue only when a client supervises: until then it \
         counts as stalled, in its own queue.",
        "A worker that is killed leaves its job active until it expires, after 15 minutes unless the queue says otherwise.",
        "group_concurrency is an option of the worker and not in the database: jobs that it holds back count as claimable.",
    ],
    index: Some(
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS clapometer_open ON pgboss.job_common (name, state) WHERE state <= 'active';",
    ),
    sql: Sql::Rows(include_str!("pg_boss.sql")),
    seen: "SELECT EXISTS (SELECT FROM {schema}queue WHERE name = {queue})",
    queues: Some("SELECT name FROM {schema}queue WHERE name NOT LIKE '\\_\\_pgboss\\_\\_%'"),
};
