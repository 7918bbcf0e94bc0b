//! River, of Go.
//!
//! *Source:* River's `JobGetAvailable`, `JobGetStuck` and `JobRescuer`, and its migrations.

use std::time::Duration;

use super::{
    Counts::{Claimable, Held, Neither, Rescued, Stalled},
    Preset, PresetOption, Queue, Sql, Workers, state,
};

pub(super) static PRESET: Preset = Preset {
    name: "river",
    library: "River (Go)",
    tested: "0.51.2 (migration 8)",
    queue: Queue::Optional("j.queue"),
    schema: None,
    options: &[PresetOption::RescueAfter(Duration::from_secs(3_600))],
    workers: Workers::LongLived,
    run_once: "River's client runs until it is stopped; a program of yours can stop it after one job",
    channel: Some("{schema}.river_insert"),
    tables: &["river_job", "river_queue"],
    columns: &["state", "queue", "scheduled_at", "attempted_at"],
    states: &[
        state("available, retryable or scheduled, and scheduled_at has come", Claimable),
        state("available, retryable or scheduled, and scheduled_at is still to come", Neither),
        state("any of these in a queue that is paused (river_queue.paused_at)", Neither),
        state("running since less than rescue_after", Held),
        state("running since more than rescue_after, with attempts left", Rescued),
        state("running since more than rescue_after, without attempts left", Stalled),
        state("pending, completed, cancelled, discarded", Neither),
    ],
    stalled: "a River client has to rescue them, or to discard those without attempts",
    traps: &[
        "A worker that is killed leaves its job running until rescue_after (an hour, unless RescueStuckJobsAfter says \
         otherwise): set both to the same.",
        "A worker's own Timeout may be longer than that, or -1, which never ends: River does not rescue its job then, but \
         here it counts as claimable. Set rescue_after to the longest Timeout.",
        "Only a running client makes scheduled jobs available. They count as claimable when they are due, so that \
         a client is started.",
    ],
    index: None,
    sql: Sql::Rows(include_str!("river.sql")),
    seen: "SELECT EXISTS (SELECT FROM {schema}river_queue WHERE name = {queue})\n    \
           OR EXISTS (SELECT FROM {schema}river_job WHERE queue = {queue})",
    queues: Some(
        "SELECT name FROM {schema}river_queue UNION SELECT queue FROM {schema}river_job\n\
         WHERE state IN ('available', 'retryable', 'scheduled', 'running')",
    ),
};
