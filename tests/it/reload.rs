//! Reload by content and by SIGHUP: no call fails, what did not change stays, a bad file is logged once.

use std::{fs, os::unix::fs::symlink, path::Path, time::Duration};

use futures_util::future::join_all;
use rustix::process::Signal;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::{
    scaler_lifecycle::health,
    support::{
        certificates::Certificates,
        cluster::Cluster,
        database::Database,
        executable::Executable,
        fixture::{Fixture, SOON, configuration, jobs, jobs_trigger, named, write},
        grpc::trigger,
        wait,
    },
};

const REJECTED: &str = "configuration not reloaded; the last good one stays in force";

/// The bound within which a change of a file must be noticed.
const NOTICED: Duration = Duration::from_secs(6);

/// A constant under a name.
fn constant(name: &str, value: u32) -> String {
    format!("\n  {name}: {{sql: SELECT {value}, max_age: 1h}}\n")
}

#[tokio::test]
async fn a_reload_under_load_fails_no_call() {
    let database = Database::empty(Cluster::shared().await).await;
    let queries = |value| format!("\n  steady: {{sql: SELECT 7}}\n  changing: {{sql: SELECT {value}, max_age: 1ms}}\n");
    let fixture = Fixture::with(&database.scaler(), &queries(0)).await;
    let stop = std::sync::atomic::AtomicBool::new(false);
    let callers = join_all((0..8).map(|caller| {
        let (fixture, stop) = (&fixture, &stop);
        async move {
            let (steady, changing) = (named(&trigger("steady", &[]), caller), named(&trigger("changing", &[]), caller));
            let mut calls = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                assert_eq!(fixture.scaler.value(&steady).await.unwrap(), 7.0);
                fixture.scaler.value(&changing).await.unwrap();
                fixture.scaler.spec(&changing).await.unwrap();
                fixture.scaler.active(&changing).await.unwrap();
                calls += 4;
            }
            calls
        }
    }));
    let reloads = async {
        for value in 1..=10 {
            // A change of the database, too, which replaces its pool.
            let access = database.scaler().with("lock_timeout", format!("{}ms", 400 + value % 2));
            let access = access.with("connect_timeout", "2s");
            fixture.reload(&configuration(&access, &queries(value))).await;
            fixture.scaler.reaches(&trigger("changing", &[]), f64::from(value), SOON).await;
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    let (calls, ()) = tokio::join!(callers, reloads);
    assert!(calls.iter().sum::<u32>() > 80, "too few calls to tell: {calls:?}");
    // It was started with addresses on the command line, which the file does not have.
    let log = fixture.serving.process.errors();
    assert!(!log.contains("at the next start"), "nothing here waits for the next start: {log}");
}

#[tokio::test]
async fn what_did_not_change_keeps_its_reading_and_its_stream_and_what_went_ends_with_ok() {
    let database = Database::empty(Cluster::shared().await).await;
    let first = constant("kept", 1) + &constant("changed", 0) + &constant("removed", 1);
    let fixture = Fixture::with(&database.scaler(), &first).await;
    let triggers = ["kept", "changed", "removed"].map(|name| trigger(name, &[]));
    let mut streams = Vec::new();
    for (trigger, state) in triggers.iter().zip([true, false, true]) {
        let stream = fixture.follow(trigger).await;
        stream.says(&[state], SOON).await;
        streams.push(stream);
    }
    let before = fixture.statements("kept").await;
    fixture.reload(&configuration(&database.scaler(), &(constant("kept", 1) + &constant("changed", 5)))).await;

    let removed = streams.pop().unwrap();
    removed.ends(SOON).await.unwrap();
    assert!(fixture.scaler.activity(&triggers[2]).await.is_ok(), "opened again, it waits for its query");
    assert_eq!(fixture.scaler.refusal(&triggers[2]).await.code(), Code::PermissionDenied);
    assert_eq!(fixture.metric("clapometer_query_value", "query=\"removed\"").await, None);

    streams[1].says(&[false, true], SOON).await;
    assert_eq!(fixture.scaler.value(&triggers[1]).await.unwrap(), 5.0);

    assert_eq!(fixture.scaler.value(&triggers[0]).await.unwrap(), 1.0);
    assert_eq!(fixture.statements("kept").await, before, "its reading was thrown away");
    assert_eq!(streams[0].states(), [true]);
    assert!(streams.iter().all(|stream| stream.is_open()));
}

#[tokio::test]
async fn a_threshold_that_changes_is_followed_by_open_streams() {
    let database = Database::empty(Cluster::shared().await).await;
    let with = |activation: u32| {
        configuration(
            &database.scaler(),
            &format!("\n  jobs: {{sql: SELECT 5, max_age: 1h, activation: {activation}}}\n"),
        )
    };
    let fixture = Fixture::configured(&with(0)).await;
    let stream = fixture.follow(&jobs_trigger()).await;
    stream.says(&[true], SOON).await;
    fixture.reload(&with(5)).await;
    stream.says(&[true, false], SOON).await;
}

#[tokio::test]
async fn a_bad_file_is_told_once_the_last_good_one_stays_and_a_later_good_one_recovers() {
    let database = Database::empty(Cluster::shared().await).await;
    let fixture = Fixture::with(&database.scaler(), &constant("jobs", 1)).await;
    fixture.write("queries: {jobs: {sqll: SELECT 2}}\n");
    wait::eventually("the bad file is told", NOTICED, || fixture.logged(REJECTED) > 0).await;
    fixture.reaches_metric("clapometer_config_valid", "", 0.0, SOON).await;
    assert_eq!(fixture.scaler.value(&jobs_trigger()).await.unwrap(), 1.0);
    // Two more looks at the file, which nothing shows: what was logged must not be logged again.
    tokio::time::sleep(Duration::from_millis(4_500)).await;
    assert_eq!(fixture.logged(REJECTED), 1);
    assert_eq!(fixture.metric("clapometer_config_reloads_total", "result=\"rejected\"").await, Some(1.0));
    let log = fixture.serving.process.log();
    let line = log.iter().find(|line| line["message"] == REJECTED).unwrap();
    assert!(line["problem"].as_str().unwrap().contains("sqll"), "it does not say what is wrong: {line}");

    fixture.write(&configuration(&database.scaler(), &constant("jobs", 2)));
    fixture.reaches_metric("clapometer_config_valid", "", 1.0, NOTICED).await;
    assert_eq!(fixture.scaler.value(&jobs_trigger()).await.unwrap(), 2.0);
}

#[tokio::test]
async fn a_file_that_is_gone_and_comes_back_is_no_end() {
    let database = Database::empty(Cluster::shared().await).await;
    let fixture = Fixture::with(&database.scaler(), &constant("jobs", 1)).await;
    let file = fixture.serving.process.directory().join("clapometer.yaml");
    fs::remove_file(&file).unwrap();
    fixture.serving.process.signal(Signal::HUP);
    fixture.reaches_metric("clapometer_config_valid", "", 0.0, SOON).await;
    assert_eq!(fixture.scaler.value(&jobs_trigger()).await.unwrap(), 1.0);
    fixture.write(&configuration(&database.scaler(), &constant("jobs", 2)));
    fixture.reaches_metric("clapometer_config_valid", "", 1.0, NOTICED).await;
    assert_eq!(fixture.scaler.value(&jobs_trigger()).await.unwrap(), 2.0);
}

#[tokio::test]
async fn a_config_map_that_kubernetes_swaps_is_noticed_without_a_signal() {
    let database = Database::empty(Cluster::shared().await).await;
    let executable = Executable::clapometer([
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
        "--config",
        "mounted/clapometer.yaml",
    ]);
    let mounted = executable.directory().join("mounted");
    fs::create_dir(&mounted).unwrap();
    swap(&mounted, "..first", &configuration(&database.scaler(), &constant("jobs", 1)));
    symlink("..data/clapometer.yaml", mounted.join("clapometer.yaml")).unwrap();
    let fixture = Fixture::start(executable).await;
    assert_eq!(fixture.scaler.value(&jobs_trigger()).await.unwrap(), 1.0);
    swap(&mounted, "..second", &configuration(&database.scaler(), &constant("jobs", 2)));
    fixture.scaler.reaches(&jobs_trigger(), 2.0, NOTICED).await;
}

#[tokio::test]
async fn an_outage_that_a_reload_ends_has_its_end_in_the_log() {
    let database = Database::empty(Cluster::shared().await).await;
    let mut wrong = database.scaler();
    wrong.port = 1;
    let fixture = Fixture::with(&wrong, &constant("jobs", 1)).await;
    fixture.logs("database fails", 1).await;
    fixture.reload(&configuration(&database.scaler(), &constant("jobs", 1))).await;
    fixture.scaler.reaches(&jobs_trigger(), 1.0, SOON).await;
    fixture.logs("database answers again", 1).await;
}

/// Writes a new version of a mounted ConfigMap, and swaps the link `..data` to it, as kubelet does.
fn swap(mounted: &Path, version: &str, content: &str) {
    fs::create_dir(mounted.join(version)).unwrap();
    fs::write(mounted.join(version).join("clapometer.yaml"), content).unwrap();
    symlink(version, mounted.join("..data_tmp")).unwrap();
    fs::rename(mounted.join("..data_tmp"), mounted.join("..data")).unwrap();
}

#[tokio::test]
async fn sighup_reloads_at_once() {
    let database = Database::empty(Cluster::shared().await).await;
    let fixture = Fixture::with(&database.scaler(), &constant("jobs", 1)).await;
    fixture.write(&configuration(&database.scaler(), &constant("jobs", 2)));
    fixture.serving.process.signal(Signal::HUP);
    fixture.scaler.reaches(&jobs_trigger(), 2.0, Duration::from_millis(1_500)).await;
    let applied = async || fixture.metric("clapometer_config_reloads_total", "result=\"applied\"").await;
    // It is counted after it is in force; a look at the file that was due at the same moment is one more.
    let before = wait::first("it is counted", SOON, async || applied().await.filter(|count| *count >= 1.0)).await;
    fixture.serving.process.signal(Signal::HUP);
    wait::first("it reloads again", SOON, async || applied().await.filter(|count| *count > before)).await;
}

#[tokio::test]
async fn a_password_file_is_read_again_and_old_connections_are_not_cut() {
    let cluster = Cluster::private().await;
    let database = jobs(&cluster).await;
    let access = database.scaler();
    let with_file = access.with_password("{file: password}");
    let queries = "\n  jobs: {sql: SELECT count(*) FROM jobs, max_age: 1ms}\n";
    let executable =
        Executable::serve(&configuration(&with_file, queries)).file("password", &database.scaler().password);
    let fixture = Fixture::start(executable).await;
    assert_eq!(fixture.scaler.value(&jobs_trigger()).await.unwrap(), 0.0);

    database.execute("ALTER ROLE scaler PASSWORD 'canary-rotated-password'").await;
    write(&fixture.serving.process, "password", "canary-rotated-password\n");
    fixture.reaches_metric("clapometer_config_reloads_total", "result=\"applied\"", 1.0, NOTICED).await;
    for _ in 0..20 {
        assert_eq!(fixture.scaler.value(&jobs_trigger()).await.unwrap(), 0.0);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!fixture.serving.process.errors().contains("canary"), "a password is in the log");
}

#[tokio::test]
async fn the_switch_of_a_database_may_be_a_file() {
    let database = Database::empty(Cluster::shared().await).await;
    let switched = database.scaler().with("enabled", "{file: enabled}");
    let executable = Executable::serve(&configuration(&switched, &constant("jobs", 1))).file("enabled", "true\n");
    let fixture = Fixture::start(executable).await;
    assert_eq!(fixture.scaler.value(&jobs_trigger()).await.unwrap(), 1.0);
    for (text, code, status) in
        [("false\n", Some(Code::Unavailable), ServingStatus::NotServing), ("true\n", None, ServingStatus::Serving)]
    {
        write(&fixture.serving.process, "enabled", text);
        wait::first("the switch is noticed", NOTICED, async || {
            (fixture.scaler.value(&jobs_trigger()).await.err().map(|refusal| refusal.code()) == code).then_some(())
        })
        .await;
        assert_eq!(health(&fixture.serving, "db/claps").await, Ok(status));
    }
}

#[tokio::test]
async fn a_file_that_was_missing_when_it_was_named_is_noticed_when_it_comes() {
    let database = Database::empty(Cluster::shared().await).await;
    let fixture = Fixture::with(&database.scaler(), &constant("jobs", 1)).await;
    let new = "server: {tls: {cert: tls.crt, key: tls.key}}\n";
    fixture.write(&(configuration(&database.scaler(), &constant("jobs", 2)) + new));
    fixture.reaches_metric("clapometer_config_valid", "", 0.0, NOTICED).await;
    assert_eq!(fixture.scaler.value(&jobs_trigger()).await.unwrap(), 1.0);

    // The configuration itself does not change any more.
    let certificates = Certificates::generate();
    write(&fixture.serving.process, "tls.key", &certificates.server.key);
    write(&fixture.serving.process, "tls.crt", &certificates.server.certificate);
    fixture.scaler.reaches(&jobs_trigger(), 2.0, NOTICED).await;
}
