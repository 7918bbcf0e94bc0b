//! apalis-postgres 1.

use super::{Library, Picks, claimable, held, neither, rescued, stalled};

pub(super) const APALIS: Library = Library {
    preset: "apalis",
    schema: "apalis",
    picks: Picks::Queue,
    tables: "
        CREATE SCHEMA apalis;
        CREATE TABLE apalis.workers (id text PRIMARY KEY, worker_type text, last_seen timestamptz NOT NULL DEFAULT now());
        CREATE TABLE apalis.jobs (
            job bytea,
            id text PRIMARY KEY DEFAULT gen_random_uuid(),
            job_type text NOT NULL,
            status text NOT NULL DEFAULT 'Pending',
            attempts integer NOT NULL DEFAULT 0,
            max_attempts integer NOT NULL DEFAULT 25,
            run_at timestamptz NOT NULL DEFAULT now() - interval '1 ms',
            lock_at timestamptz,
            lock_by text REFERENCES apalis.workers (id),
            priority integer NOT NULL DEFAULT 0
        );
        CREATE INDEX ON apalis.jobs (status);
        INSERT INTO apalis.workers (id, last_seen)
        VALUES ('alive', now() - interval '4 min'), ('dead', now() - interval '6 min');",
    later: "INSERT INTO apalis.jobs (job_type, run_at) VALUES ('later', now() + interval '2 s')",
    unknown: Some("INSERT INTO apalis.jobs (job_type, status) VALUES ('odd', 'Dreaming')"),
    cripple: "ALTER TABLE apalis.workers RENAME last_seen TO seen_at",
};

#[tokio::test]
async fn every_state_counts_as_the_library_hands_it_out() {
    APALIS
        .states(&[
            claimable(
                "due",
                "INSERT INTO apalis.jobs (job_type, status, attempts) VALUES ('due', 'Pending', 30), ('due', 'Failed', 24)",
                2,
            ),
            neither(
                "to-come",
                "INSERT INTO apalis.jobs (job_type, status, run_at)
                 VALUES ('to-come', 'Pending', now() + interval '1 h'), ('to-come', 'Failed', now() + interval '1 h')",
            ),
            held(
                "taken",
                "INSERT INTO apalis.jobs (job_type, status, lock_by) VALUES ('taken', 'Queued', 'alive'), ('taken', 'Running', 'alive')",
                2,
            ),
            rescued(
                "orphaned",
                "INSERT INTO apalis.jobs (job_type, status, lock_by) VALUES ('orphaned', 'Queued', 'dead'), ('orphaned', 'Running', 'dead')",
                2,
            ),
            stalled("nobodys", "INSERT INTO apalis.jobs (job_type, status) VALUES ('nobodys', 'Queued')", 1),
            neither(
                "finished",
                "INSERT INTO apalis.jobs (job_type, status, attempts)
                 VALUES ('finished', 'Done', 1), ('finished', 'Killed', 1), ('finished', 'Failed', 25)",
            ),
        ])
        .await;
}

#[tokio::test]
async fn it_is_told_by_the_clock_and_refuses_what_it_does_not_know() {
    APALIS.behaves().await;
}
