//! Credentials from files and variables, and what a change of them costs: nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use crate::{
    support::{
        admin,
        cluster::{Cluster, SCALER_PASSWORD, Settings},
        database::Database,
        executable::Executable,
        fixture::RECOVERY,
        grpc::{Scaler, trigger},
        wait,
    },
    tls::Mount,
};

/// Files are looked at every two seconds; a busy machine adds to it.
const RELOAD: Duration = Duration::from_secs(15);
const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_password_that_changes_every_two_seconds_costs_no_call() {
    const ROUNDS: u32 = 6;
    const MOST_ROUNDS: u32 = 60;
    let cluster = Cluster::with_settings(Settings::default().set("log_connections", "on")).await;
    let database = Database::empty(&cluster).await;
    let mount = Mount::new();
    mount.swap(&[("password", SCALER_PASSWORD)]);
    let password = format!("{{file: {}/password}}", mount.path().display());
    // Connections that live for two seconds, so that many are opened amid the changes.
    let access =
        database.scaler().with_password(&password).with("max_lifetime", "2s").with("connect_timeout", "1800ms");
    let configuration = format!(
        "databases:\n{}queries:\n  echo: {{sql: 'SELECT $1', parameters: {{n: double}}, max_age: 0s}}\n",
        access.yaml("claps")
    );
    let serving = Executable::serve(&configuration).serving().await;

    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut callers = Vec::new();
    for caller in 0..4u32 {
        let scaler = Scaler::at(serving.grpc);
        let (stop, asked) = (Arc::clone(&stop), Arc::clone(&asked));
        callers.push(tokio::spawn(async move {
            let trigger = trigger("echo", &[("param.n", &caller.to_string())]);
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(scaler.value(&trigger).await?, f64::from(caller));
                asked.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok::<(), tonic::Status>(())
        }));
    }
    let start = Instant::now();
    let has_met_a_change = || cluster.log().contains("password authentication failed");
    let mut round = 0;
    while round < ROUNDS || round < MOST_ROUNDS && !has_met_a_change() {
        round += 1;
        sleep_until(start + round * Duration::from_secs(2)).await;
        let new = format!("canary-rotated-{round}");
        let change_role = async || database.execute(&format!("ALTER ROLE scaler PASSWORD '{new}'")).await;
        // A tenth of a second apart, in either order.
        if round % 2 == 0 {
            change_role().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            mount.swap(&[("password", &new)]);
        } else {
            mount.swap(&[("password", &new)]);
            tokio::time::sleep(Duration::from_millis(100)).await;
            change_role().await;
        }
    }
    sleep_until(start + (round + 1) * Duration::from_secs(2)).await;
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        let failed = caller.await.expect("the caller itself is sound").err();
        assert!(failed.is_none(), "a call failed: {failed:?}; the log:\n{}", serving.process.errors());
    }
    assert!(asked.load(Ordering::Relaxed) > 100, "there was no load");
    let log = cluster.log();
    let opened = log.matches("connection authorized: user=scaler").count();
    assert!(opened > 12, "only {opened} connections were opened amid the changes");
    assert!(has_met_a_change(), "no connection was opened between the two halves of a change");
    assert!(!serving.process.errors().contains("canary"), "a password is in the log");
}

#[tokio::test]
async fn every_scalar_of_a_connection_comes_from_its_file_and_follows_it() {
    let (first, second) = (Cluster::private().await, Cluster::private().await);
    let (one, two) = (Database::empty(&first).await, Database::empty(&second).await);
    for (database, number) in [(&one, 1), (&two, 2)] {
        let sql = format!(
            "CREATE TABLE here AS SELECT {number} AS n; CREATE TABLE locked AS SELECT 1 AS n;
             GRANT SELECT ON here, locked TO scaler, owner"
        );
        database.execute(&sql).await;
    }
    let mount = Mount::new();
    let files = |access: &crate::support::database::Access| {
        [
            ("host", access.host.clone()),
            ("port", format!("{}\n", access.port)),
            ("dbname", access.dbname.clone()),
            ("user", access.user.clone()),
            ("password", format!("{}\n", access.password)),
        ]
    };
    mount.swap(&files(&one.scaler()));
    let mut configuration = "databases:\n  claps:\n    sslmode: disable\n".to_owned();
    for key in ["host", "port", "dbname", "user", "password"] {
        configuration += &format!("    {key}: {{file: {}/{key}}}\n", mount.path().display());
    }
    configuration += "    lock_timeout: 60s\nqueries:\n  here: {sql: SELECT n FROM here, max_age: 0s}\n  \
                      locked: {sql: SELECT n FROM locked, timeout: 60s, max_age: 0s}\n";
    let mut serving = Executable::serve(&configuration).serving().await;
    let scaler = Scaler::at(serving.grpc);
    assert_eq!(scaler.value(&trigger("here", &[])).await.unwrap(), 1.0);

    // A statement waits on the old host while the change is noticed, and ends only afterwards.
    let sessions = async |which: &str| {
        // A probe may look at the old host meanwhile, because a statement is silent.
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity
             WHERE usename = 'scaler' AND application_name <> 'clapometer/probe' AND {which}"
        );
        one.value::<i64>(&sql).await
    };
    let mut locking = one.connect().await;
    let lock = locking.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE locked IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let waiting = Scaler::at(serving.grpc);
    let waiting = tokio::spawn(async move { waiting.value(&trigger("locked", &[])).await });
    wait::first("a statement waits for the lock", SOON, async || {
        (sessions("wait_event_type = 'Lock'").await == 1).then_some(())
    })
    .await;
    mount.swap(&files(&two.owner()));
    serving.process.logged("the reload", RELOAD, |line| line["message"] == "configuration reloaded").await;
    let metrics = admin::get(serving.admin, "/metrics").await;
    assert!(metrics.contains("clapometer_query_changed_timestamp_seconds{query=\"here\""), "{metrics}");
    assert_eq!(scaler.value(&trigger("here", &[])).await.unwrap(), 2.0);
    wait::first("only the session of the statement is left", SOON, async || {
        (sessions("wait_event_type IS DISTINCT FROM 'Lock'").await == 0).then_some(())
    })
    .await;
    assert_eq!(sessions("wait_event_type = 'Lock'").await, 1, "the statement under way was cut");
    lock.rollback().await.unwrap();
    // Nothing is asked meanwhile: the session must not wait for the next one who looks for a connection.
    wait::first("the old host has no session left", SOON, async || (sessions("true").await == 0).then_some(())).await;
    drop(waiting);
    for _ in 0..20 {
        assert_eq!(scaler.value(&trigger("here", &[])).await.unwrap(), 2.0, "a connection to the old host was used");
    }
}

#[tokio::test]
async fn a_password_may_come_from_a_variable() {
    let database = Database::empty(Cluster::shared().await).await;
    let access = database.scaler().with_password("{env: DATABASE_PASSWORD}");
    let configuration = format!("databases:\n{}queries:\n  seven: {{sql: SELECT 7}}\n", access.yaml("claps"));
    let serving = Executable::serve(&configuration).variable("DATABASE_PASSWORD", SCALER_PASSWORD).serving().await;
    assert_eq!(Scaler::at(serving.grpc).value(&trigger("seven", &[])).await.unwrap(), 7.0);
}

#[tokio::test]
async fn a_wrong_password_file_is_right_two_seconds_after_it_was_mended() {
    let database = Database::empty(Cluster::shared().await).await;
    let mount = Mount::new();
    mount.swap(&[("password", "canary-wrong")]);
    let access = database.scaler().with_password(&format!("{{file: {}/password}}", mount.path().display()));
    let configuration = format!("databases:\n{}queries:\n  seven: {{sql: SELECT 7}}\n", access.yaml("claps"));
    let serving = Executable::serve(&configuration).serving().await;
    let scaler = Scaler::at(serving.grpc);
    scaler.refuses(&trigger("seven", &[]), tonic::Code::Unavailable, Duration::from_secs(10)).await;
    mount.swap(&[("password", SCALER_PASSWORD)]);
    scaler.reaches(&trigger("seven", &[]), 7.0, RECOVERY).await;
}
