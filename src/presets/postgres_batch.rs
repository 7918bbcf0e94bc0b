//! postgres-batch, of this repository. The built-in queries are this preset.
//!
//! *Source:* the view `clap_backlog` of `migrations/`.

use super::{
    Counts::{Claimable, Held, Neither},
    Preset, Queue, Sql, Workers, state,
};

pub(super) static PRESET: Preset = Preset {
    name: "postgres-batch",
    library: "postgres-batch (this repository)",
    tested: "this version",
    queue: Queue::Absent,
    schema: None,
    options: &[],
    workers: Workers::OneRow,
    run_once: "always: a process works on one row and exits. deploy/examples/scaled-job.yaml has the rest of its Job",
    channel: None,
    tables: &["clap_backlog"],
    columns: &["claimable", "held", "next_change"],
    states: &[
        state("a request without a clap, and a clap that has failed or lost its lease, with attempts left", Claimable),
        state("a clap whose lease has not expired", Held),
        state("a retry that is still to come; done; given up", Neither),
    ],
    stalled: "they never occur, because every worker takes over what a dead one has left",
    traps: &[
        "The built-in queries outstanding-claps and clap-workers are this preset, with one-row and long-lived workers.",
    ],
    index: None,
    sql: Sql::Whole(include_str!("postgres_batch.sql")),
    seen: "SELECT true",
    queues: None,
};
