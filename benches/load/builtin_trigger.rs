//! The cost of a fleet for PostgreSQL, against KEDA's built-in trigger: a connection and a statement for each.
//!
//! KEDA's built-in `postgresql` trigger keeps a pool of its own for each trigger and runs the
//! trigger's SQL at each poll. Both sides are asked for the same numbers in the same polls, all
//! triggers in phase, as after an operator's restart. Connecting is not counted for the built-in trigger.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_postgres::{Client, types::Type};

use crate::{
    client::Connection,
    fixture::{self, Sessions},
    report::{Row, median},
    request::{Call, Outcome},
    support::{
        cluster::{Cluster, Settings},
        database::{Database, connect},
    },
};

const SIZES: [u32; 3] = [100, 500, 1_000];

/// Polls of each side, in turns.
const POLLS: usize = 7;

/// Between two polls: longer than a reading lives, so that each poll costs our side its statements.
const PAUSE: Duration = Duration::from_millis(1_100);

/// The pool's size and the LISTEN connection's place.
const CONNECTIONS_AT_MOST: i64 = fixture::POOL + 1;

/// One side at one size.
struct Side {
    connections: i64,
    statements: i64,
    /// Milliseconds of PostgreSQL's CPU for a poll of all triggers.
    cpu: f64,
    /// Milliseconds from the first question to the last answer.
    took: f64,
}

/// Measures at each size.
pub(crate) async fn run() -> Value {
    let mut sizes = Vec::new();
    let mut rows = Vec::new();
    for size in SIZES {
        let [theirs, one_each, grouped] = at(size).await;
        println!("{size} triggers");
        for (name, side) in [("KEDA's way", &theirs), ("clapometer", &one_each), ("clapometer, grouped", &grouped)] {
            println!(
                "  {name:<20} {:>5} connections {:>5} statements a poll {:>7.1} ms CPU in PostgreSQL {:>7.1} ms until all are answered",
                side.connections, side.statements, side.cpu, side.took
            );
        }
        if size == 1_000 {
            rows.push(Row {
                what: "connections to PostgreSQL for 1,000 triggers".to_owned(),
                baseline: format!("KEDA's own scaler: {}", theirs.connections),
                bar: "<= pool_size + 1".to_owned(),
                measured: format!("{} (pool_size {})", one_each.connections, fixture::POOL),
                holds: one_each.connections <= CONNECTIONS_AT_MOST,
            });
            rows.push(Row {
                what: "statements a poll, 1,000 triggers".to_owned(),
                baseline: format!("KEDA's own scaler: {}", theirs.statements),
                bar: "<= 1 per distinct gauge and max_age; 1 for all keys of a grouped query".to_owned(),
                measured: format!("{} for 1,000 gauges, {} grouped", one_each.statements, grouped.statements),
                holds: one_each.statements <= i64::from(size) && grouped.statements <= 1,
            });
        }
        let side = |side: &Side| {
            json!({
                "connections": side.connections,
                "statements_per_poll": side.statements,
                "cpu_milliseconds_per_poll": side.cpu,
                "milliseconds_per_poll": side.took,
            })
        };
        sizes.push(json!({
            "triggers": size,
            "keda": side(&theirs),
            "clapometer": side(&one_each),
            "grouped": side(&grouped),
        }));
    }
    json!({"rows": rows, "sizes": sizes})
}

async fn at(size: u32) -> [Side; 3] {
    let cluster = Cluster::with_settings(Settings::default().set("max_connections", 1_100)).await;
    let theirs = Database::empty(&cluster).await;
    let ours = Database::empty(&cluster).await;
    let grouped = Database::empty(&cluster).await;
    for database in [&theirs, &ours, &grouped] {
        fixture::queues(database, size).await;
    }
    let sessions = [Sessions::watch(&theirs).await, Sessions::watch(&ours).await, Sessions::watch(&grouped).await];
    let mut clients = Vec::new();
    for _ in 0..size {
        clients.push(connect(&theirs.scaler().driver()).await);
    }
    let one_each = asked(&ours, size, "depth", "param.queue").await;
    let all_at_once = asked(&grouped, size, "depths", "param.name").await;

    let counted = |name: &str| {
        let (cluster, name) = (&cluster, name.to_owned());
        async move { fixture::transactions(cluster, &name).await }
    };
    let mut polls: [Vec<(f64, f64)>; 3] = Default::default();
    // The first is not counted: connections are opened, caches are cold.
    for round in 0..=POLLS {
        let mut turn = [(0.0, 0.0); 3];
        turn[0] = measured(&theirs, built_in_poll(&clients)).await;
        turn[1] = measured(&ours, external_poll(&one_each.calls)).await;
        turn[2] = measured(&grouped, external_poll(&all_at_once.calls)).await;
        if round > 0 {
            polls.iter_mut().zip(turn).for_each(|(polls, poll)| polls.push(poll));
        }
        tokio::time::sleep(PAUSE).await;
    }
    // Complete only once the sessions are gone: until then they keep some of their counts to themselves.
    let connections = sessions.each_ref().map(Sessions::most);
    drop((sessions, clients));
    for served in [one_each, all_at_once] {
        drop(served.driver);
        served.server.process.terminate(Duration::from_secs(30)).await;
    }
    let polls_of_each = i64::try_from(POLLS + 1).expect("a few");
    let mut sides = Vec::new();
    let databases = [&theirs, &ours, &grouped].into_iter().zip(OPENING);
    for (((database, opening), connections), polls) in databases.zip(connections).zip(polls) {
        let before = PREPARED + opening * connections;
        sides.push(Side {
            connections,
            statements: (counted(database.name()).await - before) / polls_of_each,
            cpu: median(polls.iter().map(|poll| poll.0)),
            took: median(polls.iter().map(|poll| poll.1)),
        });
    }
    sides.try_into().unwrap_or_else(|_| unreachable!("there are three"))
}

/// Transactions that making a database's tables takes.
const PREPARED: i64 = 2;

/// Transactions that opening a session of each side takes, by PostgreSQL's account: the start-up
/// itself is one, and clapometer then looks at the role.
const OPENING: [i64; 3] = [1, 2, 2];

struct Served {
    server: crate::support::executable::Serving,
    driver: crate::client::Driver,
    calls: Arc<[Call]>,
}

async fn asked(database: &Database<'_>, size: u32, query: &str, parameter: &str) -> Served {
    let server = fixture::server(&fixture::configuration(database)).await;
    let (connection, driver) = Connection::open(server.grpc).await;
    let calls = fixture::same(size, query, parameter).iter().map(|trigger| trigger.metrics().to(&connection)).collect();
    Served { server, driver, calls }
}

async fn built_in_poll(clients: &[Client]) {
    let asked = clients.iter().enumerate().map(async |(number, client)| {
        let queue = format!("q{number}");
        let statement = "SELECT length FROM queue WHERE name = $1";
        let rows = client.query_typed(statement, &[(&queue, Type::TEXT)]).await.expect("the statement is sound");
        assert_eq!(rows.len(), 1, "there is one queue of that name");
    });
    join_all(asked).await;
}

async fn external_poll(calls: &[Call]) {
    for outcome in join_all(calls.iter().map(Call::make)).await {
        assert_eq!(outcome, Outcome::Right);
    }
}

/// Returns PostgreSQL's CPU time in this database and the elapsed time, in milliseconds.
async fn measured(database: &Database<'_>, poll: impl Future<Output = ()>) -> (f64, f64) {
    let before = fixture::sessions_cpu(database).await;
    let start = Instant::now();
    poll.await;
    let took = start.elapsed();
    ((fixture::sessions_cpu(database).await - before).as_secs_f64() * 1e3, took.as_secs_f64() * 1e3)
}
