//! The rate of GetMetrics, against a bare tonic server and a scaler in Python, which answer a constant.
//!
//! All servers get the same bytes over one connection with 64 calls in flight, and must give the
//! same answer; ours and tonic's run on one thread. They take turns, and each turn of ours is held
//! against the next one of tonic's, so that what else the machine does falls on both. CPU time per call is taken beside
//! the rate: on two cores the rate is also the client's.

use std::{fmt, path::Path, sync::Arc, time::Duration};

use serde_json::{Value, json};

use crate::{
    baseline::METRIC,
    client::Connection,
    drive::{Pace, drive},
    fixture::{self, Usage},
    report::{Row, median},
    request::{Call, Trigger},
    support::{
        cluster::Cluster,
        database::Database,
        executable::{Executable, Serving},
    },
    tally::real,
};

const IN_FLIGHT: usize = 64;

/// The number of different triggers in the second comparison.
const MANY: u32 = 1_000;

/// The least ratio of the rate to the baseline's.
const ONE_AT_LEAST: f64 = 0.90;
const MANY_AT_LEAST: f64 = 0.80;

/// The length of a comparison.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Length {
    /// Turns of each server
    #[arg(long, default_value_t = 9)]
    rounds: u32,
    /// Seconds of one turn
    #[arg(long, default_value_t = 2.0)]
    turn: f64,
}

/// One server in one turn.
#[derive(Debug, Clone, Copy)]
struct Turn {
    /// Calls a second.
    rate: f64,
    /// Server CPU for a call, microseconds.
    cpu: f64,
}

/// Our server against the baseline; and the peer, which nothing is asked of.
#[derive(Debug)]
struct Comparison {
    what: &'static str,
    at_least: Option<f64>,
    ours: Vec<Turn>,
    bare: Vec<Turn>,
    peer: Vec<Turn>,
}

impl Comparison {
    fn ratio(&self, of: fn(Turn) -> f64) -> f64 {
        median(self.ours.iter().zip(&self.bare).map(|(ours, bare)| of(*ours) / of(*bare)))
    }

    fn median(turns: &[Turn], of: fn(Turn) -> f64) -> f64 {
        median(turns.iter().map(|turn| of(*turn)))
    }

    fn json(&self) -> Value {
        let side = |turns: &[Turn]| {
            json!({
                "calls_per_second": Self::median(turns, |turn| turn.rate),
                "cpu_microseconds_per_call": Self::median(turns, |turn| turn.cpu),
                "turns": turns.iter().map(|turn| turn.rate).collect::<Vec<_>>(),
            })
        };
        json!({
            "what": self.what,
            "ratio": self.ratio(|turn| turn.rate),
            "cpu_ratio": self.ratio(|turn| turn.cpu),
            "clapometer": side(&self.ours),
            "bare": side(&self.bare),
            "peer": side(&self.peer),
        })
    }

    fn row(&self) -> Option<Row> {
        let at_least = self.at_least?;
        let ratio = self.ratio(|turn| turn.rate);
        Some(Row {
            what: format!("GetMetrics a second, {}", self.what),
            baseline: "bare tonic server that answers a constant".to_owned(),
            bar: format!(">= {at_least:.2} of its rate"),
            measured: format!("{ratio:.2} (CPU per call: {:.2})", self.ratio(|turn| turn.cpu)),
            holds: ratio >= at_least,
        })
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |turns: &[Turn]| {
            format!(
                "{:>6.0} calls/s {:>5.1} us CPU",
                Self::median(turns, |turn| turn.rate),
                Self::median(turns, |turn| turn.cpu)
            )
        };
        write!(
            f,
            "{:<40} {} against {} ({} in Python): rate {:.3}, CPU {:.3}",
            self.what,
            side(&self.ours),
            side(&self.bare),
            side(&self.peer),
            self.ratio(|turn| turn.rate),
            self.ratio(|turn| turn.cpu)
        )
    }
}

/// Compares, and prints as it goes.
pub(crate) async fn run(length: Length) -> Value {
    let cluster = Cluster::private().await;
    let database = Database::empty(&cluster).await;
    let ours = fixture::server(&configuration(&database)).await;
    let servers = Servers { ours, bare: bare().await, peer: peer().await };
    let mut comparisons = Vec::new();
    for (what, at_least, query, count) in [
        ("one trigger", Some(ONE_AT_LEAST), METRIC.0, 1),
        ("1,000 different triggers", Some(MANY_AT_LEAST), METRIC.0, MANY),
        ("1,000 triggers, read every second", None, "aging", MANY),
    ] {
        let comparison = compare(what, at_least, &servers, &triggers(query, count), length).await;
        println!("{comparison}");
        comparisons.push(comparison);
    }
    let rows: Vec<Row> = comparisons.iter().filter_map(Comparison::row).collect();
    json!({"rows": rows, "comparisons": comparisons.iter().map(Comparison::json).collect::<Vec<_>>()})
}

/// The three servers that are measured in turn.
struct Servers {
    ours: Serving,
    bare: Serving,
    peer: Serving,
}

async fn bare() -> Serving {
    let this = std::env::current_exe().expect("this process has an executable");
    Executable::new(Path::new(&this), ["baseline"]).serving().await
}

async fn peer() -> Serving {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = project.join("target/tools/python/bin/python");
    assert!(python.exists(), "target/tools/python is missing: scripts/python makes it");
    let scratch = tempfile::tempdir().expect("the temporary directory is writable");
    let script = project.join("benches/load/peer.py");
    let (metric, value) = METRIC;
    let text = |path: &Path| path.to_str().expect("a path in UTF-8").to_owned();
    let arguments =
        [text(&script), text(&project.join("proto")), text(scratch.path()), metric.to_owned(), value.to_string()];
    Executable::new(&python, arguments).serving().await
}

async fn compare(
    what: &'static str,
    at_least: Option<f64>,
    Servers { ours, bare, peer }: &Servers,
    triggers: &[Trigger],
    length: Length,
) -> Comparison {
    let turn = Duration::from_secs_f64(length.turn);
    let mut comparison = Comparison { what, at_least, ours: Vec::new(), bare: Vec::new(), peer: Vec::new() };
    let (to_ours, _driver) = Connection::open(ours.grpc).await;
    let (to_bare, _driver) = Connection::open(bare.grpc).await;
    let (to_peer, _driver) = Connection::open(peer.grpc).await;
    // The constants are of one metric; what their servers are asked is the same but for the query's name.
    let ask = |connection| -> Arc<[Call]> { triggers.iter().map(|trigger| trigger.metrics().to(connection)).collect() };
    let (ask_ours, ask_bare, ask_peer) = (ask(&to_ours), ask(&to_bare), ask(&to_peer));
    let judged = triggers[0].query == METRIC.0;
    for calls in [&ask_ours, &ask_bare, &ask_peer] {
        drive(calls, Pace::InFlight(IN_FLIGHT), turn / 2).await;
    }
    for _ in 0..length.rounds {
        comparison.ours.push(one(ours, &ask_ours, turn, true).await);
        comparison.bare.push(one(bare, &ask_bare, turn, judged).await);
        comparison.peer.push(one(peer, &ask_peer, turn, judged).await);
    }
    comparison
}

async fn one(server: &Serving, calls: &Arc<[Call]>, turn: Duration, judged: bool) -> Turn {
    let pid = server.process.pid();
    let before = Usage::read(pid).cpu;
    let driven = drive(calls, Pace::InFlight(IN_FLIGHT), turn).await;
    let cpu = Usage::read(pid).cpu - before;
    let tally = &driven.tally;
    assert!(!judged || tally.right == tally.calls(), "not everything was answered right: {tally}");
    Turn { rate: driven.rate(), cpu: cpu.as_secs_f64() * 1e6 / real(tally.calls()) }
}

/// Readings that stay fresh for the whole run, and ones that age as usual.
fn configuration(database: &Database<'_>) -> String {
    let access = database.scaler().yaml("claps");
    let (name, value) = METRIC;
    let sql = format!("sql: SELECT {value} WHERE $1 <> ''\n    parameters: {{queue: text}}");
    format!(
        "databases:\n{access}queries:\n  {name}:\n    {sql}\n    max_age: 1h\n  aging:\n    {sql}\n    max_age: 1s\n"
    )
}

/// Returns triggers as KEDA sends them, each with a parameter of its own.
fn triggers(query: &str, count: u32) -> Vec<Trigger> {
    (0..count)
        .map(|number| {
            let metadata = [
                ("query", query.to_owned()),
                ("targetQueryValue", "5".to_owned()),
                ("param.queue", format!("queue-{number}")),
            ];
            Trigger {
                reference: fixture::reference(number, metadata),
                query: query.to_owned(),
                value: METRIC.1,
                target: 5,
                is_active: true,
            }
        })
        .collect()
}
