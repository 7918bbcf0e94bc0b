//! apalis, of Rust.
//!
//! *Source:* apalis-postgres' function `apalis.get_jobs` and `reenqueue_orphaned.sql`.

use std::time::Duration;

use super::{
    Counts::{Claimable, Held, Neither, Rescued, Stalled},
    Preset, PresetOption, Queue, Sql, Workers, state,
};

pub(super) static PRESET: Preset = Preset {
    name: "apalis",
    library: "apalis (Rust)",
    tested: "apalis-postgres 1.0.0",
    queue: Queue::Optional("j.job_type"),
    schema: Some("apalis"),
    options: &[PresetOption::HeartbeatTimeout(Duration::from_secs(300))],
    workers: Workers::LongLived,
    run_once: "a program of yours can stop its worker after one job",
    channel: Some("apalis::job::insert"),
    tables: &["jobs", "workers"],
    columns: &["job_type", "status", "run_at", "lock_by"],
    states: &[
        state("Pending, run_at has passed", Claimable),
        state("Failed with attempts left, run_at has passed", Claimable),
        state("Pending, or Failed with attempts left, and run_at is still to come", Neither),
        state("Queued or Running, its worker was seen within heartbeat_timeout", Held),
        state("Queued or Running, its worker was not", Rescued),
        state("Queued or Running without a worker", Stalled),
        state("Done, Killed, Failed without attempts left", Neither),
    ],
    stalled: "a running worker of the same type has to put them back (reenqueue_orphaned)",
    traps: &[
        "queue is the job type (jobs.job_type).",
        "A job that is put back is Pending whatever its attempts: one that kills its worker is handed out for ever.",
        "A worker whose heartbeat falls due during a fetch that finds nothing is not woken again: it stands still, and its \
         process stays. Run it in one task with a timer (tokio::select!), whose ticks poll it too.",
        "A worker sends no heartbeat while a job that it has fetched waits for its concurrency limit: after heartbeat_timeout \
         others take over all that it has, even what it runs. With such a limit set batch_size to 1.",
        "Give every worker a name of its own: what a dead one had stays held while another of its name sends heartbeats.",
    ],
    index: Some("CREATE INDEX CONCURRENTLY IF NOT EXISTS clapometer_open ON apalis.jobs (status);"),
    sql: Sql::Rows(include_str!("apalis.sql")),
    seen: "SELECT EXISTS (SELECT FROM {schema}jobs WHERE job_type = {queue})",
    queues: Some(
        "SELECT job_type FROM {schema}jobs WHERE status IN ('Pending', 'Queued', 'Running', 'Failed')\n\
         UNION SELECT job_type FROM (SELECT job_type FROM {schema}jobs ORDER BY id DESC LIMIT 100000) AS latest",
    ),
};
