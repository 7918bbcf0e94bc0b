//! The time from a commit to the message on an open stream, against that to the commit's own acknowledgement.
//!
//! Real flush, the trigger of `clapometer notify-sql`, real gRPC. Both clocks start when COMMIT is sent.

use std::time::Duration;

use clapometer::proto::IsActiveResponse;
use futures_util::future::join_all;
use hdrhistogram::Histogram;
use prost::Message;
use rand::Rng;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Client;

use crate::{
    client::{Connection, Messages},
    fixture::{self, Usage},
    report::Row,
    request::Trigger,
    support::{
        admin,
        cluster::{Cluster, Settings},
        database::Database,
        executable::Executable,
        wait,
    },
    tally::real,
};

/// Commits that are timed, each way.
const COMMITS: u32 = 500;

/// Streams that get a message at once, and the number of rounds, each way.
const STREAMS: u32 = 1_000;
const ROUNDS: u32 = 40;

/// Microseconds of the server's CPU for one message of many.
const MESSAGE_AT_MOST: f64 = 5.0;

/// A change and what it makes of the activity.
const CHANGES: [(&str, bool); 2] = [("INSERT INTO jobs DEFAULT VALUES", true), ("DELETE FROM jobs", false)];

/// Measures.
pub(crate) async fn run() -> Value {
    let cluster = Cluster::with_settings(Settings::default().durable()).await;
    let database = Database::empty(&cluster).await;
    database.execute("CREATE TABLE jobs (id serial PRIMARY KEY); GRANT SELECT ON jobs TO scaler").await;
    let trigger = Executable::clapometer(["notify-sql", "--table", "jobs", "--channel", "jobs"]);
    let trigger = trigger.finish(Duration::from_secs(20)).await;
    assert_eq!(trigger.code(), Some(0), "{}", trigger.errors);
    database.execute(&trigger.output).await;

    let access = database.scaler().yaml("claps");
    let query = "  jobs: {sql: SELECT count(*) FROM jobs, max_age: 1m, notify: {channel: jobs, resync: 1m}}\n";
    let server = fixture::server(&format!("databases:\n{access}queries:\n{query}")).await;
    let (connection, _driver) = Connection::open(server.grpc).await;
    let client = database.connect().await;
    let mut streams = vec![follow(&connection, 0).await];
    wait::first("notifications arrive", Duration::from_secs(20), async || {
        (admin::metric(server.admin, "clapometer_listen_up").await >= 1.0).then_some(())
    })
    .await;

    let (acknowledged, told) = latency(&client, &mut streams[0]).await;
    for number in 1..STREAMS {
        streams.push(follow(&connection, number).await);
    }
    let before = Usage::read(server.process.pid()).cpu;
    for (statement, is_active) in CHANGES.into_iter().cycle().take(usize::try_from(2 * ROUNDS).expect("a few")) {
        client.batch_execute(statement).await.expect("the table is there");
        join_all(streams.iter_mut().map(|stream| tells(stream, is_active))).await;
    }
    let spent = Usage::read(server.process.pid()).cpu - before;
    let message = spent.as_secs_f64() * 1e6 / f64::from(2 * ROUNDS * STREAMS);

    let mut rows = Vec::new();
    let mut quantiles = Vec::new();
    for (name, quantile, at_most) in [("p50", 0.5, 2.0), ("p99", 0.99, 3.0)] {
        let [acknowledged, told] = [&acknowledged, &told].map(|times| real(times.value_at_quantile(quantile)) / 1e3);
        let ratio = told / acknowledged;
        println!("{name}: commit acknowledged in {acknowledged:.2} ms, told in {told:.2} ms, ratio {ratio:.2}");
        rows.push(Row {
            what: format!("commit of an INSERT to `true` on an open stream, {name}"),
            baseline: "the commit's own acknowledgement, real flush".to_owned(),
            bar: format!("<= {at_most:.0}x"),
            measured: format!("{ratio:.2}x"),
            holds: ratio <= at_most,
        });
        quantiles.push(json!({
            "quantile": name, "acknowledged_milliseconds": acknowledged, "told_milliseconds": told, "ratio": ratio,
        }));
    }
    println!("{message:.2} us of CPU for each message of {STREAMS} streams");
    rows.push(Row {
        what: format!("CPU for each message when {STREAMS} streams are told at once, the reading included"),
        baseline: "none".to_owned(),
        bar: format!("<= {MESSAGE_AT_MOST:.0} us"),
        measured: format!("{message:.2} us"),
        holds: message <= MESSAGE_AT_MOST,
    });
    json!({"rows": rows, "quantiles": quantiles, "microseconds_per_message": message})
}

/// Microseconds from COMMIT of an INSERT to its acknowledgement, and to the message.
async fn latency(client: &Client, stream: &mut Messages) -> (Histogram<u64>, Histogram<u64>) {
    let histogram = || Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).expect("the bounds are sound");
    let (mut acknowledged, mut told) = (histogram(), histogram());
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    for (statement, is_active) in CHANGES.into_iter().cycle().take(usize::try_from(2 * COMMITS).expect("a few")) {
        // Not in step with anything that the server does on its own.
        sleep(Duration::from_micros(rand::rng().random_range(2_000..40_000))).await;
        client.batch_execute(&format!("BEGIN; {statement}")).await.expect("the table is there");
        let sent = Instant::now();
        let commit = async {
            client.batch_execute("COMMIT").await.expect("nothing conflicts");
            sent.elapsed()
        };
        let message = async {
            tells(stream, is_active).await;
            sent.elapsed()
        };
        let (commit, message) = tokio::join!(commit, message);
        if is_active {
            acknowledged.saturating_record(micros(commit));
            told.saturating_record(micros(message));
        }
    }
    (acknowledged, told)
}

/// Opens a stream and takes the current state.
async fn follow(connection: &Connection, number: u32) -> Messages {
    let reference = fixture::reference(number, [("query", "jobs".to_owned())]);
    let trigger = Trigger { reference, query: "jobs".to_owned(), value: 0, target: 5, is_active: false };
    let mut stream = trigger.stream().to(connection).open().await.expect("streams are served");
    tells(&mut stream, false).await;
    stream
}

/// Takes messages until one says this; a reminder may come before it.
async fn tells(stream: &mut Messages, is_active: bool) {
    let told = timeout(Duration::from_secs(10), async {
        loop {
            let message = stream.next().await.expect("a stream does not fail").expect("a stream does not end");
            if IsActiveResponse::decode(message).expect("the answer is one of ours").result == is_active {
                return;
            }
        }
    });
    told.await.expect("a commit is told");
}
