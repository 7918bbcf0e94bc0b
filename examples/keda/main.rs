//! `make demo`: the whole story without a cluster.
//!
//! Starts a throwaway PostgreSQL, the real `clapometer`, and the real `postgres-batch` as the pods
//! of Jobs. A stand-in for KEDA polls over gRPC and applies KEDA's arithmetic
//! ([`clapometer::keda`]). There are sixty claps, and at most ten Jobs at a time; one clap fails and
//! is retried, one worker is killed with SIGKILL and its clap is done by another. The demo ends by
//! itself, with an error if the numbers are not as they must be.

mod board;
mod jobs;
#[path = "../../tests/it/support/mod.rs"]
mod support;

use std::{
    fmt, io, panic,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clapometer::{
    keda::{
        poll::{Polled, TriggerPoller},
        scaled_job::ScaledJob,
    },
    terminal::style::Style,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::MissedTickBehavior,
};
use tonic::transport::Endpoint;

use self::{
    board::{Board, Clap, Frame},
    jobs::{Event, Jobs},
    support::{
        cluster::{Cluster, Settings},
        database::Database,
        executable::{Executable, Serving},
    },
};

const CLAPS: usize = 60;
const MAX_JOBS: i64 = 10;
/// KEDA's `pollingInterval`, the least that its CRD accepts.
const POLLING_INTERVAL: Duration = Duration::from_secs(1);
/// The interval at which Jobs are brought up to date and the board is drawn.
const TICK: Duration = Duration::from_millis(100);
/// The number of the Job that fails the first attempt at its clap.
const FAILING_JOB: usize = 5;
/// The time at which a worker is killed.
const KILL_AFTER: Duration = Duration::from_secs(8);
/// The lease on an idle machine: short enough to watch it end.
const LEASE: Duration = Duration::from_secs(4);
/// The longest lease, for a machine that is very busy.
const LONGEST_LEASE: Duration = Duration::from_secs(40);
/// The longest that the demo may take: five times the usual time, for a machine that has other things to do. A longer
/// lease adds to it.
const PATIENCE: Duration = Duration::from_secs(240);
/// The longest that a command may take.
const COMMAND: Duration = Duration::from_secs(120);

/// The reason why the demo ended before its time.
enum Stopped {
    /// Patience is at its end; how far it came.
    TooSlow(String),
    /// The database does not answer.
    Database(tokio_postgres::Error),
}

/// The results.
struct Summary {
    claps: Vec<(String, i64)>,
    attempts: Vec<(String, i64)>,
    /// The number of attempts by the claps' own account.
    iterations: i64,
    polls: usize,
    statements: u64,
    took: Duration,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    panic::set_hook(Box::new(tell_plainly));
    let mut board = Board::new();
    board.event("starting a throwaway PostgreSQL");
    let cluster = Cluster::with_settings(Settings::default()).await;
    let database = Database::empty(&cluster).await;
    let migrate = Executable::postgres_batch(["migrate", "up"]).variables(database.owner().environment());
    let start = Instant::now();
    let migrated = migrate.finish(COMMAND).await;
    if !migrated.status.success() {
        println!("  postgres-batch migrate up failed: {}", migrated.errors.trim_end());
        return ExitCode::FAILURE;
    }
    // A busy machine starts programs slowly, and sends heartbeats late: a lease must not end under a worker that lives.
    let lease = (LEASE + 10 * start.elapsed().saturating_sub(Duration::from_secs(1))).min(LONGEST_LEASE);
    database.execute("GRANT SELECT ON clap_backlog TO scaler").await;
    board.event("postgres-batch migrate up: the tables are there");

    let configuration = format!("databases:\n{}", database.scaler().yaml("claps"));
    let scaler = Executable::serve(&configuration).serving().await;
    board.event(&format!("clapometer serve: gRPC on {}; status page on http://{}/", scaler.grpc, scaler.admin));
    database
        .execute(&format!(
            "INSERT INTO make_it_clap (duration_seconds) SELECT 2 + i % 3 FROM generate_series(1, {CLAPS}) AS i"
        ))
        .await;
    board.event(&format!("{CLAPS} claps to do, of 2 to 4 seconds; at most {MAX_JOBS} Jobs at a time"));

    if lease > LEASE {
        board.event(&format!(
            "this machine is busy: leases are {} s long, and everything takes longer",
            lease.as_secs()
        ));
    }

    let mut jobs = Jobs::new(pod_template(&database, lease));
    let played = play(&mut board, &database, &scaler, &mut jobs, PATIENCE + 10 * (lease - LEASE)).await;
    let took = board.elapsed();
    board.end();
    let polls = match played {
        Ok(polls) => polls,
        Err(stopped) => {
            println!("\n  Stopped after {:.0} s: {stopped}", took.as_secs_f64());
            return ExitCode::FAILURE;
        }
    };
    let summary = match Summary::of(&database, &scaler, polls, took).await {
        Ok(summary) => summary,
        Err(error) => {
            println!("\n  Every clap is done, but the results cannot be read: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let stopped = scaler.process.terminate(COMMAND).await;
    summary.print(&jobs);
    let expired = summary.expired();
    if expired > 0 {
        println!(
            "  {expired} leases of {} s ended while their workers lived, because this machine is too busy; other workers did their claps again.",
            lease.as_secs()
        );
    }
    if summary.lost() == 0 {
        println!("  No attempt was lost: the worker that was to be killed had ended a moment before.");
    }
    let mut faults = summary.faults(&jobs);
    if stopped.code() != Some(0) {
        faults.push(format!("clapometer ended with {:?} after SIGTERM", stopped.status));
    }
    for fault in &faults {
        println!("  WRONG: {fault}");
    }
    if !faults.is_empty() {
        return ExitCode::FAILURE;
    }
    println!("  Next: a queue of your own, with `clapometer init`: README.md, \"I have a queue\"");
    ExitCode::SUCCESS
}

/// Tells a panic in one sentence. The test kit, which starts the programs, ends by one when it has waited in vain.
fn tell_plainly(panic: &panic::PanicHookInfo<'_>) {
    let cause = panic.payload_as_str().unwrap_or("no reason is known");
    // It begins with a place in the source, which helps nobody here.
    let cause = cause.split_once(".rs:").and_then(|(_, rest)| rest.split_once(": ")).map_or(cause, |(_, words)| words);
    eprintln!("\n  The demo cannot go on: {cause}");
    eprintln!("  If this machine is busy, try again when it is quieter.");
}

/// Runs until every clap is settled and KEDA has seen it, and returns the number of polls.
async fn play(
    board: &mut Board,
    database: &Database<'_>,
    scaler: &Serving,
    jobs: &mut Jobs,
    patience: Duration,
) -> Result<usize, Stopped> {
    let endpoint = Endpoint::from_shared(format!("http://{}", scaler.grpc)).expect("an address makes a URI");
    let metadata = [("query", "outstanding-claps"), ("targetQueryValue", "1")];
    let mut trigger = TriggerPoller::new(endpoint, "postgres-batch", "keda-with-postgresql", &metadata);
    let scaled_job = ScaledJob::with_max_replica_count(MAX_JOBS);
    let client = database.connect().await;
    let mut frame = Frame {
        decision: "has not polled yet".to_owned(),
        status_page: format!("http://{}/", scaler.admin),
        ..Frame::default()
    };
    let (mut polls, mut has_failed, mut killed) = (0, false, false);
    let mut next_poll = Instant::now();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for event in jobs.proceed().await {
            tell(board, &event);
        }
        (frame.claps, frame.pending) = look(&client).await.map_err(Stopped::Database)?;
        // Before the poll, which takes its time on a busy machine, so that the victim is still at work. And only after
        // the failure is booked: otherwise the victim could be the worker that fails.
        has_failed = has_failed || frame.claps.iter().any(|clap| clap.status == "FAILED" || clap.iteration > 1);
        if !killed && has_failed && board.elapsed() >= KILL_AFTER {
            killed = kill_one(board, jobs, &frame.claps);
        }
        if next_poll <= Instant::now() {
            next_poll += POLLING_INTERVAL;
            polls += 1;
            let polled = trigger.poll().await;
            let decision = decide(board, &scaled_job, jobs, &polled);
            if let Polled::Answered(answer) = &polled {
                frame
                    .polls
                    .push((answer.value, f64::from(i32::try_from(jobs.seen_by_keda().unfinished).unwrap_or(i32::MAX))));
            }
            let settled = frame.pending == 0 && frame.claps.iter().all(|clap| clap.status == "SUCCESS");
            if settled && jobs.seen_by_keda().unfinished == 0 {
                board.event(&format!("KEDA: {decision}; every clap is done"));
                frame.decision = decision;
                frame.census = jobs.census();
                board.draw(&frame);
                return Ok(polls);
            }
            frame.decision = decision;
        }
        frame.census = jobs.census();
        board.draw(&frame);
        if board.elapsed() > patience {
            return Err(Stopped::TooSlow(frame.progress()));
        }
    }
}

/// Does what KEDA does with the answer, and describes it.
fn decide(board: &mut Board, scaled_job: &ScaledJob, jobs: &mut Jobs, polled: &Polled) -> String {
    let answer = match polled {
        Polled::Answered(answer) => answer,
        Polled::Unspecified(status) => return format!("GetMetricSpec failed, no event: {}", status.message()),
        Polled::Failed(status) => return format!("holds still: {}", status.message()),
    };
    let decision = scaled_job.decide(&[*answer], jobs.seen_by_keda());
    for _ in 0..decision.created {
        let failing = jobs.len() + 1 == FAILING_JOB;
        jobs.create(if failing { vec![("FAIL_FIRST", "1".to_owned())] } else { Vec::new() });
    }
    let words = format!("value {}: {decision}", answer.value);
    if decision.created > 0 {
        board.event(&format!("KEDA: {words}"));
    }
    words
}

/// Kills the worker with the most work left.
fn kill_one(board: &mut Board, jobs: &Jobs, claps: &[Clap]) -> bool {
    let left = |clap: &&Clap| f64::from(clap.seconds) - clap.elapsed;
    let running = claps.iter().filter(|clap| clap.status == "RUNNING" && clap.iteration == 1);
    let Some(victim) = running.max_by(|a, b| left(a).total_cmp(&left(b))) else { return false };
    if left(&victim) < 1.0 {
        return false;
    }
    jobs.kill(&victim.job_name);
    let killed = format!("kill -9 of the worker of clap {}, {}", victim.id, victim.job_name);
    board.striking_event(Style::Bad, &killed);
    true
}

/// Returns whether a worker says that it fails because the demo told it to.
fn is_planned(message: &str) -> bool {
    message.starts_with("FAIL_FIRST=")
}

fn tell(board: &mut Board, event: &Event) {
    match event {
        Event::Ended { report, .. } if report["outcome"] == "SUCCESS" && report["iteration"] == 1 => {}
        Event::Ended { job, report, .. } if report["message"].as_str().is_some_and(is_planned) => {
            // Short enough for a terminal of 80 columns, as what a kill leads to.
            let failed = format!("{job}: clap {} failed, as planned; a new Job does it", report["clap"]);
            board.striking_event(Style::Warning, &failed);
        }
        Event::Ended { job, report, consequence } => {
            let message = report["message"].as_str().unwrap_or_default();
            let attempt = match (&report["clap"], &report["iteration"]) {
                (serde_json::Value::Null, _) => String::new(),
                (clap, iteration) => format!("clap {clap}, attempt {iteration}: "),
            };
            let style = if report["outcome"] == "SUCCESS" { Style::Good } else { Style::Warning };
            board.striking_event(style, &format!("{job}: {attempt}{message} ({consequence})"));
        }
        Event::Killed { job } => {
            let gone = format!("{job}: its pod is gone; the next waits for the lease");
            board.striking_event(Style::Warning, &gone);
        }
    }
}

/// Returns the claimed claps, and the number of the others.
async fn look(client: &tokio_postgres::Client) -> Result<(Vec<Clap>, usize), tokio_postgres::Error> {
    let statement = "
        SELECT c.id, c.status, c.iteration, coalesce(c.job_name, ''), m.duration_seconds,
               extract(epoch FROM now() - c.started_at)::float8
          FROM clap c JOIN make_it_clap m USING (id)
         ORDER BY c.id";
    let rows = client.query(statement, &[]).await?;
    let claps = rows.iter().map(|row| Clap {
        id: row.get(0),
        status: row.get(1),
        iteration: row.get(2),
        job_name: row.get(3),
        seconds: row.get(4),
        elapsed: row.get(5),
    });
    let claps: Vec<Clap> = claps.collect();
    let pending = CLAPS.saturating_sub(claps.len());
    Ok((claps, pending))
}

/// Returns the environment of every pod: the database, and times short enough to watch.
fn pod_template(database: &Database<'_>, lease: Duration) -> Vec<(&'static str, String)> {
    let mut template = database.owner().environment();
    let lease = format!("{}s", lease.as_secs());
    template.extend([("POSTGRES_BATCH_LEASE", lease), ("POSTGRES_BATCH_BACKOFF", "3s".to_owned())]);
    template
}

async fn tally(database: &Database<'_>, statement: &str) -> Result<Vec<(String, i64)>, tokio_postgres::Error> {
    let rows = database.connect().await.query(statement, &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Returns the number of statements that the scaler has sent, by its own metrics.
async fn statements_sent(scaler: &Serving) -> io::Result<u64> {
    let mut stream = TcpStream::connect(scaler.admin).await?;
    let request = "GET /metrics HTTP/1.1\r\nHost: clapometer\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await?;
    let lines = page.lines().filter(|line| line.starts_with("clapometer_query_statements_total{"));
    Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
}

impl fmt::Display for Stopped {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooSlow(progress) => write!(
                formatter,
                "{progress}.\n  The usual time is 50 s: this machine is too busy. Try again when it is quieter."
            ),
            Self::Database(error) => write!(formatter, "the throwaway PostgreSQL does not answer: {error}"),
        }
    }
}

impl Summary {
    async fn of(database: &Database<'_>, scaler: &Serving, polls: usize, took: Duration) -> anyhow::Result<Self> {
        let claps = "SELECT status, count(*) FROM clap GROUP BY status ORDER BY count(*) DESC";
        let attempts = "SELECT outcome, count(*) FROM clap_attempt GROUP BY outcome ORDER BY count(*) DESC";
        let statements = statements_sent(scaler).await.context("the metrics of clapometer")?;
        let (claps, attempts) = (tally(database, claps).await?, tally(database, attempts).await?);
        let iterations = tally(database, "SELECT 'all', sum(iteration) FROM clap").await?;
        let iterations = iterations.iter().map(|(_, count)| count).sum();
        Ok(Self { claps, attempts, iterations, polls, statements, took })
    }

    fn print(&self, jobs: &Jobs) {
        let Self { claps, attempts, iterations: _, polls, statements, took } = self;
        let census = jobs.census();
        let list = |counts: &[(String, i64)]| {
            counts.iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
        };
        println!();
        println!("  claps      {} in {:.0} s", list(claps), took.as_secs_f64());
        println!("  attempts   {}", list(attempts));
        let killed = if self.lost() > 0 { "; LOST: its pod was killed, and the next one did it" } else { "" };
        println!("             FAILED: as planned{killed}");
        println!(
            "  Jobs       {} created: {} complete, {} failed; {} at most at a time; {} pods",
            jobs.len(),
            census.complete,
            census.failed,
            jobs.peak(),
            jobs.pods()
        );
        println!("  idle Jobs  {}", jobs.idle());
        println!("  scaler     {polls} polls of 3 calls, {statements} statements sent to PostgreSQL");
        println!();
    }

    /// Returns the number of attempts whose lease ended.
    fn lost(&self) -> i64 {
        count_of(&self.attempts, "LOST")
    }

    /// Returns how many leases ended under workers that lived: all but that of the worker that was killed.
    fn expired(&self) -> i64 {
        (self.lost() - 1).max(0)
    }

    /// Lists what is not as it must be.
    fn faults(&self, jobs: &Jobs) -> Vec<String> {
        let Self { claps, attempts, iterations, polls, statements, took: _ } = self;
        let expired = self.expired();
        let all = i64::try_from(CLAPS).expect("sixty");
        let polls = u64::try_from(*polls).expect("some dozens");
        let mut faults = Vec::new();
        let mut must = |holds: bool, fault: String| {
            if !holds {
                faults.push(fault);
            }
        };
        must(count_of(claps, "SUCCESS") == all, format!("not every clap succeeded: {claps:?}"));
        must(count_of(attempts, "SUCCESS") == all, format!("a clap was done twice, or never: {attempts:?}"));
        let booked: i64 = attempts.iter().map(|(_, count)| count).sum();
        must(booked == *iterations, format!("{iterations} attempts were begun, and {booked} booked: {attempts:?}"));
        must(count_of(attempts, "FAILED") == 1, format!("one attempt was to fail: {attempts:?}"));
        // The Job of a clap that another has done meanwhile finds nothing.
        must(jobs.idle() == 0 || expired > 0, format!("{} Jobs found nothing to do", jobs.idle()));
        must(jobs.peak() <= MAX_JOBS, format!("{} Jobs at a time", jobs.peak()));
        // A poll reads the value, then the activity; where one fails, KEDA asks for both once more.
        must((1..=4 * polls).contains(statements), format!("{statements} statements for {polls} polls"));
        faults
    }
}

fn count_of(counts: &[(String, i64)], name: &str) -> i64 {
    counts.iter().find(|(known, _)| known == name).map_or(0, |(_, count)| *count)
}
