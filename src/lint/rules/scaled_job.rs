//! Rules about ScaledJobs as such: their polls, their pods, their Jobs.

use super::external;
use crate::{
    lint::{
        counting::SQL_TRIGGERS,
        findings::Findings,
        rule::{
            Rule,
            Severity::{Error, Note, Warning},
        },
    },
    manifest::{Node, Object},
};

const PUSH_ON_SCALEDJOB: Rule = Rule::new("push-on-scaledjob", Warning, "pkg/scaling/scale_handler.go");
const METRIC_TYPE_ON_SCALEDJOB: Rule =
    Rule::new("metric-type-on-scaledjob", Error, "controllers/keda/scaledjob_controller.go");
const CACHED_METRICS_UNUSED: Rule =
    Rule::new("cached-metrics-unused", Warning, "controllers/keda/scaledjob_controller.go");
const ROLLOUT_DELETES_JOBS: Rule =
    Rule::new("rollout-deletes-jobs", Warning, "controllers/keda/scaledjob_controller.go, kedacore/keda issue 3596");
const IDLE_FLOOR: Rule = Rule::new("idle-floor", Warning, "pkg/scaling/executor/scale_jobs.go");
const PARALLELISM_MULTIPLIES: Rule = Rule::new("parallelism-multiplies", Note, "pkg/scaling/executor/scale_jobs.go");
const POLLING_INTERVAL_LONG: Rule =
    Rule::new("polling-interval-long", Note, "apis/keda/v1alpha1/withtriggers_types.go");
const RESTART_POLICY: Rule = Rule::new("restart-policy", Error, "pkg/scaling/executor/scale_jobs.go");
const SERVICE_LINKS: Rule =
    Rule::new("service-links", Note, "Kubernetes: accessing the Service, environment variables");

pub(super) const RULES: &[&Rule] = &[
    &PUSH_ON_SCALEDJOB,
    &METRIC_TYPE_ON_SCALEDJOB,
    &CACHED_METRICS_UNUSED,
    &ROLLOUT_DELETES_JOBS,
    &IDLE_FLOOR,
    &PARALLELISM_MULTIPLIES,
    &POLLING_INTERVAL_LONG,
    &RESTART_POLICY,
    &SERVICE_LINKS,
];

/// KEDA's `pollingInterval` where it is not set, in seconds.
const DEFAULT_POLLING_INTERVAL: i64 = 30;

/// Looks at a ScaledJob.
pub(super) fn check(object: &Object, findings: &mut Findings<'_>) {
    check_triggers(object, findings);
    check_rollout(object, findings);
    check_polls(object, findings);
    check_jobs(object, findings);
    check_pod(object, findings);
}

fn check_triggers(object: &Object, findings: &mut Findings<'_>) {
    for trigger in object.triggers() {
        if trigger.kind() == "external-push" {
            let line = trigger.node.get("type").map_or(trigger.node.line, |node| node.line);
            let why = "KEDA only polls for a ScaledJob: it opens the push stream, ignores what comes, and logs a warning \
                       for each `true`.";
            findings.add(&PUSH_ON_SCALEDJOB, line, why, "Write `type: external`, and a pollingInterval of 5 or 10.");
        }
        if let Some(node) = trigger.node.get("metricType").filter(|node| node.text() != Some("")) {
            let why = "KEDA refuses a metricType on a ScaledJob, and its scale loop never starts.";
            findings.add(&METRIC_TYPE_ON_SCALEDJOB, node.line, why, "Remove it.");
        }
        if let Some(node) =
            trigger.node.get("useCachedMetrics").filter(|node| node.value == crate::manifest::Value::Boolean(true))
        {
            let why = "useCachedMetrics has no effect on a ScaledJob: nobody but its poll asks.";
            findings.add(&CACHED_METRICS_UNUSED, node.line, why, "Remove it.");
        }
    }
}

fn check_rollout(object: &Object, findings: &mut Findings<'_>) {
    let rollout = object.spec(&["rollout", "strategy"]).or_else(|| object.spec(&["rolloutStrategy"]));
    if rollout.and_then(Node::text) != Some("gradual") {
        let line = rollout.map_or(object.line(), |node| node.line);
        let why = "An edit of this object deletes the Jobs that run, in the middle of their work.";
        findings.add(&ROLLOUT_DELETES_JOBS, line, why, "Add to spec: rollout: {strategy: gradual}.");
    }
}

fn check_polls(object: &Object, findings: &mut Findings<'_>) {
    let interval = object.spec(&["pollingInterval"]);
    let seconds = interval.map_or(Some(DEFAULT_POLLING_INTERVAL), Node::integer);
    let is_cheap = object.triggers().any(|trigger| {
        SQL_TRIGGERS.contains(&trigger.kind()) || trigger.is_external() && trigger.text("query") != Some("keeper")
    });
    if let Some(seconds) = seconds.filter(|seconds| *seconds >= DEFAULT_POLLING_INTERVAL && is_cheap) {
        let why = format!(
            "KEDA starts Jobs at its polls only, so that a place which a Job leaves stays empty for up to {seconds} s."
        );
        let line = interval.map_or(object.line(), |node| node.line);
        findings.add(&POLLING_INTERVAL_LONG, line, why, "Set pollingInterval to 5 or 10.");
    }
    if let Some(node) = object.spec(&["minReplicaCount"])
        && node.integer().is_some_and(|min| min > 0)
    {
        let why =
            "KEDA starts this many Jobs also for an empty queue, and again whenever they have found nothing to do.";
        findings.add(&IDLE_FLOOR, node.line, why, "Set minReplicaCount to 0, unless the Jobs wait for work.");
    }
}

fn check_jobs(object: &Object, findings: &mut Findings<'_>) {
    let Some(node) = object.spec(&["jobTargetRef", "parallelism"]) else { return };
    if let Some(pods) = node.integer().filter(|pods| *pods > 1) {
        let why = format!("maxReplicaCount counts Jobs, and each of them runs {pods} pods at once.");
        let how = "Set parallelism to 1, or take this factor into account in maxReplicaCount and the target.";
        findings.add(&PARALLELISM_MULTIPLIES, node.line, why, how);
    }
}

fn check_pod(object: &Object, findings: &mut Findings<'_>) {
    let Some(pod) = object.pod() else { return };
    let policy = pod.get("restartPolicy");
    let failure_policy = object.spec(&["jobTargetRef", "podFailurePolicy"]);
    match policy.and_then(Node::text) {
        Some("Never") => {}
        Some("OnFailure") | None | Some("") if failure_policy.is_some() => {
            let line = policy.or(failure_policy).map_or(object.line(), |node| node.line);
            let why = "Kubernetes refuses a podFailurePolicy unless restartPolicy is Never.";
            findings.add(&RESTART_POLICY, line, why, "Set restartPolicy: Never.");
        }
        Some("OnFailure") => {}
        None | Some("") => {
            let line = policy.map_or(pod.line, |node| node.line);
            let why = "Without a restartPolicy KEDA takes OnFailure: a container that fails starts again in its pod, and a \
                       Job that gives up deletes the pod with its log.";
            let how = "Set restartPolicy: Never, so that each attempt is a pod, or OnFailure, so that it is seen to be meant.";
            findings.add_as(Note, &RESTART_POLICY, line, why, how);
        }
        Some(_) => {
            let line = policy.map_or(pod.line, |node| node.line);
            let why = "Kubernetes refuses a Job with this restartPolicy, so that KEDA cannot create any.";
            findings.add(&RESTART_POLICY, line, why, "Set restartPolicy: Never or OnFailure.");
        }
    }
    let names_of_services = object.containers().iter().flat_map(|container| {
        let variables = container.get("env").map_or(&[][..], Node::items);
        variables.iter().filter_map(|variable| variable.text_at(&["name"]))
    });
    let reads_such_names = names_of_services.into_iter().any(|name| name.ends_with("_HOST") || name.ends_with("_PORT"));
    if reads_such_names && pod.get("enableServiceLinks").is_none() {
        let why = "Kubernetes gives every pod variables such as NAME_PORT=tcp://10.0.0.1:5432 for each Service of the \
                   namespace, and this program reads variables of that form.";
        findings.add(&SERVICE_LINKS, pod.line, why, "Set enableServiceLinks: false in the pod's spec.");
    }
}

/// Returns whether a ScaledJob keeps KEDA's connection for a trigger open: it is never closed for the error of another.
pub(super) fn keeps_connection(object: &Object, trigger: crate::manifest::Trigger<'_>) -> bool {
    object.triggers().any(|own| own.is_external() && external::connection(own) == external::connection(trigger))
}
