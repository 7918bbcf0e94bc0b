//! GoodJob, of Ruby on Rails.
//!
//! *Source:* GoodJob's `Job.perform_with_lock`, `Process.cleanup` and its migrations.

use std::time::Duration;

use super::{
    Counts::{Claimable, Held, Neither},
    Preset, PresetOption, Queue, Sql, Workers, state,
};

pub(super) static PRESET: Preset = Preset {
    name: "good_job",
    library: "GoodJob (Ruby)",
    tested: "the tables and rules of 4.19.2, without its runtime",
    queue: Queue::Optional("j.queue_name"),
    schema: None,
    options: &[PresetOption::HeartbeatTimeout(Duration::from_secs(300))],
    workers: Workers::LongLived,
    run_once: "no",
    channel: Some("good_job"),
    tables: &["good_jobs", "good_job_processes", "good_job_settings"],
    columns: &["queue_name", "finished_at", "locked_by_id"],
    states: &[
        state("unfinished, scheduled_at is NULL or has come, not locked", Claimable),
        state("the same, locked by a process that is gone or silent for heartbeat_timeout", Claimable),
        state("locked by a process that was heard of since", Held),
        state("scheduled_at is still to come", Neither),
        state("its queue, job class or a label is paused", Neither),
        state("finished_at is set", Neither),
    ],
    stalled: "they never occur, because every process takes over what a dead one has left",
    traps: &[
        "A process that is killed keeps its jobs locked until another one cleans up: such jobs are claimable here after \
         heartbeat_timeout.",
        "Concurrency limits are checked by Ruby when a job starts and are not in the tables: jobs that they hold back count as claimable.",
    ],
    index: None,
    sql: Sql::Rows(include_str!("good_job.sql")),
    seen: "SELECT EXISTS (SELECT FROM {schema}good_jobs WHERE queue_name = {queue})",
    // Its ids are random, and no index has the order of its jobs.
    queues: Some(
        "SELECT queue_name FROM {schema}good_jobs WHERE finished_at IS NULL\n\
         UNION SELECT queue_name FROM (SELECT queue_name FROM {schema}good_jobs LIMIT 100000) AS kept",
    ),
};
