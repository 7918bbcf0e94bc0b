//! The scaler's answers to KEDA during faults of its database, and the time until they are right again.
//!
//! Each fault is real. While it lasts a [`BackgroundPoller`] asks as KEDA does: every answer must be the true number or
//! an error, and `GetMetricSpec` must never fail.

mod background_poller;

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tonic::Code;

use self::background_poller::{
    BackgroundPoller, ROWS, logs_once, logs_one_outage, pending_claps, serve, serve_sixty_rows, sixty_rows,
};
use crate::support::{
    admin,
    cluster::{Cluster, Settings},
    database::Database,
    executable::Executable,
    fixture::{RECOVERY, SOON},
    grpc::{Scaler, trigger},
    proxy::{Mode, Proxy},
    wait,
};

/// The bound within which a fault must be noticed: two calls of 2.5 s, and more for a busy machine.
const NOTICE: Duration = Duration::from_secs(8);

#[tokio::test]
async fn a_database_that_is_down_at_start_is_unavailable_until_it_is_up() {
    let cluster = Cluster::with_settings(Settings::default().durable()).await;
    let database = sixty_rows(&cluster).await;
    cluster.stop().await;
    let fixture = serve(database.scaler()).await;
    fixture.scaler.refuses(&pending_claps(), Code::Unavailable, NOTICE).await;
    let poller = BackgroundPoller::start(&fixture);

    cluster.start().await;
    fixture.scaler.reaches(&pending_claps(), ROWS, RECOVERY).await;
    poller.saw_only(&[Code::Unavailable]).await;
    logs_one_outage(&fixture).await;
}

#[tokio::test]
async fn a_database_that_is_away_for_a_second_is_unavailable_and_then_right() {
    away_for(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn a_database_that_is_away_for_twenty_seconds_is_unavailable_and_then_right() {
    away_for(Duration::from_secs(20)).await;
}

async fn away_for(length: Duration) {
    let cluster = Cluster::with_settings(Settings::default().durable()).await;
    let (_database, fixture) = serve_sixty_rows(&cluster).await;
    let poller = BackgroundPoller::start(&fixture);

    cluster.stop().await;
    let gone = Instant::now();
    fixture.scaler.refuses(&pending_claps(), Code::Unavailable, NOTICE).await;
    tokio::time::sleep(length.saturating_sub(gone.elapsed())).await;
    cluster.start().await;

    fixture.scaler.reaches(&pending_claps(), ROWS, RECOVERY).await;
    poller.saw_only(&[Code::Unavailable, Code::DeadlineExceeded]).await;
    logs_one_outage(&fixture).await;
}

#[tokio::test]
async fn a_restart_is_over_when_the_database_is_back() {
    let cluster = Cluster::with_settings(Settings::default().durable()).await;
    let (_database, fixture) = serve_sixty_rows(&cluster).await;
    let poller = BackgroundPoller::start(&fixture);

    cluster.restart().await;
    fixture.scaler.reaches(&pending_claps(), ROWS, RECOVERY).await;
    poller.saw_only(&[Code::Unavailable, Code::DeadlineExceeded]).await;
}

#[tokio::test]
async fn a_postmaster_that_is_killed_is_an_outage_like_any_other() {
    let cluster = Cluster::with_settings(Settings::default().durable()).await;
    let (_database, fixture) = serve_sixty_rows(&cluster).await;
    let poller = BackgroundPoller::start(&fixture);

    cluster.kill().await;
    fixture.scaler.refuses(&pending_claps(), Code::Unavailable, NOTICE).await;
    cluster.start().await;
    fixture.scaler.reaches(&pending_claps(), ROWS, RECOVERY).await;
    poller.saw_only(&[Code::Unavailable, Code::DeadlineExceeded]).await;
    logs_one_outage(&fixture).await;
}

#[tokio::test]
async fn a_database_that_is_frozen_is_an_error_in_time_and_then_unavailable_at_once() {
    let cluster = Cluster::private().await;
    let (_database, fixture) = serve_sixty_rows(&cluster).await;
    let poller = BackgroundPoller::start(&fixture);

    cluster.freeze();
    fixture.scaler.refuses(&pending_claps(), Code::Unavailable, Duration::from_secs(15)).await;
    let breaker = ("clapometer_database_breaker_open", "database=\"claps\"");
    fixture.reaches_metric(breaker.0, breaker.1, 1.0, Duration::from_secs(15)).await;
    // From here on no call waits for the database: it gets no statement.
    let before = fixture.statements("pending-claps").await;
    assert_eq!(fixture.scaler.refusal(&pending_claps()).await.code(), Code::Unavailable);
    assert_eq!(fixture.statements("pending-claps").await, before);

    cluster.thaw();
    fixture.scaler.reaches(&pending_claps(), ROWS, RECOVERY).await;
    poller.saw_only(&[Code::DeadlineExceeded, Code::Unavailable]).await;
    logs_one_outage(&fixture).await;
}

#[tokio::test]
async fn a_locked_table_is_too_slow_while_another_query_answers() {
    let cluster = Cluster::private().await;
    let (database, fixture) = serve_sixty_rows(&cluster).await;
    let mut owner = database.connect().await;
    let lock = owner.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE make_it_clap IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let poller = BackgroundPoller::start(&fixture);

    fixture.scaler.refuses(&pending_claps(), Code::DeadlineExceeded, NOTICE).await;
    for _ in 0..5 {
        assert_eq!(fixture.scaler.value(&trigger("other", &[])).await.unwrap(), 7.0);
        assert_eq!(fixture.scaler.refusal(&pending_claps()).await.code(), Code::DeadlineExceeded);
    }

    lock.rollback().await.unwrap();
    fixture.scaler.reaches(&pending_claps(), ROWS, RECOVERY).await;
    poller.saw_only(&[Code::DeadlineExceeded]).await;
    logs_once(&fixture, "query fails", "query answers again").await;
    assert_eq!(fixture.logged("database fails"), 0, "one locked table is no outage");
}

#[tokio::test]
async fn a_server_without_free_connections_is_unavailable() {
    let settings = Settings::default().set("max_connections", 12).set("superuser_reserved_connections", 3);
    let cluster = Cluster::with_settings(settings).await;
    let database = sixty_rows(&cluster).await;
    let mut others = Vec::new();
    while let Ok((client, connection)) = database.owner().driver().connect(tokio_postgres::NoTls).await {
        tokio::spawn(connection);
        others.push(client);
    }
    let fixture = serve(database.scaler()).await;
    fixture.scaler.refuses(&pending_claps(), Code::Unavailable, NOTICE).await;
    let poller = BackgroundPoller::start(&fixture);

    others.clear();
    wait::first("the connections are free", Duration::from_secs(5), async || {
        let open = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'owner'";
        (database.value::<i64>(open).await == 0).then_some(())
    })
    .await;
    fixture.scaler.reaches(&pending_claps(), ROWS, RECOVERY).await;
    poller.saw_only(&[Code::Unavailable]).await;
    logs_one_outage(&fixture).await;
}

#[tokio::test]
async fn a_wrong_password_is_unavailable_until_it_is_right() {
    let cluster = Cluster::private().await;
    let database = sixty_rows(&cluster).await;
    let fixture = serve(database.scaler().with_password("canary-wrong-password")).await;
    fixture.scaler.refuses(&pending_claps(), Code::Unavailable, NOTICE).await;
    let poller = BackgroundPoller::start(&fixture);

    database.execute("ALTER ROLE scaler PASSWORD 'canary-wrong-password'").await;
    fixture.scaler.reaches(&pending_claps(), ROWS, RECOVERY).await;
    poller.saw_only(&[Code::Unavailable]).await;
    logs_one_outage(&fixture).await;
    assert!(!fixture.serving.process.errors().contains("canary"), "the password is in the log");
}

#[tokio::test]
async fn a_dropped_table_is_a_failed_precondition_with_its_sqlstate() {
    let cluster = Cluster::private().await;
    let (database, fixture) = serve_sixty_rows(&cluster).await;
    let poller = BackgroundPoller::start(&fixture);

    database.execute("ALTER TABLE make_it_clap RENAME TO elsewhere").await;
    fixture.scaler.refuses(&pending_claps(), Code::FailedPrecondition, NOTICE).await;
    let refusal = fixture.scaler.refusal(&pending_claps()).await;
    assert!(refusal.message().contains("42P01"), "{refusal:?}");

    database.execute("ALTER TABLE elsewhere RENAME TO make_it_clap").await;
    fixture.scaler.reaches(&pending_claps(), ROWS, RECOVERY).await;
    poller.saw_only(&[Code::FailedPrecondition]).await;
    logs_once(&fixture, "query fails", "query answers again").await;
    assert_eq!(fixture.logged("database fails"), 0, "a missing table is no outage");
}

#[tokio::test]
async fn row_level_security_is_an_error_and_not_a_zero() {
    let cluster = Cluster::private().await;
    let (database, fixture) = serve_sixty_rows(&cluster).await;
    database.execute("ALTER TABLE make_it_clap ENABLE ROW LEVEL SECURITY").await;
    let poller = BackgroundPoller::start(&fixture);
    fixture.scaler.refuses(&pending_claps(), Code::FailedPrecondition, NOTICE).await;
    let refusal = fixture.scaler.refusal(&pending_claps()).await;
    assert!(refusal.message().contains("42501"), "{refusal:?}");
    poller.saw_only(&[Code::FailedPrecondition]).await;
}

#[tokio::test]
async fn a_revoked_grant_is_an_error_and_not_a_zero() {
    let cluster = Cluster::private().await;
    let (database, fixture) = serve_sixty_rows(&cluster).await;
    database.execute("REVOKE SELECT ON make_it_clap FROM scaler").await;
    fixture.scaler.refuses(&pending_claps(), Code::FailedPrecondition, NOTICE).await;
    database.execute("GRANT SELECT ON make_it_clap TO scaler").await;
    fixture.scaler.reaches(&pending_claps(), ROWS, RECOVERY).await;
}

#[tokio::test]
async fn sessions_that_an_administrator_ends_are_replaced() {
    let cluster = Cluster::private().await;
    let (database, fixture) = serve_sixty_rows(&cluster).await;
    let poller = BackgroundPoller::start(&fixture);
    for _ in 0..5 {
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'scaler'";
        database.value::<i64>(end).await;
        fixture.scaler.reaches(&pending_claps(), ROWS, RECOVERY).await;
    }
    poller.saw_only(&[Code::Unavailable]).await;
}

#[tokio::test]
async fn a_session_that_ends_amid_its_statement_is_unavailable_and_its_statement_not_sent_again() {
    let cluster = Cluster::private().await;
    let (database, fixture) = serve_sixty_rows(&cluster).await;
    assert_eq!(fixture.scaler.value(&pending_claps()).await.unwrap(), ROWS);
    // The session has been used before, and is not idle.
    let endless = trigger("endless", &[]);
    let scaler = &fixture.scaler;
    let (refusal, ()) = tokio::join!(scaler.refusal(&endless), async {
        wait::first("the statement runs, and is ended", Duration::from_secs(2), async || {
            let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                       WHERE application_name = 'clapometer/endless' AND state = 'active'";
            (database.value::<i64>(end).await == 1).then_some(())
        })
        .await;
    });
    assert_eq!(refusal.code(), Code::Unavailable, "{refusal:?}");
    assert_eq!(fixture.scaler.value(&pending_claps()).await.unwrap(), ROWS);
}

#[tokio::test]
async fn a_session_that_has_died_without_a_word_is_replaced_within_the_call() {
    let cluster = Cluster::private().await;
    let database = sixty_rows(&cluster).await;
    // The statement's own limit must not be what ends the wait: it is long.
    let patient = "  patient: {sql: SELECT count(*) FROM make_it_clap, max_age: 0s, timeout: 60s}\n";
    let configuration =
        format!("databases:\n{}queries:\n{patient}", database.scaler().with("pool_size", 1).yaml("claps"));
    let serving = Executable::serve(&configuration).serving().await;
    let (scaler, patient) = (Scaler::at(serving.grpc), trigger("patient", &[]));
    assert_eq!(scaler.value(&patient).await.unwrap(), ROWS);
    let idle = "SELECT pid FROM pg_stat_activity WHERE usename = 'scaler' AND state = 'idle'";
    let backend = Pid::from_raw(database.value::<i32>(idle).await).unwrap();

    rustix::process::kill_process(backend, Signal::STOP).unwrap();
    assert_eq!(scaler.value(&patient).await.unwrap(), ROWS);
    assert_eq!(admin::metric(serving.admin, "clapometer_database_failures_total").await, 0.0);
    rustix::process::kill_process(backend, Signal::CONT).unwrap();
}

#[tokio::test]
async fn a_sqlstate_of_a_shutdown_that_a_function_raises_is_no_outage() {
    let cluster = Cluster::private().await;
    let database = sixty_rows(&cluster).await;
    database
        .execute(
            "CREATE FUNCTION raise() RETURNS int LANGUAGE plpgsql AS
             $$BEGIN RAISE EXCEPTION 'of another server' USING ERRCODE = '57P03'; END$$",
        )
        .await;
    let queries = "  raises: {sql: SELECT raise()}\n  other: {sql: SELECT 7}\n";
    let configuration = format!("databases:\n{}queries:\n{queries}", database.scaler().yaml("claps"));
    let serving = Executable::serve(&configuration).serving().await;
    let scaler = Scaler::at(serving.grpc);
    for _ in 0..4 {
        assert_eq!(scaler.refusal(&trigger("raises", &[])).await.code(), Code::Unavailable);
    }
    assert_eq!(scaler.value(&trigger("other", &[])).await.unwrap(), 7.0);
    assert_eq!(admin::metric(serving.admin, "clapometer_database_failures_total").await, 0.0);
}

#[tokio::test]
async fn a_statement_that_is_too_slow_is_cancelled_on_the_server() {
    let cluster = Cluster::private().await;
    let (database, fixture) = serve_sixty_rows(&cluster).await;
    for _ in 0..3 {
        assert_eq!(fixture.scaler.refusal(&trigger("endless", &[])).await.code(), Code::DeadlineExceeded);
    }
    wait::first("no statement is left on the server", Duration::from_secs(20), async || {
        let busy = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'scaler' AND state = 'active'";
        (database.value::<i64>(busy).await == 0).then_some(())
    })
    .await;
    assert_eq!(fixture.scaler.value(&pending_claps()).await.unwrap(), ROWS);
}

#[tokio::test]
async fn every_way_a_network_breaks_is_an_error_in_time_and_heals() {
    let cluster = Cluster::private().await;
    let database = sixty_rows(&cluster).await;
    let proxy = Proxy::to_cluster(&cluster).await;
    let fixture = serve(database.scaler().by_way_of(proxy.address())).await;
    fixture.scaler.reaches(&pending_claps(), ROWS, NOTICE).await;
    let poller = BackgroundPoller::start(&fixture);
    for mode in [
        Mode::Blackhole,
        Mode::Reset,
        Mode::Close,
        Mode::Truncate(60),
        // There and back it outlasts a call's deadline, in however many chunks an answer comes.
        Mode::Slow(Duration::from_millis(1_300)),
    ] {
        proxy.set(mode);
        wait::first(&format!("{mode:?} is noticed"), Duration::from_secs(20), async || {
            fixture.scaler.value(&pending_claps()).await.err()
        })
        .await;
        proxy.set(Mode::Pass);
        fixture.scaler.reaches(&pending_claps(), ROWS, RECOVERY).await;
    }
    poller.saw_only(&[Code::DeadlineExceeded, Code::Unavailable]).await;
    wait::eventually("the log has the end of each outage", SOON, || {
        fixture.logged("database answers again") == fixture.logged("database fails")
    })
    .await;
}

#[tokio::test]
async fn a_database_that_its_administrator_has_disabled_is_not_asked() {
    let cluster = Cluster::with_settings(Settings::default().set("log_connections", "on")).await;
    let database = sixty_rows(&cluster).await;
    let fixture = serve(database.scaler().with("enabled", false)).await;
    for _ in 0..3 {
        assert_eq!(fixture.scaler.refusal(&pending_claps()).await.code(), Code::Unavailable);
    }
    assert!(!cluster.log().contains("user=scaler"), "a disabled database was connected to");
}

#[tokio::test]
async fn one_database_in_trouble_leaves_the_other_alone() {
    let (broken, sound) = (Cluster::private().await, Cluster::shared().await);
    let (database_away, database_here) = (Database::empty(&broken).await, Database::empty(sound).await);
    let configuration = format!(
        "databases:\n{}{}queries:\n  away: {{database: away, sql: SELECT 1}}\n  here: {{database: here, sql: SELECT 2}}\n",
        database_away.scaler().yaml("away"),
        database_here.scaler().yaml("here"),
    );
    let serving = Executable::serve(&configuration).serving().await;
    let scaler = Scaler::at(serving.grpc);
    let (away, here) = (trigger("away", &[]), trigger("here", &[]));
    // A backend that the server is just starting would not be frozen with it.
    wait::first("its first session", Duration::from_secs(5), async || {
        let is_up = admin::metric(serving.admin, "clapometer_database_up{database=\"away\"}").await;
        (is_up == 1.0).then_some(())
    })
    .await;
    broken.freeze();
    for _ in 0..4 {
        let (refusal, value) = tokio::join!(scaler.value(&away), scaler.value(&here));
        assert!(refusal.is_err());
        assert_eq!(value.unwrap(), 2.0);
    }
}

#[tokio::test]
async fn the_process_survives_everything_and_ends_on_sigterm_with_the_database_frozen() {
    let cluster = Cluster::private().await;
    let (_database, fixture) = serve_sixty_rows(&cluster).await;
    cluster.freeze();
    fixture.scaler.refuses(&pending_claps(), Code::Unavailable, Duration::from_secs(15)).await;
    let process = fixture.serving.process;
    process.signal(Signal::TERM);
    let ended = process.finish(Duration::from_secs(10)).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.errors);
}
