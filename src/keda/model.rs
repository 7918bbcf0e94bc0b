//! A simulated cluster: rows arrive, KEDA polls, pods start, claim, work and end.
//!
//! A discrete-event simulation around [`super::scaled_job`]; an hour passes in milliseconds. The
//! figures of the documents about strategies and counts come from here.

#[cfg(test)]
mod tests;
#[cfg(test)]
mod trace;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    ops::RangeInclusive,
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
    /// The ScaledJob, which decides what KEDA does with the answers.
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
    pub pod_start: RangeInclusive<Milliseconds>,
    /// The age of the scaler's answer when KEDA gets it.
    pub answer_age: Milliseconds,
    /// The number of rows that a vanished Job still seems to hold; they are never claimed.
    pub orphans: usize,
    /// True if the trigger is active when a row can be claimed, rather than when the count is above `activation`.
    pub active_if_claimable: bool,
    /// The count up to which the trigger is not active.
    pub activation: f64,
    /// True if a Job is pending until it has claimed, rather than until its pod runs: it claims in an init container,
    /// or its pod is ready only then.
    pub pending_until_claim: bool,
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
            pod_start: 2_000..=6_000,
            answer_age: 0,
            orphans: 0,
            active_if_claimable: false,
            activation: 0.0,
            pending_until_claim: false,
            until: 20_000_000,
        }
    }
}

/// The outcome of a simulation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SimulationOutcome {
    /// The time at which the last row was done; absent if one never was.
    pub end: Option<Milliseconds>,
    /// The time from a row's arrival to its claim, for each row that was claimed.
    pub waits: Vec<Milliseconds>,
    /// The number of rows that nobody claimed.
    pub unclaimed: usize,
    /// The longest time from a row's arrival to its claim, or to the end of the run.
    pub worst_wait: Milliseconds,
    /// The time of all pods together, each from the creation of its Job to its end.
    pub pod_time: Milliseconds,
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
    /// The index of the next row to arrive.
    next_row: usize,
    unclaimed: VecDeque<usize>,
    held: usize,
    done: usize,
    jobs: Jobs,
    /// The answers over time: since when, unclaimed rows, held rows. Fresh answers need none.
    history: Vec<(Milliseconds, usize, usize)>,
    outcome: SimulationOutcome,
}

/// Runs a scenario. The seed decides the time of KEDA's first poll and how long each pod takes to start.
///
/// It ends with the last Job after the last row, or at `until`.
pub fn run(scenario: &Scenario, seed: u64) -> SimulationOutcome {
    let mut run = Simulation {
        scenario,
        random: StdRng::seed_from_u64(seed),
        now: 0,
        agenda: BinaryHeap::new(),
        next_row: 0,
        unclaimed: VecDeque::new(),
        held: scenario.orphans,
        done: 0,
        jobs: Jobs::default(),
        history: vec![(0, 0, scenario.orphans)],
        outcome: SimulationOutcome::default(),
    };
    let first_poll = scenario.first_poll.unwrap_or_else(|| run.random.random_range(0..scenario.polling_interval));
    run.agenda.push(Reverse((first_poll, SimulationEvent::Poll)));
    while let Some(Reverse((time, event))) = run.agenda.pop() {
        if time > scenario.until || (run.is_over() && run.jobs.unfinished == 0) {
            break;
        }
        run.arrivals(time);
        run.now = time;
        run.happens(event);
        run.remember();
    }
    run.arrivals(scenario.until);
    let never = run.unclaimed.iter().map(|row| scenario.until - scenario.rows[*row].0).max();
    run.outcome.worst_wait = run.outcome.waits.iter().copied().max().max(never).unwrap_or(0);
    run.outcome.unclaimed = run.unclaimed.len();
    run.outcome
}

impl Simulation<'_> {
    /// All rows are done, and nothing will come.
    fn is_over(&self) -> bool {
        self.outcome.end.is_some() && self.scenario.orphans == 0
    }

    /// Takes in the rows that arrive up to a time.
    fn arrivals(&mut self, time: Milliseconds) {
        while let Some((arrival, _)) = self.scenario.rows.get(self.next_row).filter(|(arrival, _)| *arrival <= time) {
            self.now = *arrival;
            self.unclaimed.push_back(self.next_row);
            self.next_row += 1;
            self.remember();
        }
    }

    fn remember(&mut self) {
        if self.scenario.answer_age > 0 {
            self.history.push((self.now, self.unclaimed.len(), self.held));
        }
    }

    fn happens(&mut self, event: SimulationEvent) {
        match event {
            SimulationEvent::Poll => self.poll(),
            SimulationEvent::Running => {
                self.jobs.pending -= i64::from(!self.scenario.pending_until_claim);
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
    }

    fn claim(&mut self) {
        self.jobs.pending -= i64::from(self.scenario.pending_until_claim);
        self.outcome.pod_time += CLAIM;
        let Some(row) = self.unclaimed.pop_front() else {
            self.outcome.idle_jobs += 1;
            return self.after(COMPLETION, SimulationEvent::Complete);
        };
        let (arrival, work) = self.scenario.rows[row];
        self.outcome.waits.push(self.now - arrival);
        self.outcome.pod_time += work;
        self.held += 1;
        self.after(work, SimulationEvent::Done);
    }

    fn poll(&mut self) {
        let (unclaimed, held) = self.answered();
        let value = match self.scenario.count {
            CountedRows::Pending => unclaimed,
            CountedRows::Outstanding => unclaimed + held,
        };
        let value = f64::from(u32::try_from(value).unwrap_or(u32::MAX));
        let active = if self.scenario.active_if_claimable { unclaimed > 0 } else { value > self.scenario.activation };
        let answer = ScalerAnswer { value, target: self.scenario.target, active };
        let created = self.scenario.scaled_job.decide(&[answer], self.jobs).created;
        self.outcome.polls.push((self.now, unclaimed, held, self.jobs.unfinished, created));
        for _ in 0..created {
            let start = self.random.random_range(self.scenario.pod_start.clone());
            self.after(start, SimulationEvent::Running);
            self.outcome.pod_time += start;
            self.outcome.jobs += 1;
        }
        self.jobs.unfinished += created;
        self.jobs.pending += created;
        self.outcome.peak = self.outcome.peak.max(self.jobs.unfinished);
        // After the last row, and its echo in old answers, a poll changes nothing that is of interest.
        let last = self.outcome.end.map_or(Milliseconds::MAX, |end| end + self.scenario.answer_age);
        if self.now <= last || !self.is_over() {
            self.after(self.scenario.polling_interval, SimulationEvent::Poll);
        }
    }

    /// Returns the counts at the time of the answer.
    fn answered(&self) -> (usize, usize) {
        if self.scenario.answer_age == 0 {
            return (self.unclaimed.len(), self.held);
        }
        let made = self.now.saturating_sub(self.scenario.answer_age);
        let later = self.history.partition_point(|(time, ..)| *time <= made);
        let (_, unclaimed, held) = self.history[later - 1];
        (unclaimed, held)
    }

    fn after(&mut self, delay: Milliseconds, event: SimulationEvent) {
        self.agenda.push(Reverse((self.now + delay, event)));
    }
}
