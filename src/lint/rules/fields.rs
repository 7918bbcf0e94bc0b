//! Rules about fields that KEDA's API does not have, and values that it refuses or takes otherwise.

use std::collections::BTreeMap;

use crate::{
    diagnostics::{nearest, shown_key},
    keda::version::Version,
    lint::{
        findings::Findings,
        rule::{
            Rule,
            Severity::{Error, Warning},
        },
    },
    manifest::{Kind, Node, Object, Value, WITH_LEAST_NUMBERS, boolean},
};

const UNKNOWN_FIELD: Rule =
    Rule::new("unknown-field", Error, "apis/keda/v1alpha1/scaledjob_types.go, scaledobject_types.go");
const NUMBER_REJECTED: Rule = Rule::new("number-rejected", Error, "config/crd/bases of KEDA 2.20 and later");
const WORD_REJECTED: Rule = Rule::new("word-rejected", Error, "config/crd/bases of KEDA 2.20 and later");
const STRATEGY_WORD_REJECTED: Rule = Rule::new("strategy-word-rejected", Error, "kedacore/keda issue 7855")
    .since(Version::new(2, 20, 0))
    .until(Version::new(2, 20, 2));
const METADATA_NOT_TEXT: Rule = Rule::new("metadata-not-text", Error, "apis/keda/v1alpha1/scaletriggers_types.go");
const NAME_TOO_LONG: Rule = Rule::new("name-too-long", Error, "apis/keda/v1alpha1/scaledobject_webhook.go");
const TRIGGER_NAME_TWICE: Rule = Rule::new("trigger-name-twice", Error, "apis/keda/v1alpha1/scaletriggers_types.go");
const PAUSED_BY_ANY_WORD: Rule = Rule::new("paused-by-any-word", Warning, "apis/keda/v1alpha1/scaledjob_types.go");

pub(super) const RULES: &[&Rule] = &[
    &UNKNOWN_FIELD,
    &NUMBER_REJECTED,
    &WORD_REJECTED,
    &STRATEGY_WORD_REJECTED,
    &METADATA_NOT_TEXT,
    &NAME_TOO_LONG,
    &TRIGGER_NAME_TWICE,
    &PAUSED_BY_ANY_WORD,
];

/// The longest value of a label.
const LONGEST_LABEL: usize = 63;

const SCALED_JOB: &[&str] = &[
    "jobTargetRef",
    "pollingInterval",
    "successfulJobsHistoryLimit",
    "failedJobsHistoryLimit",
    "rolloutStrategy",
    "rollout",
    "envSourceContainerName",
    "minReplicaCount",
    "maxReplicaCount",
    "scalingStrategy",
    "triggers",
];
const SCALED_OBJECT: &[&str] = &[
    "scaleTargetRef",
    "pollingInterval",
    "initialCooldownPeriod",
    "cooldownPeriod",
    "idleReplicaCount",
    "minReplicaCount",
    "maxReplicaCount",
    "advanced",
    "triggers",
    "fallback",
];
const STRATEGY: &[&str] = &[
    "strategy",
    "customScalingQueueLengthDeduction",
    "customScalingRunningJobPercentage",
    "pendingPodConditions",
    "multipleScalersCalculation",
];
const ROLLOUT: &[&str] = &["strategy", "propagationPolicy"];
const FALLBACK: &[&str] = &["failureThreshold", "replicas", "behavior"];
const TRIGGER: &[&str] = &["type", "name", "useCachedMetrics", "metadata", "authenticationRef", "metricType"];

/// Words with those that KEDA knows.
const WORDS: [(&[&str], &[&str]); 6] = [
    (&["scalingStrategy", "strategy"], &["default", "custom", "accurate", "eager"]),
    (&["scalingStrategy", "multipleScalersCalculation"], &["min", "avg", "sum", "max"]),
    (&["rollout", "strategy"], &["gradual", "immediate"]),
    (&["rollout", "propagationPolicy"], &["foreground", "background"]),
    (&["rolloutStrategy"], &["gradual", "immediate"]),
    (
        &["fallback", "behavior"],
        &["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower", "scalingModifiers"],
    ),
];

/// Looks at the fields of a ScaledJob or a ScaledObject.
pub(super) fn check(object: &Object, findings: &mut Findings<'_>) {
    check_fields(object, findings);
    check_numbers(object, findings);
    check_words(object, findings);
    check_triggers(object, findings);
    check_name(object, findings);
    check_paused(object, findings);
}

fn check_fields(object: &Object, findings: &mut Findings<'_>) {
    let (own, other) = match object.kind {
        Kind::ScaledJob => (SCALED_JOB, SCALED_OBJECT),
        _ => (SCALED_OBJECT, SCALED_JOB),
    };
    let mut check = |node: Option<&Node>, place: &str, known: &[&str], other: &[&str]| {
        for (key, value) in node.map_or(&[][..], Node::entries) {
            if known.contains(&key.as_str()) {
                continue;
            }
            let how = match nearest(key, known.iter().copied()) {
                _ if other.contains(&key.as_str()) => {
                    format!("Remove it: a {} has no such field, the other kind has.", object.kind)
                }
                Some(name) => format!("Did you mean {name}?"),
                None => format!("Remove it, or put it where it belongs; {place} has {}.", known.join(", ")),
            };
            let why = format!(
                "KEDA has no field {} in {place}: kubectl refuses it, and the API server drops it.",
                shown_key(key)
            );
            findings.add(&UNKNOWN_FIELD, value.line, why, how);
        }
    };
    check(object.root.get("spec"), "spec", own, other);
    check(object.spec(&["scalingStrategy"]), "scalingStrategy", STRATEGY, &[]);
    check(object.spec(&["rollout"]), "rollout", ROLLOUT, &[]);
    check(object.spec(&["fallback"]), "fallback", FALLBACK, &[]);
    for trigger in object.triggers() {
        check(Some(trigger.node), "a trigger", TRIGGER, &[]);
    }
}

fn check_numbers(object: &Object, findings: &mut Findings<'_>) {
    for number in object.refused_numbers() {
        let (severity, why) = match number.is_refused_by(findings.keda()) {
            true => (Error, format!("In KEDA's API, {number}.")),
            false => (Warning, format!("From KEDA {WITH_LEAST_NUMBERS} on the API server refuses it: {number}.")),
        };
        findings.add_as(severity, &NUMBER_REJECTED, number.line, why, "Write such a number, without quotes.");
    }
    let bounds = ["minReplicaCount", "maxReplicaCount"].map(|key| object.spec(&[key]).and_then(Node::integer));
    if let [Some(min), max] = bounds
        && let max = max.unwrap_or(100)
        && min > max
    {
        let line = object.spec(&["minReplicaCount"]).map_or(object.line(), |node| node.line);
        let why = match object.kind {
            Kind::ScaledJob => format!("KEDA lowers minReplicaCount {min} to maxReplicaCount {max}, silently."),
            _ => format!("KEDA refuses minReplicaCount {min} above maxReplicaCount {max}."),
        };
        findings.add(&NUMBER_REJECTED, line, why, "Make minReplicaCount at most maxReplicaCount.");
    }
}

fn check_words(object: &Object, findings: &mut Findings<'_>) {
    for (path, known) in WORDS {
        let Some(node) = object.spec(path) else { continue };
        let word = node.text().unwrap_or_default();
        // Go leaves the field empty, which means the same as its absence.
        if known.contains(&word) || node.text() == Some("") {
            continue;
        }
        findings.add(
            &WORD_REJECTED,
            node.line,
            format!(
                "KEDA knows no {} of this name: from 2.20 on the API server refuses it, before KEDA took its default.",
                path.join(".")
            ),
            format!("Write one of {}.", known.join(", ")),
        );
    }
    if let Some(node) = object.spec(&["scalingStrategy", "strategy"])
        && node.text() == Some("default")
    {
        findings.add(
            &STRATEGY_WORD_REJECTED,
            node.line,
            "KEDA 2.20.0 and 2.20.1 refuse the word default for a strategy.",
            "Leave `strategy` out, which means the same in every version.",
        );
    }
}

fn check_triggers(object: &Object, findings: &mut Findings<'_>) {
    let mut names = BTreeMap::new();
    for trigger in object.triggers() {
        for (key, node) in trigger.node.get("metadata").map_or(&[][..], Node::entries) {
            if matches!(node.value, Value::Text(_) | Value::Null) {
                continue;
            }
            let why = format!("The metadata of a trigger is text only, so the API server refuses {}.", shown_key(key));
            findings.add(&METADATA_NOT_TEXT, node.line, why, "Put the value in quotes.");
        }
        let Some(name) = trigger.node.get("name") else { continue };
        if name.text().is_some_and(|text| !text.is_empty() && names.insert(text, name.line).is_some()) {
            findings.add(
                &TRIGGER_NAME_TWICE,
                name.line,
                "Two triggers of this object have the same name, which KEDA refuses.",
                "Give each trigger a name of its own, or none.",
            );
        }
    }
}

fn check_name(object: &Object, findings: &mut Findings<'_>) {
    let length = object.name().len();
    let line = object.root.at(&["metadata", "name"]).map_or(object.line(), |node| node.line);
    let longest = match object.kind {
        Kind::ScaledJob => LONGEST_LABEL,
        // The autoscaler's name is `keda-hpa-NAME`, unless it has one of its own.
        _ if object.spec(&["advanced", "horizontalPodAutoscalerConfig", "name"]).is_some() => LONGEST_LABEL,
        _ => LONGEST_LABEL - "keda-hpa-".len(),
    };
    if length > longest {
        findings.add(
            &NAME_TOO_LONG,
            line,
            format!("The name has {length} characters, and KEDA makes a label of it, which takes {longest} of them."),
            "Shorten the name.",
        );
    }
}

fn check_paused(object: &Object, findings: &mut Findings<'_>) {
    let Some((node, text)) = object.annotation("autoscaling.keda.sh/paused") else { return };
    if boolean(&text).is_none() {
        findings.add(
            &PAUSED_BY_ANY_WORD,
            node.line,
            "KEDA takes this value for a pause: everything but true and false pauses the object.",
            "Write \"true\" or \"false\", or remove the annotation.",
        );
    }
}
