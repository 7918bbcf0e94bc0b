//! The Jobs of rows that trickle in, poll by poll, beside those of the real KEDA.
//!
//! The scenario `trickle` of `make keda-long` writes what became of each row to a file, of which
//! `tests/keda/trickle.csv` is a copy.

use super::{CLAIM, CountedRows, Milliseconds, Scenario, run};

const TRACE: &str = include_str!("../../../tests/keda/trickle.csv");
/// The `pollingInterval` of deploy/examples/scaled-job.yaml.
const POLL: Milliseconds = 5_000;
const SEEDS: u64 = 100;

/// The story of a row, in milliseconds from the first row's arrival. Each row had a Job of its own.
struct Row {
    arrived: Milliseconds,
    job_created: Milliseconds,
    claimed: Milliseconds,
    done: Milliseconds,
}

fn trace() -> Vec<Row> {
    let row = |line: &str| {
        let times: Vec<_> = line.split(',').map(|time| time.parse().expect("a time")).collect();
        let [arrived, job_created, claimed, done] = times[..] else { panic!("{line}") };
        Row { arrived, job_created, claimed, done }
    };
    TRACE.lines().skip(2).map(row).collect()
}

/// Returns the same rows for the model. Its first poll is the first that started a Job, and its pods start as slowly as
/// those of the trace.
fn scenario(trace: &[Row], count: CountedRows) -> Scenario {
    let starts = || trace.iter().map(|row| row.claimed.saturating_sub(row.job_created + CLAIM));
    Scenario {
        active_if_claimable: count == CountedRows::Outstanding,
        pod_start: starts().min().expect("there are rows")..=starts().max().expect("there are rows"),
        first_poll: trace.iter().map(|row| row.job_created).min(),
        ..Scenario::new(count, POLL, trace.iter().map(|row| (row.arrived, row.done - row.claimed)).collect())
    }
}

/// Returns, for each poll of the model, all Jobs that it has started by then, and all that the real KEDA had.
///
/// The real Jobs are counted half an interval later: they were noticed one after the other, and the polls of the two
/// are a few milliseconds apart.
fn started(trace: &[Row], count: CountedRows, seed: u64) -> (Vec<i64>, Vec<i64>) {
    let polls = run(&scenario(trace, count), seed).polls;
    let modelled = polls.iter().scan(0, |all, (.., created)| {
        *all += created;
        Some(*all)
    });
    let real = |by| trace.iter().map(|row| i64::from(row.job_created <= by)).sum();
    (modelled.collect(), polls.iter().map(|(time, ..)| real(time + POLL / 2)).collect())
}

#[test]
fn each_poll_starts_as_many_jobs_as_that_of_the_real_keda() {
    let trace = trace();
    for seed in 0..SEEDS {
        let (modelled, real) = started(&trace, CountedRows::Outstanding, seed);
        assert_eq!(modelled, real, "seed {seed}");
        assert_eq!(modelled.last().copied(), i64::try_from(trace.len()).ok(), "seed {seed}");
    }
}

#[test]
fn a_count_of_unclaimed_rows_is_not_what_the_real_keda_was_told() {
    let trace = trace();
    for seed in 0..SEEDS {
        let (modelled, real) = started(&trace, CountedRows::Pending, seed);
        assert_ne!(modelled, real, "seed {seed}");
    }
}
