//! A simulated cluster: rows arrive, KEDA polls, pods start, claim, work and end.
//!
//! A discrete-event simulation around [`super::scaled_job`]; an hour passes in milliseconds. The
//! figures of the documents about strategies and counts come from here.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    ops::Range,
};

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::scaled_job::{Jobs, ScaledJob, ScalerAnswer};

/// Milliseconds of simulated time.
pub type Milliseconds = u64;

/// The time from a running pod to the commit of its claim.
const CLAIM: Milliseconds = 500;
/// The time from the end of the work until KEDA sees the Job complete.
const COMPLETION: Milliseconds = 1_500;

/// The rows that a trigger counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountedRows {
    /// The rows without a claim: the seed's query.
    Pending,
    /// The rows without a claim, and the rows that a live Job holds.
    Outstanding,
}

/// The parameters of a simulation.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// What KEDA does with the answers.
    pub scaled_job: ScaledJob,
    /// The rows that the trigger counts.
    pub count: CountedRows,
    /// KEDA's target for the count.
    pub target: f64,
    /// KEDA's `pollingInterval`.
    pub polling_interval: Milliseconds,
    /// The time of KEDA's first poll; if absent, a random time within the first interval.
    pub first_poll: Option<Milliseconds>,
    /// The arrival time and the duration of the work of each row, in order of arrival.
    pub rows: Vec<(Milliseconds, Milliseconds)>,
    /// The time from a Job's creation until its pod runs.
    pub pod_start: Range<Milliseconds>,
    /// The age of the scaler's answer when KEDA gets it.
    pub answer_age: Milliseconds,
    /// The number of rows that a vanished Job still seems to hold; they are never claimed.
    pub orphans: usize,
    /// Whether the trigger is active if a row can be claimed, rather than if the count is above zero.
    pub active_if_claimable: bool,
    /// The end of the simulation.
    pub until: Milliseconds,
}

impl Scenario {
    /// A scenario with at most ten Jobs, fresh answers, and pods that start in two to six seconds.
    pub fn new(count: CountedRows, polling_interval: Milliseconds, rows: Vec<(Milliseconds, Milliseconds)>) -> Self {
        Self {
            scaled_job: ScaledJob::with_max_replica_count(10),
            count,
            target: 1.0,
            polling_interval,
            first_poll: None,
            rows,
            pod_start: 2_000..6_000,
            answer_age: 0,
            orphans: 0,
            active_if_claimable: false,
            until: 20_000_000,
        }
    }
}

/// The outcome of a simulation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimulationOutcome {
    /// The time at which the last row was done; absent if one never was.
    pub end: Option<Milliseconds>,
    /// The longest time from a row's arrival to its claim, or to the end of the run.
    pub worst_wait: Milliseconds,
    /// The number of Jobs that found nothing to claim.
    pub idle_jobs: usize,
    /// The number of Jobs created.
    pub jobs: usize,
    /// The most Jobs that were unfinished at once.
    pub peak: i64,
    /// Each poll: time, unclaimed rows, held rows, unfinished Jobs, Jobs created.
    pub polls: Vec<(Milliseconds, usize, usize, i64, i64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum SimulationEvent {
    /// The row with this index arrives.
    Arrival(usize),
    /// Work on a row ends.
    Done,
    /// A Job whose pod has ended is complete.
    Complete,
    /// A pod runs.
    Running,
    /// A pod claims.
    Claim,
    /// KEDA polls.
    Poll,
}

struct Simulation<'scenario> {
    scenario: &'scenario Scenario,
    random: StdRng,
    now: Milliseconds,
    agenda: BinaryHeap<Reverse<(Milliseconds, SimulationEvent)>>,
    unclaimed: VecDeque<usize>,
    held: usize,
    done: usize,
    jobs: Jobs,
    /// The answers over time: since when, unclaimed rows, held rows.
    history: Vec<(Milliseconds, usize, usize)>,
    outcome: SimulationOutcome,
}

/// Runs a scenario. The seed decides the time of KEDA's first poll and how long each pod takes to start.
pub fn run(scenario: &Scenario, seed: u64) -> SimulationOutcome {
    let mut run = Simulation {
        scenario,
        random: StdRng::seed_from_u64(seed),
        now: 0,
        agenda: BinaryHeap::new(),
        unclaimed: VecDeque::new(),
        held: scenario.orphans,
        done: 0,
        jobs: Jobs::default(),
        history: vec![(0, 0, scenario.orphans)],
        outcome: SimulationOutcome { end: None, worst_wait: 0, idle_jobs: 0, jobs: 0, peak: 0, polls: Vec::new() },
    };
    for (index, (arrival, _)) in scenario.rows.iter().enumerate() {
        run.agenda.push(Reverse((*arrival, SimulationEvent::Arrival(index))));
    }
    let first_poll = scenario.first_poll.unwrap_or_else(|| run.random.random_range(0..scenario.polling_interval));
    run.agenda.push(Reverse((first_poll, SimulationEvent::Poll)));
    while let Some(Reverse((time, event))) = run.agenda.pop() {
        if time > scenario.until || (run.outcome.end.is_some() && run.scenario.orphans == 0 && run.jobs.unfinished == 0)
        {
            break;
        }
        run.now = time;
        run.happens(event);
    }
    let never = run.unclaimed.iter().map(|row| scenario.until - scenario.rows[*row].0).max();
    run.outcome.worst_wait = run.outcome.worst_wait.max(never.unwrap_or(0));
    run.outcome
}

impl Simulation<'_> {
    fn happens(&mut self, event: SimulationEvent) {
        match event {
            SimulationEvent::Arrival(row) => self.unclaimed.push_back(row),
            SimulationEvent::Poll => self.poll(),
            SimulationEvent::Running => {
                self.jobs.pending -= 1;
                self.after(CLAIM, SimulationEvent::Claim);
            }
            SimulationEvent::Claim => self.claim(),
            SimulationEvent::Done => {
                self.held -= 1;
                self.done += 1;
                if self.done == self.scenario.rows.len() {
                    self.outcome.end = Some(self.now);
                }
                self.after(COMPLETION, SimulationEvent::Complete);
            }
            SimulationEvent::Complete => self.jobs.unfinished -= 1,
        }
        self.history.push((self.now, self.unclaimed.len(), self.held));
    }

    fn claim(&mut self) {
        let Some(row) = self.unclaimed.pop_front() else {
            self.outcome.idle_jobs += 1;
            return self.after(COMPLETION, SimulationEvent::Complete);
        };
        let (arrival, work) = self.scenario.rows[row];
        self.outcome.worst_wait = self.outcome.worst_wait.max(self.now - arrival);
        self.held += 1;
        self.after(work, SimulationEvent::Done);
    }

    fn poll(&mut self) {
        let (unclaimed, held) = self.answered();
        let value = match self.scenario.count {
            CountedRows::Pending => unclaimed,
            CountedRows::Outstanding => unclaimed + held,
        };
        let active = if self.scenario.active_if_claimable { unclaimed > 0 } else { value > 0 };
        let value = f64::from(u32::try_from(value).expect("the model is small"));
        let answer = ScalerAnswer { value, target: self.scenario.target, active };
        let created = self.scenario.scaled_job.decide(&[answer], self.jobs).created;
        self.outcome.polls.push((self.now, unclaimed, held, self.jobs.unfinished, created));
        for _ in 0..created {
            let start = self.random.random_range(self.scenario.pod_start.clone());
            self.after(start, SimulationEvent::Running);
            self.outcome.jobs += 1;
        }
        self.jobs.unfinished += created;
        self.jobs.pending += created;
        self.outcome.peak = self.outcome.peak.max(self.jobs.unfinished);
        self.after(self.scenario.polling_interval, SimulationEvent::Poll);
    }

    /// Returns the counts at the time of the answer.
    fn answered(&self) -> (usize, usize) {
        let made = self.now.saturating_sub(self.scenario.answer_age);
        let later = self.history.partition_point(|(time, ..)| *time <= made);
        let (_, unclaimed, held) = self.history[later - 1];
        (unclaimed, held)
    }

    fn after(&mut self, delay: Milliseconds, event: SimulationEvent) {
        self.agenda.push(Reverse((self.now + delay, event)));
    }
}

#[cfg(test)]
mod tests {
    //! The table in the documents; each figure is the mean of thirty runs.

    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::{
        super::scaled_job::{ScaledJob, Strategy},
        CountedRows, Milliseconds, Scenario, SimulationOutcome, run,
    };

    const SEEDS: u64 = 30;
    const SECOND: Milliseconds = 1_000;
    const HOUR: Milliseconds = 3_600 * SECOND;

    /// Sixty rows of forty seconds at once: the seed's evening.
    fn burst() -> Vec<(Milliseconds, Milliseconds)> {
        vec![(0, 40 * SECOND); 60]
    }

    /// 540 rows of forty seconds at random times within an hour.
    fn hour(seed: u64) -> Vec<(Milliseconds, Milliseconds)> {
        arrivals(540, seed)
    }

    fn arrivals(count: usize, seed: u64) -> Vec<(Milliseconds, Milliseconds)> {
        let mut random = StdRng::seed_from_u64(!seed);
        let mut rows: Vec<_> = (0..count).map(|_| (random.random_range(0..HOUR), 40 * SECOND)).collect();
        rows.sort_unstable();
        rows
    }

    fn with_strategy(strategy: Strategy) -> ScaledJob {
        ScaledJob { strategy, ..ScaledJob::with_max_replica_count(10) }
    }

    fn runs(scenario: impl Fn(u64) -> Scenario) -> Vec<SimulationOutcome> {
        (0..SEEDS).map(|seed| run(&scenario(seed), seed)).collect()
    }

    fn mean(outcomes: &[SimulationOutcome], of: impl Fn(&SimulationOutcome) -> u64) -> u64 {
        outcomes.iter().map(of).sum::<u64>() / SEEDS
    }

    /// The mean time at which the last row was done, in seconds.
    fn end(outcomes: &[SimulationOutcome]) -> u64 {
        mean(outcomes, |outcome| outcome.end.expect("every row was done")) / SECOND
    }

    /// The mean of the longest times a row had to wait, in seconds.
    fn wait(outcomes: &[SimulationOutcome]) -> u64 {
        mean(outcomes, |outcome| outcome.worst_wait) / SECOND
    }

    fn idle(outcomes: &[SimulationOutcome]) -> u64 {
        mean(outcomes, |outcome| outcome.idle_jobs.try_into().expect("a count fits"))
    }

    #[track_caller]
    fn near(seen: u64, documented: u64) {
        assert!(seen.abs_diff(documented) * 100 <= documented * 4, "{seen} instead of about {documented}");
    }

    #[test]
    fn the_seeds_evening_poll_by_poll() {
        let scenario = Scenario { first_poll: Some(0), ..Scenario::new(CountedRows::Pending, 30 * SECOND, burst()) };
        let outcome = run(&scenario, 1);
        assert_eq!(
            outcome.polls[..4],
            [
                (0, 60, 0, 0, 10),
                (30 * SECOND, 50, 10, 10, 0),
                (60 * SECOND, 50, 0, 0, 10),
                (90 * SECOND, 40, 10, 10, 0)
            ]
        );
        assert_eq!(outcome.polls[10], (300 * SECOND, 10, 0, 0, 10));
        near(outcome.end.expect("every row was done") / SECOND, 346);
        assert_eq!((outcome.jobs, outcome.idle_jobs), (60, 0));
    }

    #[test]
    fn sixty_rows_at_poll_30_end_after_six_minutes_whatever_is_counted() {
        for count in [CountedRows::Pending, CountedRows::Outstanding] {
            let outcomes = runs(|_| Scenario::new(count, 30 * SECOND, burst()));
            near(end(&outcomes), 361);
            assert_eq!(idle(&outcomes), 0);
        }
    }

    #[test]
    fn sixty_rows_at_poll_5_show_the_difference() {
        let pending = runs(|_| Scenario::new(CountedRows::Pending, 5 * SECOND, burst()));
        let outstanding = runs(|_| Scenario::new(CountedRows::Outstanding, 5 * SECOND, burst()));
        near(end(&pending), 369);
        near(end(&outstanding), 297);
        assert_eq!((idle(&pending), idle(&outstanding)), (0, 0));
    }

    #[test]
    fn an_hour_of_rows_starts_no_idle_job_under_default_and_outstanding() {
        let pending = runs(|seed| Scenario::new(CountedRows::Pending, 5 * SECOND, hour(seed)));
        let outstanding = runs(|seed| Scenario::new(CountedRows::Outstanding, 5 * SECOND, hour(seed)));
        for outcome in &outstanding {
            assert_eq!((outcome.jobs, outcome.idle_jobs), (540, 0), "not in the mean: in every single run");
            assert!(outcome.peak <= 10, "{} Jobs at once", outcome.peak);
        }
        assert!(wait(&pending) >= 2 * wait(&outstanding), "{} and {}", wait(&pending), wait(&outstanding));
    }

    #[test]
    fn other_strategies_start_idle_jobs_or_pay_for_it() {
        let idle_of = |strategy, count| {
            let scaled_job = with_strategy(strategy);
            idle(&runs(|seed| Scenario { scaled_job, ..Scenario::new(count, 5 * SECOND, hour(seed)) }))
        };
        near(idle_of(Strategy::Accurate, CountedRows::Outstanding), 915);
        near(idle_of(Strategy::Eager, CountedRows::Outstanding), 846);
        assert!((15..30).contains(&idle_of(Strategy::Accurate, CountedRows::Pending)));
        assert!((40..65).contains(&idle_of(Strategy::Eager, CountedRows::Pending)));
    }

    #[test]
    fn three_long_jobs_block_three_short_rows_for_hours() {
        let rows = || [[(0, 3 * HOUR); 3], [(60 * SECOND, 40 * SECOND); 3]].concat();
        let pending = runs(|_| Scenario::new(CountedRows::Pending, 30 * SECOND, rows()));
        let outstanding = runs(|_| Scenario::new(CountedRows::Outstanding, 30 * SECOND, rows()));
        assert!(wait(&pending) > 10_000, "{} s", wait(&pending));
        assert!(wait(&outstanding) < 40, "{} s", wait(&outstanding));
        assert_eq!(idle(&outstanding), 0);
    }

    #[test]
    fn slow_pods_change_nothing_about_it() {
        let slow = |count, seed| Scenario {
            pod_start: 12 * SECOND..25 * SECOND,
            ..Scenario::new(count, 5 * SECOND, arrivals(180, seed))
        };
        let outstanding = runs(|seed| slow(CountedRows::Outstanding, seed));
        assert!(outstanding.iter().all(|outcome| outcome.idle_jobs == 0));
        assert!(wait(&runs(|seed| slow(CountedRows::Pending, seed))) > wait(&outstanding));
    }

    #[test]
    fn an_orphaned_row_starts_jobs_for_ever_unless_activity_asks_for_claimable_ones() {
        let orphan = |active_if_claimable, poll| {
            let scenario = Scenario {
                orphans: 1,
                active_if_claimable,
                until: HOUR,
                ..Scenario::new(CountedRows::Outstanding, poll, Vec::new())
            };
            idle(&runs(|_| scenario.clone()))
        };
        near(orphan(false, 30 * SECOND), 120);
        assert!(orphan(false, 5 * SECOND) > 300);
        assert_eq!(orphan(true, 5 * SECOND), 0);
    }

    #[test]
    fn an_answer_older_than_a_second_starts_idle_jobs() {
        let aged = |age| {
            idle(&runs(|seed| Scenario {
                answer_age: age * SECOND,
                ..Scenario::new(CountedRows::Outstanding, 5 * SECOND, hour(seed))
            }))
        };
        assert_eq!((aged(0), aged(1)), (0, 0));
        assert!(aged(2) > 0);
        assert!(aged(5) > 2 * aged(2));
        assert!(aged(20) > 2 * aged(5));
    }

    #[test]
    fn dividing_by_ten_leaves_six_places_and_then_ever_fewer() {
        let tenth = runs(|_| Scenario { target: 10.0, ..Scenario::new(CountedRows::Pending, 30 * SECOND, burst()) });
        near(end(&tenth), 1_424);
        assert!(tenth.iter().all(|outcome| outcome.peak == 6));
    }

    #[test]
    fn a_least_number_of_jobs_keeps_starting_them_on_an_empty_table() {
        let scaled_job = ScaledJob { min_replica_count: 2, ..ScaledJob::with_max_replica_count(10) };
        let empty = |poll| {
            let scenario =
                Scenario { scaled_job, until: HOUR, ..Scenario::new(CountedRows::Outstanding, poll, Vec::new()) };
            idle(&runs(|_| scenario.clone()))
        };
        near(empty(30 * SECOND), 240);
        assert!(empty(5 * SECOND) > 600);
    }

    #[test]
    fn custom_without_a_share_of_the_running_jobs_exceeds_the_greatest_number() {
        let scaled_job =
            with_strategy(Strategy::Custom { queue_length_deduction: 0, running_job_percentage: Some(0.0) });
        let peak = |poll| run(&Scenario { scaled_job, ..Scenario::new(CountedRows::Pending, poll, burst()) }, 1).peak;
        assert_eq!(peak(30 * SECOND), 20);
        assert!(peak(5 * SECOND) > 50);
    }

    #[test]
    fn a_row_that_nobody_ever_claims_has_waited_until_the_end() {
        let scaled_job = ScaledJob::with_max_replica_count(0);
        let outcome =
            run(&Scenario { scaled_job, until: HOUR, ..Scenario::new(CountedRows::Pending, SECOND, burst()) }, 1);
        assert_eq!((outcome.end, outcome.worst_wait, outcome.jobs), (None, HOUR, 0));
    }
}
