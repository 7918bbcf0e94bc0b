//! pgmq, whose queues are tables.

use super::{Library, Picks, check, claimable, configuration, held, neither, numbers};
use crate::support::cluster::Cluster;

pub(super) const PGMQ: Library = Library {
    preset: "pgmq",
    schema: "pgmq",
    picks: Picks::Table,
    tables: "
        CREATE SCHEMA pgmq;
        CREATE TABLE pgmq.meta (queue_name varchar NOT NULL UNIQUE, created_at timestamptz NOT NULL DEFAULT now());
        CREATE FUNCTION queue(name text, rows text) RETURNS void LANGUAGE plpgsql AS $$BEGIN
            INSERT INTO pgmq.meta (queue_name) VALUES (name);
            EXECUTE format('CREATE TABLE pgmq.%I (
                msg_id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
                read_ct integer NOT NULL DEFAULT 0,
                enqueued_at timestamptz NOT NULL DEFAULT now(),
                vt timestamptz NOT NULL,
                message jsonb,
                headers jsonb
            )', 'q_' || lower(name));
            EXECUTE format('INSERT INTO pgmq.%I (vt, read_ct) VALUES %s', 'q_' || lower(name), rows);
        END$$;",
    later: "SELECT queue('later', '(now() + interval ''2 s'', 0)')",
    unknown: None,
    cripple: "ALTER TABLE pgmq.q_later RENAME vt TO visible_at",
};

#[tokio::test]
async fn every_state_counts_as_the_library_hands_it_out() {
    PGMQ.states(&[
        claimable("Visible", "SELECT queue('Visible', '(now(), 0), (now(), 1)')", 2),
        held("read", "SELECT queue('read', '(now() + interval ''30 s'', 1)')", 1),
        neither("to-come", "SELECT queue('to-come', '(now() + interval ''30 s'', 0)')"),
    ])
    .await;
}

#[tokio::test]
async fn it_is_told_by_the_clock_and_refuses_what_it_does_not_know() {
    PGMQ.behaves().await;
}

#[tokio::test]
async fn what_was_read_too_often_is_stalled_and_a_queue_without_a_table_is_refused() {
    let database = PGMQ.database(Cluster::shared().await).await;
    database.execute("SELECT queue('jobs', '(now(), 4), (now(), 5)')").await;
    let queries = PGMQ.query("jobs", ", queue: jobs, max_reads: 5") + "\n";
    assert_eq!(numbers(&check(&configuration(&database.scaler(), &queries), 0).await, "jobs"), [1, 1, 1]);
    let advice = "there is no such queue: correct queries.one.queue (there are: jobs), or create it";
    PGMQ.is_refused(&database, "another", "rejected", advice).await;
}
