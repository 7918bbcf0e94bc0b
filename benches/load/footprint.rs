//! Size, start and memory of the scaler's executable, and the time that `simulate` takes.

use std::{
    fs,
    net::SocketAddr,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep},
};

use crate::{
    client::{Connection, Messages},
    fixture::{self, Usage},
    report::{Row, median},
    request::Trigger,
    support::{
        cluster::Cluster,
        database::Database,
        executable::{Serving, path},
    },
    tally::real,
};

/// Starts that are timed.
const STARTS: usize = 15;

const STREAMS: u32 = 10_000;
const QUEUES: u32 = 100;

const EXECUTABLE_AT_MOST: f64 = 10.0;
const START_AT_MOST: f64 = 10.0;
const IDLE_AT_MOST: f64 = 12.0;
const STREAM_AT_MOST: f64 = 8.0;

/// Seconds for [`SIMULATED`].
const SIMULATION_AT_MOST: f64 = 1.0;

/// An hour in which 10,020 rows arrive: the manifest's ScaledJob and each of its neighbours, five runs of each.
const SIMULATED: [&str; 6] =
    ["simulate", "deploy/examples/scaled-job.yaml", "--arrivals", "167/m", "--duration", "40s"];

/// Measures.
pub(crate) async fn run() -> Value {
    let mebibytes = real(stripped()) / (1024.0 * 1024.0);
    let cluster = Cluster::private().await;
    let database = Database::empty(&cluster).await;
    fixture::queues(&database, QUEUES).await;
    let configuration = fixture::configuration(&database);
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        starts.push(start(&configuration).await);
    }
    let start = median(starts);

    let server = fixture::server(&configuration).await;
    let idle = resident(&server).await;
    let (asked, stream) = streams(&server).await;
    let simulation = simulation();
    println!(
        "executable {mebibytes:.2} MiB, serving {start:.1} ms after exec, {:.1} MiB idle, {:.1} MiB after first use, {stream:.1} KiB a stream, simulated in {simulation:.2} s",
        idle / 1024.0,
        asked / 1024.0
    );
    let row = |what: &str, bar: String, measured: String, holds| Row {
        what: what.to_owned(),
        baseline: "none".to_owned(),
        bar,
        measured,
        holds,
    };
    let rows = [
        row(
            "executable, stripped",
            format!("<= {EXECUTABLE_AT_MOST:.0} MiB"),
            format!("{mebibytes:.2} MiB"),
            mebibytes <= EXECUTABLE_AT_MOST,
        ),
        row(
            "from exec to the first connection served",
            format!("<= {START_AT_MOST:.0} ms"),
            format!("{start:.1} ms"),
            start <= START_AT_MOST,
        ),
        row(
            "resident while idle",
            format!("<= {IDLE_AT_MOST:.0} MiB"),
            format!("{:.1} MiB", idle / 1024.0),
            idle / 1024.0 <= IDLE_AT_MOST,
        ),
        row(
            "resident for each of 10,000 open streams",
            format!("<= {STREAM_AT_MOST:.0} KiB"),
            format!("{stream:.1} KiB"),
            stream <= STREAM_AT_MOST,
        ),
        row(
            "`simulate` of an hour with 10,000 rows, all its variants",
            format!("< {SIMULATION_AT_MOST:.0} s"),
            format!("{simulation:.2} s"),
            simulation < SIMULATION_AT_MOST,
        ),
    ];
    json!({
        "rows": rows,
        "executable_mebibytes": mebibytes,
        "start_milliseconds": start,
        "idle_mebibytes": idle / 1024.0,
        "used_mebibytes": asked / 1024.0,
        "kibibytes_per_stream": stream,
        "simulation_seconds": simulation,
    })
}

/// Bytes of the executable without symbols, which cargo leaves in what it builds for benchmarks.
fn stripped() -> u64 {
    let directory = tempfile::tempdir().expect("the temporary directory is writable");
    let copy = directory.path().join("clapometer");
    let status = Command::new("strip").arg("-o").arg(&copy).arg(path("clapometer")).status();
    assert!(status.expect("it comes with the linker").success(), "strip cannot read the executable");
    fs::metadata(copy).expect("strip has written it").len()
}

/// Seconds that `simulate` takes: the least of three.
fn simulation() -> f64 {
    let once = |_| {
        let mut command = Command::new(path("clapometer"));
        command.args(SIMULATED).current_dir(env!("CARGO_MANIFEST_DIR")).stdout(Stdio::null());
        let start = Instant::now();
        assert!(command.status().expect("it is executable").success());
        start.elapsed().as_secs_f64()
    };
    (0..3).map(once).fold(f64::INFINITY, f64::min)
}

/// Milliseconds from exec until the server has answered its first HTTP/2 frame.
async fn start(configuration: &str) -> f64 {
    let directory = tempfile::tempdir().expect("the temporary directory is writable");
    let file = directory.path().join("clapometer.yaml");
    fs::write(&file, configuration).expect("the directory is ours");
    // A port that was free a moment ago; if it is taken meanwhile, the server ends and so do we.
    let free = std::net::TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    let address: SocketAddr = free.expect("a port is free");
    let mut command = Command::new(path("clapometer"));
    command.args(["serve", "--listen", &address.to_string(), "--admin-listen", "127.0.0.1:0", "--config"]).arg(&file);
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let before = Instant::now();
    let mut child = command.spawn().expect("it is executable");
    let socket = loop {
        match TcpStream::connect(address).await {
            Ok(socket) => break socket,
            Err(_) => assert!(child.try_wait().is_ok_and(|ended| ended.is_none()), "the server has ended"),
        }
    };
    drop(socket);
    let (connection, driver) = Connection::open(address).await;
    let spec = fixture::triggers(1, 1).remove(0).spec();
    let outcome = spec.to(&connection).make().await;
    let took = before.elapsed();
    drop(driver);
    assert_eq!(outcome, crate::request::Outcome::Right);
    child.kill().expect("it is our child");
    child.wait().expect("it is our child");
    took.as_secs_f64() * 1e3
}

/// KiB that stay resident once everything has come to rest.
async fn resident(server: &Serving) -> f64 {
    let mut last = 0;
    loop {
        sleep(Duration::from_millis(500)).await;
        let now = Usage::read(server.process.pid()).resident;
        if now.abs_diff(last) < 64 {
            return real(now);
        }
        last = now;
    }
}

/// KiB resident after the gauges have been used, and KiB that each of the open streams adds to that.
async fn streams(server: &Serving) -> (f64, f64) {
    let (connection, _driver) = Connection::open(server.grpc).await;
    let triggers: Vec<Trigger> = fixture::same(STREAMS, "depth", "param.queue")
        .into_iter()
        .enumerate()
        .map(|(number, mut trigger)| {
            let queue = u32::try_from(number).expect("a few") % QUEUES;
            trigger.reference.scaler_metadata.insert("param.queue".to_owned(), format!("q{queue}"));
            trigger
        })
        .collect();
    for trigger in triggers.iter().take(usize::try_from(QUEUES).expect("a few")) {
        trigger.activity().unjudged().to(&connection).make().await;
    }
    let before = resident(server).await;
    let mut open: Vec<Messages> = Vec::new();
    for trigger in &triggers {
        let mut messages = trigger.stream().to(&connection).open().await.expect("streams are served");
        messages.next().await.expect("a stream does not fail").expect("a stream does not end");
        open.push(messages);
    }
    let after = resident(server).await;
    (before, (after - before) / f64::from(STREAMS))
}
