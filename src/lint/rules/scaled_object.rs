//! Rules about ScaledObjects as such: between none and one, the autoscaler, the fallback.

use super::{Subject, external, scaled_job};
use crate::{
    keda::version::Version,
    lint::{
        counting::{self, Counted},
        findings::Findings,
        rule::{
            Rule,
            Severity::{Error, Note, Warning},
        },
    },
    manifest::{Kind, Node, Object, Value},
};

const METRIC_TYPE_REFUSED: Rule = Rule::new("metric-type-refused", Error, "pkg/scalers/scaler.go");
const CACHED_METRICS_REFUSED: Rule =
    Rule::new("cached-metrics-refused", Error, "apis/keda/v1alpha1/scaletriggers_types.go");
const FALLBACK_NEVER_FIRES: Rule =
    Rule::new("fallback-never-fires", Warning, "kedacore/keda issue 8056").until(Version::new(2, 22, 0));
const POLLING_INTERVAL_UNUSED: Rule =
    Rule::new("polling-interval-unused", Note, "kedacore/keda pull request 8031").since(Version::new(2, 21, 0));
const IDLE_NOT_BELOW_MINIMUM: Rule =
    Rule::new("idle-not-below-minimum", Error, "apis/keda/v1alpha1/scaledobject_types.go");
const TRIGGER_OUTSIDE_FORMULA: Rule = Rule::new("trigger-outside-formula", Warning, "pkg/scaling/scale_handler.go");
const WORKERS_SCALED_AWAY: Rule =
    Rule::new("workers-scaled-away", Warning, "pkg/scaling/executor/scale_scaledobjects.go");
const PUSH_WITHOUT_KEEPER: Rule =
    Rule::new("push-without-keeper", Note, "kedacore/keda issue 8192").since(Version::new(2, 21, 0));

pub(super) const RULES: &[&Rule] = &[
    &METRIC_TYPE_REFUSED,
    &CACHED_METRICS_REFUSED,
    &FALLBACK_NEVER_FIRES,
    &POLLING_INTERVAL_UNUSED,
    &IDLE_NOT_BELOW_MINIMUM,
    &TRIGGER_OUTSIDE_FORMULA,
    &WORKERS_SCALED_AWAY,
    &PUSH_WITHOUT_KEEPER,
];

/// Looks at a ScaledObject.
pub(super) fn check(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    let object = subject.object;
    check_triggers(object, findings);
    check_replicas(object, findings);
    check_fallback(object, findings);
    check_formula(object, findings);
    check_activity(subject, findings);
    check_push(subject, findings);
}

fn check_triggers(object: &Object, findings: &mut Findings<'_>) {
    for trigger in object.triggers() {
        let is_resource = matches!(trigger.kind(), "cpu" | "memory");
        if let Some(node) = trigger.node.get("metricType")
            && node.text() == Some("Utilization")
            && !is_resource
        {
            let why = "KEDA takes the metric type Utilization for cpu and memory only, and cannot build this trigger.";
            findings.add(&METRIC_TYPE_REFUSED, node.line, why, "Write AverageValue, or Value.");
        }
        if let Some(node) = trigger.node.get("useCachedMetrics")
            && node.value == Value::Boolean(true)
            && (is_resource || trigger.kind() == "cron")
        {
            let why = format!("KEDA refuses useCachedMetrics for a trigger of type {}.", trigger.kind());
            findings.add(&CACHED_METRICS_REFUSED, node.line, why, "Remove it.");
        }
    }
}

fn check_replicas(object: &Object, findings: &mut Findings<'_>) {
    let min = object.scaled_object().min_replica_count;
    let idle = object.spec(&["idleReplicaCount"]);
    if let Some(node) = idle
        && node.integer().is_some_and(|idle| idle >= min)
    {
        let why = format!("KEDA refuses an idleReplicaCount that is not below minReplicaCount, which is {min}.");
        findings.add(&IDLE_NOT_BELOW_MINIMUM, node.line, why, "Lower it, or raise minReplicaCount.");
    }
    let is_cached = object
        .triggers()
        .any(|trigger| trigger.node.get("useCachedMetrics").is_some_and(|node| node.value == Value::Boolean(true)));
    if let Some(node) = object.spec(&["pollingInterval"])
        && min >= 1
        && idle.is_none()
        && !is_cached
        && object.spec(&["advanced", "scalingModifiers"]).is_none()
        && object.triggers().any(|trigger| !matches!(trigger.kind(), "cpu" | "memory"))
    {
        let why = "With a minReplicaCount from 1 up KEDA does not poll of its own, but takes over what the autoscaler read, \
                   every 15 s.";
        findings.add(&POLLING_INTERVAL_UNUSED, node.line, why, "Remove it, or set useCachedMetrics on the triggers.");
    }
}

fn check_fallback(object: &Object, findings: &mut Findings<'_>) {
    let Some(node) = object.spec(&["fallback"]) else { return };
    if object.triggers().any(|trigger| trigger.is_external()) {
        let why = "The fallback starts when a scaler answers with errors, but not while it cannot be reached: then KEDA gets \
                   no metric to count the errors of.";
        let how = "Run two replicas of the scaler, and alert on its absence; allow this rule once you have.";
        findings.add(&FALLBACK_NEVER_FIRES, node.line, why, how);
    }
}

fn check_formula(object: &Object, findings: &mut Findings<'_>) {
    let formula = object.spec(&["advanced", "scalingModifiers", "formula"]).and_then(Node::text);
    let Some(formula) = formula.filter(|formula| !formula.is_empty()) else { return };
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    for trigger in object.triggers().filter(|trigger| !matches!(trigger.kind(), "cpu" | "memory")) {
        let name = trigger.node.text_at(&["name"]).unwrap_or_default();
        if name.is_empty() || !formula.split(|c| !is_name(c)).any(|word| word == name) {
            let line = trigger.node.get("name").map_or(trigger.node.line, |node| node.line);
            let why = "With scalingModifiers the formula alone scales, and this trigger's name is not in it.";
            findings.add(&TRIGGER_OUTSIDE_FORMULA, line, why, "Name the trigger in the formula, or remove it.");
        }
    }
}

fn check_activity(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    let object = subject.object;
    if object.scaled_object().min_replica_count > 0 || object.spec(&["advanced", "scalingModifiers"]).is_some() {
        return;
    }
    let counts: Vec<_> =
        object.triggers().map(|trigger| (trigger, counting::of(trigger, subject.options.counts))).collect();
    // One trigger that counts held work keeps the workers for all.
    let is_kept = counts.iter().any(|(trigger, count)| {
        trigger.text("query") == Some("clap-workers")
            || count.is_some_and(|count| count.counted == Counted::Outstanding)
                && trigger.text("query") != Some("outstanding-claps")
    });
    for (trigger, count) in counts.into_iter().filter(|_| !is_kept) {
        let Some(count) = count else { continue };
        let is_ours = external::is_clapometers(trigger) && count.is_known;
        let how = if is_ours {
            "Take the query clap-workers, which is active while rows are held."
        } else {
            "Count the rows that workers hold, too, or make cooldownPeriod longer than the longest work."
        };
        let why = "Only waiting rows keep this trigger active: cooldownPeriod after the last one KEDA scales to zero, also \
                   workers in the middle of their work.";
        let severity = if count.is_known { Warning } else { Note };
        findings.add_as(severity, &WORKERS_SCALED_AWAY, trigger.line("query"), why, how);
    }
}

fn check_push(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    for trigger in subject.object.triggers().filter(|trigger| trigger.kind() == "external-push") {
        let is_kept = subject.everything.iter().any(|object| {
            object.kind == Kind::ScaledJob
                && object.namespace().is_none_or(|namespace| {
                    subject.object.namespace().is_none_or(|own| own == namespace || is_cluster_wide(trigger))
                })
                && scaled_job::keeps_connection(object, trigger)
        });
        if !is_kept {
            let line = trigger.node.get("type").map_or(trigger.node.line, |node| node.line);
            let why = "An error of any poll closes this connection with its push streams, and they come back up to a minute \
                       after the outage, unless another object keeps it open.";
            let how = "Apply a ScaledJob of type external with the same scalerAddress, TLS and authentication, such as \
                       deploy/examples/keeper.yaml.";
            findings.add(&PUSH_WITHOUT_KEEPER, line, why, how);
        }
    }
}

/// Returns whether a trigger's credentials are the same in all namespaces.
fn is_cluster_wide(trigger: crate::manifest::Trigger<'_>) -> bool {
    trigger.node.get("authenticationRef").is_none_or(Node::is_null)
        || trigger.node.text_at(&["authenticationRef", "kind"]) == Some("ClusterTriggerAuthentication")
}
