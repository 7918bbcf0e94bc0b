//! Claims a second, against pgbench's UPDATE of one row by its primary key.
//!
//! Each worker claims and settles as Job after Job over a connection of its own, with the code of
//! `postgres-batch`; pgbench has as many clients in the same cluster, with real commits. They take
//! turns. The rate of claims is that of the time spent in claims: so many claps are held as there
//! are workers, as with real Jobs, while settling is not a claim.

use std::{sync::Arc, time::Duration};

use clapometer::batch::{
    store::{Job, Store},
    worker::{
        claim::{Claimed, claim},
        identity,
        lease::Terms,
    },
};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    claim_cost, pgbench,
    report::{Row, median},
    support::{
        cluster::{Cluster, Settings},
        database::{Access, Database},
        executable::Executable,
    },
    tally::real,
};

/// Workers, and what their claims must be of pgbench's updates.
const SIZES: [(u64, f64); 2] = [(8, 0.35), (64, 0.20)];

/// Rows that pgbench updates.
const ROWS: u32 = 100_000;

/// Requests that wait before each turn: more than can be claimed in it.
pub(crate) const WAITING: u32 = 30_000;

const TERMS: Terms = Terms { lease: Duration::from_secs(600), heartbeat: Duration::from_secs(150) };

/// The length of a comparison.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Length {
    /// Turns of each side
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: u32,
    /// Seconds of one turn
    #[arg(long, default_value_t = 4)]
    pub(crate) turn: u32,
}

/// Compares with 8 workers and with 64.
pub(crate) async fn run(length: Length) -> Value {
    let cluster = Cluster::with_settings(Settings::default().durable().set("shared_buffers", "256MB")).await;
    let database = Database::empty(&cluster).await;
    let migrate = Executable::postgres_batch(["migrate", "up"]).variables(database.owner().environment());
    let migrated = migrate.finish(Duration::from_secs(60)).await;
    assert_eq!(migrated.code(), Some(0), "{}", migrated.errors);
    let rows = format!(
        "CREATE TABLE counter (id integer PRIMARY KEY, n integer NOT NULL) WITH (fillfactor = 70);
         INSERT INTO counter SELECT n, 0 FROM generate_series(1, {ROWS}) AS n;
         ALTER TABLE counter OWNER TO owner; VACUUM ANALYZE counter"
    );
    for statement in rows.split(';') {
        database.execute(statement).await;
    }

    let update = format!("\\set id random(1, {ROWS})\nUPDATE counter SET n = n + 1 WHERE id = :id;\n");
    let (mut rows, mut sizes) = (Vec::new(), Vec::new());
    for (workers, at_least) in SIZES {
        let (mut claims, mut jobs, mut updates, mut empty) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for _ in 0..length.rounds {
            refill(&database).await;
            let turn = claiming(&database.owner(), workers, Duration::from_secs(length.turn.into())).await;
            claims.push(turn.rate);
            empty += turn.empty;
            jobs.push(turn.jobs);
            updates.push(pgbench::rate(&database.owner(), &update, workers, length.turn).await);
        }
        let ratio = median(claims.iter().zip(&updates).map(|(claims, updates)| claims / updates));
        let (claims, jobs, updates) = (median(claims), median(jobs), median(updates));
        println!(
            "{workers} workers: {claims:.0} claims/s ({jobs:.0} Jobs/s), {updates:.0} updates/s, ratio {ratio:.3}, {empty} empty claims"
        );
        rows.push(Row {
            what: format!("claims a second, {workers} workers"),
            baseline: format!("pgbench's UPDATE by primary key, {workers} clients, real flush"),
            bar: format!(">= {at_least:.2} of its rate; no empty claim while rows wait"),
            measured: format!("{ratio:.2}, {empty} empty"),
            holds: ratio >= at_least && empty == 0,
        });
        sizes.push(json!({
            "workers": workers, "claims_per_second": claims, "jobs_per_second": jobs,
            "updates_per_second": updates, "ratio": ratio, "empty": empty,
        }));
    }
    rows.extend(claim_cost::rows(&database, &update, length).await);
    json!({"rows": rows, "sizes": sizes})
}

pub(crate) async fn refill(database: &Database<'_>) {
    database.execute("TRUNCATE clap_attempt, clap, make_it_clap RESTART IDENTITY").await;
    database
        .execute(&format!("INSERT INTO make_it_clap (duration_seconds) SELECT 0 FROM generate_series(1, {WAITING})"))
        .await;
    database.execute("VACUUM ANALYZE make_it_clap").await;
    database.execute("CHECKPOINT").await;
}

pub(crate) struct Turn {
    /// Claims a second, by the time that the workers spent in claims.
    pub(crate) rate: f64,
    /// Claims a second that were settled, too.
    jobs: f64,
    /// Claims that found nothing although rows waited.
    empty: u64,
}

pub(crate) async fn claiming(access: &Access, workers: u64, lasting: Duration) -> Turn {
    let environment = access.environment();
    let lookup = |name: &str| environment.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
    let begin = Arc::new(tokio::sync::Barrier::new(usize::try_from(workers).expect("a few") + 1));
    let mut set = JoinSet::new();
    for worker in 0..workers {
        let connection = identity::connection(lookup).expect("the environment is sound");
        let mut store = Store::new(connection, None);
        let begin = Arc::clone(&begin);
        set.spawn(async move {
            let interrupt = CancellationToken::new();
            let job = |number: u64| Job {
                uid: format!("job-{worker}-{number}"),
                name: Some("claims".to_owned()),
                pod: format!("pod-{worker}-{number}"),
                node: None,
            };
            // The connection is opened before the clock starts.
            let by = Instant::now() + Duration::from_secs(20);
            store.previous_clap(&job(0), by).await.expect("the database is there");
            begin.wait().await;
            let end = Instant::now() + lasting;
            let (mut claimed, mut empty, mut claiming) = (0, 0, Duration::ZERO);
            for number in 1.. {
                let start = Instant::now();
                if start >= end {
                    break;
                }
                let found = claim(&mut store, &job(number), TERMS, &interrupt).await.expect("a claim does not fail");
                claiming += start.elapsed();
                match found {
                    Claimed::Attempt(attempt, _) => {
                        claimed += 1;
                        let by = Instant::now() + Duration::from_secs(20);
                        store.succeed(&attempt, by).await.expect("the database is there").expect("the clap is ours");
                    }
                    _ => empty += 1,
                }
            }
            (claimed, empty, claiming)
        });
    }
    begin.wait().await;
    let start = Instant::now();
    let (mut claimed, mut empty, mut claiming) = (0, 0, Duration::ZERO);
    while let Some(worker) = set.join_next().await {
        let worker = worker.expect("a worker does not panic");
        claimed += worker.0;
        empty += worker.1;
        claiming += worker.2;
    }
    let elapsed = start.elapsed().as_secs_f64();
    assert!(claimed < u64::from(WAITING), "the requests ran out: more must wait");
    let rate = real(claimed) * real(workers) / claiming.as_secs_f64();
    Turn { rate, jobs: real(claimed) / elapsed, empty }
}
