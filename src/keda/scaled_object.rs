//! The number of replicas of a `ScaledObject`.

use super::scaled_job::{ScalerAnswer, ceiling};

/// Returns the number of replicas that an active `ScaledObject` is scaled to with the metric type
/// `AverageValue`, before its own bounds.
pub fn replicas(answer: ScalerAnswer) -> i64 {
    if answer.target <= 0.0 { 1 } else { ceiling(answer.value / answer.target).max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_active_object_has_one_replica_at_the_least() {
        assert_eq!(replicas(ScalerAnswer { value: 0.0, target: 5.0, active: true }), 1);
        assert_eq!(replicas(ScalerAnswer { value: 11.0, target: 5.0, active: true }), 3);
    }
}
