//! Files that never answer, and threads that cannot be made: nothing hangs, and nobody else notices.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    process::Signal,
};

use crate::support::{
    admin,
    cluster::Cluster,
    database::Database,
    executable::Executable,
    fixture::{Fixture, configuration, write},
    grpc::trigger,
    processes, wait,
};

/// Each file has a second, and a busy machine some more.
const ENDS: Duration = Duration::from_secs(20);

const NOTICED: Duration = Duration::from_secs(15);

/// Longer than a probe takes, and shorter than the second that a file has.
const PROBE: Duration = Duration::from_millis(500);

const END_SESSIONS: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
     WHERE usename = 'scaler' AND datname = current_database()";

/// Puts a pipe that nobody writes to in the place of a file.
fn pipe(path: &Path) {
    let _ = fs::remove_file(path);
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

#[tokio::test]
async fn a_password_file_that_hangs_stops_its_own_database_and_nothing_else() {
    let database = Database::empty(Cluster::shared().await).await;
    let access = database.scaler();
    let databases = access.yaml("claps") + &database.scaler().with_password("{file: password}").yaml("hangs");
    let queries = "
  steady: {database: claps, sql: SELECT 7, max_age: 1ms}
  stuck: {database: hangs, sql: SELECT 8, max_age: 1ms}
";
    let executable =
        Executable::serve(&format!("databases:\n{databases}queries:{queries}")).file("password", &access.password);
    let fixture = Fixture::start(executable).await;
    let (steady, stuck) = (trigger("steady", &[]), trigger("stuck", &[]));
    assert_eq!(fixture.scaler.value(&stuck).await.unwrap(), 8.0);

    pipe(&fixture.serving.process.directory().join("password"));
    // Both need new sessions.
    database.execute(END_SESSIONS).await;
    fixture.scaler.reaches(&steady, 7.0, NOTICED).await;
    wait::first("the pipe is noticed", NOTICED, async || (fixture.scaler.value(&stuck).await.is_err()).then_some(()))
        .await;
    let mut late = Vec::new();
    for _ in 0..3 {
        fixture.serving.process.signal(Signal::HUP);
        let looked = Instant::now() + Duration::from_secs(1);
        let asking = async {
            while Instant::now() < looked {
                assert_eq!(fixture.scaler.value(&steady).await.unwrap(), 7.0);
            }
        };
        let probing = async {
            while Instant::now() < looked {
                let began = Instant::now();
                assert_eq!(admin::get(fixture.serving.admin, "/livez").await, "ok\n");
                late.extend(Some(began.elapsed()).filter(|took| *took > PROBE));
            }
        };
        tokio::join!(asking, probing);
    }
    // A file that holds up probes does so after each signal.
    assert!(late.len() < 2, "late probes: {late:?}");

    write(&fixture.serving.process, "password", &access.password);
    fixture.scaler.reaches(&stuck, 8.0, NOTICED).await;
}

#[tokio::test]
async fn commands_say_which_file_hangs_and_end() {
    let database = Database::empty(Cluster::shared().await).await;
    let access = database.scaler();
    let password = configuration(&database.scaler().with_password("{file: pipe}"), "\n  jobs: {sql: SELECT 1}\n");
    let key = configuration(
        &database.scaler().with("sslmode", "verify-full").with("sslcert", "pipe").with("sslkey", "pipe"),
        "\n  jobs: {sql: SELECT 1}\n",
    );
    for (configuration, arguments) in [
        (&password, vec!["check", "--offline"]),
        (&password, vec!["check"]),
        (&key, vec!["check", "--offline"]),
        (&key, vec!["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]),
    ] {
        let executable = Executable::clapometer(&arguments).file("clapometer.yaml", configuration);
        pipe(&executable.directory().join("pipe"));
        let finished = executable.argument("--config").argument("clapometer.yaml").finish(ENDS).await;
        let said = finished.output.clone() + &finished.errors;
        assert!(!finished.status.success(), "{arguments:?}: {said}");
        assert!(said.contains("pipe") && said.contains("no answer within 1s"), "{arguments:?}: {said}");
    }

    let executable = Executable::postgres_batch(["list"]).variable("PGPASSFILE", "pipe");
    let variables = access.environment().into_iter().filter(|(name, _)| *name != "PGPASSWORD").collect();
    pipe(&executable.directory().join("pipe"));
    let finished = executable.variables(variables).finish(ENDS).await;
    assert!(!finished.status.success() && finished.errors.contains("no answer within 1s"), "{finished:?}");
}

#[tokio::test]
async fn a_thread_that_cannot_be_made_is_no_bug_and_no_end() {
    let database = Database::empty(Cluster::shared().await).await;
    // A name that must be resolved, and a file that must be read, for each session.
    let access = database.scaler().with_password("{file: password}").at("localhost");

    let queries = "\n  jobs: {sql: SELECT 7, max_age: 1ms}\n";
    let executable = Executable::serve(&configuration(&access, queries)).file("password", &database.scaler().password);
    let mut fixture = Fixture::start(executable.unprivileged()).await;
    let jobs = trigger("jobs", &[]);
    assert_eq!(fixture.scaler.value(&jobs).await.unwrap(), 7.0);

    processes::prlimit(fixture.serving.process.pid(), &["--nproc=0:"]);
    for _ in 0..3 {
        database.execute(END_SESSIONS).await;
        fixture.serving.process.signal(Signal::HUP);
        fixture.scaler.reaches(&jobs, 7.0, NOTICED).await;
        assert!(admin::metric(fixture.serving.admin, "clapometer_gauges").await > 0.0);
    }
    let log = fixture.serving.process.errors();
    assert!(!log.contains("panicked"), "{log}");
    assert!(fixture.serving.process.ended().is_none(), "{log}");
}
