//! A worker of apalis that may be killed at any moment, with the commands of `kills/worker.py`. Called by
//! `kills/run.py` and `apalis.py`.
//!
//! libpq's environment names the database.

use std::{env, error::Error, time::Duration};

use apalis::prelude::*;
use apalis_postgres::{Config, PostgresStorage};
use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

/// One job of the run.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Killed {
    id: String,
    seconds: f64,
    delay: f64,
    fails: bool,
}

/// Notes that a job has started, takes its time, and fails if that is what it does the first time.
async fn run_job(job: Killed, pool: Data<PgPool>) -> Result<(), BoxDynError> {
    sqlx::query("INSERT INTO kills_started (job, worker) VALUES ($1, $2)")
        .bind(&job.id)
        .bind(env::var("KILLS_WORKER")?)
        .execute(&*pool)
        .await?;
    let starts: i64 = sqlx::query_scalar("SELECT count(*) FROM kills_started WHERE job = $1")
        .bind(&job.id)
        .fetch_one(&*pool)
        .await?;
    tokio::time::sleep(Duration::from_secs_f64(job.seconds)).await;
    if job.fails && starts == 1 {
        return Err("the first attempt of this job fails".into());
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [command, jobs @ ..] = &arguments[..] else { return Err("a command is missing".into()) };
    // The database's name is not among the variables that the driver reads by itself.
    let options = PgConnectOptions::new().database(&env::var("PGDATABASE")?);
    // On a busy machine a connection takes its time; without this a worker ends by itself after 30 s.
    let pool = PgPoolOptions::new().acquire_timeout(Duration::from_secs(600)).connect_with(options).await?;
    // A dead worker is noticed after five seconds: run.py tells the preset the same.
    let config = Config::default()
        .queue("mail")
        .batch_size(3)
        .heartbeat_interval(Duration::from_secs(1))
        .missed_heartbeats(5);
    let mut storage = PostgresStorage::new(&pool).with_config(config);
    match command.as_str() {
        "install" => PostgresStorage::setup(&pool).await?,
        "add" => {
            let jobs: Vec<Killed> = serde_json::from_str(&jobs[0])?;
            let tasks = jobs.into_iter().map(|job| {
                let delay = Duration::from_secs_f64(job.delay);
                TaskBuilder::new(job).run_after(delay).max_attempts(100).build()
            });
            storage.push_all(&mut stream::iter(tasks).boxed()).await?;
        }
        "work" => {
            let worker = WorkerBuilder::new(env::var("KILLS_WORKER")?)
                .backend(storage)
                .data(pool)
                .concurrency(3)
                .build(run_job);
            // apalis-core 1.0.0 (backend/persistence/mod.rs, poll_next) does not wake a worker whose heartbeat falls
            // due while it fetches and finds nothing. Each tick of this timer polls the worker as well, because both
            // are one task.
            let mut timer = tokio::time::interval(Duration::from_secs(1));
            let ticks = async {
                loop {
                    timer.tick().await;
                }
            };
            tokio::select! {
                ended = worker.run() => ended?,
                () = ticks => {}
            }
            return Err("the worker has ended by itself".into());
        }
        other => return Err(format!("there is no command {other}").into()),
    }
    Ok(())
}
