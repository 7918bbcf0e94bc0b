//! The number of replicas of a `ScaledObject`: KEDA decides between none and some, Kubernetes' horizontal
//! pod autoscaler how many.
//!
//! *Source:* `pkg/scaling/executor/scale_scaledobjects.go` of kedacore/keda v2.21.0;
//! `pkg/controller/podautoscaler/replica_calculator.go` of Kubernetes v1.36.

use super::scaled_job::ceiling;

/// kube-controller-manager's default for `--horizontal-pod-autoscaler-tolerance`.
const TOLERANCE: f64 = 0.1;

/// The part of a `ScaledObject`'s specification that KEDA's own decision depends on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScaledObject {
    /// `minReplicaCount`; KEDA's default is 0.
    pub min_replica_count: i64,
    /// `idleReplicaCount`, if it is set.
    pub idle_replica_count: Option<i64>,
    /// `fallback.replicas`, if there is a fallback.
    pub fallback_replicas: Option<i64>,
}

/// The state of a `ScaledObject`'s triggers after a poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TriggersAfterPoll {
    /// At least one is active.
    pub is_active: bool,
    /// At least one failed.
    pub has_failed: bool,
    /// No trigger has been active for longer than `cooldownPeriod`.
    pub has_cooled_down: bool,
}

impl ScaledObject {
    /// `RequestScale`: returns the number of replicas after a poll.
    pub fn replicas_after_poll(&self, current: i64, triggers: TriggersAfterPoll) -> i64 {
        let Self { min_replica_count: min, idle_replica_count: idle, fallback_replicas: fallback } = *self;
        if triggers.is_active {
            let is_idle = current == 0 || (idle.is_some() && current < min);
            return if is_idle { min.max(1) } else { current };
        }
        // An error without a fallback changes nothing; nor does one that the fallback will deal with later.
        if triggers.has_failed && fallback != Some(0) {
            return current;
        }
        if idle.is_some_and(|idle| current > idle) || (current > 0 && min == 0) {
            return if triggers.has_cooled_down { idle.unwrap_or(min) } else { current };
        }
        if idle.is_none() { current.max(min) } else { current }
    }
}

/// `GetExternalPerPodMetricReplicas`: returns the number of replicas that the autoscaler wants for the
/// metric type `AverageValue`, before the bounds of the `ScaledObject`.
pub fn average_value_replicas(current: i32, value: f64, target: f64) -> i64 {
    if is_within_tolerance(thousandths(value) / (thousandths(target) * f64::from(current))) {
        return current.into();
    }
    replicas(value, target).min(i32::MAX.into())
}

/// Returns the Jobs or replicas that a value comes to, before tolerance and bounds.
pub fn replicas(value: f64, target: f64) -> i64 {
    ceiling(thousandths(value) / thousandths(target))
}

/// `GetExternalMetricReplicas`: returns the number of replicas that the autoscaler wants for the metric
/// type `Value`, before the bounds of the `ScaledObject`. `ready` of the `current` replicas are ready.
pub fn value_replicas(current: i32, ready: i32, value: f64, target: f64) -> i64 {
    let ratio = thousandths(value) / thousandths(target);
    if is_within_tolerance(ratio) {
        return current.into();
    }
    ceiling(ratio * f64::from(ready)).min(i32::MAX.into())
}

fn is_within_tolerance(ratio: f64) -> bool {
    (1.0 - TOLERANCE..=1.0 + TOLERANCE).contains(&ratio)
}

/// The autoscaler computes with whole thousandths.
fn thousandths(value: f64) -> f64 {
    (value * 1000.0).round()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_more_or_less_changes_nothing() {
        assert_eq!(average_value_replicas(1, 11.0, 5.0), 3);
        assert_eq!(average_value_replicas(10, 54.9, 5.0), 10);
        assert_eq!(average_value_replicas(10, 55.1, 5.0), 12);
        assert_eq!(value_replicas(4, 2, 10.0, 5.0), 4);
    }

    #[test]
    fn an_object_falls_to_zero_only_without_activity_errors_and_cooldown() {
        let object = ScaledObject::default();
        let triggers = TriggersAfterPoll { is_active: false, has_failed: false, has_cooled_down: true };
        assert_eq!(object.replicas_after_poll(3, triggers), 0);
        assert_eq!(object.replicas_after_poll(3, TriggersAfterPoll { is_active: true, ..triggers }), 3);
        assert_eq!(object.replicas_after_poll(3, TriggersAfterPoll { has_failed: true, ..triggers }), 3);
        assert_eq!(object.replicas_after_poll(3, TriggersAfterPoll { has_cooled_down: false, ..triggers }), 3);
    }
}
