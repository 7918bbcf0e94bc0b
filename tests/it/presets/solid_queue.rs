//! Solid Queue 1.

use super::{Case, Library, Picks, claimable, held, neither, rescued, stalled};

pub(super) const SOLID_QUEUE: Library = Library {
    preset: "solid_queue",
    schema: "public",
    picks: Picks::Queue,
    tables: "
        CREATE TABLE solid_queue_jobs (id bigserial PRIMARY KEY, queue_name varchar NOT NULL, finished_at timestamp);
        CREATE TABLE solid_queue_ready_executions (
            id bigserial PRIMARY KEY, job_id bigint NOT NULL DEFAULT 0, queue_name varchar NOT NULL, priority integer NOT NULL DEFAULT 0
        );
        CREATE TABLE solid_queue_scheduled_executions (
            id bigserial PRIMARY KEY, job_id bigint NOT NULL DEFAULT 0, queue_name varchar NOT NULL, scheduled_at timestamp NOT NULL
        );
        CREATE TABLE solid_queue_blocked_executions (
            id bigserial PRIMARY KEY, job_id bigint NOT NULL DEFAULT 0, queue_name varchar NOT NULL,
            priority integer NOT NULL DEFAULT 0, concurrency_key varchar NOT NULL, expires_at timestamp NOT NULL
        );
        CREATE TABLE solid_queue_claimed_executions (id bigserial PRIMARY KEY, job_id bigint NOT NULL, process_id bigint);
        CREATE TABLE solid_queue_semaphores (
            id bigserial PRIMARY KEY, key varchar NOT NULL UNIQUE, value integer NOT NULL DEFAULT 1, expires_at timestamp NOT NULL
        );
        CREATE TABLE solid_queue_processes (id bigint PRIMARY KEY, last_heartbeat_at timestamp NOT NULL);
        CREATE TABLE solid_queue_pauses (id bigserial PRIMARY KEY, queue_name varchar NOT NULL UNIQUE);
        INSERT INTO solid_queue_processes
        VALUES (1, timezone('UTC', now()) - interval '4 min'), (2, timezone('UTC', now()) - interval '6 min');
        INSERT INTO solid_queue_pauses (queue_name) VALUES ('paused');
        CREATE FUNCTION claimed(queue text, process bigint) RETURNS void LANGUAGE sql BEGIN ATOMIC
            INSERT INTO solid_queue_jobs (queue_name) VALUES (queue);
            INSERT INTO solid_queue_claimed_executions (job_id, process_id) SELECT max(id), process FROM solid_queue_jobs;
        END;",
    later: "INSERT INTO solid_queue_jobs (queue_name) VALUES ('later');
            INSERT INTO solid_queue_scheduled_executions (queue_name, scheduled_at)
            VALUES ('later', timezone('UTC', now()) + interval '2 s')",
    unknown: None,
    cripple: "ALTER TABLE solid_queue_scheduled_executions RENAME scheduled_at TO due_at",
};

#[tokio::test]
async fn every_state_counts_as_the_library_hands_it_out() {
    SOLID_QUEUE
        .states(&[
            claimable("ready", "INSERT INTO solid_queue_ready_executions (queue_name) VALUES ('ready'), ('ready')", 2),
            rescued(
                "due",
                "INSERT INTO solid_queue_scheduled_executions (queue_name, scheduled_at)
                 VALUES ('due', timezone('UTC', now()) - interval '1 s')",
                1,
            ),
            neither(
                "to-come",
                "INSERT INTO solid_queue_scheduled_executions (queue_name, scheduled_at)
                 VALUES ('to-come', timezone('UTC', now()) + interval '1 h')",
            ),
            neither(
                "blocked",
                "INSERT INTO solid_queue_semaphores (key, value, expires_at)
                 VALUES ('busy', 0, timezone('UTC', now()) + interval '1 h');
                 INSERT INTO solid_queue_blocked_executions (queue_name, concurrency_key, expires_at)
                 VALUES ('blocked', 'busy', timezone('UTC', now()) - interval '1 s'),
                        ('blocked', 'free', timezone('UTC', now()) + interval '1 h')",
            ),
            rescued(
                "unblocked",
                "INSERT INTO solid_queue_semaphores (key, value, expires_at)
                 VALUES ('room', 1, timezone('UTC', now()) + interval '1 h'),
                        ('over', 0, timezone('UTC', now()) - interval '1 s');
                 INSERT INTO solid_queue_blocked_executions (queue_name, concurrency_key, expires_at)
                 SELECT 'unblocked', k, timezone('UTC', now()) - interval '1 s'
                 FROM unnest('{none,none,room,over}'::text[]) k",
                3,
            ),
            held("claimed", "SELECT claimed('claimed', 1)", 1),
            stalled("claimed-by-the-dead", "SELECT claimed('claimed-by-the-dead', 2), claimed('claimed-by-the-dead', NULL)", 2),
            Case {
                held: 1,
                ..neither(
                    "paused",
                    "SELECT claimed('paused', 1);
                     INSERT INTO solid_queue_ready_executions (queue_name) VALUES ('paused');
                     INSERT INTO solid_queue_scheduled_executions (queue_name, scheduled_at) VALUES ('paused', '2020-01-01');
                     INSERT INTO solid_queue_blocked_executions (queue_name, concurrency_key, expires_at)
                     VALUES ('paused', 'of-paused', '2020-01-01')",
                )
            },
        ])
        .await;
}

#[tokio::test]
async fn it_is_told_by_the_clock_and_refuses_what_it_does_not_know() {
    SOLID_QUEUE.behaves().await;
}
