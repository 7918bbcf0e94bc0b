//! The limits that docs/notify.md names, each tried.

use tokio_postgres::error::SqlState;

use super::{INSERT, JOBS, Listener, SOON, TRIGGER, jobs, printed};
use crate::support::{
    cluster::{Cluster, Settings},
    database::Database,
    wait,
};

#[tokio::test]
async fn two_phase_commit_works_and_is_not_told() {
    let cluster = Cluster::with_settings(Settings::default().set("max_prepared_transactions", 5)).await;
    let database = jobs(&cluster).await;
    let mut listener = Listener::new(&database).await;
    let writer = database.connect().await;
    for (name, immediate) in [("one", ""), ("two", "SET CONSTRAINTS ALL IMMEDIATE;")] {
        writer.batch_execute(&format!("BEGIN; {immediate} {INSERT}; PREPARE TRANSACTION '{name}'")).await.unwrap();
        writer.batch_execute("BEGIN").await.unwrap();
        writer.batch_execute(&format!("{immediate} {INSERT}")).await.unwrap();
        writer.execute(&format!("PREPARE TRANSACTION '{name} more'"), &[]).await.unwrap();
    }
    let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
    assert_eq!(database.value::<i64>(held).await, 0, "a prepared transaction would mute everybody");
    writer.batch_execute("COMMIT PREPARED 'one'").await.unwrap();
    assert_eq!(listener.count().await, 0);

    // All other changes are notified as before, by every way to commit.
    for commit in ["COMMIT", "  end"] {
        writer.batch_execute("BEGIN").await.unwrap();
        writer.batch_execute(INSERT).await.unwrap();
        writer.batch_execute(commit).await.unwrap();
        assert_eq!(listener.count().await, 1, "{commit}");
    }
    writer.batch_execute(INSERT).await.unwrap();
    writer.execute(INSERT, &[]).await.unwrap();
    assert_eq!(listener.count().await, 2);
}

/// Statements that a migration may run on a table that it has just filled.
const DEFINITIONS: [&str; 4] = [
    "TRUNCATE app.jobs",
    "ALTER TABLE app.jobs ADD extra int",
    "CREATE INDEX ON app.jobs (status)",
    "DROP TABLE app.jobs",
];

#[tokio::test]
async fn the_table_may_be_altered_after_a_change_in_the_same_transaction() {
    let database = jobs(Cluster::shared().await).await;
    let writer = database.connect().await;
    for statement in DEFINITIONS {
        let change = "UPDATE app.jobs SET status = 'DONE'; DELETE FROM app.jobs WHERE id = 1";
        writer.batch_execute(&format!("BEGIN; {INSERT}; {change}; {statement}; COMMIT")).await.unwrap();
    }
}

#[tokio::test]
async fn where_transactions_may_be_prepared_altering_after_a_change_needs_immediate_constraints() {
    let cluster = Cluster::with_settings(Settings::default().set("max_prepared_transactions", 5)).await;
    let database = jobs(&cluster).await;
    let writer = database.connect().await;
    for statement in DEFINITIONS {
        let refused = writer.batch_execute(&format!("BEGIN; {INSERT}; {statement}")).await.unwrap_err();
        assert_eq!(refused.code(), Some(&SqlState::OBJECT_IN_USE), "{statement}");
        writer.batch_execute("ROLLBACK").await.unwrap();
        let with = format!("BEGIN; {INSERT}; SET CONSTRAINTS ALL IMMEDIATE; {statement}; COMMIT");
        writer.batch_execute(&with).await.unwrap();
    }
}

#[tokio::test]
async fn a_trigger_from_before_prepared_transactions_never_fails_one() {
    let cluster = Cluster::with_settings(Settings::default()).await;
    let database = jobs(&cluster).await;
    database.execute("ALTER SYSTEM SET max_prepared_transactions = 5").await;
    cluster.restart().await;
    let mut listener = Listener::new(&database).await;
    let writer = database.connect().await;
    writer.batch_execute("BEGIN").await.unwrap();
    writer.batch_execute(INSERT).await.unwrap();
    writer.batch_execute("PREPARE TRANSACTION 'one'").await.unwrap();
    writer.batch_execute("COMMIT PREPARED 'one'").await.unwrap();
    assert_eq!(listener.count().await, 0);
    // A statement on its own is certain to be committed.
    writer.batch_execute(INSERT).await.unwrap();
    assert_eq!(listener.count().await, 1);
}

#[tokio::test]
async fn partitions_tell_by_way_of_their_parent_or_of_a_trigger_of_their_own() {
    let database = Database::empty(Cluster::shared().await).await;
    database
        .execute(
            "CREATE SCHEMA app;
             CREATE TABLE app.jobs (id int, status text) PARTITION BY LIST (status);
             CREATE TABLE app.jobs_old PARTITION OF app.jobs FOR VALUES IN ('OLD')",
        )
        .await;
    database.execute(&printed(&TRIGGER).await).await;
    database.execute("CREATE TABLE app.jobs_new PARTITION OF app.jobs FOR VALUES IN ('NEW')").await;
    let mut listener = Listener::new(&database).await;
    for (statement, times) in [
        ("INSERT INTO app.jobs VALUES (1, 'OLD')", 1),
        ("INSERT INTO app.jobs_new VALUES (2, 'NEW')", 0),
        ("UPDATE app.jobs SET status = 'NEW' WHERE id = 1", 1),
        ("TRUNCATE app.jobs_old", 0),
        ("ALTER TABLE app.jobs DETACH PARTITION app.jobs_old", 0),
        ("TRUNCATE app.jobs", 1),
    ] {
        database.execute(statement).await;
        assert_eq!(listener.count().await, times, "{statement}");
    }
    database.execute(&printed(&["--table", "app.jobs_new", "--channel", "jobs"]).await).await;
    for table in ["app.jobs_new", "app.jobs"] {
        database.execute(&format!("INSERT INTO {table} VALUES (3, 'NEW')")).await;
        assert_eq!(listener.count().await, 1, "{table}");
    }
}

#[tokio::test]
async fn a_session_in_the_role_replica_is_told_only_where_the_trigger_is_always_on() {
    let database = jobs(Cluster::shared().await).await;
    let mut listener = Listener::new(&database).await;
    let writer = database.connect().await;
    writer.batch_execute("SET session_replication_role = replica").await.unwrap();
    writer.batch_execute(INSERT).await.unwrap();
    assert_eq!(listener.count().await, 0);
    database.execute("ALTER TABLE app.jobs ENABLE ALWAYS TRIGGER clapometer_notify").await;
    writer.batch_execute(INSERT).await.unwrap();
    assert_eq!(listener.count().await, 1);
}

#[tokio::test]
async fn a_subscriber_does_not_tell_of_replicated_rows() {
    let cluster = Cluster::with_settings(Settings::default().set("wal_level", "logical")).await;
    let (publisher, subscriber) = (Database::empty(&cluster).await, Database::empty(&cluster).await);
    publisher.execute(JOBS).await;
    subscriber.execute(JOBS).await;
    subscriber.execute(&printed(&TRIGGER).await).await;
    subscriber.execute("ALTER TABLE app.jobs ENABLE ALWAYS TRIGGER clapometer_notify").await;
    publisher.execute("CREATE PUBLICATION jobs FOR TABLE app.jobs").await;
    publisher.execute("SELECT pg_create_logical_replication_slot('jobs', 'pgoutput')").await;
    let mut listener = Listener::new(&subscriber).await;
    subscriber
        .execute(&format!(
            "CREATE SUBSCRIPTION jobs CONNECTION 'host={} port={} user=postgres dbname={}' PUBLICATION jobs \
             WITH (create_slot = false, slot_name = jobs, copy_data = false)",
            cluster.socket_directory().display(),
            cluster.port(),
            publisher.name()
        ))
        .await;
    publisher.execute(INSERT).await;
    wait::first("the row is replicated", SOON, async || {
        (subscriber.value::<i64>("SELECT count(*) FROM app.jobs").await == 1).then_some(())
    })
    .await;
    assert_eq!(listener.count().await, 0);
    subscriber.execute("ALTER SUBSCRIPTION jobs DISABLE").await;
}
