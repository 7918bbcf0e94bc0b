//! The oracle: faults occur at random while many clients ask, and every answer is compared with the table's content.
//!
//! The table never holds zero, and never the same number twice. So an answer is right if that number may have been
//! committed at some time between the answer and as long before the question as the contract allows; every other
//! answer, a zero above all, is a lie. Errors are neither lies nor answers. Twenty seconds by default; `make truth`
//! goes on to a million answers.

mod crowd;
mod deaf;
mod faults;
mod journal;
mod observed;
mod shards;
mod testbed;

use std::{
    env, fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use clapometer::proto::{GetMetricsRequest, ScaledObjectRef};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::sleep;

use self::{
    deaf::Deaf,
    faults::Fault,
    journal::Journal,
    testbed::{MAX_LAG, Testbed},
};
use crate::support::{
    grpc::{Scaler, trigger},
    skip::{skip, skip_everywhere},
};

const CLIENTS: u64 = 24;

/// The contract: right answers this soon after a fault's end, and slack for a busy machine.
const RECOVERY: Duration = Duration::from_millis(2_000 + 500);

/// The time for which a call may wait for a statement that was sent before it, and what a busy machine adds between the
/// scaler and the table.
const SLACK: Duration = Duration::from_millis(2_400 + 600);

/// A query of [`testbed::QUERIES`], and the greatest age of its answers.
#[derive(Clone, Copy)]
struct Asked {
    query: &'static str,
    max_age: Duration,
}

const ASKED: [Asked; 6] = [
    Asked { query: "strict", max_age: Duration::ZERO },
    Asked { query: "shared", max_age: Duration::from_millis(500) },
    Asked { query: "own", max_age: Duration::ZERO },
    Asked { query: "listening", max_age: Duration::from_secs(2) },
    // Behind the pooler, of the primary only.
    Asked { query: "pooled", max_age: Duration::ZERO },
    // Of the standby.
    Asked { query: "replica", max_age: MAX_LAG },
];

/// IsActive may answer from the reading of the GetMetrics before it.
const PIN: Duration = Duration::from_secs(2);

#[derive(Default)]
struct Counts {
    /// By the place in [`ASKED`].
    right: [AtomicUsize; ASKED.len()],
    errors: AtomicUsize,
}

impl Counts {
    fn right(&self) -> usize {
        self.right.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }
}

/// Commits one number after another; the journal allows for commits whose outcome a fault has hidden.
async fn write(testbed: &Testbed, journal: &Journal, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let number = journal.begin();
        if testbed.commit(number).await {
            journal.committed();
        }
        sleep(Duration::from_millis(15)).await;
    }
}

/// Asks until it is stopped. An untrue answer ends it with a panic.
async fn ask(scaler: &Scaler, client: u64, journal: &Journal, counts: &Counts, stop: &AtomicBool, pace: Duration) {
    let mut random = StdRng::seed_from_u64(client);
    while !stop.load(Ordering::Relaxed) {
        let place = random.random_range(0..ASKED.len());
        let asked = ASKED[place];
        let reference = reference(asked, client);
        let asked_at = Instant::now();
        if random.random_bool(0.8) {
            let request = GetMetricsRequest { scaled_object_ref: Some(reference), metric_name: asked.query.to_owned() };
            match scaler.client().get_metrics(request).await {
                Ok(response) => {
                    let value = response.into_inner().metric_values[0].metric_value_float;
                    journal.bears_out(value, asked_at, asked.max_age + SLACK, asked.query);
                    counts.right[place].fetch_add(1, Ordering::Relaxed);
                }
                Err(_) => _ = counts.errors.fetch_add(1, Ordering::Relaxed),
            }
        } else {
            match scaler.client().is_active(reference).await {
                Ok(response) => {
                    let is_odd = response.into_inner().result;
                    journal.bears_out_parity(is_odd, asked_at, asked.max_age + PIN + SLACK, asked.query);
                    counts.right[place].fetch_add(1, Ordering::Relaxed);
                }
                Err(_) => _ = counts.errors.fetch_add(1, Ordering::Relaxed),
            }
        }
        sleep(pace).await;
    }
}

fn reference(asked: Asked, client: u64) -> ScaledObjectRef {
    let number = client.to_string();
    let mut reference = match asked.query {
        "own" => trigger("own", &[("param.n", &number)]),
        query => trigger(query, &[]),
    };
    reference.name = format!("client-{client}");
    reference
}

/// The time that a machine may take that runs much else beside a long run, in which only answers are held to the
/// contract.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes a fault for a while, waits for the first right answer, and returns the time that this took.
async fn endure(testbed: &Testbed, fault: Fault, length: Duration, within: Duration) -> Duration {
    fault.strike(testbed).await;
    sleep(length).await;
    fault.heal(testbed).await;
    let healed = Instant::now();
    let probe = fault.probe();
    let metric = probe.scaler_metadata["query"].clone();
    let request = GetMetricsRequest { scaled_object_ref: Some(probe), metric_name: metric };
    while testbed.scaler.client().get_metrics(request.clone()).await.is_err() {
        assert!(healed.elapsed() < within, "{} is not over {:?} after its end", fault.name(), healed.elapsed());
        sleep(Duration::from_millis(10)).await;
    }
    healed.elapsed()
}

/// Holds the standby's replay again and again, for longer than any answer may be old.
async fn lag(testbed: &Testbed, seed: u64, stop: &AtomicBool) {
    let mut random = StdRng::seed_from_u64(seed);
    while !stop.load(Ordering::Relaxed) {
        for (is_held, longest) in [(true, 9_000), (false, 4_000)] {
            testbed.hold_replay(is_held).await;
            let until = Instant::now() + Duration::from_millis(random.random_range(1_000..longest));
            while Instant::now() < until && !stop.load(Ordering::Relaxed) {
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Says which faults are left out.
fn report_impossible(testbed: &Testbed) {
    if testbed.pooler.is_none() {
        skip("the faults of a pooler, of all that it tests: PgBouncer is not installed");
    }
    if testbed.memory_limit.is_none() {
        skip_everywhere("the fault memory-limit: it takes root and control groups");
    }
}

#[tokio::test]
async fn no_answer_is_a_lie_whatever_strikes() {
    let wanted: usize = env::var("TRUTH_ANSWERS").map_or(0, |number| number.parse().unwrap());
    let seed: u64 = env::var("TRUTH_SEED").map_or(2026, |number| number.parse().unwrap());
    let pace = if wanted > 0 { Duration::ZERO } else { Duration::from_millis(4) };
    let testbed = Arc::new(Testbed::new().await);
    report_impossible(&testbed);
    let mut possible = Fault::possible(&testbed);
    possible.retain(|fault| !fault.is_made_alone());
    let (journal, counts, stop) =
        (Arc::new(Journal::new(1)), Arc::<Counts>::default(), Arc::new(AtomicBool::new(false)));
    let writer = {
        let (testbed, journal, stop) = (Arc::clone(&testbed), Arc::clone(&journal), Arc::clone(&stop));
        tokio::spawn(async move { write(&testbed, &journal, &stop).await })
    };
    let lagging = {
        let (testbed, stop) = (Arc::clone(&testbed), Arc::clone(&stop));
        tokio::spawn(async move { lag(&testbed, seed, &stop).await })
    };
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let scaler = Scaler::at(testbed.serving.grpc);
            let (journal, counts, stop) = (Arc::clone(&journal), Arc::clone(&counts), Arc::clone(&stop));
            tokio::spawn(async move { ask(&scaler, client, &journal, &counts, &stop, pace).await })
        })
        .collect();

    let within = if wanted > 0 { PATIENCE } else { 4 * RECOVERY };
    let mut random = StdRng::seed_from_u64(seed);
    let start = Instant::now();
    let mut recoveries = Vec::new();
    while start.elapsed() < Duration::from_secs(20) || counts.right() < wanted {
        let fault = possible[random.random_range(0..possible.len())];
        let lengths = if fault.is_of_age() { 3_000..6_000 } else { 50..1_500 };
        let length = Duration::from_millis(random.random_range(lengths));
        if wanted > 0 {
            // The long form takes an hour: its last line says where it was.
            let (right, errors) = (counts.right(), counts.errors.load(Ordering::Relaxed));
            println!(
                "{:>6.0?} {right:>8} answers {errors:>7} errors, next {} for {length:.1?}",
                start.elapsed(),
                fault.name()
            );
        }
        recoveries.push((endure(&testbed, fault, length, within).await, fault));
        sleep(Duration::from_millis(random.random_range(0..400))).await;
        assert!(
            clients.iter().all(|client| !client.is_finished()) || stop.load(Ordering::Relaxed),
            "a client has ended"
        );
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("every answer was the truth");
    }
    writer.await.unwrap();
    lagging.await.unwrap();
    let (right, errors) = (counts.right(), counts.errors.load(Ordering::Relaxed));
    let (slowest, culprit) = recoveries.iter().max_by_key(|(recovery, _)| *recovery).unwrap();
    let by_query: Vec<_> = ASKED.iter().zip(&counts.right).map(|(asked, right)| (asked.query, right)).collect();
    println!(
        "seed {seed}: {right} answers in {:.0?}, all true, and {errors} errors; {by_query:?}; {} faults, the slowest recovery {slowest:.1?} after {}",
        start.elapsed(),
        recoveries.len(),
        culprit.name(),
    );
    assert!(
        by_query.iter().all(|(_, right)| right.load(Ordering::Relaxed) > 50),
        "{by_query:?}: a query without answers proves nothing"
    );
    assert!(right > 1_000 && errors > 50, "{right} answers and {errors} errors prove nothing");
    // A long run is made beside other work: `make faults` holds each recovery to the contract.
    assert!(wanted > 0 || *slowest < RECOVERY, "{slowest:?} after {}", culprit.name());
    let log = testbed.serving.process.errors();
    assert!(!log.contains("panicked"), "{log}");
}

#[tokio::test]
async fn every_named_fault_is_answered_as_the_contract_says_and_heals_in_time() {
    let testbed = Testbed::new().await;
    println!("{:<26} {:<32} {:<32} {:>10} {:>10}", "fault", "required", "seen", "noticed", "recovered");
    let mut wrong = Vec::new();
    report_impossible(&testbed);
    let deaf = Deaf::connect(testbed.serving.grpc).await;
    for fault in Fault::possible(&testbed) {
        let observed = observed::observe(&testbed, fault).await;
        println!("{observed}");
        if let Some(complaint) = observed.complaint(RECOVERY) {
            wrong.push(complaint);
        }
    }
    println!("{} faults", Fault::ALL.len());
    let (shortest, longest) = deaf.are_closed().await;
    println!(
        "beside them, ping-unanswered: required is an end after 40 s, seen was one after {shortest:.0?} to {longest:.0?}"
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn faults_are_as_many_as_the_documents_say() {
    let told = format!("{} named faults", Fault::ALL.len());
    assert!(
        fs::read_to_string("docs/what-was-run.md").unwrap().contains(&told),
        "docs/what-was-run.md does not tell of {told}"
    );
}
