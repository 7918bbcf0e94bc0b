//! Que 2.

use super::{Library, Picks, check, claimable, configuration, neither, numbers};
use crate::support::cluster::Cluster;

pub(super) const QUE: Library = Library {
    preset: "que",
    schema: "public",
    picks: Picks::Queue,
    tables: "
        CREATE TABLE que_jobs (
            id bigserial PRIMARY KEY,
            queue text NOT NULL DEFAULT 'default',
            priority smallint NOT NULL DEFAULT 100,
            run_at timestamptz NOT NULL DEFAULT now(),
            job_class text NOT NULL DEFAULT 'Mail',
            error_count integer NOT NULL DEFAULT 0,
            finished_at timestamptz,
            expired_at timestamptz,
            job_schema_version integer DEFAULT 2
        );",
    later: "INSERT INTO que_jobs (queue, run_at) VALUES ('later', now() + interval '2 s')",
    unknown: None,
    cripple: "ALTER TABLE que_jobs RENAME expired_at TO ended_at",
};

#[tokio::test]
async fn every_state_counts_as_the_library_hands_it_out() {
    QUE.states(&[
        claimable("due", "INSERT INTO que_jobs (queue) VALUES ('due'), ('due')", 2),
        neither("to-come", "INSERT INTO que_jobs (queue, run_at) VALUES ('to-come', now() + interval '1 h')"),
        neither("finished", "INSERT INTO que_jobs (queue, finished_at) VALUES ('finished', now())"),
        neither("expired", "INSERT INTO que_jobs (queue, expired_at) VALUES ('expired', now())"),
        neither("of-que-1", "INSERT INTO que_jobs (queue, job_schema_version) VALUES ('of-que-1', 1)"),
    ])
    .await;
}

#[tokio::test]
async fn it_is_told_by_the_clock_and_refuses_what_it_does_not_know() {
    QUE.behaves().await;
}

#[tokio::test]
async fn a_job_is_held_exactly_while_a_session_has_its_lock() {
    let database = QUE.database(Cluster::shared().await).await;
    database.execute("INSERT INTO que_jobs (queue) VALUES ('mail'), ('mail')").await;
    let queries = QUE.query("mail", ", queue: mail, workers: one-row, max_age: 1ms") + "\n";
    let configuration = configuration(&database.scaler(), &queries);
    let locker = database.connect().await;
    locker.batch_execute("SELECT pg_advisory_lock(id) FROM que_jobs").await.unwrap();
    assert_eq!(numbers(&check(&configuration, 0).await, "mail"), [2, 0, 0]);
    locker.batch_execute("SELECT pg_advisory_unlock(min(id)) FROM que_jobs").await.unwrap();
    assert_eq!(numbers(&check(&configuration, 0).await, "mail"), [2, 1, 0]);
    locker.batch_execute("SELECT pg_advisory_unlock_all()").await.unwrap();
    assert_eq!(numbers(&check(&configuration, 0).await, "mail"), [2, 2, 0]);
}
