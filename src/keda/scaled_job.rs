//! The number of Jobs that KEDA creates for a `ScaledJob` at one poll.
//!
//! *Source:* `pkg/scaling/scaledjob/metrics.go` and `pkg/scaling/executor/scale_jobs.go` of
//! kedacore/keda; each rule is named where it is applied. The tests below are that project's unit
//! tests, and cases that its users met.

use std::fmt;

use super::version::Version;

/// The first version whose strategy `accurate` compares `maxReplicaCount` with a number that has each pending Job once
/// (kedacore/keda issue 7329).
const ACCURATE_WITH_PENDING: Version = Version::new(2, 19, 0);

/// `maxReplicaCount` where it is not set.
pub const DEFAULT_MAX_REPLICA_COUNT: i64 = 100;

/// The part of a `ScaledJob`'s specification that decides how many Jobs there are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScaledJob {
    /// `minReplicaCount`; KEDA's default is 0.
    pub min_replica_count: i64,
    /// `maxReplicaCount`, if it is set.
    pub max_replica_count: Option<i64>,
    /// `scalingStrategy.strategy`.
    pub strategy: Strategy,
    /// `scalingStrategy.multipleScalersCalculation`.
    pub calculation: Calculation,
    /// The version of KEDA.
    pub keda: Version,
}

/// The way in which unfinished Jobs reduce the number of new ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Strategy {
    /// All unfinished Jobs are subtracted.
    Default,
    /// A share of the unfinished Jobs is subtracted.
    Custom {
        /// `customScalingQueueLengthDeduction`.
        queue_length_deduction: i64,
        /// `customScalingRunningJobPercentage`. If it is missing or not a number, KEDA uses [`Strategy::Default`].
        running_job_percentage: Option<f64>,
    },
    /// Only Jobs without a running pod are subtracted.
    Accurate,
    /// All free places are filled.
    Eager,
}

/// The way in which several triggers become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Calculation {
    /// `max`: the trigger with the most.
    Max,
    /// `min`: the active trigger with the least.
    Min,
    /// `avg` of the active triggers.
    Average,
    /// `sum` of the active triggers.
    Sum,
}

/// The answers of one trigger.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScalerAnswer {
    /// `GetMetrics`.
    pub value: f64,
    /// `GetMetricSpec`.
    pub target: f64,
    /// `IsActive`.
    pub active: bool,
}

/// The unfinished Jobs, as KEDA sees them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Jobs {
    /// The Jobs that are neither complete nor failed, whatever their pods do.
    pub unfinished: i64,
    /// Those among them without a pod that runs or has succeeded, such as a Job in back-off.
    pub pending: i64,
}

/// KEDA's decision at one poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// The number of Jobs that it creates.
    pub created: i64,
    /// At least one trigger is active, or there is a least number of Jobs.
    pub active: bool,
    /// The number of Jobs that the triggers ask for.
    pub scale_to: i64,
    /// The greatest number of Jobs for these triggers.
    pub max_scale: i64,
    jobs: Jobs,
}

impl Strategy {
    /// Returns its word in a manifest.
    pub fn word(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Custom { .. } => "custom",
            Self::Accurate => "accurate",
            Self::Eager => "eager",
        }
    }
}

impl Calculation {
    /// Returns its word in a manifest.
    pub fn word(self) -> &'static str {
        match self {
            Self::Max => "max",
            Self::Min => "min",
            Self::Average => "avg",
            Self::Sum => "sum",
        }
    }
}

impl ScaledJob {
    /// A `ScaledJob` with KEDA's defaults, except for `maxReplicaCount`.
    pub fn with_max_replica_count(max_replica_count: i64) -> Self {
        Self {
            min_replica_count: 0,
            max_replica_count: Some(max_replica_count),
            strategy: Strategy::Default,
            calculation: Calculation::Max,
            keda: Version::NEWEST,
        }
    }

    /// Decides as KEDA does. `answers` has no entry for a trigger that failed.
    pub fn decide(&self, answers: &[ScalerAnswer], jobs: Jobs) -> Decision {
        // `MinReplicaCount` and `MaxReplicaCount` in scaledjob_types.go. Only a greatest number that is set and not
        // below the least one leaves the difference of both.
        let (min, room) = match self.max_replica_count {
            None => (self.min_replica_count, DEFAULT_MAX_REPLICA_COUNT),
            Some(max) if self.min_replica_count > max => (max, max),
            Some(max) => (self.min_replica_count, max - self.min_replica_count),
        };
        let (active, scale_to, max_scale) = self.combine(answers, min, room);
        // `getScalingDecision`.
        let (effective_max_scale, scale_to) = if jobs.unfinished < min {
            (min - jobs.unfinished, min - jobs.unfinished)
        } else {
            self.effective_max_scale(max_scale, jobs.unfinished - min, jobs.pending, room, scale_to)
        };
        // `createJobs`.
        let created = if active { scale_to.min(effective_max_scale).max(0) } else { 0 };
        Decision { created, active, scale_to, max_scale, jobs }
    }

    /// `IsScaledJobActive`: returns the activity, the wanted number, and the largest number of Jobs.
    fn combine(&self, answers: &[ScalerAnswer], min: i64, room: i64) -> (bool, i64, i64) {
        let room = float(room);
        let active: Vec<(f64, f64)> = answers
            .iter()
            .filter(|answer| answer.active)
            // With a target of zero a trigger starts nothing.
            .map(|answer| {
                (answer.value, if answer.target == 0.0 { 0.0 } else { (answer.value / answer.target).min(room) })
            })
            .collect();
        let combined = match self.calculation {
            // An active trigger with the value zero does not count.
            Calculation::Max => active.iter().copied().fold(None, |best, (value, max)| match best {
                Some((most, _)) if value <= most => best,
                None if value <= 0.0 => None,
                _ => Some((value, max)),
            }),
            // KEDA takes a least value of zero for "none yet", so that the next one replaces it.
            Calculation::Min => active.iter().copied().fold(None, |best, (value, max)| match best {
                Some((least, _)) if least != 0.0 && value >= least => best,
                _ => Some((value, max)),
            }),
            Calculation::Average | Calculation::Sum => active.iter().copied().reduce(|a, b| (a.0 + b.0, a.1 + b.1)),
        };
        let share = if self.calculation == Calculation::Average {
            float(active.len().try_into().unwrap_or(i64::MAX))
        } else {
            1.0
        };
        let (value, max) = combined.map_or((0.0, 0.0), |(value, max)| (value / share.max(1.0), max / share.max(1.0)));
        (combined.is_some() || min > 0, ceiling(value), ceiling(max.min(room)))
    }

    /// `GetEffectiveMaxScale`: returns the largest number of new Jobs, and the wanted number.
    fn effective_max_scale(&self, max_scale: i64, running: i64, pending: i64, room: i64, scale_to: i64) -> (i64, i64) {
        match self.strategy {
            Strategy::Custom { queue_length_deduction, running_job_percentage: Some(percentage) } => {
                // Go's conversion to an integer cuts off the fraction.
                let share = truncation(float(running) * percentage);
                ((max_scale - queue_length_deduction - share).min(room), scale_to)
            }
            Strategy::Default | Strategy::Custom { running_job_percentage: None, .. } => {
                (max_scale - running, scale_to)
            }
            Strategy::Accurate => {
                let is_full = if self.keda < ACCURATE_WITH_PENDING {
                    max_scale + running > room
                } else {
                    max_scale + running - pending > room
                };
                (if is_full { room - running } else { max_scale - pending }, scale_to)
            }
            Strategy::Eager => ((room - running - pending).min(max_scale), room),
        }
    }
}

impl fmt::Display for Decision {
    /// Writes the calculation in one line.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { created, active, scale_to, max_scale, jobs } = *self;
        if !active {
            return formatter.write_str("not active, creates none");
        }
        match created {
            0 => formatter.write_str("creates none")?,
            _ => write!(formatter, "creates {created}")?,
        }
        write!(formatter, " (wants {scale_to}, ")?;
        if max_scale < scale_to {
            write!(formatter, "at most {max_scale}, ")?;
        }
        write!(formatter, "has {})", jobs.unfinished)
    }
}

/// Counts of Jobs are far below 2^53.
#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "KEDA does the same, and the counts are small")]
fn float(count: i64) -> f64 {
    count as f64
}

/// `ceilToInt64`. Here it saturates; from 2^63 on the result of KEDA 2.21 depends on the processor.
pub(super) fn ceiling(value: f64) -> i64 {
    truncation(value.ceil())
}

#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "saturates, which is what is wanted")]
fn truncation(value: f64) -> i64 {
    value as i64
}

#[cfg(test)]
mod tests {
    use super::{Calculation, Jobs, ScaledJob, ScalerAnswer, Strategy, Version, ceiling};

    fn answer(value: f64, target: f64, active: bool) -> ScalerAnswer {
        ScalerAnswer { value, target, active }
    }

    fn created(scaled_job: ScaledJob, value: f64, unfinished: i64, pending: i64) -> i64 {
        scaled_job.decide(&[answer(value, 1.0, true)], Jobs { unfinished, pending }).created
    }

    fn custom(queue_length_deduction: i64, running_job_percentage: Option<f64>) -> Strategy {
        Strategy::Custom { queue_length_deduction, running_job_percentage }
    }

    /// The cases of `scale_jobs_test.go`: (maxScale, running, pending, room) and the result.
    #[test]
    fn every_strategy_agrees_with_kedas_unit_tests() {
        for (strategy, arguments, expected) in [
            (Strategy::Default, (3, 2, 0, 5), 1),
            (Strategy::Default, (2, 0, 0, 5), 2),
            (custom(1, Some(0.5)), (3, 2, 0, 5), 1),
            (custom(1, Some(0.5)), (10, 0, 0, 10), 9),
            (custom(0, None), (3, 2, 0, 5), 1),
            (custom(0, None), (2, 0, 0, 5), 2),
            (custom(2, Some(0.0)), (3, 2, 0, 5), 1),
            (custom(-2, Some(0.0)), (3, 2, 0, 4), 4),
            (custom(0, Some(0.5)), (3, 2, 0, 5), 2),
            (custom(0, Some(0.5)), (10, 0, 0, 10), 10),
            (Strategy::Accurate, (3, 2, 0, 5), 3),
            (Strategy::Accurate, (5, 2, 0, 5), 3),
            (Strategy::Accurate, (3, 4, 2, 10), 1),
            (Strategy::Accurate, (5, 4, 2, 5), 1),
            (Strategy::Accurate, (3, 3, 3, 5), 0),
            (Strategy::Accurate, (15, 15, 15, 20), 0),
            (Strategy::Accurate, (10, 10, 10, 15), 0),
            (Strategy::Accurate, (20, 15, 10, 20), 5),
        ] {
            let (max_scale, running, pending, room) = arguments;
            let scaled_job = ScaledJob { strategy, ..ScaledJob::with_max_replica_count(room) };
            let outcome = scaled_job.effective_max_scale(max_scale, running, pending, room, 1);
            assert_eq!(outcome, (expected, 1), "{strategy:?} of {arguments:?}");
        }
        for (arguments, expected) in [((4, 3, 0), 4), ((4, 0, 3), 4), ((4, 7, 0), 3), ((4, 1, 6), 3), ((15, 0, 0), 10)]
        {
            let (max_scale, running, pending) = arguments;
            let eager = ScaledJob { strategy: Strategy::Eager, ..ScaledJob::with_max_replica_count(10) };
            let outcome = eager.effective_max_scale(max_scale, running, pending, 10, 1);
            assert_eq!(outcome, (expected, 10), "eager of {arguments:?}");
        }
    }

    /// `TestRunningJobCount..MinReplicaCount..`, and `internals/min_replica_sj` of its e2e tests.
    #[test]
    fn the_least_number_of_jobs_is_filled_up_first() {
        let with = |min_replica_count, max_replica_count| ScaledJob {
            min_replica_count,
            ..ScaledJob::with_max_replica_count(max_replica_count)
        };
        assert_eq!(created(with(2, 100), 0.0, 0, 0), 2);
        assert_eq!(created(with(2, 100), 0.0, 1, 0), 1);
        assert_eq!(created(with(1, 100), 2.0, 1, 0), 2);
        assert_eq!(created(with(2, 1), 0.0, 0, 0), 1, "more at least than at most");
        // min 2, max 4, value 3: two to fill up, then room for two more.
        assert_eq!(created(with(2, 4), 3.0, 0, 0), 2);
        assert_eq!(created(with(2, 4), 3.0, 2, 0), 2);
        assert_eq!(created(with(2, 4), 3.0, 4, 0), 0);
    }

    /// `internals/min_replica_sj` keeps an inactive `ScaledJob` at its least number too.
    #[test]
    fn the_least_number_is_kept_although_nothing_is_active() {
        let scaled_job = ScaledJob { min_replica_count: 2, ..ScaledJob::with_max_replica_count(10) };
        assert_eq!(scaled_job.decide(&[answer(0.0, 1.0, false)], Jobs::default()).created, 2);
        assert_eq!(scaled_job.decide(&[], Jobs::default()).created, 2);
    }

    #[test]
    fn activity_needs_a_value_and_a_value_needs_activity() {
        let scaled_job = ScaledJob::with_max_replica_count(10);
        for (value, active, expected) in [(0.0, true, 0), (5.0, false, 0), (5.0, true, 5), (0.001, true, 1)] {
            let decision = scaled_job.decide(&[answer(value, 1.0, active)], Jobs::default());
            assert_eq!(decision.created, expected, "value {value}, active {active}");
        }
    }

    #[test]
    fn the_target_divides_the_ceiling_but_not_the_number_wanted() {
        let scaled_job = ScaledJob::with_max_replica_count(10);
        for (value, target, expected) in
            [(60.0, 10.0, 6), (61.0, 10.0, 7), (30.0, 10.0, 3), (3.0, 0.1, 3), (3.0, 0.0, 0), (2.4, 1.0, 3)]
        {
            let decision = scaled_job.decide(&[answer(value, target, true)], Jobs::default());
            assert_eq!(decision.created, expected, "value {value}, target {target}");
        }
        let eager = ScaledJob { strategy: Strategy::Eager, ..scaled_job };
        assert_eq!(eager.decide(&[answer(3.0, 0.1, true)], Jobs::default()).created, 10);
    }

    #[test]
    fn several_triggers_become_one_as_configured() {
        let answers = [answer(7.0, 1.0, true), answer(3.0, 1.0, true), answer(9.0, 1.0, false)];
        for (calculation, expected) in
            [(Calculation::Max, 7), (Calculation::Min, 3), (Calculation::Average, 5), (Calculation::Sum, 10)]
        {
            let scaled_job = ScaledJob { calculation, ..ScaledJob::with_max_replica_count(100) };
            assert_eq!(scaled_job.decide(&answers, Jobs::default()).created, expected, "{calculation:?}");
        }
        // An active zero is the least, yet the next one takes its place: KEDA takes it for "none yet".
        let scaled_job = ScaledJob { calculation: Calculation::Min, ..ScaledJob::with_max_replica_count(100) };
        assert_eq!(scaled_job.decide(&[answer(0.0, 1.0, true), answer(4.0, 1.0, true)], Jobs::default()).created, 4);
        assert_eq!(scaled_job.decide(&[answer(4.0, 1.0, true), answer(0.0, 1.0, true)], Jobs::default()).created, 0);
    }

    /// P rows unclaimed, R held, K unfinished Jobs: the moments of the seed's evening.
    #[test]
    fn the_seeds_pairing_starves_where_outstanding_is_exact() {
        let ten = ScaledJob::with_max_replica_count(10);
        // At most ten, five unclaimed rows, five held: pending starts none, although four places are free.
        assert_eq!(created(ten, 5.0, 6, 0), 0);
        assert_eq!(created(ten, 5.0 + 5.0, 6, 0), 4);
        // Three Jobs run for hours, three short rows come: they wait for hours, or start at once.
        assert_eq!(created(ten, 3.0, 3, 0), 0);
        assert_eq!(created(ten, 3.0 + 3.0, 3, 0), 3);
    }

    #[test]
    fn accurate_and_eager_start_idle_jobs_for_rows_that_are_held() {
        let accurate = ScaledJob { strategy: Strategy::Accurate, ..ScaledJob::with_max_replica_count(10) };
        let eager = ScaledJob { strategy: Strategy::Eager, ..accurate };
        // Nothing to claim, four rows held by four running Jobs: outstanding is 4.
        assert_eq!(created(accurate, 4.0, 4, 0), 4);
        assert_eq!(created(eager, 4.0, 4, 0), 4);
        assert_eq!(created(ScaledJob::with_max_replica_count(10), 4.0, 4, 0), 0);
    }

    #[test]
    fn accurate_before_2_19_subtracts_jobs_that_are_pending_from_the_room_that_they_leave() {
        let accurate = ScaledJob { strategy: Strategy::Accurate, ..ScaledJob::with_max_replica_count(10) };
        let before = ScaledJob { keda: Version::new(2, 18, 3), ..accurate };
        // Eight rows to claim, four of them by Jobs that are pending: four more Jobs fit.
        assert_eq!((created(before, 8.0, 4, 4), created(accurate, 8.0, 4, 4)), (6, 4));
        assert_eq!(created(before, 3.0, 4, 2), created(accurate, 3.0, 4, 2), "far from the greatest number");
    }

    #[test]
    fn custom_with_nothing_subtracted_exceeds_the_greatest_number() {
        let scaled_job = ScaledJob { strategy: custom(0, Some(0.0)), ..ScaledJob::with_max_replica_count(10) };
        assert_eq!(created(scaled_job, 50.0, 10, 0), 10, "twenty Jobs where ten were allowed");
    }

    #[test]
    fn ceilings_saturate() {
        for (value, expected) in
            [(5.0, 5), (4.2, 5), (0.0, 0), (-2.5, -2), (1e19, i64::MAX), (f64::INFINITY, i64::MAX), (-1e19, i64::MIN)]
        {
            assert_eq!(ceiling(value), expected);
        }
    }

    #[test]
    fn a_decision_can_be_read() {
        let scaled_job = ScaledJob::with_max_replica_count(10);
        let decide =
            |value, active| scaled_job.decide(&[answer(value, 1.0, active)], Jobs { unfinished: 8, pending: 0 });
        assert_eq!(decide(14.0, true).to_string(), "creates 2 (wants 14, at most 10, has 8)");
        assert_eq!(decide(8.0, true).to_string(), "creates none (wants 8, has 8)");
        assert_eq!(decide(8.0, false).to_string(), "not active, creates none");
    }
}
