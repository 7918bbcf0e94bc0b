//! Two hundred shutdowns: no call in flight fails, and a log that is not read stops nothing.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
    time::Duration,
};

use clapometer::proto::GetMetricsRequest;
use rustix::process::Signal;

use crate::support::{
    admin,
    cluster::Cluster,
    database::Database,
    executable::{self, Executable},
    grpc::{Scaler, trigger},
    processes, tempdir, wait,
};

const SOON: Duration = Duration::from_secs(20);

/// For reloads one after the other, each of which reads its files on threads of their own.
const FILLS: Duration = Duration::from_secs(240);
const ENDINGS: usize = 200;
/// The number of processes that end side by side.
const LANES: usize = 8;
const IN_FLIGHT: usize = 20;

#[tokio::test]
async fn two_hundred_sigterms_fail_no_call_that_is_in_flight() {
    let cluster = Cluster::private().await;
    let database = Database::empty(&cluster).await;
    let lanes = (0..LANES).map(async |lane| {
        let gate = format!("gate_{lane}");
        database.execute(&format!("CREATE TABLE {gate} AS SELECT 7 AS n; GRANT SELECT ON {gate} TO scaler")).await;
        let access = database.scaler().with("lock_timeout", "5s");
        let query = format!("  gate: {{sql: SELECT n FROM {gate}, max_age: 0s, timeout: 10s}}\n");
        let configuration = format!("databases:\n{}queries:\n{query}", access.yaml("claps"));
        for _ in 0..ENDINGS / LANES {
            end_under_load(&database, &gate, &configuration).await;
        }
    });
    futures_util::future::join_all(lanes).await;
}

async fn end_under_load(database: &Database<'_>, gate: &str, configuration: &str) {
    let mut serving = Executable::serve(configuration).serving().await;
    let scaler = Scaler::at(serving.grpc);
    let reference = trigger("gate", &[]);
    let mut stream = scaler.activity(&reference).await.unwrap();
    assert!(wait::bounded("the first message", SOON, stream.message()).await.unwrap().unwrap().result);

    // Calls stand before a locked table, so that they are surely in flight.
    let mut locking = database.connect().await;
    let lock = locking.transaction().await.unwrap();
    lock.batch_execute(&format!("LOCK TABLE {gate} IN ACCESS EXCLUSIVE MODE")).await.unwrap();
    let calls: Vec<_> = (0..IN_FLIGHT)
        .map(|call| {
            // The calls use four connections.
            let scaler = if call % 5 == 0 { Scaler::at(serving.grpc) } else { scaler.clone() };
            let request =
                GetMetricsRequest { scaled_object_ref: Some(reference.clone()), metric_name: "gate".to_owned() };
            tokio::spawn(async move { scaler.client().get_metrics(request).await })
        })
        .collect();
    wait::first("all calls wait", SOON, async || {
        let joined = admin::metric(serving.admin, "clapometer_query_joined_calls_total").await;
        (joined >= f64::from(u32::try_from(IN_FLIGHT - 1).unwrap())).then_some(())
    })
    .await;

    serving.process.signal(Signal::TERM);
    serving.process.logged("that it ends", SOON, |line| line["message"] == "shutting down").await;
    lock.rollback().await.unwrap();
    for call in calls {
        let answer = call.await.unwrap().unwrap_or_else(|status| panic!("a call in flight failed: {status:?}"));
        assert_eq!(answer.into_inner().metric_values[0].metric_value_float, 7.0);
    }
    assert!(
        wait::bounded("the stream's end", SOON, stream.message()).await.unwrap().is_none(),
        "it does not end with OK"
    );
    let ended = serving.process.finish(SOON).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.errors);
}

/// Starts the scaler with a log that is read until it serves, and returns where, and the log's other end.
fn with_unread_log(
    configuration: &str,
) -> (std::process::Child, impl Read, std::net::SocketAddr, std::net::SocketAddr) {
    let directory = tempdir::new("unread");
    std::fs::write(directory.join("clapometer.yaml"), configuration).unwrap();
    let mut command = Command::new(executable::path("clapometer"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--config", "clapometer.yaml"]);
    command.current_dir(&directory).env("RUST_LOG", "trace").stdin(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let serving = log.by_ref().lines().map(|line| serde_json::from_str::<serde_json::Value>(&line.unwrap()).unwrap());
    let serving = serving.into_iter().find(|line| line["message"] == "serving").unwrap();
    let address = |field: &str| serving[field].as_str().unwrap().parse().unwrap();
    (child, log, address("grpc"), address("admin"))
}

/// Makes it say more than a pipe and the queue before it hold: a reload is two lines, or so. Signals that come during a
/// reload are one.
async fn talkative(child: &std::process::Child, scaler: &Scaler, admin: std::net::SocketAddr) {
    let asked = trigger("seven", &[]);
    let enough = 600.0 + admin::metric(admin, "clapometer_config_reloads_total").await;
    wait::first("it has reloaded 600 times", FILLS, async || {
        for _ in 0..50 {
            processes::signal(processes::pid(child), Signal::HUP);
            scaler.spec(&asked).await.unwrap();
        }
        (admin::metric(admin, "clapometer_config_reloads_total").await > enough).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_log_that_nobody_reads_or_that_is_closed_stops_nothing() {
    let database = Database::empty(Cluster::shared().await).await;
    let configuration =
        format!("databases:\n{}queries:\n  seven: {{sql: SELECT 7, max_age: 0s}}\n", database.scaler().yaml("claps"));
    for is_closed in [false, true] {
        let (mut child, log, grpc, admin) = with_unread_log(&configuration);
        let log = (!is_closed).then_some(log);
        let scaler = Scaler::at(grpc);
        talkative(&child, &scaler, admin).await;
        assert_eq!(scaler.value(&trigger("seven", &[])).await.unwrap(), 7.0);
        processes::signal(processes::pid(&child), Signal::TERM);
        let mut status = None;
        wait::eventually("it has ended", SOON, || {
            status = child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        assert_eq!(status.unwrap().code(), Some(0));
        drop(log);
    }
}
