//! Oban, of Elixir and Python.
//!
//! *Source:* the Python edition's `fetch_jobs.sql`, `stage_jobs.sql` and `rescue_jobs.sql`; the columns are those of
//! Elixir's, too.

use std::time::Duration;

use super::{
    Counts::{Claimable, Held, Neither, Rescued, Stalled},
    Preset, PresetOption, Queue, Sql, Workers, state,
};

pub(super) static PRESET: Preset = Preset {
    name: "oban",
    library: "Oban (Elixir, Python)",
    tested: "Python 0.7.0, whose columns are those of Elixir's migration V12 and later",
    queue: Queue::Optional("j.queue"),
    schema: None,
    options: &[PresetOption::RescueAfter(Duration::from_secs(3_600))],
    workers: Workers::LongLived,
    run_once: "no",
    channel: Some("{schema}.oban_insert"),
    tables: &["oban_jobs"],
    columns: &["state", "queue", "scheduled_at", "attempted_at"],
    states: &[
        state("available, with attempts left", Claimable),
        state("scheduled or retryable, scheduled_at has come, with attempts left", Claimable),
        state("scheduled or retryable, and scheduled_at is still to come", Neither),
        state("executing since less than rescue_after", Held),
        state("executing since more than rescue_after, with attempts left", Rescued),
        state("executing since more than rescue_after, or available, without attempts left", Stalled),
        state("suspended, completed, discarded, cancelled", Neither),
    ],
    stalled: "a running Oban has to rescue them, or to discard those without attempts",
    traps: &[
        "rescue_after is 60 minutes here, as in Elixir's plugin Lifeline; in Python it is 300 s. Set it to your value. \
         Without Lifeline, Elixir rescues nothing: after rescue_after such a row keeps a worker running for nothing.",
        "Paused queues are not seen: the pause belongs to a producer, and a new producer starts without it.",
        "global_limit, rate_limit and partitions of Oban Pro are not seen: jobs that they hold back count as claimable. Set \
         maxReplicaCount to the limit.",
        "Times are UTC without a time zone; a session's TimeZone makes no difference.",
    ],
    index: None,
    sql: Sql::Rows(include_str!("oban.sql")),
    seen: "SELECT EXISTS (SELECT FROM {schema}oban_jobs WHERE queue = {queue})",
    queues: Some(
        "SELECT queue FROM {schema}oban_jobs WHERE state IN ('available', 'retryable', 'scheduled', 'executing')\n\
         UNION SELECT queue FROM (SELECT queue FROM {schema}oban_jobs ORDER BY id DESC LIMIT 100000) AS latest",
    ),
};
