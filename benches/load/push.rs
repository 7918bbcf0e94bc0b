//! The time from a commit to the message on an open stream, against a statement on an idle session and the commit's own
//! acknowledgement.
//!
//! Real flush, the trigger of `clapometer notify-sql`, real gRPC.

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

/// The median from a commit's acknowledgement to the message, in times of an idle session's `SELECT 1`.
const P50_AT_MOST: f64 = 2.5;

/// The slowest of a hundred messages, in times of the slowest of a hundred acknowledgements.
const P99_AT_MOST: f64 = 3.0;

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

    let times = latency(&client, &mut streams[0]).await;
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

    let milliseconds = |times: &Histogram<u64>, quantile| real(times.value_at_quantile(quantile)) / 1e3;
    let [statement, afterwards] = [&times.statement, &times.afterwards].map(|times| milliseconds(times, 0.5));
    let [acknowledged, told] = [&times.acknowledged, &times.told].map(|times| milliseconds(times, 0.99));
    let [typical, slow] = [afterwards / statement, told / acknowledged];
    println!(
        "p50: SELECT 1 takes {statement:.2} ms, the message comes {afterwards:.2} ms after the acknowledgement, {typical:.2} times"
    );
    println!("p99: acknowledged in {acknowledged:.2} ms, told in {told:.2} ms, {slow:.2} times");
    let mut rows = vec![
        Row {
            what: "from a commit's acknowledgement to `true` on an open stream, p50".to_owned(),
            baseline: format!("`SELECT 1` on an idle session, p50: {statement:.2} ms"),
            bar: format!("<= {P50_AT_MOST}x"),
            measured: format!("{typical:.2}x"),
            holds: typical <= P50_AT_MOST,
        },
        Row {
            what: "commit of an INSERT to `true` on an open stream, p99".to_owned(),
            baseline: format!("the commit's own acknowledgement, real flush, p99: {acknowledged:.2} ms"),
            bar: format!("<= {P99_AT_MOST:.0}x"),
            measured: format!("{slow:.2}x"),
            holds: slow <= P99_AT_MOST,
        },
    ];
    println!("{message:.2} us of CPU for each message of {STREAMS} streams");
    rows.push(Row {
        what: format!("CPU for each message when {STREAMS} streams are told at once, the reading included"),
        baseline: "none".to_owned(),
        bar: format!("<= {MESSAGE_AT_MOST:.0} us"),
        measured: format!("{message:.2} us"),
        holds: message <= MESSAGE_AT_MOST,
    });
    json!({
        "rows": rows,
        "milliseconds": {
            "p50": {"statement": statement, "after_acknowledgement": afterwards},
            "p99": {"acknowledged": acknowledged, "told": told},
        },
        "microseconds_per_message": message,
    })
}

/// Times of one kind each, in microseconds.
struct Times {
    /// `SELECT 1` on a session that was idle.
    statement: Histogram<u64>,
    /// From COMMIT of an INSERT to its acknowledgement.
    acknowledged: Histogram<u64>,
    /// From COMMIT of an INSERT to the message.
    told: Histogram<u64>,
    /// From the acknowledgement to the message; nothing if that came first.
    afterwards: Histogram<u64>,
}

async fn latency(client: &Client, stream: &mut Messages) -> Times {
    let histogram = || Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).expect("the bounds are sound");
    let mut times =
        Times { statement: histogram(), acknowledged: histogram(), told: histogram(), afterwards: histogram() };
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    // Not in step with anything that the server does on its own.
    let pause = async || sleep(Duration::from_micros(rand::rng().random_range(2_000..40_000))).await;
    for (statement, is_active) in CHANGES.into_iter().cycle().take(usize::try_from(2 * COMMITS).expect("a few")) {
        pause().await;
        let sent = Instant::now();
        client.batch_execute("SELECT 1").await.expect("the session is there");
        times.statement.saturating_record(micros(sent.elapsed()));
        pause().await;
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
            times.acknowledged.saturating_record(micros(commit));
            times.told.saturating_record(micros(message));
            times.afterwards.saturating_record(micros(message.saturating_sub(commit)));
        }
    }
    times
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
