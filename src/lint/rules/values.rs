//! The rule about keys with nothing behind them. A key that is missing may come from elsewhere, as with a patch of
//! kustomize; one that is there without a value is a question that nobody has answered.

use crate::{
    diagnostics::shown_key,
    lint::{
        findings::Findings,
        rule::{
            Rule, Severity,
            Severity::{Error, Warning},
        },
    },
    manifest::{Kind, Node, Object},
};

const KEY_WITHOUT_VALUE: Rule =
    Rule::new("key-without-value", Error, "config/crd/bases; Kubernetes: custom resources, defaulting and nullable");

pub(super) const RULES: &[&Rule] = &[&KEY_WITHOUT_VALUE];

/// Stands in a path for each item of a list, and for each key of a mapping.
const EACH: &str = "*";

/// The keys without which the API server refuses an object, by kind.
const REQUIRED: [(&[Kind], &[&[&str]]); 4] = [
    (
        &[Kind::ScaledJob],
        &[
            &["spec", "jobTargetRef"],
            &["spec", "jobTargetRef", "template"],
            &["spec", "jobTargetRef", "template", "spec", "containers"],
            &["spec", "jobTargetRef", "template", "spec", "containers", EACH, "name"],
            &["spec", "jobTargetRef", "template", "spec", "initContainers", EACH, "name"],
        ],
    ),
    (
        &[Kind::ScaledObject],
        &[
            &["spec", "scaleTargetRef"],
            &["spec", "scaleTargetRef", "name"],
            &["spec", "fallback", "failureThreshold"],
            &["spec", "fallback", "replicas"],
        ],
    ),
    (
        &[Kind::ScaledJob, Kind::ScaledObject],
        &[
            &["spec", "triggers"],
            &["spec", "triggers", EACH, "metadata"],
            &["spec", "triggers", EACH, "authenticationRef", "name"],
        ],
    ),
    (
        &[Kind::TriggerAuthentication, Kind::ClusterTriggerAuthentication],
        &[
            &["spec", "secretTargetRef", EACH, "parameter"],
            &["spec", "secretTargetRef", EACH, "name"],
            &["spec", "secretTargetRef", EACH, "key"],
            &["spec", "configMapTargetRef", EACH, "parameter"],
            &["spec", "configMapTargetRef", EACH, "name"],
            &["spec", "configMapTargetRef", EACH, "key"],
            &["spec", "env", EACH, "parameter"],
            &["spec", "env", EACH, "name"],
        ],
    ),
];

/// The keys without which Kubernetes refuses a Job, although it takes the ScaledJob.
const REQUIRED_OF_A_JOB: [&[&str]; 3] = [
    &["spec", "jobTargetRef", "template", "spec"],
    &["spec", "jobTargetRef", "template", "spec", "containers", EACH, "image"],
    &["spec", "jobTargetRef", "template", "spec", "initContainers", EACH, "image"],
];

/// The keys that may be missing, with what holds then. Others are left alone, because empty ones are usual, as
/// `labels:` and `command:` are in charts.
const OPTIONAL: [(&[&str], &str); 11] = [
    (&["metadata", "namespace"], "the object goes to the namespace of whoever applies it"),
    (&["spec", "pollingInterval"], "KEDA polls every 30 s"),
    (&["spec", "minReplicaCount"], "KEDA takes its default, 0"),
    (&["spec", "maxReplicaCount"], "KEDA takes its default, 100"),
    (&["spec", "idleReplicaCount"], "KEDA goes by minReplicaCount alone"),
    (&["spec", "cooldownPeriod"], "KEDA takes its default, 300 s"),
    (&["spec", "initialCooldownPeriod"], "KEDA takes its default, 0 s"),
    (&["spec", "successfulJobsHistoryLimit"], "KEDA takes its default, 100"),
    (&["spec", "failedJobsHistoryLimit"], "KEDA takes its default, 100"),
    (&["spec", "scalingStrategy", "strategy"], "KEDA takes its default strategy"),
    (&["spec", "scalingStrategy", "multipleScalersCalculation"], "KEDA takes its default, max"),
];

/// Looks at an object of any kind.
pub(super) fn check(object: &Object, findings: &mut Findings<'_>) {
    let required = REQUIRED.iter().filter(|(kinds, _)| kinds.contains(&object.kind)).flat_map(|(_, paths)| *paths);
    for path in required.copied().chain([&["metadata"][..], &["metadata", "name"]]) {
        let why = format!("{} has no value, and the API server refuses an object without it.", shown(path));
        add_each(object, path, Error, &why, "Give it a value.", findings);
    }
    let why = "spec has no value: the API server drops the key, and KEDA gets an object that asks for nothing.";
    add_each(object, &["spec"], Error, why, "Give it a value.", findings);
    for (path, consequence) in OPTIONAL {
        let why = format!("{} has no value, which is the same as no such key: {consequence}.", shown(path));
        add_each(object, path, Warning, &why, "Give it a value, or remove the key.", findings);
    }
    if object.kind == Kind::ScaledJob {
        for path in REQUIRED_OF_A_JOB {
            let why = format!("{} has no value, and Kubernetes refuses every Job that KEDA creates.", shown(path));
            add_each(object, path, Error, &why, "Give it a value.", findings);
        }
    }
    for trigger in object.triggers() {
        for (key, node) in trigger.node.get("metadata").map_or(&[][..], Node::entries) {
            if node.is_null() {
                let key = shown_key(key);
                let why = format!("{key} has no value: the API server drops the key, and the trigger goes without it.");
                let how = "Give it a value in quotes, or remove the key.";
                findings.add(&KEY_WITHOUT_VALUE, node.line, why, how);
            }
        }
    }
}

/// Adds a finding for each node under a path that has no value.
fn add_each(object: &Object, path: &[&str], severity: Severity, why: &str, how: &str, findings: &mut Findings<'_>) {
    for node in below(&object.root, path).into_iter().filter(|node| node.is_null()) {
        findings.add_as(severity, &KEY_WITHOUT_VALUE, node.line, why, how);
    }
}

/// Returns what stands under a path, in which [`EACH`] stands for each item.
fn below<'a>(node: &'a Node, path: &[&str]) -> Vec<&'a Node> {
    match path {
        [] => vec![node],
        [EACH, rest @ ..] => node.items().iter().flat_map(|item| below(item, rest)).collect(),
        [key, rest @ ..] => node.get(key).map_or_else(Vec::new, |node| below(node, rest)),
    }
}

/// Returns a path as a person would say it: its last two keys, from `spec` on.
fn shown(path: &[&str]) -> String {
    let below = path.strip_prefix(&["spec"]).unwrap_or(path);
    let keys: Vec<&str> = below.iter().copied().filter(|key| *key != EACH).collect();
    keys[keys.len().saturating_sub(2)..].join(".")
}
