//! GoodJob 4.

use super::{Case, Library, Picks, claimable, held, neither};

pub(super) const GOOD_JOB: Library = Library {
    preset: "good_job",
    schema: "public",
    picks: Picks::Queue,
    tables: "
        CREATE TABLE good_jobs (
            id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
            queue_name text,
            priority integer,
            serialized_params jsonb,
            scheduled_at timestamp,
            performed_at timestamp,
            finished_at timestamp,
            error text,
            job_class text,
            labels text[],
            locked_by_id uuid,
            locked_at timestamp
        );
        CREATE TABLE good_job_processes (
            id uuid PRIMARY KEY, created_at timestamp, updated_at timestamp NOT NULL, state jsonb, lock_type smallint
        );
        CREATE TABLE good_job_settings (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), key text UNIQUE, value jsonb);
        INSERT INTO good_job_processes (id, updated_at)
        VALUES ('00000000-0000-0000-0000-00000000000a', timezone('UTC', now()) - interval '4 min'),
               ('00000000-0000-0000-0000-00000000000d', timezone('UTC', now()) - interval '6 min');
        INSERT INTO good_job_settings (key, value)
        VALUES ('pauses', '{\"queues\": [\"paused\"], \"job_classes\": [\"Paused\"], \"labels\": [\"paused\"]}');
        DO $$BEGIN EXECUTE format('ALTER DATABASE %I SET TimeZone = ''Asia/Tokyo''', current_database()); END$$;",
    later: "INSERT INTO good_jobs (queue_name, scheduled_at) VALUES ('later', timezone('UTC', now()) + interval '2 s')",
    unknown: None,
    cripple: "ALTER TABLE good_jobs RENAME locked_by_id TO locker_id",
};

#[tokio::test]
async fn every_state_counts_as_the_library_hands_it_out() {
    GOOD_JOB
        .states(&[
            claimable(
                "due",
                "INSERT INTO good_jobs (queue_name, scheduled_at, labels)
                 VALUES ('due', timezone('UTC', now()), '{ok}'), ('due', NULL, NULL)",
                2,
            ),
            neither("to-come", "INSERT INTO good_jobs (queue_name, scheduled_at) VALUES ('to-come', timezone('UTC', now()) + interval '1 h')"),
            held(
                "locked",
                "INSERT INTO good_jobs (queue_name, locked_by_id) VALUES ('locked', '00000000-0000-0000-0000-00000000000a')",
                1,
            ),
            claimable(
                "locked-by-the-dead",
                "INSERT INTO good_jobs (queue_name, locked_by_id)
                 VALUES ('locked-by-the-dead', '00000000-0000-0000-0000-00000000000d'),
                        ('locked-by-the-dead', '00000000-0000-0000-0000-0000000000ff')",
                2,
            ),
            Case {
                held: 1,
                ..neither(
                    "paused",
                    "INSERT INTO good_jobs (queue_name, locked_by_id)
                     VALUES ('paused', NULL), ('paused', '00000000-0000-0000-0000-00000000000a')",
                )
            },
            claimable(
                "paused-in-part",
                "INSERT INTO good_jobs (queue_name, job_class, labels)
                 VALUES ('paused-in-part', 'Paused', NULL), ('paused-in-part', 'Mail', '{ok,paused}'),
                        ('paused-in-part', 'Mail', '{ok}')",
                1,
            ),
            neither("finished", "INSERT INTO good_jobs (queue_name, finished_at) VALUES ('finished', now())"),
        ])
        .await;
}

#[tokio::test]
async fn it_is_told_by_the_clock_and_refuses_what_it_does_not_know() {
    GOOD_JOB.behaves().await;
}
