//! The fault test: real Jobs and a real PostgreSQL with fsync on, both killed at random; then every invariant.
//!
//! CI runs two short forms with fixed seeds. `make chaos` runs the same code for as many claps as
//! `CHAOS_CLAPS` says, with random seeds, which it prints; `CHAOS_SEED` repeats a run as far as
//! the machine's own timing lets it.

mod books;
mod effects;
mod world;

use clapometer::keda::scaled_job::Strategy;
use rand::Rng;

use self::world::{Plan, RetryBy, World};

/// The number of claps that one run has in the long form: more would only make it longer.
const CLAPS_PER_RUN: u32 = 200;

#[tokio::test]
async fn faults_lose_nothing_and_book_nothing_twice_when_the_queue_retries() {
    run(Plan { retry_by: RetryBy::Queue, strategy: Strategy::Default, seed: 21, claps: 60 }).await;
}

#[tokio::test]
async fn faults_lose_nothing_and_book_nothing_twice_when_the_job_retries() {
    run(Plan { retry_by: RetryBy::Job, strategy: Strategy::Accurate, seed: 22, claps: 60 }).await;
}

/// Runs the plan; in the long form half of the claps of `CHAOS_CLAPS`, in runs of their own seeds and strategies.
async fn run(plan: Plan) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u32>().expect("a number"));
    let Some(claps) = number("CHAOS_CLAPS") else {
        return World::run(plan).await;
    };
    for run in 0..claps.div_ceil(2 * CLAPS_PER_RUN) {
        let seed = number("CHAOS_SEED").map_or_else(|| u64::from(rand::rng().random::<u32>()), u64::from);
        let strategy = if run % 2 == 0 { Strategy::Default } else { Strategy::Accurate };
        World::run(Plan { seed, strategy, claps: CLAPS_PER_RUN, ..plan }).await;
    }
}
