//! Que, of Ruby.
//!
//! *Source:* Que's `poll_jobs` and its migrations up to 7.

use super::{
    Counts::{Claimable, Held, Neither},
    Preset, Queue, Sql, Workers, state,
};

pub(super) static PRESET: Preset = Preset {
    name: "que",
    library: "Que (Ruby)",
    tested: "2.4.1 (schema 7)",
    queue: Queue::Optional("j.queue"),
    schema: None,
    options: &[],
    workers: Workers::LongLived,
    run_once: "no",
    channel: Some("que_state"),
    tables: &["que_jobs"],
    columns: &["queue", "run_at", "finished_at", "expired_at", "job_schema_version"],
    states: &[
        state("run_at has come, and nobody holds the advisory lock of its id", Claimable),
        state("a session holds the advisory lock of its id", Held),
        state("run_at is still to come", Neither),
        state("finished_at or expired_at is set", Neither),
    ],
    stalled: "they never occur, because a lock ends with its session",
    traps: &[
        "A locker fetches ahead, eight jobs unless told otherwise: what it has locked is held, so that no further worker \
         starts for it. Start it with --maximum-buffer-size 0 to share better.",
        "pg_locks shows advisory locks of this server only: behind a standby every job looks free.",
    ],
    index: None,
    sql: Sql::Rows(include_str!("que.sql")),
    seen: "SELECT EXISTS (SELECT FROM {schema}que_jobs WHERE queue = {queue})",
    queues: Some(
        "SELECT queue FROM {schema}que_jobs WHERE finished_at IS NULL AND expired_at IS NULL\n\
         UNION SELECT queue FROM (SELECT queue FROM {schema}que_jobs ORDER BY id DESC LIMIT 100000) AS latest",
    ),
};
