//! The statements that reach PostgreSQL while nothing happens: a query with `notify`, polled ten times a second.
//!
//! Statements are counted in PostgreSQL's own log.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, interval};

use crate::{
    client::Connection,
    fixture,
    proto::ScaledObjectRef,
    report::Row,
    request::{Outcome, Trigger},
    support::{
        cluster::{Cluster, Settings},
        database::Database,
    },
};

const RESYNC: Duration = Duration::from_secs(2);
const LASTING: Duration = Duration::from_secs(20);
const POLLING: Duration = Duration::from_millis(100);

/// Before the count begins: LISTEN must have been found healthy.
const SETTLED: Duration = Duration::from_secs(5);

/// The text by which the statement is found in the log.
const MARK: &str = "SELECT 42 AS quiet";

/// Measures.
pub(crate) async fn run() -> Value {
    let cluster = Cluster::with_settings(Settings::default().set("log_statement", "all")).await;
    let database = Database::empty(&cluster).await;
    let access = database.scaler().yaml("claps");
    let configuration = format!(
        "databases:\n{access}queries:\n  quiet:\n    sql: {MARK}\n    \
         notify: {{channel: claps, resync: {}s}}\n",
        RESYNC.as_secs()
    );
    let server = fixture::server(&configuration).await;
    let (connection, _driver) = Connection::open(server.grpc).await;
    let reference = ScaledObjectRef {
        name: "idle".to_owned(),
        namespace: "default".to_owned(),
        scaler_metadata: [("query".to_owned(), "quiet".to_owned())].into(),
    };
    let trigger = Trigger { reference, query: "quiet".to_owned(), value: 42, target: 1, is_active: true };
    let call = trigger.metrics().to(&connection);
    let statements = || cluster.log().matches(MARK).count();

    let poll_for = async |lasting: Duration| {
        let end = Instant::now() + lasting;
        let mut ticks = interval(POLLING);
        let mut polls = 0u32;
        while Instant::now() < end {
            ticks.tick().await;
            assert_eq!(call.make().await, Outcome::Right);
            polls += 1;
        }
        polls
    };
    poll_for(SETTLED).await;
    let before = statements();
    let start = Instant::now();
    let polls = poll_for(LASTING).await;
    let count = statements() - before;
    let resyncs = start.elapsed().as_secs_f64() / RESYNC.as_secs_f64();
    println!("{polls} polls in {LASTING:?} sent {count} statements, {resyncs:.1} times resync passed");
    let row = Row {
        what: "statements while idle with notify".to_owned(),
        baseline: format!("{polls} polls in {} s", LASTING.as_secs()),
        bar: format!("one per resync: <= {:.0}", resyncs.floor() + 1.0),
        measured: count.to_string(),
        holds: f64::from(u32::try_from(count).unwrap_or(u32::MAX)) <= resyncs.floor() + 1.0 && count > 0,
    };
    json!({"rows": [row], "polls": polls, "statements": count})
}
