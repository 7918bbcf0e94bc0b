//! The cost of a poll as history grows: the seed's query against the view, on the same rows.
//!
//! Time is the executor's own, and buffers are what it touched, both from EXPLAIN (ANALYZE,
//! BUFFERS) after VACUUM, in one session; the two statements take turns.

use std::time::Duration;

use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::{
    report::{Row, median},
    support::{
        cluster::{Cluster, Settings},
        database::Database,
        executable::Executable,
    },
};

const PENDING: u64 = 1_000;

/// Runs of each statement.
const RUNS: usize = 9;

const SEED: &str =
    "SELECT COUNT(1) FROM make_it_clap LEFT JOIN clap ON make_it_clap.id = clap.id WHERE clap.status IS NULL";
const VIEW: &str = "SELECT claimable + held AS outstanding, claimable, next_change FROM clap_backlog";

/// The greatest cost of the view's poll at the most rows, as a multiple of its cost at the fewest.
const GROWTH_AT_MOST: f64 = 1.5;
const BUFFERS_AT_MOST: f64 = 12.0;

/// The extent of history.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Reach {
    /// Finished rows at the most
    #[arg(long, default_value_t = 10_000_000)]
    rows: u64,
}

/// One statement at one size.
#[derive(Debug, Clone, Copy)]
struct Cost {
    /// Milliseconds in the executor.
    took: f64,
    buffers: f64,
}

/// Measures at 1,000 finished rows, 100,000, a million, ten million.
pub(crate) async fn run(reach: Reach) -> Value {
    let settings = Settings::default().set("autovacuum", "off").set("max_wal_size", "8GB").set("shared_buffers", "1GB");
    let cluster = Cluster::with_settings(settings).await;
    let database = Database::empty(&cluster).await;
    let migrate = Executable::postgres_batch(["migrate", "up"]).variables(database.owner().environment());
    let migrated = migrate.finish(Duration::from_secs(60)).await;
    assert_eq!(migrated.code(), Some(0), "{}", migrated.errors);

    let client = database.connect().await;
    fill(&client, PENDING, Fill::Pending).await;
    let mut sizes: Vec<(u64, Cost, Cost)> = Vec::new();
    let mut finished = 0;
    for size in [1_000, 100_000, 1_000_000, 10_000_000].into_iter().filter(|size| *size <= reach.rows) {
        fill(&client, size - finished, Fill::Finished).await;
        finished = size;
        client.batch_execute("VACUUM (ANALYZE) make_it_clap, clap").await.expect("tables can be vacuumed");
        let (seed, view) = costs(&client).await;
        println!(
            "{size:>9} finished: view {:>8.3} ms {:>3} buffers; the seed's query {:>9.3} ms {:>7} buffers",
            view.took, view.buffers, seed.took, seed.buffers
        );
        sizes.push((size, seed, view));
    }
    let (_, _, least) = sizes[0];
    let (most_rows, seed, most) = sizes[sizes.len() - 1];
    let growth = most.took / least.took;
    let row = Row {
        what: format!("poll with {most_rows} finished rows and 1,000 pending, against 1,000 and 1,000"),
        baseline: format!("the seed's query: {:.0}x the view's time", seed.took / most.took),
        bar: format!("<= {GROWTH_AT_MOST}x, <= {BUFFERS_AT_MOST:.0} buffers"),
        measured: format!("{growth:.2}x, {:.0} buffers", most.buffers),
        holds: growth <= GROWTH_AT_MOST && most.buffers <= BUFFERS_AT_MOST,
    };
    let side = |cost: Cost| json!({"milliseconds": cost.took, "buffers": cost.buffers});
    let sizes: Vec<Value> = sizes
        .into_iter()
        .map(|(size, seed, view)| json!({"finished": size, "seed": side(seed), "view": side(view)}))
        .collect();
    json!({"rows": [row], "sizes": sizes})
}

enum Fill {
    Pending,
    Finished,
}

/// Adds rows as the batch would have left them; its triggers are passed over, for the sake of time.
async fn fill(client: &Client, count: u64, fill: Fill) {
    let pending = matches!(fill, Fill::Pending);
    let mut statements = format!(
        "SET session_replication_role = replica;
         CREATE TEMPORARY TABLE fresh AS SELECT nextval(pg_get_serial_sequence('make_it_clap', 'id')) AS id
             FROM generate_series(1, {count});
         INSERT INTO make_it_clap (id, pending) SELECT id, {pending} FROM fresh;"
    );
    if !pending {
        statements.push_str(
            "INSERT INTO clap (id, status, session_id, iteration, max_attempts, job_uid, started_at, finished_at)
             SELECT id, 'SUCCESS', id, 1, 5, 'job-' || id, now(), now() FROM fresh;",
        );
    }
    statements.push_str("DROP TABLE fresh; RESET session_replication_role;");
    client.batch_execute(&statements).await.expect("the tables are as migrated");
}

async fn costs(client: &Client) -> (Cost, Cost) {
    let (mut seed, mut view) = (Vec::new(), Vec::new());
    // The first run of each warms the caches.
    for run in 0..=RUNS {
        let (of_seed, of_view) = (cost(client, SEED).await, cost(client, VIEW).await);
        if run > 0 {
            seed.push(of_seed);
            view.push(of_view);
        }
    }
    let typical = |costs: &[Cost]| Cost {
        took: median(costs.iter().map(|cost| cost.took)),
        buffers: median(costs.iter().map(|cost| cost.buffers)),
    };
    (typical(&seed), typical(&view))
}

async fn cost(client: &Client, statement: &str) -> Cost {
    let explain = format!("EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {statement}");
    let messages = client.simple_query(&explain).await.expect("the statement is sound");
    let text: String = messages
        .iter()
        .filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        })
        .collect();
    let explained: Value = serde_json::from_str(&text).expect("EXPLAIN speaks JSON");
    let number = |pointer: &str| explained.pointer(pointer).and_then(Value::as_f64).expect("EXPLAIN tells it");
    Cost {
        took: number("/0/Execution Time"),
        buffers: number("/0/Plan/Shared Hit Blocks") + number("/0/Plan/Shared Read Blocks"),
    }
}
