//! Oban, in the columns that Elixir and Python share.

use super::{Library, Picks, claimable, held, neither, rescued, stalled};

pub(super) const OBAN: Library = Library {
    preset: "oban",
    schema: "public",
    picks: Picks::Queue,
    tables: "
        CREATE TYPE oban_job_state AS ENUM
            ('available', 'scheduled', 'suspended', 'executing', 'retryable', 'completed', 'discarded', 'cancelled');
        CREATE TABLE oban_jobs (
            id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
            state oban_job_state NOT NULL DEFAULT 'available',
            queue text NOT NULL DEFAULT 'default',
            worker text NOT NULL DEFAULT 'Mail',
            attempt smallint NOT NULL DEFAULT 0,
            max_attempts smallint NOT NULL DEFAULT 20,
            priority smallint NOT NULL DEFAULT 0,
            args jsonb NOT NULL DEFAULT '{}',
            attempted_by text[],
            inserted_at timestamp NOT NULL DEFAULT timezone('UTC', now()),
            scheduled_at timestamp NOT NULL DEFAULT timezone('UTC', now()),
            attempted_at timestamp
        );
        DO $$BEGIN EXECUTE format('ALTER DATABASE %I SET TimeZone = ''Asia/Tokyo''', current_database()); END$$;",
    later: "INSERT INTO oban_jobs (queue, state, scheduled_at)
            VALUES ('later', 'scheduled', timezone('UTC', now()) + interval '2 s')",
    unknown: Some(
        "ALTER TYPE oban_job_state ADD VALUE 'dreaming'; COMMIT;
         INSERT INTO oban_jobs (queue) VALUES ('odd');
         UPDATE oban_jobs SET state = 'dreaming' WHERE queue = 'odd'",
    ),
    cripple: "ALTER TABLE oban_jobs RENAME attempted_at TO tried_at",
};

#[tokio::test]
async fn every_state_counts_as_the_library_hands_it_out() {
    OBAN.states(&[
        claimable(
            "available",
            "INSERT INTO oban_jobs (queue, scheduled_at)
                 VALUES ('available', now()), ('available', timezone('UTC', now()) + interval '1 h')",
            2,
        ),
        claimable(
            "due",
            "INSERT INTO oban_jobs (queue, state, scheduled_at)
                 SELECT 'due', s, timezone('UTC', now()) - interval '1 s'
                 FROM unnest('{scheduled,retryable}'::oban_job_state[]) s",
            2,
        ),
        neither(
            "to-come",
            "INSERT INTO oban_jobs (queue, state, scheduled_at)
                 SELECT 'to-come', s, timezone('UTC', now()) + interval '1 h'
                 FROM unnest('{scheduled,retryable}'::oban_job_state[]) s",
        ),
        held(
            "executing",
            "INSERT INTO oban_jobs (queue, state, attempt, attempted_at)
                 VALUES ('executing', 'executing', 20, timezone('UTC', now()) - interval '59 min')",
            1,
        ),
        rescued(
            "lost",
            "INSERT INTO oban_jobs (queue, state, attempt, attempted_at)
                 VALUES ('lost', 'executing', 1, timezone('UTC', now()) - interval '61 min')",
            1,
        ),
        stalled(
            "without-attempts",
            "INSERT INTO oban_jobs (queue, state, attempt, attempted_at)
                 VALUES ('without-attempts', 'executing', 20, timezone('UTC', now()) - interval '61 min'),
                        ('without-attempts', 'available', 20, NULL)",
            2,
        ),
        neither(
            "finished",
            "INSERT INTO oban_jobs (queue, state)
                 SELECT 'finished', s
                 FROM unnest('{suspended,completed,discarded,cancelled}'::oban_job_state[]) s",
        ),
    ])
    .await;
}

#[tokio::test]
async fn it_is_told_by_the_clock_and_refuses_what_it_does_not_know() {
    OBAN.behaves().await;
}
