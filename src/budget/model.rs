//! Simulates the whole loop: ScaledJobs that share a budget and are polled at different times, Jobs that start late,
//! and readings of different ages.
//!
//! The figures of docs/scale.md come from here.

use std::{cmp::Reverse, collections::BinaryHeap};

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{Demand, shares};
use crate::keda::scaled_job::{Jobs, ScaledJob, ScalerAnswer};

const KEYS: [&str; 4] = ["a", "b", "c", "d"];
const TOTAL: u64 = 10;

/// The interval between polls of one key. All times are in milliseconds.
const POLL: u64 = 5_000;
const LONGEST_START: u64 = 20_000;
const COMPLETION: u64 = 1_500;
const HOUR: u64 = 3_600_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive(usize),
    Poll(usize),
    Claim(usize),
    Done(usize),
    Complete(usize),
}

#[derive(Debug, Clone, Copy, Default)]
struct Queue {
    claimable: u64,
    held: u64,
    /// The Jobs that have not claimed yet.
    starting: u64,
    /// The Jobs that have ended their work, but do not count as complete for KEDA yet.
    ending: u64,
}

/// The maxima of a run, and the number of rows that were worked.
#[derive(Debug, Default)]
struct Peak {
    /// Jobs that start or hold a row.
    working: u64,
    held: u64,
    done: u64,
}

/// Simulates an hour. If `is_shared` is false, each queue may use the whole total.
fn run(seed: u64, is_shared: bool) -> Peak {
    let mut random = StdRng::seed_from_u64(seed);
    let mut agenda = BinaryHeap::new();
    for key in 0..KEYS.len() {
        agenda.push(Reverse((random.random_range(0..POLL), Event::Poll(key))));
        agenda.push(Reverse((random.random_range(0..60_000), Event::Arrive(key))));
    }
    let mut queues = [Queue::default(); KEYS.len()];
    let (mut history, mut peak) = (vec![(0, queues)], Peak::default());
    while let Some(Reverse((now, event))) = agenda.pop() {
        if now > HOUR {
            break;
        }
        let mut after = |delay: u64, event| agenda.push(Reverse((now + delay, event)));
        match event {
            Event::Arrive(key) => {
                queues[key].claimable += random.random_range(1..40);
                after(random.random_range(10_000..300_000), Event::Arrive(key));
            }
            Event::Poll(key) => {
                // Two replicas, each with a reading of its own age.
                let made = now.saturating_sub(random.random_range(0..1_000));
                let later = history.partition_point(|(time, _)| *time <= made);
                let told = told(&history[later - 1].1, is_shared)[key];
                let queue = &mut queues[key];
                let pending = i64::try_from(queue.starting).expect("few");
                let unfinished = i64::try_from(queue.starting + queue.held + queue.ending).expect("few");
                let max = i64::try_from(TOTAL).expect("few");
                let decision = ScaledJob::with_max_replica_count(max).decide(&[told], Jobs { unfinished, pending });
                for _ in 0..decision.created {
                    queue.starting += 1;
                    after(random.random_range(1_000..LONGEST_START), Event::Claim(key));
                }
                after(POLL, Event::Poll(key));
            }
            Event::Claim(key) => {
                queues[key].starting -= 1;
                if queues[key].claimable > 0 {
                    queues[key].claimable -= 1;
                    queues[key].held += 1;
                    after(random.random_range(1_000..120_000), Event::Done(key));
                } else {
                    queues[key].ending += 1;
                    after(COMPLETION, Event::Complete(key));
                }
            }
            Event::Done(key) => {
                queues[key].held -= 1;
                queues[key].ending += 1;
                peak.done += 1;
                after(COMPLETION, Event::Complete(key));
            }
            Event::Complete(key) => queues[key].ending -= 1,
        }
        history.push((now, queues));
        peak.held = peak.held.max(queues.iter().map(|queue| queue.held).sum());
        peak.working = peak.working.max(queues.iter().map(|queue| queue.held + queue.starting).sum());
    }
    peak
}

/// Returns the scaler's answer for each key.
fn told(queues: &[Queue; KEYS.len()], is_shared: bool) -> Vec<ScalerAnswer> {
    let demands = KEYS.iter().zip(queues).map(|(key, queue)| {
        let Queue { claimable, held, .. } = *queue;
        Demand { key, outstanding: claimable + held, held, weight: 1.0, since: None }
    });
    let demands: Vec<_> = demands.collect();
    let shares =
        if is_shared { shares(TOTAL, &demands) } else { demands.iter().map(|demand| demand.outstanding).collect() };
    let number = |count: u64| f64::from(u32::try_from(count).expect("few"));
    let answer = |(share, demand): (&u64, &Demand<'_>)| ScalerAnswer {
        value: number(*share),
        target: 1.0,
        active: *share > demand.held,
    };
    shares.iter().zip(&demands).map(answer).collect()
}

/// Returns the bound of docs/scale.md. The j-th key to start finds j - 1 others to share with.
fn bound() -> u64 {
    (1..=u64::try_from(KEYS.len()).expect("few")).map(|sharing| TOTAL.div_ceil(sharing)).sum()
}

#[test]
fn jobs_exceed_the_total_by_less_than_the_documented_bound() {
    let peaks: Vec<Peak> = (0..200).map(|seed| run(seed, true)).collect();
    let greatest = |of: fn(&Peak) -> u64| peaks.iter().map(of).max().expect("there are runs");
    let (working, held) = (greatest(|peak| peak.working), greatest(|peak| peak.held));
    println!("of a total of {TOTAL}: at most {working} Jobs start or work, {held} work; the bound is {}", bound());
    assert!(working <= bound(), "{working} Jobs, and the documents say {}", bound());
    assert!(working > TOTAL, "the model must be hard enough to exceed the total");
    assert!(peaks.iter().all(|peak| peak.done > 100), "a budget must not stop the work");
}

#[test]
fn without_a_budget_the_same_queues_take_far_more() {
    let working = (0..20).map(|seed| run(seed, false).working).max().expect("there are runs");
    assert!(working > bound(), "{working}");
}
