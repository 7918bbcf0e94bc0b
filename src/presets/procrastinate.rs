//! procrastinate, of Python.
//!
//! *Source:* procrastinate's function `procrastinate_fetch_job_v2` and its `schema.sql`.

use std::time::Duration;

use super::{
    Counts::{Claimable, Held, Neither, Stalled},
    Preset, PresetOption, Queue, Sql, Workers, state,
};

pub(super) static PRESET: Preset = Preset {
    name: "procrastinate",
    library: "procrastinate (Python)",
    tested: "3.10.0",
    queue: Queue::Optional("j.queue_name"),
    schema: None,
    options: &[PresetOption::HeartbeatTimeout(Duration::from_secs(30))],
    workers: Workers::LongLived,
    run_once: "`procrastinate worker --one-shot` works until nothing is left, and exits",
    channel: Some("procrastinate_any_queue_v1"),
    tables: &["procrastinate_jobs", "procrastinate_workers"],
    columns: &["queue_name", "status", "scheduled_at", "worker_id"],
    states: &[
        state("todo, scheduled_at is NULL or has come, without a lock", Claimable),
        state("the same with a lock: the first of that lock, while none of it is doing", Claimable),
        state("todo, behind another job of its lock", Neither),
        state("todo, and scheduled_at is still to come", Neither),
        state("doing, its worker's heartbeat is younger than heartbeat_timeout", Held),
        state("doing, without such a worker", Stalled),
        state("succeeded, failed, cancelled, aborting, aborted", Neither),
    ],
    stalled: "a task of yours has to retry them (procrastinate's documentation, \"Retry stalled jobs\"); with no worker, nobody runs it",
    traps: &[
        "A worker that is killed leaves its job doing for ever: after heartbeat_timeout it counts in neither, and only a \
         task of yours, which some worker has to run, gives it back.",
        "Of the jobs with one lock one runs at a time, whatever their queue.",
    ],
    index: None,
    sql: Sql::Rows(include_str!("procrastinate.sql")),
    seen: "SELECT EXISTS (SELECT FROM {schema}procrastinate_jobs WHERE queue_name = {queue})",
    queues: Some(
        "SELECT queue_name FROM {schema}procrastinate_jobs WHERE status IN ('todo', 'doing')\n\
         UNION SELECT queue_name FROM (\n    \
         SELECT queue_name FROM {schema}procrastinate_jobs ORDER BY id DESC LIMIT 100000\n\
         ) AS latest",
    ),
};
