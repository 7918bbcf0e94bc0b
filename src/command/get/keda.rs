//! What KEDA makes of an answer: Jobs for a ScaledJob, replicas for a ScaledObject.
//!
//! *Source:* pkg/scaling/scaledjob/metrics.go and pkg/scaling/executor/scale_jobs.go of
//! kedacore/keda v2.20.2; the horizontal pod autoscaler's `AverageValue`.

/// One trigger's answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Answer {
    /// What KEDA takes from GetMetrics.
    pub(super) value: f64,
    /// What KEDA takes from GetMetricSpec.
    pub(super) target: f64,
    /// What IsActive said.
    pub(super) active: bool,
}

/// The number that KEDA takes of a pair on the wire: the double where it is above zero.
pub(super) fn taken(double: f64, integer: i64) -> f64 {
    // KEDA formats metrics with `%.3f`, and so does this. No double that is sent is beyond 2^63.
    #[allow(clippy::as_conversions, reason = "the nearest double is what KEDA computes with, too")]
    let number = if double > 0.0 { double } else { integer as f64 };
    format!("{number:.3}").parse().unwrap_or(number)
}

impl Answer {
    /// How many Jobs the strategy `default` starts for a ScaledJob of which none is running.
    pub(super) fn jobs(self, max_replicas: u32) -> f64 {
        if !self.active || self.value <= 0.0 || self.target <= 0.0 {
            return 0.0;
        }
        let most = f64::from(max_replicas);
        self.value.ceil().min((self.value / self.target).min(most).ceil())
    }

    /// How many replicas an active ScaledObject is scaled to, before its own bounds.
    pub(super) fn replicas(self) -> f64 {
        if self.target <= 0.0 { 1.0 } else { (self.value / self.target).ceil().max(1.0) }
    }

    /// What to know about this combination, if it surprises people.
    pub(super) fn remark(self) -> Option<&'static str> {
        match (self.value > 0.0, self.active) {
            (true, false) => Some(
                "a value above zero, but inactive: KEDA starts nothing. The activity is not above the activation \
                 threshold; of a query that counts what is outstanding: all of it is held, and nothing waits",
            ),
            (false, true) => {
                Some("active with a value of zero: a ScaledJob starts nothing, a ScaledObject keeps one replica")
            }
            (false, false) => Some("nothing to do"),
            (true, true) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jobs(value: f64, target: f64, active: bool, most: u32) -> f64 {
        Answer { value, target, active }.jobs(most)
    }

    #[test]
    fn jobs_are_bounded_by_rows_target_and_the_greatest_number() {
        assert_eq!(jobs(60.0, 1.0, true, 100), 60.0);
        assert_eq!(jobs(60.0, 1.0, true, 10), 10.0);
        assert_eq!(jobs(61.0, 10.0, true, 100), 7.0);
        // Not several Jobs for one row, however small the target.
        assert_eq!(jobs(2.0, 0.1, true, 100), 2.0);
        assert_eq!(jobs(60.0, 1.0, false, 100), 0.0);
        assert_eq!(jobs(0.0, 1.0, true, 100), 0.0);
    }

    #[test]
    fn an_active_object_has_one_replica_at_the_least() {
        assert_eq!(Answer { value: 0.0, target: 5.0, active: true }.replicas(), 1.0);
        assert_eq!(Answer { value: 11.0, target: 5.0, active: true }.replicas(), 3.0);
    }

    #[test]
    fn the_integer_counts_only_where_the_double_is_not_above_zero() {
        assert_eq!(taken(6.5, 7), 6.5);
        assert_eq!(taken(0.0, 7), 7.0);
        assert_eq!(taken(f64::NAN, 7), 7.0);
        assert_eq!(taken(0.0004, 1), 0.0);
    }
}
