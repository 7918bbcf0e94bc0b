//! pgmq, of any language.
//!
//! *Source:* the functions `pgmq.read` and `pgmq.create`.

use super::{
    Counts::{Claimable, Held, Neither, Stalled},
    Preset, PresetOption, Queue, Sql, Workers, state,
};

pub(super) static PRESET: Preset = Preset {
    name: "pgmq",
    library: "pgmq (any language)",
    tested: "the SQL of Python's pgmq 1.1.4",
    queue: Queue::Required,
    schema: Some("pgmq"),
    options: &[PresetOption::MaxReads],
    workers: Workers::LongLived,
    run_once: "the consumer is yours: it can read() one message, delete() it, and exit",
    channel: None,
    tables: &["meta", "q_<queue>"],
    columns: &["queue_name", "created_at"],
    states: &[
        state("vt has come", Claimable),
        state("vt is still to come, and it was read before", Held),
        state("vt is still to come, and it was never read", Neither),
        state("vt has come, and it was read max_reads times", Stalled),
        state("deleted, archived", Neither),
    ],
    stalled: "the consumer has to put them aside (archive()); pgmq itself has no limit and still hands them out",
    traps: &[
        "set_vt() to put a message off looks like work in progress, and is counted as held.",
        "read_grouped() hands out one group at a time; all its visible messages count as claimable.",
        "Set max_reads only if the consumer archives what it has read so often.",
    ],
    index: None,
    sql: Sql::Rows(include_str!("pgmq.sql")),
    seen: "SELECT EXISTS (SELECT FROM {schema}meta WHERE queue_name = {queue})",
    queues: Some("SELECT queue_name FROM {schema}meta"),
};
