//! The verdict on an object: what KEDA does with it, now that its triggers have answered.

use super::asked::{Asked, Outcome};
use crate::{
    keda::{
        scaled_job::{DEFAULT_MAX_REPLICA_COUNT, Decision, Jobs, ScaledJob, ScalerAnswer},
        scaled_object::{ScaledObject, TriggersAfterPoll, average_value_replicas, value_replicas},
        version::Version,
    },
    manifest::{Kind, Node, Object},
};

/// The Jobs and the replicas that an object has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Current {
    pub(super) jobs: Jobs,
    pub(super) replicas: i32,
    /// The options do not say it.
    pub(super) is_assumed: bool,
}

/// The verdict on an object, which says what KEDA does.
pub(super) enum Verdict {
    /// An annotation pauses the object.
    Paused,
    Jobs(JobVerdict),
    Replicas(ObjectVerdict),
}

/// The verdict on a ScaledJob.
pub(super) struct JobVerdict {
    pub(super) scaled_job: ScaledJob,
    pub(super) current: Current,
    pub(super) decision: Decision,
}

/// The verdict on a ScaledObject.
pub(super) struct ObjectVerdict {
    pub(super) current: Current,
    pub(super) is_active: bool,
    pub(super) min: i64,
    pub(super) max: i64,
    /// The replicas that are left after `cooldownPeriod` without activity.
    pub(super) rest: i64,
    pub(super) cooldown_seconds: i64,
    /// KEDA scales by a formula, which is not computed here.
    pub(super) has_formula: bool,
    /// The replicas after KEDA's poll.
    pub(super) polled: i64,
    /// The replicas that the autoscaler goes on to; absent where it does not run.
    pub(super) wanted: Option<i64>,
}

impl Verdict {
    /// Returns what KEDA does with the answers that there are; none if nothing was asked.
    pub(super) fn of(object: &Object, asked: &[Asked<'_>], current: Current, keda: Version) -> Option<Self> {
        if object.is_paused() {
            return Some(Self::Paused);
        }
        if asked.iter().all(|asked| matches!(asked.outcome, Outcome::NotAsked(_))) {
            return None;
        }
        let answers: Vec<(ScalerAnswer, bool)> = asked
            .iter()
            .filter_map(|asked| match &asked.outcome {
                Outcome::Answered(answers) => Some((answers.answer, has_value_type(asked))),
                Outcome::Failed(_) | Outcome::NotAsked(_) => None,
            })
            .collect();
        if object.kind == Kind::ScaledJob {
            let scaled_job = object.scaled_job(keda);
            let answers: Vec<ScalerAnswer> = answers.into_iter().map(|(answer, _)| answer).collect();
            let decision = scaled_job.decide(&answers, current.jobs);
            return Some(Self::Jobs(JobVerdict { scaled_job, current, decision }));
        }
        let has_failed = asked.iter().any(|asked| matches!(asked.outcome, Outcome::Failed(_)));
        Some(Self::Replicas(ObjectVerdict::of(object, &answers, current, has_failed)))
    }
}

impl ObjectVerdict {
    fn of(object: &Object, answers: &[(ScalerAnswer, bool)], current: Current, has_failed: bool) -> Self {
        let scaled_object = object.scaled_object();
        let ScaledObject { min_replica_count: min, idle_replica_count, .. } = scaled_object;
        let number = |key| object.spec(&[key]).and_then(Node::integer);
        let max = number("maxReplicaCount").unwrap_or(DEFAULT_MAX_REPLICA_COUNT);
        let is_active = answers.iter().any(|(answer, _)| answer.active);
        let triggers = TriggersAfterPoll { is_active, has_failed, has_cooled_down: false };
        let polled = scaled_object.replicas_after_poll(current.replicas.into(), triggers);
        let has_formula = object.spec(&["advanced", "scalingModifiers"]).is_some();
        let from = i32::try_from(polled).unwrap_or(i32::MAX);
        let wanted = answers.iter().map(|(answer, is_value)| {
            let ScalerAnswer { value, target, active: _ } = *answer;
            match is_value {
                _ if target <= 0.0 => 0,
                true => value_replicas(from, from, value, target),
                false => average_value_replicas(from, value, target),
            }
        });
        // What cannot be read keeps the autoscaler from scaling in.
        let least = if has_failed { polled } else { 0 };
        let wanted = wanted.max().map(|wanted| wanted.max(least).max(min).max(1).min(max));
        Self {
            current,
            is_active,
            min,
            max,
            rest: idle_replica_count.unwrap_or(min),
            cooldown_seconds: number("cooldownPeriod").unwrap_or(300),
            has_formula,
            polled,
            // Without replicas the autoscaler does nothing.
            wanted: wanted.filter(|_| polled > 0 && !has_formula),
        }
    }
}

fn has_value_type(asked: &Asked<'_>) -> bool {
    asked.trigger.node.text_at(&["metricType"]) == Some("Value")
}
