//! Solid Queue, of Ruby on Rails.
//!
//! *Source:* Solid Queue's `ReadyExecution.claim`, `BlockedExecution.unblock`, `Process.prune` and its schema.

use std::time::Duration;

use super::{
    Counts::{Claimable, Held, Neither, Rescued, Stalled},
    Preset, PresetOption, Queue, Sql, Workers, state,
};

pub(super) static PRESET: Preset = Preset {
    name: "solid_queue",
    library: "Solid Queue (Ruby)",
    tested: "the tables and rules of 1.5.0, without its runtime",
    queue: Queue::Optional("j.queue_name"),
    schema: None,
    options: &[PresetOption::HeartbeatTimeout(Duration::from_secs(300))],
    workers: Workers::LongLived,
    run_once: "no",
    channel: None,
    tables: &[
        "solid_queue_ready_executions",
        "solid_queue_scheduled_executions",
        "solid_queue_blocked_executions",
        "solid_queue_claimed_executions",
        "solid_queue_semaphores",
        "solid_queue_processes",
        "solid_queue_pauses",
        "solid_queue_jobs",
    ],
    columns: &["job_id", "queue_name"],
    states: &[
        state("ready", Claimable),
        state("scheduled, and scheduled_at has come", Rescued),
        state("blocked for longer than its limit, and the semaphore is free: one for each key", Rescued),
        state("any of these in a queue that is paused", Neither),
        state("scheduled for later; blocked by a concurrency key", Neither),
        state("claimed by a process whose heartbeat is younger than heartbeat_timeout", Held),
        state("claimed by another process", Stalled),
        state("failed, finished", Neither),
    ],
    stalled: "a dispatcher has to release scheduled and blocked ones; those of a dead process are marked as failed, and a person decides about them",
    traps: &[
        "Jobs of a process that was killed fail (ProcessPrunedError) and are not run again by themselves: they count in neither.",
        "Only a dispatcher makes scheduled jobs ready. `bin/jobs` runs one beside the workers; with `workers: one-row` \
         the preset assumes that yours run none, and counts ready jobs only.",
        "Solid Queue may have a database of its own: name that one.",
    ],
    index: None,
    sql: Sql::Rows(include_str!("solid_queue.sql")),
    seen: "SELECT EXISTS (SELECT FROM {schema}solid_queue_jobs WHERE queue_name = {queue})",
    queues: Some(
        "SELECT queue_name FROM {schema}solid_queue_ready_executions\n\
         UNION SELECT queue_name FROM {schema}solid_queue_scheduled_executions\n\
         UNION SELECT queue_name FROM {schema}solid_queue_blocked_executions\n\
         UNION SELECT queue_name FROM (\n    \
         SELECT queue_name FROM {schema}solid_queue_jobs ORDER BY id DESC LIMIT 100000\n\
         ) AS latest",
    ),
};
