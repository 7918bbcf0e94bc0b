//! pg-boss, 12 and 10.

use super::{Case, Library, Picks, claimable, held, neither, rescued, stalled};

pub(super) const PG_BOSS: Library = Library {
    preset: "pg-boss",
    schema: "pgboss",
    picks: Picks::Queue,
    tables: "
        CREATE SCHEMA pgboss;
        CREATE TYPE pgboss.job_state AS ENUM ('created', 'retry', 'active', 'completed', 'cancelled', 'failed');
        CREATE TABLE pgboss.queue (name text PRIMARY KEY, policy text NOT NULL DEFAULT 'standard');
        CREATE TABLE pgboss.job (
            id uuid NOT NULL DEFAULT gen_random_uuid(),
            name text NOT NULL,
            priority integer NOT NULL DEFAULT 0,
            data jsonb,
            state pgboss.job_state NOT NULL DEFAULT 'created',
            retry_limit integer NOT NULL DEFAULT 2,
            retry_count integer NOT NULL DEFAULT 0,
            expire_seconds integer NOT NULL DEFAULT 900,
            singleton_key text,
            start_after timestamptz NOT NULL DEFAULT now(),
            created_on timestamptz NOT NULL DEFAULT now(),
            started_on timestamptz,
            completed_on timestamptz,
            policy text,
            heartbeat_on timestamptz,
            heartbeat_seconds integer,
            blocked boolean NOT NULL DEFAULT false,
            blocking boolean NOT NULL DEFAULT false
        ) PARTITION BY LIST (name);
        CREATE TABLE pgboss.job_common PARTITION OF pgboss.job DEFAULT;",
    later: "INSERT INTO pgboss.queue VALUES ('later');
            INSERT INTO pgboss.job (name, start_after) VALUES ('later', now() + interval '2 s')",
    unknown: Some(
        "ALTER TYPE pgboss.job_state ADD VALUE 'dreaming'; COMMIT;
         INSERT INTO pgboss.job (name) VALUES ('odd');
         UPDATE pgboss.job SET state = 'dreaming' WHERE name = 'odd'",
    ),
    cripple: "ALTER TABLE pgboss.job RENAME start_after TO due_at",
};

/// The table of version 10, which has no `blocked` and no heartbeat, and an interval in place of seconds.
const TABLES_OF_10: &str = "
    CREATE SCHEMA pgboss;
    CREATE TYPE pgboss.job_state AS ENUM ('created', 'retry', 'active', 'completed', 'cancelled', 'failed');
    CREATE TABLE pgboss.queue (name text PRIMARY KEY, policy text);
    CREATE TABLE pgboss.job (
        id uuid NOT NULL DEFAULT gen_random_uuid(),
        name text NOT NULL,
        state pgboss.job_state NOT NULL DEFAULT 'created',
        retry_limit integer NOT NULL DEFAULT 2,
        retry_count integer NOT NULL DEFAULT 0,
        expire_in interval NOT NULL DEFAULT interval '15 minutes',
        singleton_key text,
        start_after timestamptz NOT NULL DEFAULT now(),
        started_on timestamptz,
        completed_on timestamptz,
        policy text
    ) PARTITION BY LIST (name);
    CREATE TABLE pgboss.job_common PARTITION OF pgboss.job DEFAULT;";

#[tokio::test]
async fn every_state_counts_as_the_library_hands_it_out() {
    PG_BOSS
        .states(&[
            claimable("due", "INSERT INTO pgboss.job (name, state) VALUES ('due', 'created'), ('due', 'retry')", 2),
            neither(
                "to-come",
                "INSERT INTO pgboss.job (name, state, start_after)
                 VALUES ('to-come', 'created', now() + interval '1 h'), ('to-come', 'retry', now() + interval '1 h')",
            ),
            neither("blocked", "INSERT INTO pgboss.job (name, blocked) VALUES ('blocked', true)"),
            held(
                "active",
                "INSERT INTO pgboss.job (name, state, started_on, heartbeat_on, heartbeat_seconds)
                 VALUES ('active', 'active', now() - interval '14 min', NULL, NULL),
                        ('active', 'active', now() - interval '14 min', now() - interval '5 s', 60)",
                2,
            ),
            rescued(
                "expired",
                "INSERT INTO pgboss.job (name, state, started_on) VALUES ('expired', 'active', now() - interval '16 min')",
                1,
            ),
            rescued(
                "silent",
                "INSERT INTO pgboss.job (name, state, started_on, heartbeat_on, heartbeat_seconds)
                 VALUES ('silent', 'active', now() - interval '2 min', now() - interval '61 s', 60)",
                1,
            ),
            stalled(
                "expired-at-its-last-retry",
                "INSERT INTO pgboss.job (name, state, started_on, retry_count)
                 VALUES ('expired-at-its-last-retry', 'active', now() - interval '16 min', 2)",
                1,
            ),
            neither(
                "finished",
                "INSERT INTO pgboss.job (name, state, completed_on)
                 SELECT 'finished', s, now() FROM unnest('{completed,cancelled,failed}'::pgboss.job_state[]) s",
            ),
            claimable("singleton", "INSERT INTO pgboss.job (name, policy) SELECT 'singleton', 'singleton' FROM generate_series(1, 4)", 1),
            claimable(
                "singleton-keys",
                "INSERT INTO pgboss.job (name, policy, singleton_key)
                 SELECT 'singleton-keys', 'singleton', 'k' || i % 3 FROM generate_series(1, 7) i",
                3,
            ),
            held(
                "singleton-busy",
                "INSERT INTO pgboss.job (name, policy, state, started_on)
                 VALUES ('singleton-busy', 'singleton', 'active', now()), ('singleton-busy', 'singleton', 'created', NULL)",
                1,
            ),
            Case {
                stalled: 1,
                ..rescued(
                    "singleton-behind-a-last-one",
                    "INSERT INTO pgboss.job (name, policy, state, started_on, retry_count)
                     VALUES ('singleton-behind-a-last-one', 'singleton', 'active', now() - interval '16 min', 2),
                            ('singleton-behind-a-last-one', 'singleton', 'created', NULL, 0),
                            ('singleton-behind-a-last-one', 'singleton', 'created', NULL, 0)",
                    1,
                )
            },
            rescued(
                "singleton-behind-an-expired-one",
                "INSERT INTO pgboss.job (name, policy, state, started_on)
                 VALUES ('singleton-behind-an-expired-one', 'singleton', 'active', now() - interval '16 min'),
                        ('singleton-behind-an-expired-one', 'singleton', 'created', NULL)",
                1,
            ),
            stalled(
                "fifo-behind-a-last-one",
                "INSERT INTO pgboss.job (name, policy, singleton_key, state, started_on, retry_count)
                 VALUES ('fifo-behind-a-last-one', 'key_strict_fifo', 'a', 'active', now() - interval '16 min', 2),
                        ('fifo-behind-a-last-one', 'key_strict_fifo', 'a', 'created', NULL, 0)",
                1,
            ),
            claimable(
                "stately",
                "INSERT INTO pgboss.job (name, policy, state) VALUES ('stately', 'stately', 'created'), ('stately', 'stately', 'retry')",
                1,
            ),
            claimable(
                "fifo",
                "INSERT INTO pgboss.job (name, policy, singleton_key)
                 SELECT 'fifo', 'key_strict_fifo', k FROM unnest('{a,a,b}'::text[]) k",
                2,
            ),
            neither(
                "fifo-failed",
                "INSERT INTO pgboss.job (name, policy, singleton_key, state)
                 VALUES ('fifo-failed', 'key_strict_fifo', 'a', 'failed'), ('fifo-failed', 'key_strict_fifo', 'a', 'created')",
            ),
            neither(
                "fifo-retry-to-come",
                "INSERT INTO pgboss.job (name, policy, singleton_key, state, start_after)
                 VALUES ('fifo-retry-to-come', 'key_strict_fifo', 'a', 'retry', now() + interval '1 h'),
                        ('fifo-retry-to-come', 'key_strict_fifo', 'a', 'created', now())",
            ),
        ])
        .await;
}

/// Jobs that wait for others, and one that waits for its time besides.
const CHILDREN: &str = "INSERT INTO pgboss.job (name, blocked, start_after)
                        VALUES ('children', true, now()), ('children', true, now()), ('children', true, now() + interval '1 h')";

#[tokio::test]
async fn blocked_jobs_count_once_for_each_queue_while_no_client_releases_them() {
    PG_BOSS
        .states(&[
            neither(
                "parents",
                "INSERT INTO pgboss.job (name, state, blocking, completed_on)
                 VALUES ('parents', 'completed', true, now() - interval '31 s'), ('parents', 'completed', true, now())",
            ),
            rescued("children", CHILDREN, 1),
            neither(
                "to-come",
                "INSERT INTO pgboss.job (name, blocked, start_after) VALUES ('to-come', true, now() + interval '1 h')",
            ),
        ])
        .await;
    // A living client would not have done it yet.
    PG_BOSS
        .states(&[
            neither(
                "parents",
                "INSERT INTO pgboss.job (name, state, blocking, completed_on) VALUES ('parents', 'completed', true, now())",
            ),
            neither("children", CHILDREN),
        ])
        .await;
}

#[tokio::test]
async fn the_tables_of_version_10_are_read_as_well() {
    Library { tables: TABLES_OF_10, ..PG_BOSS }
        .states(&[
            claimable("due", "INSERT INTO pgboss.job (name) VALUES ('due')", 1),
            held("active", "INSERT INTO pgboss.job (name, state, started_on) VALUES ('active', 'active', now())", 1),
            rescued(
                "expired",
                "INSERT INTO pgboss.job (name, state, started_on) VALUES ('expired', 'active', now() - interval '16 min')",
                1,
            ),
        ])
        .await;
}

#[tokio::test]
async fn it_is_told_by_the_clock_and_refuses_what_it_does_not_know() {
    PG_BOSS.behaves().await;
}
