//! Rules about the structure of an object: what is missing may come from elsewhere, as with a patch of kustomize, but
//! what is there must have its place and its kind.

use crate::{
    diagnostics::{nearest, shown_key},
    lint::{
        findings::Findings,
        rule::{Rule, Severity::Error},
    },
    manifest::{GROUP, Manifest, Node, Object, Trigger, Value},
};

const STRUCTURE_REJECTED: Rule =
    Rule::new("structure-rejected", Error, "config/crd/bases, apis/keda/v1alpha1/scaletriggers_types.go");

pub(super) const RULES: &[&Rule] = &[&STRUCTURE_REJECTED];

/// The only version of KEDA's API.
const VERSION: &str = "keda.sh/v1alpha1";

/// The kinds of KEDA's API.
const KINDS: [&str; 4] = ["ScaledJob", "ScaledObject", "TriggerAuthentication", "ClusterTriggerAuthentication"];

/// The types of triggers for which KEDA asks a server over gRPC.
const EXTERNAL: [&str; 2] = ["external", "external-push"];

/// Looks for objects of KEDA's group whose kind it does not have.
pub(in crate::lint) fn check_kinds(manifest: &Manifest, findings: &mut Findings<'_>) {
    for other in &manifest.others {
        if !other.text_at(&["apiVersion"]).is_some_and(|version| version.starts_with(GROUP)) {
            continue;
        }
        let kind = other.text_at(&["kind"]).unwrap_or_default();
        let is_kind = |known: &&str| known.eq_ignore_ascii_case(kind);
        let how = match KINDS.into_iter().find(is_kind).or_else(|| nearest(kind, KINDS)) {
            Some(known) => format!("Did you mean {known}?"),
            None => format!("Write one of {}.", KINDS.join(", ")),
        };
        let line = other.get("kind").map_or(other.line, |node| node.line);
        let why = match kind {
            "" => "An object of KEDA's group has no kind.".to_owned(),
            kind => format!("KEDA has no objects of the kind {}.", shown_key(kind)),
        };
        findings.add(&STRUCTURE_REJECTED, line, why, how);
    }
}

/// Looks at the version of any object.
pub(super) fn check_version(object: &Object, findings: &mut Findings<'_>) {
    let Some(node) = object.root.get("apiVersion").filter(|node| node.text() != Some(VERSION)) else { return };
    let why = format!("The API server knows KEDA's objects as {VERSION} only, in every version of KEDA.");
    findings.add(&STRUCTURE_REJECTED, node.line, why, format!("Write `apiVersion: {VERSION}`."));
}

/// Looks at the structure of a ScaledJob or a ScaledObject.
pub(super) fn check(object: &Object, findings: &mut Findings<'_>) {
    let spec = object.root.get("spec").filter(|node| !node.is_null());
    require("spec", spec, is_mapping, "a mapping of keys", findings);
    require("triggers", object.spec(&["triggers"]), is_list, "a list", findings);
    for trigger in object.triggers() {
        if is_mapping(&trigger.node.value) {
            let metadata = trigger.node.get("metadata").filter(|node| !node.is_null());
            require("metadata", metadata, is_mapping, "a mapping of keys", findings);
            check_type(trigger, findings);
        } else {
            require("a trigger", Some(trigger.node), is_mapping, "a mapping of keys", findings);
        }
    }
}

fn check_type(trigger: Trigger<'_>, findings: &mut Findings<'_>) {
    let line = trigger.node.get("type").map_or(trigger.node.line, |node| node.line);
    let kind = trigger.kind();
    if kind.is_empty() {
        let why = "Each trigger has a type, which is text, so the API server refuses this one.";
        findings.add(&STRUCTURE_REJECTED, line, why, "Write a type, such as `type: external`.");
    } else if let Some(known) = EXTERNAL.into_iter().find(|known| kind != *known && kind.eq_ignore_ascii_case(known)) {
        let why = format!("KEDA has no scaler of the type {}: its types are in small letters.", shown_key(kind));
        findings.add(&STRUCTURE_REJECTED, line, why, format!("Write `type: {known}`."));
    }
}

/// Adds a finding where something is there and of another kind.
fn require(what: &str, node: Option<&Node>, is_right: fn(&Value) -> bool, kind: &str, findings: &mut Findings<'_>) {
    let Some(node) = node.filter(|node| !is_right(&node.value)) else { return };
    let why = format!("In KEDA's API, {what} must be {kind}, so the API server refuses this object.");
    findings.add(&STRUCTURE_REJECTED, node.line, why, format!("Write {kind}, or correct the indentation."));
}

fn is_mapping(value: &Value) -> bool {
    matches!(value, Value::Mapping(_))
}

fn is_list(value: &Value) -> bool {
    matches!(value, Value::Sequence(_))
}
