//! procrastinate 3.

use super::{Case, Library, Picks, claimable, held, neither, stalled};

pub(super) const PROCRASTINATE: Library = Library {
    preset: "procrastinate",
    schema: "public",
    picks: Picks::Queue,
    tables: "
        CREATE TYPE procrastinate_job_status AS ENUM
            ('todo', 'doing', 'succeeded', 'failed', 'cancelled', 'aborting', 'aborted');
        CREATE TABLE procrastinate_workers (
            id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
            last_heartbeat timestamptz NOT NULL DEFAULT now()
        );
        CREATE TABLE procrastinate_jobs (
            id bigserial PRIMARY KEY,
            queue_name varchar(128) NOT NULL,
            task_name varchar(128) NOT NULL DEFAULT 'mail',
            priority integer NOT NULL DEFAULT 0,
            lock text,
            queueing_lock text,
            args jsonb NOT NULL DEFAULT '{}',
            status procrastinate_job_status NOT NULL DEFAULT 'todo',
            scheduled_at timestamptz,
            attempts integer NOT NULL DEFAULT 0,
            abort_requested boolean NOT NULL DEFAULT false,
            worker_id bigint REFERENCES procrastinate_workers (id) ON DELETE SET NULL
        );
        INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now()), (now() - interval '31 s');",
    later: "INSERT INTO procrastinate_jobs (queue_name, scheduled_at) VALUES ('later', now() + interval '2 s')",
    unknown: Some(
        "ALTER TYPE procrastinate_job_status ADD VALUE 'dreaming'; COMMIT;
         INSERT INTO procrastinate_jobs (queue_name) VALUES ('odd');
         UPDATE procrastinate_jobs SET status = 'dreaming' WHERE queue_name = 'odd'",
    ),
    cripple: "ALTER TABLE procrastinate_workers RENAME last_heartbeat TO beat",
};

#[tokio::test]
async fn every_state_counts_as_the_library_hands_it_out() {
    PROCRASTINATE
        .states(&[
            claimable(
                "due",
                "INSERT INTO procrastinate_jobs (queue_name, scheduled_at) VALUES ('due', NULL), ('due', now())",
                2,
            ),
            neither("to-come", "INSERT INTO procrastinate_jobs (queue_name, scheduled_at) VALUES ('to-come', now() + interval '1 h')"),
            held("doing", "INSERT INTO procrastinate_jobs (queue_name, status, worker_id) VALUES ('doing', 'doing', 1)", 1),
            stalled(
                "abandoned",
                "INSERT INTO procrastinate_jobs (queue_name, status, worker_id)
                 VALUES ('abandoned', 'doing', 2), ('abandoned', 'doing', NULL)",
                2,
            ),
            claimable(
                "locks",
                "INSERT INTO procrastinate_jobs (queue_name, lock) SELECT 'locks', l FROM unnest('{a,a,a,b}'::text[]) l",
                2,
            ),
            Case {
                held: 1,
                ..neither(
                    "lock-busy",
                    "INSERT INTO procrastinate_jobs (queue_name, lock, status, worker_id)
                     VALUES ('lock-busy', 'c', 'doing', 1), ('lock-busy', 'c', 'todo', NULL)",
                )
            },
            neither(
                "lock-behind-another-queue",
                "INSERT INTO procrastinate_jobs (queue_name, lock, priority, scheduled_at)
                 VALUES ('lock-ahead', 'd', 1, now() + interval '1 h'), ('lock-behind-another-queue', 'd', 0, NULL)",
            ),
            neither(
                "finished",
                "INSERT INTO procrastinate_jobs (queue_name, status)
                 SELECT 'finished', s
                 FROM unnest('{succeeded,failed,cancelled,aborting,aborted}'::procrastinate_job_status[]) s",
            ),
        ])
        .await;
}

#[tokio::test]
async fn it_is_told_by_the_clock_and_refuses_what_it_does_not_know() {
    PROCRASTINATE.behaves().await;
}
