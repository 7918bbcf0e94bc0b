//! The effect of the answers, by the object's own manifest: the scaler knows neither `maxReplicaCount` nor the Jobs.

use crate::{
    keda::{
        scaled_job::{DEFAULT_MAX_REPLICA_COUNT, Jobs, ScaledJob, ScalerAnswer},
        scaled_object::average_value_replicas,
        version::Version,
    },
    manifest::{Kind, Node, Object},
    terminal::text::plural,
};

/// The part of an object that decides what KEDA does with answers.
#[derive(Clone, Copy)]
pub(super) enum Outlook {
    Job { job: ScaledJob, others: usize },
    Replicas { least: i64, most: i64, others: usize },
}

impl Outlook {
    /// Returns the outlook of a ScaledJob or a ScaledObject.
    pub(super) fn of(object: &Object) -> Self {
        let others = object.triggers().filter(|trigger| !trigger.is_external()).count();
        if object.kind == Kind::ScaledJob {
            return Self::Job { job: object.scaled_job(Version::NEWEST), others };
        }
        Self::Replicas {
            least: object.scaled_object().min_replica_count,
            most: object.spec(&["maxReplicaCount"]).and_then(Node::integer).unwrap_or(DEFAULT_MAX_REPLICA_COUNT),
            others,
        }
    }

    /// Says what KEDA does while it does not ask, or did in a silence that has ended.
    pub(super) fn of_silence(&self, has_ended: bool) -> &'static str {
        match (self, has_ended) {
            (Self::Job { .. }, true) => "Unless KEDA asked another pod meanwhile, it started no Job for it.",
            (Self::Job { .. }, false) => "Unless KEDA asks another pod, it starts no Job for it.",
            (Self::Replicas { .. }, true) => {
                "Unless KEDA asked another pod meanwhile, it left the number of replicas as it was."
            }
            (Self::Replicas { .. }, false) => {
                "Unless KEDA asks another pod, it leaves the number of replicas as it is."
            }
        }
    }

    /// Says what KEDA does with these answers. `has_failed` if a trigger got an error instead of one.
    pub(super) fn told(&self, answers: &[ScalerAnswer], has_failed: bool) -> String {
        let deed = match (self, has_failed) {
            (Self::Job { .. }, true) if answers.is_empty() => {
                "With an error KEDA starts no Job for it, and leaves alone what runs".to_owned()
            }
            (Self::Replicas { .. }, true) if answers.iter().all(|answer| !answer.active) => {
                "With an error KEDA leaves the number of replicas as it is, unless the object has a fallback".to_owned()
            }
            (Self::Job { job, .. }, _) => {
                let jobs = job.decide(answers, Jobs::default()).created;
                let most = job
                    .max_replica_count
                    .map_or_else(String::new, |most| format!(", with a maxReplicaCount of {most}"));
                let jobs = usize::try_from(jobs).map_or_else(|_| jobs.to_string(), |jobs| plural(jobs, "Job", "Jobs"));
                format!("With that KEDA starts {jobs} if none is unfinished{most}; unfinished Jobs count against it")
            }
            (Self::Replicas { least, most, .. }, _) if answers.iter().any(|answer| answer.active) => {
                let wanted = answers.iter().filter(|answer| answer.target > 0.0);
                let wanted = wanted.map(|answer| average_value_replicas(1, answer.value, answer.target)).max();
                let wanted = wanted.unwrap_or(1).max(*least).max(1).min(*most);
                let replicas =
                    usize::try_from(wanted).map_or_else(|_| wanted.to_string(), |n| plural(n, "replica", "replicas"));
                format!("With that KEDA activates it, and the autoscaler goes to {replicas}; maxReplicaCount is {most}")
            }
            (Self::Replicas { least, .. }, _) => {
                format!(
                    "With that KEDA goes to {least} replicas, which is minReplicaCount, once cooldownPeriod has passed"
                )
            }
        };
        let (Self::Job { others, .. } | Self::Replicas { others, .. }) = self;
        match others {
            0 => deed + ".",
            others => {
                format!("{deed}. {} of other types may say something else.", plural(*others, "trigger", "triggers"))
            }
        }
    }
}
