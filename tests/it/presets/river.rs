//! River, migration 8.

use super::{Case, Library, Picks, claimable, held, neither, rescued, stalled};

pub(super) const RIVER: Library = Library {
    preset: "river",
    schema: "public",
    picks: Picks::Queue,
    tables: "
        CREATE TYPE river_job_state AS ENUM
            ('available', 'cancelled', 'completed', 'discarded', 'pending', 'retryable', 'running', 'scheduled');
        CREATE TABLE river_job (
            id bigserial PRIMARY KEY,
            state river_job_state NOT NULL DEFAULT 'available',
            attempt smallint NOT NULL DEFAULT 0,
            max_attempts smallint NOT NULL DEFAULT 25,
            attempted_at timestamptz,
            created_at timestamptz NOT NULL DEFAULT now(),
            finalized_at timestamptz,
            scheduled_at timestamptz NOT NULL DEFAULT now(),
            priority smallint NOT NULL DEFAULT 1,
            args jsonb NOT NULL DEFAULT '{}',
            attempted_by text[],
            errors jsonb[],
            kind text NOT NULL DEFAULT 'mail',
            metadata jsonb NOT NULL DEFAULT '{}',
            queue text NOT NULL DEFAULT 'default',
            tags varchar(255)[] NOT NULL DEFAULT '{}',
            unique_key bytea,
            unique_states bit(8)
        );
        CREATE INDEX ON river_job (state, queue, priority, scheduled_at, id);
        CREATE TABLE river_queue (
            name text PRIMARY KEY NOT NULL,
            created_at timestamptz NOT NULL DEFAULT now(),
            metadata jsonb NOT NULL DEFAULT '{}',
            paused_at timestamptz,
            updated_at timestamptz NOT NULL DEFAULT now()
        );",
    later: "INSERT INTO river_job (queue, state, scheduled_at) VALUES ('later', 'scheduled', now() + interval '2 s')",
    unknown: Some(
        "ALTER TYPE river_job_state ADD VALUE 'dreaming'; COMMIT;
         INSERT INTO river_job (queue) VALUES ('odd');
         UPDATE river_job SET state = 'dreaming' WHERE queue = 'odd'",
    ),
    cripple: "ALTER TABLE river_job RENAME scheduled_at TO due_at",
};

#[tokio::test]
async fn every_state_counts_as_the_library_hands_it_out() {
    RIVER
        .states(&[
            claimable("available", "INSERT INTO river_job (queue) VALUES ('available'), ('available')", 2),
            claimable(
                "due",
                "INSERT INTO river_job (queue, state, scheduled_at)
                 SELECT 'due', s, now() - interval '1 s' FROM unnest('{retryable,scheduled}'::river_job_state[]) s",
                2,
            ),
            neither(
                "to-come",
                "INSERT INTO river_job (queue, state, scheduled_at)
                 SELECT 'to-come', s, now() + interval '1 h'
                 FROM unnest('{available,retryable,scheduled}'::river_job_state[]) s",
            ),
            held(
                "running",
                "INSERT INTO river_job (queue, state, attempt, attempted_at)
                 VALUES ('running', 'running', 1, now() - interval '59 min')",
                1,
            ),
            rescued(
                "lost",
                "INSERT INTO river_job (queue, state, attempt, attempted_at)
                 VALUES ('lost', 'running', 1, now() - interval '61 min')",
                1,
            ),
            stalled(
                "lost-at-its-last-attempt",
                "INSERT INTO river_job (queue, state, attempt, attempted_at)
                 VALUES ('lost-at-its-last-attempt', 'running', 25, now() - interval '61 min')",
                1,
            ),
            neither(
                "finished",
                "INSERT INTO river_job (queue, state, finalized_at)
                 SELECT 'finished', s, now() FROM unnest('{completed,cancelled,discarded}'::river_job_state[]) s",
            ),
            neither("pending", "INSERT INTO river_job (queue, state) VALUES ('pending', 'pending')"),
            Case {
                held: 1,
                ..neither(
                    "paused",
                    "INSERT INTO river_queue (name, paused_at) VALUES ('paused', now());
                     INSERT INTO river_job (queue, state, attempted_at)
                     VALUES ('paused', 'available', NULL), ('paused', 'running', now())",
                )
            },
            claimable(
                "resumed",
                "INSERT INTO river_queue (name) VALUES ('resumed'); INSERT INTO river_job (queue) VALUES ('resumed')",
                1,
            ),
        ])
        .await;
}

#[tokio::test]
async fn it_is_told_by_the_clock_and_refuses_what_it_does_not_know() {
    RIVER.behaves().await;
}
