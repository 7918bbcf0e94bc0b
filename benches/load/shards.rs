//! A query over sixteen databases, against the same query over one of them.
//!
//! Both on this machine's two cores, where sixteen statements take sixteen times the CPU of one, and with a wire of some
//! length, as to sixteen machines, where they take their time beside each other.

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    client::Connection,
    fixture,
    proto::ScaledObjectRef,
    report::{Row, median},
    request::{Outcome, Trigger},
    support::{
        cluster::{Cluster, Settings},
        database::Database,
        proxy::{Mode, Proxy},
    },
};

const DATABASES: u32 = 16;
const CALLS: u32 = 200;

/// How long a wire takes in each direction.
const LENGTHS: [Duration; 2] = [Duration::ZERO, Duration::from_millis(5)];

/// The median of sixteen against that of one.
const RATIO_AT_MOST: f64 = 2.0;

/// Measures with each wire.
pub(crate) async fn run() -> Value {
    let cluster = Cluster::with_settings(Settings::default()).await;
    let (mut accesses, mut wires) = (Vec::new(), Vec::new());
    for _ in 0..DATABASES {
        let database = Database::empty(&cluster).await;
        fixture::queues(&database, 1_000).await;
        let wire = Proxy::to(SocketAddr::from(([127, 0, 0, 1], cluster.port()))).await;
        accesses.push(database.scaler().by_way_of(wire.address()));
        wires.push(wire);
    }
    let names: Vec<String> = (0..DATABASES).map(|number| format!("s{number}")).collect();
    let databases: String = accesses.iter().zip(&names).map(|(access, name)| access.yaml(name)).collect();
    let keys = "sql: SELECT count(*) FROM queue, max_age: 0s";
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
    let (mut rows, mut lengths) = (Vec::new(), Vec::new());
    for length in LENGTHS {
        for wire in &wires {
            wire.set(if length.is_zero() { Mode::Pass } else { Mode::Slow(length) });
        }
        let mut took: [Vec<f64>; 2] = Default::default();
        // In turns. The first calls open connections, and are not counted.
        for round in 0..CALLS + 10 {
            for (took, call) in took.iter_mut().zip([&one, &all]) {
                let start = Instant::now();
                assert_eq!(call.make().await, Outcome::Right);
                if round >= 10 {
                    took.push(start.elapsed().as_secs_f64() * 1e3);
                }
            }
        }
        let [one, all] = took.map(median);
        let way =
            if length.is_zero() { "on this machine".to_owned() } else { format!("a wire of {length:?} each way") };
        println!("{way}: p50 {one:.2} ms for one database, {all:.2} ms for {DATABASES}");
        rows.push(Row {
            what: format!("GetMetrics of a query over {DATABASES} databases, p50, {way}"),
            baseline: "over one of them".to_owned(),
            bar: format!("<= {RATIO_AT_MOST:.0}x"),
            measured: format!("{:.2}x ({one:.2} and {all:.2} ms)", all / one),
            holds: all / one <= RATIO_AT_MOST,
        });
        lengths.push(json!({"wire_milliseconds": length.as_millis(), "one": one, "all": all}));
    }
    json!({"rows": rows, "wires": lengths})
}
