//! graphile-worker 0.14 and later.

use super::{Case, Library, Picks, claimable, held, neither, rescued};

pub(super) const GRAPHILE_WORKER: Library = Library {
    preset: "graphile-worker",
    schema: "graphile_worker",
    picks: Picks::Task,
    tables: "
        CREATE SCHEMA graphile_worker;
        CREATE TABLE graphile_worker._private_job_queues (
            id integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
            queue_name text NOT NULL UNIQUE,
            locked_at timestamptz,
            locked_by text,
            is_available boolean GENERATED ALWAYS AS (locked_at IS NULL) STORED NOT NULL
        );
        CREATE TABLE graphile_worker._private_tasks (
            id integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
            identifier text NOT NULL UNIQUE
        );
        CREATE TABLE graphile_worker._private_jobs (
            id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
            job_queue_id integer,
            task_id integer NOT NULL,
            payload json NOT NULL DEFAULT '{}',
            priority smallint NOT NULL DEFAULT 0,
            run_at timestamptz NOT NULL DEFAULT now(),
            attempts smallint NOT NULL DEFAULT 0,
            max_attempts smallint NOT NULL DEFAULT 25,
            locked_at timestamptz,
            locked_by text,
            is_available boolean GENERATED ALWAYS AS (locked_at IS NULL AND attempts < max_attempts) STORED NOT NULL
        );
        CREATE FUNCTION job(task text, run_at timestamptz DEFAULT now(), attempts integer DEFAULT 0,
                            locked_at timestamptz DEFAULT NULL, queue text DEFAULT NULL) RETURNS void
        LANGUAGE sql BEGIN ATOMIC
            INSERT INTO graphile_worker._private_tasks (identifier) VALUES (task) ON CONFLICT DO NOTHING;
            INSERT INTO graphile_worker._private_job_queues (queue_name)
                SELECT queue WHERE queue IS NOT NULL ON CONFLICT DO NOTHING;
            INSERT INTO graphile_worker._private_jobs (task_id, job_queue_id, run_at, attempts, locked_at)
                SELECT t.id, (SELECT q.id FROM graphile_worker._private_job_queues q WHERE q.queue_name = queue),
                       job.run_at, job.attempts, job.locked_at
                FROM graphile_worker._private_tasks t WHERE t.identifier = task;
        END;",
    later: "SELECT job('later', now() + interval '2 s')",
    unknown: None,
    cripple: "ALTER TABLE graphile_worker._private_jobs RENAME run_at TO due_at",
};

#[tokio::test]
async fn every_state_counts_as_the_library_hands_it_out() {
    GRAPHILE_WORKER
        .states(&[
            claimable("due", "SELECT job('due'), job('due')", 2),
            neither("to-come", "SELECT job('to-come', now() + interval '1 h')"),
            held("locked", "SELECT job('locked', attempts => 25, locked_at => now() - interval '3 h')", 1),
            rescued("lock-is-old", "SELECT job('lock-is-old', attempts => 1, locked_at => now() - interval '5 h')", 1),
            neither("lock-is-old-and-last", "SELECT job('lock-is-old-and-last', attempts => 25, locked_at => now() - interval '5 h')"),
            neither("dead", "SELECT job('dead', attempts => 25)"),
            claimable(
                "named-queues",
                "SELECT job('named-queues', queue => 'a'), job('named-queues', queue => 'a'), job('named-queues', queue => 'b')",
                2,
            ),
            Case {
                held: 1,
                ..neither(
                    "named-queue-busy",
                    "SELECT job('named-queue-busy', queue => 'c'),
                            job('named-queue-busy', attempts => 1, locked_at => now(), queue => 'c');
                     UPDATE graphile_worker._private_job_queues SET locked_at = now() WHERE queue_name = 'c'",
                )
            },
            rescued(
                "named-queue-lock-is-old",
                "SELECT job('named-queue-lock-is-old', queue => 'd'), job('named-queue-lock-is-old', queue => 'd');
                 UPDATE graphile_worker._private_job_queues SET locked_at = now() - interval '5 h' WHERE queue_name = 'd'",
                1,
            ),
            neither(
                "queue-is-busy-with-another-task",
                "SELECT job('queue-is-busy-with-another-task', queue => 'c')",
            ),
        ])
        .await;
}

#[tokio::test]
async fn it_is_told_by_the_clock_and_refuses_what_it_does_not_know() {
    GRAPHILE_WORKER.behaves().await;
}
