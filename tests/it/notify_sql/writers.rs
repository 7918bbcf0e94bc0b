//! No writer fails, waits or needs a privilege, and no row is late.

use std::sync::Arc;

use tokio_postgres::{Client, error::SqlState};

use super::{INSERT, Listener, SOON, jobs};
use crate::support::{cluster::Cluster, database::connect, wait};

/// Runs statements that must neither fail nor wait.
async fn run(client: &Client, statements: &str) {
    wait::bounded(statements, SOON, client.batch_execute(statements)).await.unwrap();
}

#[tokio::test]
async fn a_role_with_insert_alone_is_heard() {
    let database = jobs(Cluster::shared().await).await;
    let mut listener = Listener::new(&database).await;
    let writer = connect(&database.scaler().driver()).await;
    run(&writer, INSERT).await;
    assert_eq!(listener.count().await, 1);
    let refused = writer.batch_execute("SELECT FROM app.jobs").await.unwrap_err();
    assert_eq!(refused.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
}

#[tokio::test]
async fn a_role_that_may_not_notify_is_not_stopped() {
    let database = jobs(Cluster::shared().await).await;
    database.execute("REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA pg_catalog, app FROM PUBLIC").await;
    let mut listener = Listener::new(&database).await;
    let writer = connect(&database.scaler().driver()).await;
    run(&writer, INSERT).await;
    assert_eq!(listener.count().await, 0);
    assert_eq!(database.value::<i64>("SELECT count(*) FROM app.jobs").await, 1);
}

/// Locks of the channel: one for each transaction that will notify.
const LEADERS: &str = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND database = \
                       (SELECT oid FROM pg_database WHERE datname = current_database())";

#[tokio::test]
async fn overlapping_transactions_do_not_conflict_over_it_and_one_of_a_tenth_of_a_second_tells() {
    let database = jobs(Cluster::shared().await).await;
    let mut listener = Listener::new(&database).await;
    for level in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        let (first, second) = (database.connect().await, database.connect().await);
        for writer in [&first, &second] {
            run(writer, &format!("BEGIN ISOLATION LEVEL {level}; {INSERT}")).await;
        }
        // Two, if a tenth began between them.
        let leaders = database.value::<i64>(LEADERS).await;
        assert!((1..=2).contains(&leaders), "{level}: {leaders}");
        run(&first, "COMMIT").await;
        run(&second, "COMMIT").await;
        assert_eq!(i64::try_from(listener.count().await).unwrap(), leaders, "{level}");
    }
}

#[tokio::test]
async fn what_was_rolled_back_is_not_told_and_hides_nothing() {
    let database = jobs(Cluster::shared().await).await;
    let mut listener = Listener::new(&database).await;
    let writer = database.connect().await;
    let told = [
        (format!("BEGIN; SAVEPOINT s; {INSERT}; ROLLBACK TO s; COMMIT"), 0),
        (format!("BEGIN; SAVEPOINT s; {INSERT}; ROLLBACK TO s; {INSERT}; COMMIT"), 1),
        (format!("BEGIN; {INSERT}; SAVEPOINT s; {INSERT}; ROLLBACK TO s; COMMIT"), 1),
        (format!("BEGIN; {INSERT}; ROLLBACK"), 0),
        (INSERT.to_owned(), 1),
    ];
    for (statements, times) in told {
        run(&writer, &statements).await;
        assert_eq!(listener.count().await, times, "{statements}");
    }
}

#[tokio::test]
async fn an_open_transaction_mutes_others_no_longer_than_a_tenth_of_a_second_and_tells_its_own_row() {
    let database = jobs(Cluster::shared().await).await;
    let mut listener = Listener::new(&database).await;
    let (leader, other) = (database.connect().await, database.connect().await);
    run(&leader, &format!("BEGIN; {INSERT}")).await;
    // A change in that tenth is seen with the next notification, or at `resync`. No writer waits.
    let mut inserted = 1;
    wait::first("others are heard", SOON, async || {
        inserted += 1;
        run(&other, INSERT).await;
        (listener.count().await == 1).then_some(())
    })
    .await;
    for _ in 0..3 {
        inserted += 1;
        run(&other, INSERT).await;
        assert_eq!(listener.count().await, 1);
    }
    run(&leader, "COMMIT").await;
    assert_eq!(listener.count().await, 1);
    assert_eq!(database.value::<i64>("SELECT count(*) FROM app.jobs").await, inserted);
}

#[tokio::test]
async fn a_transaction_that_was_muted_tells_with_its_next_statement() {
    let database = jobs(Cluster::shared().await).await;
    let mut listener = Listener::new(&database).await;
    let (leader, follower) = (database.connect().await, database.connect().await);
    run(&leader, &format!("BEGIN; {INSERT}")).await;
    run(&follower, &format!("BEGIN; {INSERT}")).await;
    run(&leader, "ROLLBACK").await;
    run(&follower, INSERT).await;
    run(&follower, "COMMIT").await;
    assert_eq!(listener.count().await, 1);
}

#[tokio::test]
async fn a_leader_that_fails_at_commit_hands_on() {
    let database = jobs(Cluster::shared().await).await;
    database.execute("CREATE TABLE app.child (job bigint REFERENCES app.jobs DEFERRABLE INITIALLY DEFERRED)").await;
    let mut listener = Listener::new(&database).await;
    let (leader, other) = (database.connect().await, database.connect().await);
    let statements = format!("BEGIN; {INSERT}; INSERT INTO app.child VALUES (-1); COMMIT");
    let failed = leader.batch_execute(&statements).await.unwrap_err();
    assert_eq!(failed.code(), Some(&SqlState::FOREIGN_KEY_VIOLATION));
    // The error is sent before the transaction is over, and its lock is held until then.
    run(&leader, "SELECT").await;
    assert_eq!(listener.count().await, 0);
    run(&other, INSERT).await;
    assert_eq!(listener.count().await, 1);
}

#[tokio::test]
async fn nothing_grows_under_an_old_snapshot() {
    let database = jobs(Cluster::shared().await).await;
    let mut listener = Listener::new(&database).await;
    let (reader, writer) = (database.connect().await, database.connect().await);
    run(&reader, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM app.jobs").await;
    let others = "SELECT sum(pg_relation_size(oid))::bigint FROM pg_class WHERE relnamespace = 'app'::regnamespace \
                  AND relname NOT LIKE 'jobs%'";
    let before = database.value::<Option<i64>>(others).await;
    for _ in 0..200 {
        run(&writer, INSERT).await;
    }
    assert_eq!(listener.count().await, 200);
    assert_eq!(database.value::<Option<i64>>(others).await, before);
}

#[tokio::test]
async fn the_writers_search_path_brings_in_nobody_elses_functions() {
    let database = jobs(Cluster::shared().await).await;
    database
        .execute(
            "CREATE SCHEMA evil; GRANT USAGE ON SCHEMA evil TO PUBLIC; CREATE TABLE evil.ran (what text);
             GRANT INSERT ON evil.ran TO PUBLIC;
             CREATE FUNCTION evil.pg_notify(text, text) RETURNS void LANGUAGE sql AS $$ INSERT INTO evil.ran VALUES ('notify') $$;
             CREATE FUNCTION evil.pg_try_advisory_xact_lock(bigint) RETURNS bool LANGUAGE sql AS $$ INSERT INTO evil.ran VALUES ('lock'); SELECT true $$;
             CREATE FUNCTION evil.current_setting(text, bool) RETURNS text LANGUAGE sql AS $$ INSERT INTO evil.ran VALUES ('setting'); SELECT 'on' $$;
             CREATE FUNCTION evil.less(float8, float8) RETURNS bool LANGUAGE sql AS $$ INSERT INTO evil.ran VALUES ('less'); SELECT true $$;
             CREATE FUNCTION evil.same(text, text) RETURNS bool LANGUAGE sql AS $$ INSERT INTO evil.ran VALUES ('same'); SELECT true $$;
             CREATE OPERATOR evil.< (LEFTARG = float8, RIGHTARG = float8, FUNCTION = evil.less);
             CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.same);
             CREATE OPERATOR evil.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.same);",
        )
        .await;
    let mut listener = Listener::new(&database).await;
    let writer = connect(&database.scaler().driver()).await;
    // Types and tables, unlike functions, are looked for in pg_temp first.
    run(
        &writer,
        "CREATE DOMAIN pg_temp.text AS pg_catalog.text CHECK (false); CREATE DOMAIN pg_temp.bool AS pg_catalog.bool CHECK (false);
         CREATE DOMAIN pg_temp.float8 AS pg_catalog.float8 CHECK (false)",
    )
    .await;
    run(&writer, &format!("SET search_path = pg_temp, evil, pg_catalog, app; {INSERT}")).await;
    assert_eq!(listener.count().await, 1);
    assert_eq!(database.value::<i64>("SELECT count(*) FROM evil.ran").await, 0);
}

#[tokio::test]
async fn a_burst_is_counted_in_full_a_second_after_its_last_notification() {
    let database = Arc::new(jobs(Cluster::shared().await).await);
    let mut listener = Listener::new(&database).await;
    for burst in 1..=3_i64 {
        let mut writers = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let database = Arc::clone(&database);
            writers.spawn(async move {
                let writer = database.connect().await;
                for _ in 0..10 {
                    run(&writer, INSERT).await;
                }
            });
        }
        writers.join_all().await;
        // A second after the last notification clapometer reads for the last time.
        assert!(listener.rest().await > 0, "no notification came");
        assert_eq!(database.value::<i64>("SELECT count(*) FROM app.jobs").await, burst * 160);
    }
}
