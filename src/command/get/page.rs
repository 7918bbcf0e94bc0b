//! Everything that is shown of an object, and its form as JSON.

use serde_json::{Value, json};

use super::{
    asked::{Asked, Outcome},
    verdict::{JobVerdict, Verdict},
};
use crate::{
    json::value as number,
    keda::{scaled_job::DEFAULT_MAX_REPLICA_COUNT, version::Version},
    manifest::Object,
};

/// Everything that is shown of an object.
pub(super) struct Page<'a> {
    pub(super) object: &'a Object,
    pub(super) file: &'a str,
    pub(super) keda: Version,
    pub(super) asked: Vec<Asked<'a>>,
    /// The verdict, which says what KEDA does; absent if nothing was asked.
    pub(super) verdict: Option<Verdict>,
    pub(super) remarks: Vec<String>,
}

impl Page<'_> {
    /// Returns everything as a JSON document.
    pub(super) fn document(&self) -> Value {
        let triggers: Vec<Value> = self.asked.iter().map(trigger).collect();
        let mut document = json!({
            "object": {
                "kind": self.object.kind.to_string(),
                "namespace": self.object.namespace(),
                "name": self.object.name(),
            },
            "keda": self.keda.to_string(),
            "paused": self.object.is_paused(),
            "triggers": triggers,
            "remarks": self.remarks,
        });
        match &self.verdict {
            Some(Verdict::Jobs(JobVerdict { scaled_job, current, decision })) => {
                document["scaled_job"] = json!({
                    "strategy": scaled_job.strategy.word(),
                    "min_replicas": scaled_job.min_replica_count,
                    "max_replicas": scaled_job.max_replica_count.unwrap_or(DEFAULT_MAX_REPLICA_COUNT),
                    "running": current.jobs.unfinished - current.jobs.pending,
                    "pending": current.jobs.pending,
                    "assumed": current.is_assumed,
                    "starts": decision.created,
                });
            }
            Some(Verdict::Replicas(verdict)) => {
                document["scaled_object"] = json!({
                    "min_replicas": verdict.min,
                    "max_replicas": verdict.max,
                    "current": verdict.current.replicas,
                    "assumed": verdict.current.is_assumed,
                    "after_poll": (!verdict.has_formula).then_some(verdict.polled),
                    "replicas": verdict.wanted,
                });
            }
            Some(Verdict::Paused) | None => {}
        }
        document
    }
}

fn trigger(asked: &Asked<'_>) -> Value {
    let mut document = json!({
        "trigger": asked.index,
        "type": asked.trigger.kind(),
        "name": asked.trigger.name(),
        "address": asked.address,
    });
    match &asked.outcome {
        Outcome::Answered(answers) => {
            document["metric"] = json!(answers.metric);
            document["target"] = number(answers.answer.target);
            document["value"] = number(answers.answer.value);
            document["at_least"] = json!(answers.at_least);
            document["active"] = json!(answers.answer.active);
            document["remarks"] = json!(answers.remarks());
        }
        Outcome::Failed(failure) => document["failure"] = json!(failure),
        Outcome::NotAsked(reason) => document["not_asked"] = json!(reason),
    }
    document
}
