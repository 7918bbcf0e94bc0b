//! A query over sixteen databases, against the same query over one of them, and against sessions that do nothing else.
//!
//! On this machine's two cores, where sixteen statements take sixteen times the CPU of one, and with a wire of some
//! length, as to sixteen machines, where they take their time beside each other. What the databases need by themselves
//! is measured in the same turns: sixteen plain sessions send the statement at once.

use std::{net::SocketAddr, time::Duration};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::{
    client::Connection,
    fixture,
    proto::ScaledObjectRef,
    report::{Row, median},
    request::{Outcome, Trigger},
    support::{
        cluster::{Cluster, Settings},
        database::{Access, Database, connect},
        proxy::{Mode, Proxy},
    },
};

const DATABASES: u32 = 16;
const CALLS: u32 = 200;

/// The rounds that open connections, and are not counted.
const FIRST_ROUNDS: u32 = 10;

/// The time that a wire takes in each direction.
const LENGTH: Duration = Duration::from_millis(5);

/// The median of sixteen against that of one.
const RATIO_AT_MOST: f64 = 2.0;

/// The median of sixteen against that of sixteen plain sessions.
const OVERHEAD_AT_MOST: f64 = 2.0;

const STATEMENT: &str = "SELECT count(*) FROM queue";

/// The medians in milliseconds, of one database and of sixteen.
struct Medians {
    /// GetMetrics.
    calls: [f64; 2],
    /// Plain sessions.
    sessions: [f64; 2],
}

/// Measures without a wire and with one.
pub(crate) async fn run() -> Value {
    let cluster = Cluster::with_settings(Settings::default()).await;
    let (mut direct, mut distant, mut wires) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..DATABASES {
        let database = Database::empty(&cluster).await;
        fixture::queues(&database, 1_000).await;
        let wire = Proxy::to(SocketAddr::from(([127, 0, 0, 1], cluster.port()))).await;
        wire.set(Mode::Slow(LENGTH));
        direct.push(database.scaler());
        distant.push(database.scaler().by_way_of(wire.address()));
        wires.push(wire);
    }
    let (mut rows, mut lengths) = (Vec::new(), Vec::new());
    for (accesses, way, length) in [
        (direct, "on this machine".to_owned(), Duration::ZERO),
        (distant, format!("a wire of {LENGTH:?} each way"), LENGTH),
    ] {
        let Medians { calls: [one, all], sessions: [session, sessions] } = measure(&accesses).await;
        println!(
            "{way}: p50 {one:.2} ms for one database, {all:.2} ms for {DATABASES}; \
             plain sessions {session:.2} ms and {sessions:.2} ms"
        );
        rows.push(Row {
            what: format!("GetMetrics of a query over {DATABASES} databases, p50, {way}"),
            baseline: "over one of them".to_owned(),
            bar: format!("<= {RATIO_AT_MOST:.0}x"),
            measured: format!("{:.2}x ({one:.2} and {all:.2} ms)", all / one),
            holds: all / one <= RATIO_AT_MOST,
        });
        rows.push(Row {
            what: format!("the same call, {way}, against what the {DATABASES} databases need by themselves"),
            baseline: format!(
                "{DATABASES} plain sessions that send its statement at once: {sessions:.2} ms, {:.2}x of one ({session:.2} ms)",
                sessions / session
            ),
            bar: format!("<= {OVERHEAD_AT_MOST:.0}x"),
            measured: format!("{:.2}x ({all:.2} ms)", all / sessions),
            holds: all / sessions <= OVERHEAD_AT_MOST,
        });
        lengths.push(json!({
            "wire_milliseconds": length.as_millis(),
            "one": one,
            "all": all,
            "one_plain_session": session,
            "all_plain_sessions": sessions,
        }));
    }
    json!({"rows": rows, "wires": lengths})
}

/// Measures calls and plain sessions in turns.
async fn measure(accesses: &[Access]) -> Medians {
    let names: Vec<String> = (0..accesses.len()).map(|number| format!("s{number}")).collect();
    let databases: String = accesses.iter().zip(&names).map(|(access, name)| access.yaml(name)).collect();
    let keys = format!("sql: {STATEMENT}, max_age: 0s");
    let configuration = format!(
        "databases:\n{databases}queries:\n  one: {{database: s0, {keys}}}\n  all: {{databases: [{}], {keys}}}\n",
        names.join(", ")
    );
    let server = fixture::server(&configuration).await;
    let (connection, _driver) = Connection::open(server.grpc).await;
    let [one, all] = [("one", 1_000), ("all", DATABASES * 1_000)].map(|(query, value)| {
        let scaler_metadata = [("query".to_owned(), query.to_owned())].into();
        let reference = ScaledObjectRef { name: query.to_owned(), namespace: "default".to_owned(), scaler_metadata };
        Trigger { reference, query: query.to_owned(), value, target: 1, is_active: true }.metrics().to(&connection)
    });
    let sessions = join_all(accesses.iter().map(async |access| connect(&access.driver()).await)).await;
    let (mut calls, mut plain): ([Vec<f64>; 2], [Vec<f64>; 2]) = Default::default();
    for round in 0..CALLS + FIRST_ROUNDS {
        let is_counted = round >= FIRST_ROUNDS;
        for (took, call) in calls.iter_mut().zip([&one, &all]) {
            let start = Instant::now();
            assert_eq!(call.make().await, Outcome::Right);
            took.extend(is_counted.then(|| start.elapsed().as_secs_f64() * 1e3));
        }
        for (took, sessions) in plain.iter_mut().zip([&sessions[..1], &sessions[..]]) {
            let start = Instant::now();
            join_all(sessions.iter().map(read)).await;
            took.extend(is_counted.then(|| start.elapsed().as_secs_f64() * 1e3));
        }
    }
    Medians { calls: calls.map(median), sessions: plain.map(median) }
}

/// Reads as the scaler does, in one transaction and one round trip.
async fn read(session: &Client) {
    let transaction = format!("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; {STATEMENT}; COMMIT");
    session.batch_execute(&transaction).await.expect("the table is there");
}
