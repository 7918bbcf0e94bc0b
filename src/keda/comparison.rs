//! Compares a ScaledJob under a workload with ScaledJobs that differ from it in a few settings.
//!
//! All of them get the same rows, the same pods and the same seeds, so that what differs comes from what was changed.

use super::{
    model::{CountedRows, Milliseconds, Scenario, SimulationOutcome, run},
    scaled_job::{ScaledJob, Strategy},
    workload::Workload,
};

const SECOND: Milliseconds = 1_000;

/// Intervals that people choose.
const INTERVALS: [Milliseconds; 3] = [5 * SECOND, 10 * SECOND, 30 * SECOND];

/// The seconds of waiting that are as bad as an idle Job for each row.
const IDLE_JOB_SECONDS: f64 = 60.0;

/// The improvement below which there is no reason for a change.
const NOTABLE_SECONDS: f64 = 1.0;
const NOTABLE_SHARE: f64 = 0.05;

/// The settings that are compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Variant {
    /// `scalingStrategy.strategy`.
    pub strategy: Strategy,
    /// The rows that the trigger counts.
    pub count: CountedRows,
    /// KEDA's target for the count.
    pub target: f64,
    /// `pollingInterval`.
    pub polling_interval: Milliseconds,
}

/// The figures of a variant.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// Waits of all rows of all runs, in ascending order.
    waits: Vec<Milliseconds>,
    /// The number of rows of one run.
    pub rows: usize,
    /// The mean number of rows that nobody claimed.
    pub unclaimed: f64,
    /// The mean number of Jobs that were created.
    pub jobs: f64,
    /// The mean number of Jobs that found nothing to claim.
    pub idle_jobs: f64,
    /// The most Jobs that were unfinished at once, in any run.
    pub peak: i64,
    /// The mean time of all pods of a run together.
    pub pod_hours: f64,
    /// The mean time at which the last row was done; absent if one never was.
    pub end: Option<Milliseconds>,
}

/// A variant with its figures.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// The variant that was simulated.
    pub variant: Variant,
    /// The figures of the variant.
    pub figures: Figures,
    /// It is the one that was asked about.
    pub is_given: bool,
}

/// Simulates a ScaledJob and its neighbours: other strategies and counts, other intervals and targets with the best of
/// them, and other strategies and counts with the best of those. Returns the best first.
pub fn compare(base: &Scenario, workload: &Workload, seed: u64, runs: u64) -> Vec<Candidate> {
    let given = Variant::of(base);
    let rows: Vec<_> = (seed..seed.saturating_add(runs)).map(|seed| (seed, workload.rows(seed))).collect();
    let mut candidates: Vec<Candidate> = Vec::new();
    let consider = |variants: Vec<Variant>, candidates: &mut Vec<Candidate>| {
        for variant in variants {
            if candidates.iter().all(|known| known.variant != variant) {
                let figures = Figures::of(&variant.scenario(base), &rows);
                candidates.push(Candidate { variant, figures, is_given: variant == given });
            }
        }
        let max = base.scaled_job.max_replica_count;
        candidates.sort_by(|a, b| a.rank(max).partial_cmp(&b.rank(max)).unwrap_or(std::cmp::Ordering::Equal));
    };
    consider(given.strategies_and_counts(), &mut candidates);
    consider(candidates[0].variant.intervals_and_targets(given), &mut candidates);
    // What makes no difference at one interval may make one at another.
    consider(candidates[0].variant.strategies_and_counts(), &mut candidates);
    candidates
}

/// Returns the candidate to recommend: the best, unless the given one is about as good.
pub fn recommended<'a>(candidates: &'a [Candidate], scaled_job: &ScaledJob) -> &'a Candidate {
    let max = scaled_job.max_replica_count;
    let best = &candidates[0];
    let given = candidates.iter().find(|candidate| candidate.is_given).unwrap_or(best);
    let ((given_class, given_cost), (class, cost)) = (given.rank(max), best.rank(max));
    let is_as_good = given_class == class && given_cost <= cost * (1.0 + NOTABLE_SHARE) + NOTABLE_SECONDS;
    if is_as_good { given } else { best }
}

impl Variant {
    /// Returns what a scenario is about.
    pub fn of(scenario: &Scenario) -> Self {
        Self {
            strategy: scenario.scaled_job.strategy,
            count: scenario.count,
            target: scenario.target,
            polling_interval: scenario.polling_interval,
        }
    }

    /// Returns a scenario that is like another one, but for this.
    pub fn scenario(self, base: &Scenario) -> Scenario {
        let Self { strategy, count, target, polling_interval } = self;
        let scaled_job = ScaledJob { strategy, ..base.scaled_job };
        Scenario { scaled_job, count, target, polling_interval, ..base.clone() }
    }

    fn strategies_and_counts(self) -> Vec<Self> {
        let strategies = [self.strategy, Strategy::Default, Strategy::Accurate, Strategy::Eager];
        let counts = [self.count, CountedRows::Outstanding, CountedRows::Pending];
        let all = strategies.into_iter().flat_map(|strategy| counts.map(|count| Self { strategy, count, ..self }));
        all.collect()
    }

    fn intervals_and_targets(self, given: Self) -> Vec<Self> {
        let intervals = INTERVALS.map(|polling_interval| Self { polling_interval, ..self });
        if given.target == 1.0 {
            return intervals.into_iter().chain([Self { target: 2.0, ..self }]).collect();
        }
        let with_one = intervals.map(|variant| Self { target: 1.0, ..variant });
        intervals.into_iter().chain([Self { target: 1.0, ..self }]).chain(with_one).collect()
    }
}

impl Candidate {
    /// Returns the key to sort by, the best first: faults, then the waits of the slowest rows plus a price for idle
    /// Jobs.
    fn rank(&self, max_replica_count: Option<i64>) -> (u8, f64) {
        let Figures { rows, unclaimed, idle_jobs, peak, end, .. } = &self.figures;
        let exceeds = max_replica_count.is_some_and(|max| *peak > max);
        let class = u8::from(exceeds) + 2 * u8::from(*unclaimed > 0.0 || (end.is_none() && *rows > 0));
        let rows = ratio(*rows, 1).max(1.0);
        (class, seconds(self.figures.wait(95)) + IDLE_JOB_SECONDS * idle_jobs / rows)
    }
}

impl Figures {
    fn of(scenario: &Scenario, runs: &[(u64, Vec<(Milliseconds, Milliseconds)>)]) -> Self {
        let outcomes: Vec<SimulationOutcome> =
            runs.iter().map(|(seed, rows)| run(&Scenario { rows: rows.clone(), ..scenario.clone() }, *seed)).collect();
        let mut waits: Vec<Milliseconds> = outcomes.iter().flat_map(|outcome| outcome.waits.iter().copied()).collect();
        waits.sort_unstable();
        let mean = |of: fn(&SimulationOutcome) -> usize| ratio(outcomes.iter().map(of).sum(), outcomes.len());
        let pod_time: Milliseconds = outcomes.iter().map(|outcome| outcome.pod_time).sum();
        let ends: Option<Vec<Milliseconds>> = outcomes.iter().map(|outcome| outcome.end).collect();
        let runs_made = Milliseconds::try_from(outcomes.len().max(1)).unwrap_or(1);
        Self {
            waits,
            rows: runs.first().map_or(0, |(_, rows)| rows.len()),
            unclaimed: mean(|outcome| outcome.unclaimed),
            jobs: mean(|outcome| outcome.jobs),
            idle_jobs: mean(|outcome| outcome.idle_jobs),
            peak: outcomes.iter().map(|outcome| outcome.peak).max().unwrap_or(0),
            pod_hours: seconds(pod_time / runs_made) / 3600.0,
            end: ends.map(|ends| ends.iter().sum::<Milliseconds>() / runs_made),
        }
    }

    /// Returns the wait that this share of the claimed rows, in percent, does not exceed; 0 if none was claimed.
    pub fn wait(&self, percent: u8) -> Milliseconds {
        let rank = (self.waits.len() * usize::from(percent)).div_ceil(100);
        self.waits.get(rank.saturating_sub(1)).copied().unwrap_or(0)
    }
}

/// Returns simulated time in seconds.
pub fn seconds(milliseconds: Milliseconds) -> f64 {
    std::time::Duration::from_millis(milliseconds).as_secs_f64()
}

fn ratio(part: usize, whole: usize) -> f64 {
    let float = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    float(part) / float(whole).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keda::workload::Arrivals;

    fn hour() -> Workload {
        Workload { arrivals: Arrivals::Random(540, 3_600 * SECOND), duration: 40 * SECOND..=40 * SECOND }
    }

    fn given(count: CountedRows, polling_interval: Milliseconds) -> Scenario {
        Scenario::new(count, polling_interval, Vec::new())
    }

    #[test]
    fn the_seeds_pairing_is_told_to_count_what_is_held_and_to_poll_more_often() {
        let base = given(CountedRows::Pending, 30 * SECOND);
        let candidates = compare(&base, &hour(), 1, 2);
        let best = recommended(&candidates, &base.scaled_job);
        let expected = Variant { count: CountedRows::Outstanding, polling_interval: 5 * SECOND, ..Variant::of(&base) };
        assert_eq!(best.variant, expected);
        assert_eq!(best.figures.idle_jobs, 0.0);
        assert_eq!(candidates.iter().filter(|candidate| candidate.is_given).count(), 1);
    }

    #[test]
    fn what_is_about_as_good_as_the_best_is_left_as_it_is() {
        let base = given(CountedRows::Outstanding, 5 * SECOND);
        let candidates = compare(&base, &hour(), 1, 2);
        assert!(recommended(&candidates, &base.scaled_job).is_given);
    }

    #[test]
    fn more_jobs_than_allowed_come_behind_every_other() {
        let mut base = given(CountedRows::Pending, 5 * SECOND);
        base.scaled_job.strategy = Strategy::Custom { queue_length_deduction: 0, running_job_percentage: Some(0.0) };
        let burst = Workload { arrivals: Arrivals::AtOnce(60), duration: 40 * SECOND..=40 * SECOND };
        let candidates = compare(&base, &burst, 1, 1);
        assert!(candidates[0].figures.peak <= 10 && candidates.last().is_some_and(|last| last.figures.peak > 10));
    }

    #[test]
    fn a_divided_count_is_told_to_be_divided_once() {
        let base = Scenario { target: 10.0, ..given(CountedRows::Outstanding, 5 * SECOND) };
        let burst = Workload { arrivals: Arrivals::AtOnce(60), duration: 40 * SECOND..=40 * SECOND };
        let candidates = compare(&base, &burst, 1, 1);
        assert_eq!(recommended(&candidates, &base.scaled_job).variant.target, 1.0);
    }

    #[test]
    fn a_share_of_the_rows_does_not_wait_longer() {
        let figures = |waits: Vec<Milliseconds>| Figures {
            waits,
            rows: 0,
            unclaimed: 0.0,
            jobs: 0.0,
            idle_jobs: 0.0,
            peak: 0,
            pod_hours: 0.0,
            end: None,
        };
        let waits = figures((1..=20).collect());
        assert_eq!([0, 5, 50, 95, 99, 100].map(|percent| waits.wait(percent)), [1, 1, 10, 19, 20, 20]);
        assert_eq!(figures(Vec::new()).wait(95), 0);
    }
}
