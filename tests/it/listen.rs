//! LISTEN: when it is in use, the effect of a notification, and the recovery from a lost connection.

mod elsewhere;

use std::{
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use rustix::process::Signal;
use tokio_postgres::Client;

use crate::support::{
    cluster::{Cluster, Settings},
    database::{Database, connect},
    fixture::{Fixture, NOTIFIED, REREADS, SOON, add, configuration, jobs, jobs_trigger, named},
    grpc::trigger,
    processes,
    proxy::{Mode, Proxy},
    wait,
};

/// The time for which a test polls. A reading whose age counts is taken many times meanwhile.
const A_WHILE: Duration = Duration::from_millis(700);

const TOLD_DEAF: &str = "notifications do not arrive; readings are polled until they do";

/// A query with so short a `max_age` that each poll without LISTEN would be a statement.
const EAGER: &str = "
  jobs: {sql: SELECT count(*) FROM jobs, max_age: 1ms, notify: {channel: jobs, resync: 1m}}
";

/// A statement of 20 ms.
const SLOW: &str = "
  jobs: {sql: \"SELECT (SELECT count(*) FROM jobs) FROM pg_sleep(0.02)\", notify: {channel: jobs, resync: 1m}}
";

async fn notify(client: &Client) {
    client.batch_execute("NOTIFY jobs").await.unwrap();
}

/// Polls for [`A_WHILE`], and often on a slow machine, too.
async fn poll(fixture: &Fixture) {
    let (start, mut calls) = (Instant::now(), 0);
    while start.elapsed() < A_WHILE || calls < 20 {
        fixture.scaler.value(&jobs_trigger()).await.unwrap();
        calls += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn while_notifications_arrive_polls_cost_nothing_and_see_each_commit_at_once() {
    let database = jobs(Cluster::shared().await).await;
    let client = database.connect().await;
    let fixture = Fixture::with(&database.scaler(), EAGER).await;
    fixture.listens().await;
    assert_eq!(fixture.scaler.value(&jobs_trigger()).await.unwrap(), 0.0);
    let before = fixture.statements("jobs").await;
    poll(&fixture).await;
    assert_eq!(fixture.statements("jobs").await, before);
    add(&client).await;
    fixture.scaler.reaches(&jobs_trigger(), 1.0, Duration::from_secs(1)).await;
}

#[tokio::test]
async fn a_notification_is_a_statement_at_once_one_after_a_tenth_of_a_second_and_one_after_a_second() {
    let database = jobs(Cluster::shared().await).await;
    let client = database.connect().await;
    let fixture = Fixture::listening(&database.scaler()).await;
    let follower = fixture.follow(&jobs_trigger()).await;
    follower.says(&[false], SOON).await;
    let before = fixture.statements("jobs").await;
    notify(&client).await;
    // Nobody else asks, and after the third statement there must be no other. A machine that stands still for a tenth
    // of a second makes one of the first two.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let sent = fixture.statements("jobs").await - before;
    assert!((2.0..=3.0).contains(&sent), "{sent} statements");
}

#[tokio::test]
async fn a_burst_of_notifications_is_a_few_statements() {
    let database = jobs(Cluster::shared().await).await;
    let client = database.connect().await;
    let fixture = Fixture::with(&database.scaler(), SLOW).await;
    fixture.listens().await;
    let follower = fixture.follow(&jobs_trigger()).await;
    follower.says(&[false], SOON).await;
    let before = fixture.statements("jobs").await;
    let start = Instant::now();
    for _ in 0..200 {
        notify(&client).await;
    }
    // It lasts until the scaler has heard the last of them.
    fixture.reaches_metric("clapometer_notifications_total", "database=\"claps\"", 200.0, SOON).await;
    let burst = start.elapsed().as_secs_f64();
    // Nothing is notified any more: what is counted below must be complete.
    tokio::time::sleep(REREADS).await;
    let sent = fixture.statements("jobs").await - before;
    // While it lasts a statement of 20 ms and a rest of 20 ms, over and over; then one to follow and two echoes.
    assert!((3.0..=burst / 0.04 + 5.0).contains(&sent), "{sent} statements for a burst of {burst} s");
}

#[tokio::test]
async fn a_row_that_becomes_visible_a_little_after_its_notification_is_seen_by_an_echo() {
    let database = jobs(Cluster::shared().await).await;
    database.execute("ALTER TABLE jobs DISABLE TRIGGER tell").await;
    let client = database.connect().await;
    let fixture = Fixture::listening(&database.scaler()).await;
    let follower = fixture.follow(&jobs_trigger()).await;
    follower.says(&[false], SOON).await;
    let (mut rows, mut is_in_time) = (0.0, false);
    while !is_in_time {
        assert!(rows < 20.0, "no row was there before the last statement");
        let before = fixture.statements("jobs").await;
        let notified = Instant::now();
        notify(&client).await;
        // The row comes after the first statement, and is left to one of the two that follow. If it comes after all of
        // them, it is left to another notification.
        wait::first("the notification is followed by statements", SOON, async || {
            (fixture.statements("jobs").await >= before + 1.0).then_some(())
        })
        .await;
        add(&client).await;
        rows += 1.0;
        is_in_time = notified.elapsed() < Duration::from_millis(900);
    }
    follower.says(&[false, true], SOON).await;
    fixture.scaler.reaches(&jobs_trigger(), rows, SOON).await;
}

#[tokio::test]
async fn what_no_notification_told_is_seen_within_resync() {
    let database = jobs(Cluster::shared().await).await;
    database.execute("ALTER TABLE jobs DISABLE TRIGGER tell").await;
    let client = database.connect().await;
    let resync = "\n  jobs: {sql: SELECT count(*) FROM jobs, max_age: 1m, notify: {channel: jobs, resync: 2s}}\n";
    let fixture = Fixture::with(&database.scaler(), resync).await;
    fixture.listens().await;
    let follower = fixture.follow(&jobs_trigger()).await;
    follower.says(&[false], SOON).await;
    add(&client).await;
    follower.says(&[false, true], Duration::from_secs(8)).await;
}

/// A trigger that is active once two jobs were seen.
fn two_jobs_trigger() -> clapometer::proto::ScaledObjectRef {
    trigger("jobs", &[("activationTargetQueryValue", "1")])
}

#[tokio::test]
async fn kill_9_of_the_listening_backend_between_two_inserts_loses_nothing() {
    // The kill ends every session: a commit that had not reached the disk would be lost, too.
    let cluster = Cluster::with_settings(Settings::default().durable()).await;
    let database = jobs(&cluster).await;
    let client = database.connect().await;
    let fixture = Fixture::listening(&database.scaler()).await;
    let follower = fixture.follow(&two_jobs_trigger()).await;
    follower.says(&[false], SOON).await;
    add(&client).await;
    let pid: i32 =
        database.value("SELECT pid FROM pg_stat_activity WHERE application_name = 'clapometer/listen'").await;
    processes::signal(rustix::process::Pid::from_raw(pid).unwrap(), Signal::KILL);
    // Every session ends with it; the first that gets in again is ours, before the scaler hears again. One that gets in
    // before the server has noticed may lose the answer to its commit, which must not make two rows.
    let client = wait::first("PostgreSQL has recovered", Duration::from_secs(20), async || {
        let (client, connection) = cluster.superuser(database.name()).connect(tokio_postgres::NoTls).await.ok()?;
        tokio::spawn(connection);
        client.batch_execute("INSERT INTO jobs (id) VALUES (2) ON CONFLICT DO NOTHING").await.ok()?;
        Some(client)
    })
    .await;
    follower.says(&[false, true], Duration::from_secs(5)).await;
    assert_eq!(fixture.scaler.value(&jobs_trigger()).await.unwrap(), 2.0);
    assert!(follower.is_open());
    drop(client);
}

#[tokio::test]
async fn what_was_committed_while_listen_was_away_is_seen_when_it_returns() {
    let cluster = Cluster::shared().await;
    let database = jobs(cluster).await;
    let client = database.connect().await;
    let proxy = Proxy::to_cluster(cluster).await;
    let access = listening_by(&database, proxy.address());
    let fixture = Fixture::listening(&access).await;
    let follower = fixture.follow(&jobs_trigger()).await;
    follower.says(&[false], SOON).await;

    proxy.set(Mode::Reset);
    let lost = Instant::now();
    fixture.reaches_metric("clapometer_listen_up", "database=\"claps\"", 0.0, SOON).await;
    // The row must come after the statements that the loss has caused, and must not be seen.
    tokio::time::sleep(REREADS + Duration::from_secs(2)).await;
    add(&client).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(follower.states(), [false], "somebody told of it");
    wait::eventually("further attempts", SOON, || proxy.accepted() > 2).await;
    // No pause is shorter than a fifth of a second.
    let most = 3.0 + lost.elapsed().as_secs_f64() / 0.2;
    let attempts = u32::try_from(proxy.accepted()).unwrap();
    assert!(f64::from(attempts) <= most, "{attempts} connections, {most} at most");

    proxy.set(Mode::Pass);
    // By now the next attempt may be some seconds away.
    follower.says(&[false, true], SOON * 4).await;
    fixture.logs("notifications arrive again", 1).await;
    fixture.logs(TOLD_DEAF, 1).await;
}

#[tokio::test]
async fn a_loss_that_nobody_noticed_at_first_marks_everything() {
    let cluster = Cluster::shared().await;
    let database = jobs(cluster).await;
    let client = database.connect().await;
    let fixture = Fixture::listening(&database.scaler()).await;
    let follower = fixture.follow(&jobs_trigger()).await;
    follower.says(&[false], SOON).await;
    // All of it is one message, so that the notification has no listener.
    let end_and_insert = "
        DO $$ BEGIN
            PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE application_name = 'clapometer/listen' AND datname = current_database();
            WHILE EXISTS (SELECT FROM pg_stat_activity
                          WHERE application_name = 'clapometer/listen' AND datname = current_database()) LOOP
                PERFORM pg_sleep(0.01), pg_stat_clear_snapshot();
            END LOOP;
        END $$;
        INSERT INTO jobs DEFAULT VALUES";
    client.batch_execute(end_and_insert).await.unwrap();
    follower.says(&[false, true], SOON).await;
}

#[tokio::test]
async fn a_connection_that_falls_silent_is_given_up_and_max_age_rules() {
    let cluster = Cluster::shared().await;
    let database = jobs(cluster).await;
    let proxy = Proxy::to_cluster(cluster).await;
    let fixture = Fixture::with(&listening_by(&database, proxy.address()), EAGER).await;
    fixture.listens().await;
    proxy.set(Mode::Blackhole);
    fixture.reaches_metric("clapometer_listen_up", "database=\"claps\"", 0.0, Duration::from_secs(12)).await;
    let before = fixture.statements("jobs").await;
    poll(&fixture).await;
    assert!(fixture.statements("jobs").await - before > 5.0, "a deaf scaler must poll");
}

/// The database, but LISTEN by way of a proxy.
fn listening_by(database: &Database<'_>, proxy: SocketAddr) -> crate::support::database::Access {
    database.scaler().with("listen_host", proxy.ip()).with("listen_port", proxy.port())
}

#[tokio::test]
async fn a_standby_says_once_that_it_cannot_listen_and_is_polled() {
    let cluster = Cluster::private().await;
    let database = jobs(&cluster).await;
    add(&database.connect().await).await;
    cluster.stop().await;
    fs::write(cluster.socket_directory().join("data/standby.signal"), "").unwrap();
    cluster.start().await;
    let fixture = Fixture::with(&database.scaler(), EAGER).await;
    let mut process = fixture.serving.process;
    let line = process.logged("that it cannot listen", SOON, |line| line["message"] == TOLD_DEAF).await;
    assert!(line["error"].as_str().unwrap().contains("during recovery"), "{line}");
    assert_eq!(fixture.scaler.value(&jobs_trigger()).await.unwrap(), 1.0);
    let refusals = || cluster.log().matches("cannot execute LISTEN during recovery").count();
    wait::eventually("three attempts", Duration::from_secs(20), || refusals() >= 3).await;
    assert_eq!(process.log().iter().filter(|line| line["level"] == "WARN" && line["database"] == "claps").count(), 1);
}

#[tokio::test]
async fn a_channel_that_a_reload_removes_is_left_and_one_that_it_adds_is_heard() {
    let database = jobs(Cluster::shared().await).await;
    let client = database.connect().await;
    let without = "\n  jobs: {sql: SELECT count(*) FROM jobs, max_age: 1m}\n";
    let fixture = Fixture::with(&database.scaler(), without).await;
    assert_eq!(listeners(&database).await, 0);
    fixture.reload(&configuration(&database.scaler(), NOTIFIED)).await;
    fixture.listens().await;
    let follower = fixture.follow(&jobs_trigger()).await;
    follower.says(&[false], SOON).await;
    add(&client).await;
    follower.says(&[false, true], SOON).await;
    fixture.reload(&configuration(&database.scaler(), without)).await;
    wait::first("the connection is closed", SOON * 6, async || (listeners(&database).await == 0).then_some(())).await;
}

async fn listeners(database: &Database<'_>) -> i64 {
    database
        .value(
            "SELECT count(*) FROM pg_stat_activity \
             WHERE application_name = 'clapometer/listen' AND datname = current_database()",
        )
        .await
}

/// A DBA's limit for sessions that are idle, shorter than the pause between two heartbeats.
#[tokio::test]
async fn a_limit_for_idle_sessions_ends_neither_listening_nor_answers() {
    let cluster = Cluster::private().await;
    let database = jobs(&cluster).await;
    let superuser = connect(&cluster.superuser(database.name())).await;
    // PostgreSQL has this limit since version 14.
    if database.value::<i32>("SELECT current_setting('server_version_num')::int4").await < 140_000 {
        return;
    }
    superuser.batch_execute("ALTER ROLE scaler SET idle_session_timeout = '2s'").await.unwrap();
    let fixture = Fixture::listening(&database.scaler()).await;
    let listener = "SELECT pid FROM pg_stat_activity
                    WHERE application_name = 'clapometer/listen' AND datname = current_database()";
    let pid = database.value::<i32>(listener).await;
    let client = database.connect().await;
    for rows in 1..=2 {
        // The pool's session is closed by then.
        let idle =
            "SELECT count(*) FROM pg_stat_activity WHERE usename = 'scaler' AND application_name = 'clapometer/listen'
                    AND state_change < now() - interval '3 s'";
        wait::first("the session that listens is idle for three seconds", SOON * 12, async || {
            (database.value::<i64>(idle).await == 1).then_some(())
        })
        .await;
        add(&client).await;
        fixture.scaler.reaches(&jobs_trigger(), f64::from(rows), SOON).await;
    }
    assert_eq!(database.value::<i32>(listener).await, pid, "the session that listens was ended");
}

#[tokio::test]
async fn a_change_by_the_clock_is_read_when_it_comes_and_no_oftener_than_once_a_second() {
    let database = jobs(Cluster::shared().await).await;
    database.execute("CREATE TABLE due (at timestamptz NOT NULL); GRANT SELECT ON due TO scaler").await;
    let next_change = "
  due:
    sql: SELECT count(*) FILTER (WHERE at <= now()) AS due, min(at) FILTER (WHERE at > now()) AS next FROM due
    value_column: due
    next_change: next
    max_age: 1m
  overdue: {sql: \"SELECT 0 AS n, now() - interval '1h' AS next\", value_column: n, next_change: next, max_age: 1m}
  none: {sql: \"SELECT 0 AS n, NULL::timestamptz AS next\", value_column: n, next_change: next, max_age: 1m}
";
    let fixture = Fixture::with(&database.scaler(), next_change).await;
    let start = Instant::now();
    database.execute("INSERT INTO due VALUES (now() + interval '10 s')").await;
    let due = trigger("due", &[]);
    let follower = fixture.follow(&due).await;
    let watched = fixture.follow(&trigger("overdue", &[])).await;
    let unchanging = fixture.follow(&trigger("none", &[])).await;
    for stream in [&follower, &watched, &unchanging] {
        stream.says(&[false], SOON).await;
    }
    follower.says(&[false, true], SOON * 6).await;
    let seen = follower.heard()[1].0 - start;
    assert!(seen >= Duration::from_millis(9_500), "seen after {seen:?}");
    assert!(fixture.statements("due").await <= 4.0, "it was polled");
    let overdue = fixture.statements("overdue").await;
    let seconds = start.elapsed().as_secs_f64();
    assert!(overdue >= 2.0 && overdue <= seconds + 1.0, "{overdue} statements in {seconds} s");
    assert_eq!(fixture.statements("none").await, 1.0);
}

#[tokio::test]
async fn fifty_thousand_notifications_a_second_take_no_memory_and_one_statement_at_a_time() {
    let cluster = Cluster::private().await;
    let database = jobs(&cluster).await;
    let fixture = Fixture::with(&database.scaler(), SLOW).await;
    fixture.listens().await;
    let follower = fixture.follow(&jobs_trigger()).await;
    follower.says(&[false], SOON).await;
    let observer = database.connect().await;
    let memory = || fixture.serving.process.memory("VmRSS");
    // Distinct, or PostgreSQL would send one for all.
    let storm = "DO $$BEGIN FOR i IN 1..25000 LOOP PERFORM pg_notify('jobs', i::text); END LOOP; END$$";
    let sender = database.connect().await;
    sender.batch_execute(storm).await.unwrap();
    let hears = async |count| {
        let metric = "clapometer_notifications_total";
        fixture.reaches_metric(metric, "database=\"claps\"", count, Duration::from_secs(20)).await;
    };
    hears(25_000.0).await;
    let (before, statements) = (memory(), fixture.statements("jobs").await);
    let start = Instant::now();
    let sending = tokio::spawn(async move {
        for _ in 0..6 {
            sender.batch_execute(storm).await.unwrap();
        }
    });
    let mut most_at_once = 0;
    while !sending.is_finished() {
        let at_once =
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'clapometer/jobs' AND state = 'active'";
        most_at_once = most_at_once.max(observer.query_one(at_once, &[]).await.unwrap().get::<_, i64>(0));
    }
    hears(175_000.0).await;
    let sent = fixture.statements("jobs").await - statements;
    let seconds = start.elapsed().as_secs_f64();
    // Half the time at most is spent in statements of 20 ms.
    assert!(most_at_once <= 1, "{most_at_once} statements at once");
    assert!(sent <= seconds / 0.04 + 10.0, "{sent} statements in {seconds} s");
    let grown = memory().saturating_sub(before);
    assert!(grown < 4 * 1024 * 1024, "{grown} bytes more");
    // And it still hears.
    add(&observer).await;
    follower.says(&[false, true], SOON).await;
}

/// Each trigger is asked each quarter of a second, and a resync is two: a quarter of the true proportions.
#[tokio::test]
async fn a_thousand_triggers_cost_one_statement_per_gauge_and_resync_while_nothing_changes() {
    let settings = Settings::default().set("shared_preload_libraries", "pg_stat_statements");
    let cluster = Cluster::with_settings(settings).await;
    let database = jobs(&cluster).await;
    database.execute("CREATE EXTENSION pg_stat_statements").await;
    let queries = "
  jobs:
    sql: SELECT count(*) FROM jobs WHERE queue = $1
    parameters: {queue: text}
    max_age: 1ms
    notify: {channel: jobs, resync: 2s}
";
    // A debug build on a busy machine is slow to connect while a thousand calls come in.
    let fixture = Fixture::with(&database.scaler().with("connect_timeout", "5s"), queries).await;
    let gauges = 10;
    let triggers: Vec<_> = (0..1_000)
        .map(|number| named(&trigger("jobs", &[("param.queue", &format!("q{}", number % gauges))]), number))
        .collect();
    let ask_all = async || {
        // A hundred at a time: each answer has a deadline, by which a busy machine may not have served a thousand.
        let asked = stream::iter(&triggers).map(|trigger| fixture.scaler.value(trigger));
        let answers: Vec<_> = asked.buffer_unordered(100).collect().await;
        assert!(answers.into_iter().all(|answer| answer.unwrap() == 0.0));
    };
    fixture.listens().await;
    ask_all().await;
    let calls = "SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements WHERE query LIKE '%FROM jobs%float8%' OR query LIKE '%float8%FROM jobs%'";
    let before: i64 = database.value(calls).await;
    assert!(before > 0, "the statement is not among those that are counted");
    let start = Instant::now();
    let mut rounds = 0;
    while rounds < 4 || start.elapsed() < Duration::from_secs(4) {
        ask_all().await;
        rounds += 1;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let calls = database.value::<i64>(calls).await - before;
    let resyncs = i64::try_from(start.elapsed().as_secs() / 2).unwrap() + 1;
    assert!(calls <= gauges * resyncs, "{calls} statements in {rounds} rounds");
    assert!(calls >= gauges, "{calls} statements: what no notification told would never be seen");
}
